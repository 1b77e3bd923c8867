"""A backup is checked before it becomes a store again, and nothing is overwritten."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import kvstore
from tests.cli.conftest import Done, Kv, content, start

PATIENCE = 30


def backup_of_many(folder: Path, replicas: int) -> Path:
    with kvstore.open(folder / "s", replicas=replicas, durability="none") as db:
        for number in range(20):
            db.put(("k", number), b"precious %d" % number + os.urandom(100_000))
        db.backup(folder / "backup")
    return folder / "backup"


@pytest.fixture(params=[1, 3])
def backup(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return backup_of_many(tmp_path, request.param)


def damage(replica: Path) -> None:
    """Change a value on the disk, in the table and in the log."""
    file = replica / "data.mdb"
    file.write_bytes(file.read_bytes().replace(b"precious 7", b"precious 8"))


def test_it_is_a_whole_store_of_its_own(kv: Kv, backup: Path, tmp_path: Path) -> None:
    assert kv("restore", "backup", "r") == Done(0, "restored to r\n", "")

    shapes = {}
    for name in ("backup", "r"):
        status = json.loads(kv("status", name, "--json").out)
        shapes[name] = (status["shards"], status["replicas"])
        shapes[status["uuid"]] = ()
    assert shapes["r"] == shapes["backup"]
    assert len(shapes) == 4, "each has an identity of its own"
    assert content(tmp_path / "r") == content(tmp_path / "s")
    assert kv("put", "r", "later", "1") == Done(0, '"later" = 1  int\n', "")
    assert kv("verify", "r").code == 0
    assert kv("get", "backup", "later").code == 1


def test_a_damaged_backup_is_refused_with_its_problems(kv: Kv, backup: Path, tmp_path: Path) -> None:
    for replica in backup.glob("replica-*"):
        damage(replica)

    done = kv("restore", "backup", "r")

    assert (done.code, done.out) == (1, "")
    *problems, last = done.err.splitlines()
    assert last == f"error: backup is damaged, {len(problems)} problems: nothing was restored"
    assert any("replica-0" in problem for problem in problems)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_one_damaged_replica_of_three_is_enough(kv: Kv, number: int, tmp_path: Path) -> None:
    damage(backup_of_many(tmp_path, 3) / f"replica-{number}")

    done = kv("restore", "backup", "r")

    assert done.code == 1
    assert f"replica-{number}" in done.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_replica_that_is_lost_does_no_harm_or_is_named(kv: Kv, number: int, tmp_path: Path) -> None:
    shutil.rmtree(backup_of_many(tmp_path, 3) / f"replica-{number}")

    if number == 0:  # the replica that is read
        done = kv("restore", "backup", "r")
        assert done.code == 4
        assert "replica 0 is missing (open the store for writing once" in done.err
        assert kv("shell", "backup", "-c", "count").code == 0

    assert kv("restore", "backup", "r").code == 0
    assert content(tmp_path / "r") == content(tmp_path / "s")
    assert [(tmp_path / "r" / f"replica-{copy}").is_dir() for copy in range(3)] == [True] * 3


def test_a_backup_that_was_cut_short_is_refused(kv: Kv, backup: Path, tmp_path: Path) -> None:
    for file in backup.glob("replica-*/data.mdb"):
        os.truncate(file, file.stat().st_size // 2)

    assert kv("restore", "backup", "r").code == 4
    assert not (tmp_path / "r").exists()


def test_nothing_is_overwritten(kv: Kv, backup: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo").write_text("precious")
    kv("put", "other", "k", "1")

    assert kv("restore", "backup", "other").err.startswith(f"error: {tmp_path}/other holds a store already")
    for name in ("file", "folder", "other", "backup", "no/r"):
        assert kv("restore", "backup", name).code == 1
    assert (tmp_path / "folder" / "photo").read_text() == "precious"
    assert kv("scan", "other").records == '"k" = 1\n'


def test_what_is_no_store_is_no_backup(kv: Kv, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    assert kv("restore", "nothing", "r").code == 4
    assert kv("restore", "folder", "r").code == 4
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("sign", ["creating", "replica-0.rebuilding", "replica-0", "replica-1.rebuilding"])
def test_one_that_was_killed_leaves_nothing_that_opens_and_can_be_run_again(
    kv: Kv, sign: str, tmp_path: Path
) -> None:
    backup_of_many(tmp_path, 3)
    process = start("restore", "backup", "r", cwd=tmp_path, stdout=subprocess.PIPE)
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "r" / sign).exists() and process.poll() is None and time.monotonic() < end:
        pass
    process.kill()
    out, _ = process.communicate()

    if not out:
        assert kv("scan", "r").code == 4
        assert kv("restore", "backup", "r").code == 0
    assert content(tmp_path / "r") == content(tmp_path / "s")

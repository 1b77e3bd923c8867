"""Creating a store: the next opening after a crash completes or replaces what is half-made."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import kvstore
from tests.support.programs import running
from tests.support.programs.creator import STEPS_MAX


@pytest.mark.parametrize(("replicas", "stride"), [(1, 2), (3, 9)])
def test_a_crash_at_any_step_of_the_creation_leaves_something_that_opens(
    tmp_path: Path, replicas: int, stride: int
) -> None:
    crashed = 0
    for step in range(0, STEPS_MAX, stride):
        store = tmp_path / f"store-{step}"
        child = running.start("creator", store, replicas, step)
        child.communicate(timeout=30)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
        crashed += 1

        with kvstore.open(store, shards=2, replicas=replicas) as db:
            db.put("k", step)
            assert db.verify()["ok"]
        with kvstore.open(store, create=False) as db:
            assert db["k"] == step
        assert not (store / "creating").exists()

    assert crashed > 4, "the creation has more steps than that"
    assert child.returncode == 0, "the creation was followed to its end"


def test_what_stands_beside_the_mark_of_a_creation_is_not_read_and_not_counted(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "creating").touch()
    (store / "replica-0").mkdir()
    (store / "replica-0" / "data.mdb").write_bytes(b"half")

    with pytest.raises(kvstore.NotAStore):
        kvstore.open(store, readonly=True)
    with kvstore.open(store) as db:
        assert db.count() == 0


def test_a_folder_that_another_process_made_first_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def make_second(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "store":
            os.mkdir(path)
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", make_second)

    with kvstore.open(tmp_path / "store") as db:
        db.put("k", 1)

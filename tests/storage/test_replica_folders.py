"""The folders of a store with three replicas: lost, damaged, foreign, or left by power loss (B2, B3, B4)."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

import kvstore
from kvstore.storage import side_file
from kvstore.storage.soundness import DATA_FILE, SYNCED_ROOT
from tests.support.media import copy_folder
from tests.support.power import NEVER_MS, assert_replicas_agree, sync

KEYS = 60


def write(db: kvstore.Database, value: str) -> None:
    with db.batch() as batch:
        for number in range(KEYS):
            batch.put(("k", number), value)


def assert_holds(db: kvstore.Database, value: str) -> None:
    assert [found for _, found in db.scan(prefix=("k",))] == [value] * KEYS
    assert_replicas_agree(db)
    assert db.verify()["ok"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a closed store of three replicas, with 60 keys on two shards."""
    store = tmp_path / "s"
    with kvstore.open(store, shards=2, replicas=3) as db:
        write(db, "value")
    return store


def data_of(store: Path, replica: int) -> Path:
    return store / f"replica-{replica}" / DATA_FILE


@pytest.mark.parametrize("replica", [0, 1, 2])
class TestOneReplica:
    def test_that_is_gone_is_rebuilt(self, path: Path, replica: int) -> None:
        shutil.rmtree(path / f"replica-{replica}")

        with kvstore.open(path) as db:
            (repaired,) = db.status()["repaired"]
            assert f"replica {replica}" in repaired
            assert_holds(db, "value")

    @pytest.mark.parametrize("length", [0, 10_000])
    def test_that_was_cut_short_is_rebuilt(self, path: Path, replica: int, length: int) -> None:
        os.truncate(data_of(path, replica), length)

        with kvstore.open(path) as db:
            assert len(db.status()["repaired"]) == 1
            assert_holds(db, "value")

    @pytest.mark.parametrize("clean", [True, False])
    def test_with_pages_of_garbage_is_rebuilt(self, path: Path, replica: int, *, clean: bool) -> None:
        """After a clean close not all pages are examined, but changed meta pages are detected."""
        data = data_of(path, replica)
        whole = bytearray(data.read_bytes())
        first = 0 if clean else 8192
        whole[first:] = random.Random(replica).randbytes(len(whole) - first)
        data.write_bytes(whole)
        if not clean:
            (data.parent / "closed").unlink()

        with kvstore.open(path) as db:
            assert len(db.status()["repaired"]) == 1
            assert_holds(db, "value")

    def test_of_another_store_is_moved_aside(self, path: Path, replica: int, tmp_path: Path) -> None:
        self.put_foreign(path, replica, tmp_path)

        with kvstore.open(path) as db:
            assert len(db.status()["repaired"]) == 1
            assert_holds(db, "value")

        self.assert_kept(path, replica)

    def test_of_another_store_without_its_side_file_is_moved_aside_too(
        self, path: Path, replica: int, tmp_path: Path
    ) -> None:
        """Contracts B2: a replica with another uuid is never overwritten."""
        self.put_foreign(path, replica, tmp_path)
        (path / f"replica-{replica}" / "manifest.json").unlink()

        with kvstore.open(path) as db:
            assert_holds(db, "value")

        self.assert_kept(path, replica)

    @staticmethod
    def put_foreign(path: Path, replica: int, tmp_path: Path) -> None:
        with kvstore.open(tmp_path / "other", shards=2, replicas=3) as db:
            db["precious"] = 1
        copy_folder(tmp_path / "other" / f"replica-{replica}", path / f"replica-{replica}")

    @staticmethod
    def assert_kept(path: Path, replica: int) -> None:
        (kept,) = path.glob(f"foreign-{replica}*")
        assert b"precious" in (kept / DATA_FILE).read_bytes()


class TestPowerLoss:
    """With ``interval``, on real files: all replicas are restored to their synced roots and open."""

    @pytest.mark.parametrize("replicas", [1, 3])
    def test_leaves_the_last_synced_state(self, replicas: int, tmp_path: Path) -> None:
        store, image = tmp_path / "s", tmp_path / "image"
        with kvstore.open(
            store, shards=2, replicas=replicas, durability="interval", sync_interval_ms=NEVER_MS
        ) as db:
            write(db, "older")
            write(db, "synced")
            while any(db.status()["lag"].values()):
                pass
            sync(db)
            synced = [data_of(store, replica).read_bytes() for replica in range(replicas)]
            write(db, "lost")
            while any(db.status()["lag"].values()):
                pass
            copy_folder(store, image)
        chance = random.Random(replicas)
        for replica in range(replicas):
            lose_pages(data_of(image, replica), synced[replica], chance)
            root = data_of(image, replica).parent / SYNCED_ROOT
            side_file.write(root, {**(side_file.read(root) or {}), "boot": "the boot before"})

        with kvstore.open(image, durability="interval") as db:
            assert db.status()["repaired"] == []
            assert_holds(db, "synced")
            write(db, "newer")
        with kvstore.open(image) as db:
            assert_holds(db, "newer")


def lose_pages(data: Path, synced: bytes, chance: random.Random) -> None:
    """Put some of the pages written since the sync back to the synced content, turn others into garbage."""
    now = data.read_bytes()
    pages = []
    for at in range(0, len(now), 4096):
        old, new = synced[at : at + 4096] or bytes(4096), now[at : at + 4096]
        pages.append(new if old == new else chance.choice([old, new, chance.randbytes(4096)]))
    data.write_bytes(b"".join(pages))

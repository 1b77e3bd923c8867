"""A backup: a store of its own that equals one moment of the original, taken while the original is in use."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Database
from kvstore.engine.store_directory import FolderDirectory
from tests.support.programs import running


@pytest.mark.parametrize("place", ["disk", "memory"])
@pytest.mark.parametrize("replicas", [1, 3])
class TestItIsAStore:
    def a_database(self, tmp_path: Path, place: str, replicas: int) -> Database:
        path: Any = ":memory:" if place == "memory" else tmp_path / "store"
        db = kvstore.open(path, shards=3, replicas=replicas, placement=1, durability="none")
        for number in range(200):
            db.put(("k", number), [number, bytes(number)])
            db.add("n", 1, idempotency_key=("add", number))
        db.delete(("k", 7))
        return db

    def test_it_opens_and_equals_and_has_a_name_of_its_own(
        self, tmp_path: Path, place: str, replicas: int
    ) -> None:
        with self.a_database(tmp_path, place, replicas) as db:
            db.backup(tmp_path / "backup")
            db.put("later", 1)
            original, uuid = dict(db.scan()), db.status()["uuid"]
            assert db.verify()["ok"]

        del original["later"]
        with kvstore.open(tmp_path / "backup", create=False) as copy:
            assert dict(copy.scan()) == original
            assert copy.verify()["ok"]
            status = copy.status()
            assert status["uuid"] != uuid
            assert (status["shards"], status["replicas"], status["placement"]) == (3, replicas, 1)
            assert status["repaired"] == []
            assert copy.version(("k", 3)) is not None
            assert copy.add("n", 1, idempotency_key=("add", 3)) == 4
            copy.put("new", 1)
            assert copy["n"] == 200

    def test_it_is_read_without_being_opened_for_writing_first(
        self, tmp_path: Path, place: str, replicas: int
    ) -> None:
        with self.a_database(tmp_path, place, replicas) as db:
            db.backup(tmp_path / "backup")

            with kvstore.open(tmp_path / "backup", readonly=True) as copy:
                assert list(copy.scan()) == list(db.scan())


@pytest.mark.parametrize("replicas", [1, 3])
def test_each_backup_taken_while_threads_write_is_one_moment(tmp_path: Path, replicas: int) -> None:
    stop = threading.Event()
    with kvstore.open(tmp_path / "store", replicas=replicas, watch_retention=0) as db:

        def write(mine: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                with db.batch() as batch:
                    for copy in range(4):
                        batch.put((mine, copy), number)
                    batch.add("total", 1)

        threads = [threading.Thread(target=write, args=(mine,)) for mine in range(8)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(4):
                time.sleep(0.05)
                db.backup(tmp_path / f"backup-{turn}")
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    totals = []
    for turn in range(4):
        with kvstore.open(tmp_path / f"backup-{turn}") as copy:
            assert copy.verify()["ok"]
            counts = [{copy.get((mine, twin), 0) for twin in range(4)} for mine in range(8)]
            assert [len(count) for count in counts] == [1] * 8
            assert sum(count.pop() for count in counts) == copy.get("total", 0)
            totals.append(copy.get("total", 0))
    assert totals == sorted(totals)
    assert totals[-1] > 0


def test_the_replicas_of_one_are_of_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica copied later could lack the part of the log that an earlier copy is completed from."""
    db = kvstore.open(tmp_path / "store", shards=1, replicas=3, watch_retention=0)
    copy = FolderDirectory.rebuild

    def write_and_copy(home: FolderDirectory, number: int, source: Any, manifest: Any) -> None:
        for value in range(300):
            db.put("k", value)
        copy(home, number, source, manifest)

    monkeypatch.setattr(FolderDirectory, "rebuild", write_and_copy)
    with db:
        db.backup(tmp_path / "backup")

    with kvstore.open(tmp_path / "backup") as backup:
        assert backup["k"] == 299
        assert backup.status()["repaired"] == []


def test_a_reader_may_make_one(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "store", replicas=3) as db:
        db.put("k", 1)

    with kvstore.open(tmp_path / "store", readonly=True) as db:
        db.backup(tmp_path / "backup")

    with kvstore.open(tmp_path / "backup") as copy:
        assert copy["k"] == 1


class TestWhereItMayNotBe:
    def test_over_anything_that_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("text")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "photo").write_text("photo")
        kvstore.open(tmp_path / "other").close()
        with kvstore.open(tmp_path / "store") as db:
            db.put("k", 1)
            for name in ("file", "folder", "other", "store"):
                before = sorted(path for path in tmp_path.rglob("*") if path.name != "writer.lock")

                with pytest.raises((kvstore.NotAStore, kvstore.UsageError)):
                    db.backup(tmp_path / name)

                after = sorted(path for path in tmp_path.rglob("*") if path.name != "writer.lock")
                assert after == before
            with pytest.raises(kvstore.NoParent):
                db.backup(tmp_path / "missing" / "backup")
            assert db["k"] == 1
            assert db.verify()["ok"]

    def test_after_close_nothing_is_left(self, tmp_path: Path) -> None:
        db = kvstore.open(tmp_path / "store")
        db.close()

        with pytest.raises(kvstore.Closed):
            db.backup(tmp_path / "backup")

        assert not (tmp_path / "backup").exists()

    def test_an_empty_folder_is_used(self, tmp_path: Path) -> None:
        (tmp_path / "backup").mkdir()
        with kvstore.open(tmp_path / "store") as db:
            db.put("k", 1)
            db.backup(tmp_path / "backup")

        with kvstore.open(tmp_path / "backup") as copy:
            assert copy["k"] == 1


def test_one_that_was_cut_off_is_not_opened_and_is_written_again(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "store", durability="none") as db:
        for number in range(20):
            db.put(("k", number), os.urandom(500_000))
        original = list(db.scan())

    cut_off = 0
    for hundredths in range(0, 60, 7):
        target = tmp_path / f"backup-{hundredths}"
        child = running.start("backing_up", tmp_path / "store", target)
        assert running.first_line(child) == "go"
        time.sleep(hundredths / 1000)
        running.stop(child)
        if not target.exists() or not (target / "creating").exists():
            continue
        cut_off += 1
        with pytest.raises(kvstore.NotAStore):
            kvstore.open(target, readonly=True)
        with kvstore.open(tmp_path / "store", readonly=True) as db:
            db.backup(target)
        with kvstore.open(target) as copy:
            assert list(copy.scan()) == original
    assert cut_off > 0

"""Compaction: the files shrink, the records stay, and readers continue (architecture, section 4)."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore.engine.store_directory import FolderDirectory
from tests.support.programs import compacting, running
from tests.support.programs.remote import Remote

ROWS = 3000


def fill(db: kvstore.Database) -> dict[Any, Any]:
    """Write many records and remove most of them; return the rest."""
    with db.batch() as batch:
        for number in range(ROWS):
            batch.put(("k", number), bytes(500))
    with db.batch() as batch:
        for number in range(ROWS):
            if number % 10:
                batch.delete(("k", number))
    return dict(db.scan())


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
@pytest.mark.parametrize("replicas", [1, 3])
class TestEveryReplica:
    def test_shrinks_and_keeps_its_records(self, tmp_path: Path, replicas: int, durability: Any) -> None:
        with kvstore.open(tmp_path / "s", replicas=replicas, durability=durability, watch_retention=0) as db:
            expected = fill(db)
            for number in range(100):
                db.put("log", number)  # so that the log is truncated

            report = db.compact()

            assert sorted(report["replicas"]) == [str(number) for number in range(replicas)]
            assert all(size["after"] < size["before"] for size in report["replicas"].values())
            assert {key: value for key, value in db.scan() if key != "log"} == expected
            assert db.verify()["problems"] == []
            db.put("afterwards", 1)
            assert db["afterwards"] == 1

        with kvstore.open(tmp_path / "s") as db:
            assert db["afterwards"] == 1
            assert db.status()["repaired"] == []
            assert db.verify()["problems"] == []
        assert sorted(os.listdir(tmp_path / "s")) == [
            *(f"replica-{number}" for number in range(replicas)), "writer.lock"
        ]  # fmt: skip


def test_a_snapshot_and_a_scan_stay_at_their_moment(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "s") as db:
        expected = fill(db)
        with db.snapshot() as view:
            scan = db.scan()
            first = next(scan)

            db.compact()
            db.delete(("k", 0))
            db.compact()

            assert view[("k", 0)] == bytes(500)
            assert dict(view.scan()) == expected
            assert dict([first, *scan]) == expected
        assert ("k", 0) not in db


def test_the_space_of_the_old_file_is_given_back_when_its_last_reader_has_gone(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "s") as db:
        fill(db)
        view = db.snapshot()
        db.compact()
        held = _deleted_files(tmp_path)
        view.close()

        assert held
        assert not _deleted_files(tmp_path)


def _deleted_files(below: Path) -> list[str]:
    """Return the open files below a folder whose names are removed."""
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("only Linux shows the open files of a process so")
    links = []
    for entry in folder.iterdir():
        try:
            links.append(os.readlink(entry))
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return [link for link in links if link.startswith(str(below)) and link.endswith("(deleted)")]


def test_threads_go_on_reading_and_writing(tmp_path: Path) -> None:
    over = threading.Event()
    wrong: list[Any] = []

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            with db.batch() as batch:
                batch.put("a", number)
                batch.put("b", number)

    def read() -> None:
        while not over.is_set():
            found = db.get_many(["a", "b"])
            if found[0] != found[1] or db.get(("k", 10)) != bytes(500):
                wrong.append(found)

    with kvstore.open(tmp_path / "s", replicas=3) as db:
        fill(db)
        threads = [threading.Thread(target=work) for work in (write, write, read, read)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            db.compact()
        over.set()
        for thread in threads:
            thread.join()

        assert wrong == []
        assert db.verify()["problems"] == []


def test_a_watch_loses_nothing(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "s", replicas=3) as db:
        watch = db.watch(timeout=0)
        for number in range(10):
            db.put("k", number)
            if number % 3 == 0:
                db.compact()

        assert [change.value for change in watch] == list(range(10))


def test_a_reading_process_sees_what_is_written_afterwards(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "s") as db:
        db.put("k", "before")
        reader = Remote(str(tmp_path / "s"), readonly=True)
        assert reader.call("get", "k") == "before"

        db.compact()
        db.put("k", "after")

        assert reader.call("get", "k") == "after"
        reader.end()


def test_a_disk_without_room_for_the_copy_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kvstore.open(tmp_path / "s", replicas=3) as db:
        expected = fill(db)
        monkeypatch.setattr("kvstore.engine.store_directory._sync_file", _refuse)
        with pytest.raises(kvstore.DiskFull, match="compacting"):
            db.compact()
        monkeypatch.undo()

        assert dict(db.scan()) == expected
        db.put("k", 1)
        db.compact()
        assert db.verify()["problems"] == []


def _refuse(_: Path) -> None:
    raise OSError(28, "No space left on device")


def test_what_a_killed_compaction_left_is_removed(tmp_path: Path) -> None:
    kvstore.open(tmp_path / "s").close()
    half_made = tmp_path / "s" / "replica-0.compacting"
    half_made.mkdir()
    (half_made / "data.mdb").write_bytes(bytes(1000))

    kvstore.open(tmp_path / "s").close()

    assert not half_made.exists()


@pytest.mark.parametrize("step", list(compacting.STEPS))
def test_killed_anywhere_it_leaves_the_old_file_or_the_new_one(tmp_path: Path, step: str) -> None:
    with kvstore.open(tmp_path / "s", durability="interval") as db:
        fill(db)

    child = running.start("compacting", step, tmp_path / "s")
    child.communicate(timeout=60)

    assert child.returncode == -signal.SIGKILL
    with kvstore.open(tmp_path / "s") as db:
        assert db.count() == ROWS // 10
        assert db.verify()["problems"] == []


def test_a_memory_store_has_no_files(tmp_path: Path) -> None:
    with kvstore.open(":memory:") as db:
        db.put("k", 1)
        assert db.compact()["after"] == 0
        assert db["k"] == 1


def test_a_reader_cannot_do_it(tmp_path: Path) -> None:
    kvstore.open(tmp_path / "s").close()
    with kvstore.open(tmp_path / "s", readonly=True) as db, pytest.raises(kvstore.ReadOnly):
        db.compact()


def test_a_file_that_cannot_be_opened_again_takes_no_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes to the replaced file would be lost."""
    with kvstore.open(tmp_path / "s") as db:
        db.put("k", 1)
        monkeypatch.setattr("kvstore.engine.store_directory.LmdbEnvironment", _refuse_to_open)
        with pytest.raises(kvstore.Failed):
            db.compact()
        monkeypatch.undo()

        assert db["k"] == 1
        with pytest.raises(kvstore.Failed):
            db.put("k", 2)
    assert FolderDirectory(str(tmp_path / "s")).numbers() == [0]
    with kvstore.open(tmp_path / "s") as db:
        assert db["k"] == 1


def _refuse_to_open(*_: object, **__: object) -> None:
    raise kvstore.Failed("no")

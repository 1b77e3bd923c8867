"""Opening: which openings are refused, by which error, and that a refusal changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

import kvstore
from kvstore.engine.reading_store import ReadingStore
from tests.support.programs import running
from tests.support.programs.remote import Remote

Tree = dict[str, bytes | None]


def tree(folder: Path) -> Tree:
    """Return everything below the folder: the content of each file, None for a folder.

    Files that an opening may leave behind are omitted: LMDB's lock file, in which each reading process
    takes a place, and an unlocked writer.lock.
    """
    transient = {"lock.mdb", "writer.lock"}
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name not in transient
    }


def a_store(path: Path, **options: Any) -> Path:
    """Make a closed store with one key; return its path."""
    with kvstore.open(path, **options) as db:
        db.put("k", 1)
    return path


def refused(path: Path, error: type[kvstore.Error], **options: Any) -> Any:
    """Open, expect the error, and check that nothing around the path has changed; return the error."""
    before = tree(path.parent) if path.parent.is_dir() else None
    with pytest.raises(error) as raised:
        kvstore.open(path, **options)
    assert (tree(path.parent) if path.parent.is_dir() else None) == before
    return raised.value


def edit_manifest(store: Path, **changes: object) -> None:
    file = store / "replica-0" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class TestWhatIsNoStore:
    def test_a_missing_parent_is_named_and_not_created(self, tmp_path: Path) -> None:
        error = refused(tmp_path / "missing" / "store", kvstore.NoParent)

        assert str(tmp_path / "missing") in str(error)
        assert error.path == str(tmp_path / "missing" / "store")
        assert error.hint

    def test_a_folder_with_other_things_in_it_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")

        error = refused(tmp_path / "photos", kvstore.NotAStore)

        assert error.path == str(tmp_path / "photos")
        assert not (tmp_path / "photos" / "writer.lock").exists()

    def test_a_file_is_not_a_store(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("text")

        refused(tmp_path / "file", kvstore.NotAStore)
        refused(tmp_path / "file", kvstore.NotAStore, readonly=True)
        refused(tmp_path / "file" / "below", kvstore.NoParent)

    @pytest.mark.parametrize("options", [{"readonly": True}, {"create": False}], ids=str)
    def test_what_may_not_be_created_is_not(self, tmp_path: Path, options: dict[str, Any]) -> None:
        (tmp_path / "empty").mkdir()

        refused(tmp_path / "missing", kvstore.NotAStore, **options)
        refused(tmp_path / "empty", kvstore.NotAStore, **options)

    def test_an_empty_folder_is_used(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()

        a_store(tmp_path / "empty")

        with kvstore.open(tmp_path / "empty", create=False) as db:
            assert db["k"] == 1

    def test_a_path_may_be_a_str_or_a_path_like_and_relative(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        a_store(Path("relative"))

        class Place:
            def __fspath__(self) -> str:
                return "relative"

        for path in ("relative", "./relative/", Place(), str(tmp_path / "relative")):
            with kvstore.open(path) as db:
                assert db["k"] == 1

    def test_a_path_of_bytes_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(kvstore.UsageError):
            kvstore.open(os.fsencode(tmp_path / "store"))  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["a" * 300, "a\0b"], ids=["too long", "with a zero"])
    def test_a_path_that_cannot_be_is_an_error_of_the_store(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(kvstore.Error):
            kvstore.open(tmp_path / name)


class TestAnotherShape:
    @pytest.mark.parametrize(
        ("name", "created", "asked"), [("shards", 4, 5), ("replicas", 1, 3), ("placement", 1, 2)]
    )
    @pytest.mark.parametrize("readonly", [False, True])
    def test_another_shape_is_refused_with_both_numbers(
        self, tmp_path: Path, name: str, created: int, asked: int, readonly: bool
    ) -> None:
        store = a_store(tmp_path / "store", **{name: created})

        error = refused(store, kvstore.WrongShape, readonly=readonly, **{name: asked})

        assert (error.name, error.found, error.expected) == (name, created, asked)
        with kvstore.open(store, **{name: created}) as db:  # type: ignore[arg-type]
            assert db["k"] == 1

    @pytest.mark.parametrize("readonly", [False, True])
    @pytest.mark.parametrize("replicas", [1, 3])
    def test_another_format_is_refused(self, tmp_path: Path, replicas: int, readonly: bool) -> None:
        store = a_store(tmp_path / "store", replicas=replicas)
        edit_manifest(store, format=2)

        error = refused(store, kvstore.WrongFormat, readonly=readonly)

        assert (error.found, error.expected) == (2, 1)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"uuid": 5}'])
    def test_a_damaged_manifest_file_is_written_again_from_the_record(
        self, tmp_path: Path, content: bytes
    ) -> None:
        store = a_store(tmp_path / "store", shards=3)
        manifest = store / "replica-0" / "manifest.json"
        before = json.loads(manifest.read_text())
        manifest.write_bytes(content)

        with kvstore.open(store) as db:
            assert db["k"] == 1
            assert "manifest" in db.status()["repaired"][0]

        assert json.loads(manifest.read_text()) == before | {"crc": ANY}

    @pytest.mark.parametrize(
        "options",
        [
            {"shards": 0}, {"shards": 257}, {"shards": True}, {"shards": 1.0}, {"shards": "4"},
            {"replicas": 0}, {"replicas": 2}, {"replicas": 4}, {"replicas": "3"},
            {"placement": 0}, {"placement": 17}, {"durability": "full"}, {"durability": None},
            {"sync_interval_ms": 0}, {"sync_interval_ms": 0.5}, {"snapshot_lifetime": 0},
            {"snapshot_lifetime": float("nan")}, {"snapshot_lifetime": "60"}, {"watch_retention": -1},
            {"idempotency_days": 0}, {"idempotency_days": -1},
        ],
        ids=str,
    )  # fmt: skip
    def test_an_option_out_of_its_bounds_is_refused(self, tmp_path: Path, options: dict[str, Any]) -> None:
        refused(tmp_path / "store", kvstore.UsageError, **options)

    @pytest.mark.parametrize("replicas", [True, 1.0, 3.0])
    def test_a_number_of_replicas_that_is_no_int_is_refused(self, tmp_path: Path, replicas: Any) -> None:
        refused(tmp_path / "store", kvstore.UsageError, replicas=replicas)

    @pytest.mark.parametrize("days", [float("inf"), 1e300])
    def test_outcomes_may_be_kept_for_ever(self, tmp_path: Path, days: float) -> None:
        for _ in range(2):
            with kvstore.open(tmp_path / "store", idempotency_days=days) as db:
                assert db.add("n", 1, idempotency_key="once") == 1


class TestOneWriter:
    def test_a_second_open_in_this_process_is_refused_by_any_spelling(self, tmp_path: Path) -> None:
        store = tmp_path / "store"
        (tmp_path / "link").symlink_to(store)
        (tmp_path / "other").mkdir()
        with kvstore.open(store) as db:
            for path in (store, tmp_path / "other" / ".." / "store", tmp_path / "link", f"{store}/"):
                for readonly in (False, True):
                    with pytest.raises(kvstore.AlreadyOpen) as raised:
                        kvstore.open(path, readonly=readonly)
                    assert raised.value.hint
            db.put("k", 1)

        with kvstore.open(tmp_path / "link") as db:
            assert db["k"] == 1

    def test_two_readers_in_one_process_are_refused_too(self, tmp_path: Path) -> None:
        store = a_store(tmp_path / "store")

        with kvstore.open(store, readonly=True), pytest.raises(kvstore.AlreadyOpen):
            kvstore.open(store, readonly=True)

    def test_a_second_process_is_refused_and_told_who_writes(self, tmp_path: Path) -> None:
        store = tmp_path / "store"
        with Remote(store) as other:
            with pytest.raises(kvstore.Locked) as raised:
                kvstore.open(store)
            assert raised.value.pid == other.process.pid
            assert str(other.process.pid) in str(raised.value)
            assert other.call("put", "k", 1) is None
            assert other.end() == 0

        with kvstore.open(store) as db, Remote(store) as late:
            assert db["k"] == 1
            assert late.opened == ["Locked", os.getpid()]

    def test_a_killed_writer_leaves_no_lock(self, tmp_path: Path) -> None:
        store = tmp_path / "store"
        with Remote(store) as other:
            other.call("put", "k", 1)
            other.kill()

        with kvstore.open(store) as db:
            assert db["k"] == 1

    def test_many_threads_that_open_at_once_get_one_handle(self, tmp_path: Path) -> None:
        handles: list[kvstore.Database] = []
        errors: list[Exception] = []

        def open_it() -> None:
            try:
                handles.append(kvstore.open(tmp_path / "store"))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=open_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(handles) == 1
        assert {type(error) for error in errors} == {kvstore.AlreadyOpen}
        handles[0].close()

    def test_processes_that_create_it_at_once_get_one_store(self, tmp_path: Path) -> None:
        store = tmp_path / "store"

        others = [Remote(store) for _ in range(4)]
        opened = [other for other in others if other.opened == "open"]
        errors = [other.opened[0] for other in others if other.opened != "open"]
        for other in others:
            other.kill()

        assert len(opened) == 1
        assert set(errors) <= {"Locked"}


VANISHED = "a side file that a writer removes between exists() and read_bytes() is a raw FileNotFoundError"


def failing(*_: object) -> None:
    raise MemoryError


class TestReadOnly:
    def test_a_reader_neither_creates_nor_writes(self, tmp_path: Path) -> None:
        store = a_store(tmp_path / "store", replicas=3)
        before = tree(store)

        with kvstore.open(store, readonly=True) as db:
            assert db["k"] == 1
            assert list(db.scan()) == [("k", 1)]
            assert db.status()["readonly"] is True
            assert db.verify()["ok"]
            assert tree(store) == before

        assert tree(store) == before

    @pytest.mark.parametrize(
        "write",
        [
            lambda db: db.put("k", 2),
            lambda db: db.delete("k"),
            lambda db: db.add("n"),
            lambda db: db.__delitem__("k"),
            lambda db: db.__setitem__("k", 2),
            lambda db: db.batch(),
            lambda db: db.put("k", 2, idempotency_key="x"),
        ],
        ids=["put", "delete", "add", "del", "[]=", "batch", "with a key"],
    )
    def test_every_write_is_refused(
        self, tmp_path: Path, write: Callable[[kvstore.Database], object]
    ) -> None:
        store = a_store(tmp_path / "store")

        with kvstore.open(store, readonly=True) as db:
            with pytest.raises(kvstore.ReadOnly) as raised:
                write(db)
            assert raised.value.path == str(store)
            assert db["k"] == 1

    @pytest.mark.parametrize("replicas", [1, 3])
    @pytest.mark.parametrize("durability", ["commit", "interval", "none"])
    def test_a_reader_sees_what_a_running_writer_committed(
        self, tmp_path: Path, replicas: int, durability: str
    ) -> None:
        store = tmp_path / "store"
        with Remote(store, replicas=replicas, durability=durability) as writer:
            writer.call("put", "k", 0)
            with kvstore.open(store, readonly=True) as db:
                with db.snapshot() as view:
                    for number in range(20):
                        writer.call("put", "k", number)
                        assert db["k"] == number
                    assert view["k"] == 0
                assert writer.end() == 0
                assert db["k"] == 19

    @pytest.mark.parametrize("replicas", [1, 3])
    def test_readers_come_while_a_writer_opens_writes_and_closes(self, tmp_path: Path, replicas: int) -> None:
        store = a_store(tmp_path / "store", replicas=replicas)
        child = running.start("reopener", store)
        try:
            seen = [0]
            end = time.monotonic() + 1.5
            while time.monotonic() < end or (seen[-1] <= 10 and time.monotonic() < end + 60):
                with kvstore.open(store, readonly=True) as db:
                    seen.append(db.get("n", 0))
                    assert db["k"] == 1
        finally:
            running.stop(child)

        assert seen == sorted(seen)
        assert seen[-1] > 10, "the writer was there meanwhile"

    def test_a_mark_that_a_writer_removes_while_a_reader_looks_is_no_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = a_store(tmp_path / "store")
        read_bytes = Path.read_bytes

        def read_late(path: Path) -> bytes:
            if path.name == "closed":
                path.unlink(missing_ok=True)
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", read_late)
        with kvstore.open(store, readonly=True) as db:
            assert db["k"] == 1

    def test_a_reader_that_could_not_be_opened_leaves_nothing_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = a_store(tmp_path / "store", replicas=3)
        with monkeypatch.context() as context:
            context.setattr(ReadingStore, "_find_learner", failing)
            with pytest.raises(MemoryError) as raised:
                kvstore.open(store, readonly=True)

        with kvstore.open(store) as db:
            assert db["k"] == 1
        assert raised.traceback

    def test_a_reader_of_a_folder_that_was_replaced_by_another_stores_is_not_misled(
        self, tmp_path: Path
    ) -> None:
        store, foreign = tmp_path / "store", tmp_path / "foreign"
        a_store(store, replicas=3)
        with kvstore.open(foreign, replicas=3) as db:
            db.put("k", "of another store")
        shutil.rmtree(store / "replica-0")
        shutil.copytree(foreign / "replica-0", store / "replica-0")

        try:
            with kvstore.open(store, readonly=True) as db:
                seen = db["k"]
        except kvstore.Damage:
            return
        assert seen == 1

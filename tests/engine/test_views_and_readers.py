"""Readers during a view change: snapshots, watches, other processes; and what the folders contain."""

from __future__ import annotations

from pathlib import Path

import lmdb
import msgspec
import pytest

import kvstore
from kvstore.engine.reading_store import ReadingStore
from kvstore.engine.store_directory import MemoryDirectory
from kvstore.engine.upkeep.status import status
from kvstore.eris.coordinator_replication import RECORD_KEY
from kvstore.eris.coordinator_state import decode_record
from kvstore.eris.shard_state import HOST_TABLE
from kvstore.storage.soundness import CLOSED_MARK
from kvstore.types import ViewNumber
from tests.support import disk as disk_shim
from tests.support.failing import SHARDS, a_store, cluster_of, fail
from tests.support.power import assert_replicas_agree, environments, open_on
from tests.support.programs import running
from tests.support.programs.remote import Remote


class TestReaders:
    def test_a_snapshot_stays_where_it_was(self) -> None:
        disk, db = a_store()
        db.put("k", 1)
        snapshot, scan = db.snapshot(), db.scan()
        fail(db, disk)

        db.put("k", 2)

        assert snapshot["k"] == 1
        assert dict(scan) == {"k": 1}
        with db.snapshot() as now:
            assert now["k"] == 2
        db.close()
        with pytest.raises(kvstore.Closed):
            snapshot.get("k")

    def test_a_watch_goes_on_from_its_place(self) -> None:
        disk, db = a_store()
        for number in range(5):
            db.put(("k", number), number)
        watch = db.watch(since=0, timeout=0.2)
        seen = [next(watch).value for _ in range(3)]
        fail(db, disk, 1)
        for number in range(5, 10):
            db.put(("k", number), number)

        seen += [change.value for change in watch]

        assert seen == list(range(10))
        cursor = db.cursor()
        db.put("last", 1)
        assert [change.key for change in db.watch(since=cursor, timeout=0)] == ["last"]
        db.close()
        disk.commits_left.clear()
        with open_on(disk) as db:
            assert [change.value for change in db.watch(since=0, timeout=0)] == [*range(10), 1]
            assert [change.key for change in db.watch(since=cursor, timeout=0)] == ["last"]

    def test_an_idempotency_key_holds_over_it(self) -> None:
        disk, db = a_store()
        db.add("sum", 1, idempotency_key="once")
        fail(db, disk)
        db.add("sum", 1, idempotency_key="twice")

        assert db.add("sum", 1, idempotency_key="once") == 1
        assert db.add("sum", 1, idempotency_key="twice") == 2
        assert db["sum"] == 2
        db.close()

    def test_the_new_view_stands_in_every_living_environment(self) -> None:
        disk, db = a_store()
        fail(db, disk)
        db.put("k", 1)

        records = {
            number: decode_record(environment.read(HOST_TABLE, RECORD_KEY) or b"")
            for number, environment in environments(db).items()
        }

        assert {number: record.view for number, record in records.items()} == {1: 1, 2: 1}
        db.close()


class TestWhoOnlyReads:
    def test_follows_the_views(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kvstore.engine.reading_store.LOOK_AT_VIEWS_S", 0.0)
        disk, db = a_store(replicas=5)
        db.put("k", 0)
        store = ReadingStore(MemoryDirectory(disk))
        with_snapshot = store.readers.begin(60)
        for number in range(1, 3):
            fail(db, disk)
            db.put("k", number)
            store.readers.record_count()
            found = status(store)
            assert found["learner"] == found["learners"]["0"] == found["views"]["2"] == number
            assert store.readers.environment.location == f"memory:{number}"
        assert with_snapshot.environment.location == "memory:0"
        store.close()
        db.close()

    def test_stays_until_the_new_learner_has_begun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before it begins the view, the new learner may show an older state, one group behind."""
        monkeypatch.setattr("kvstore.engine.reading_store.LOOK_AT_VIEWS_S", 0.0)
        disk, db = a_store()
        db.put("k", 0)
        store = ReadingStore(MemoryDirectory(disk))
        host, record = cluster_of(db).followers[1].host, store.record
        host.begin()
        host.save_coordinator_record(msgspec.structs.replace(record, counter=99, view=ViewNumber(1)))
        host.commit()

        store.readers.record_count()

        assert status(store)["learner"] == 0
        assert store.readers.environment.location == "memory:0"
        store.close()
        db.close()


class OnDisk:
    """A store in real folders, whose learner can be made to fail."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = kvstore.open(path, shards=SHARDS, replicas=3)
        for number in range(20):
            self.db.put(("k", number), number)

    def fail(self) -> None:
        environment = cluster_of(self.db).learner.environment
        begin = environment.begin_txn

        def refuse(*, write: bool) -> lmdb.Transaction:
            if write:
                raise lmdb.DiskError("Input/output error")
            transaction: lmdb.Transaction = begin(write=write)
            return transaction

        environment.begin_txn = refuse
        self.db.put("failed", 1)
        assert self.db.status()["learner"] == 1


@pytest.fixture
def store(tmp_path: Path) -> OnDisk:
    return OnDisk(tmp_path / "store")


class TestRealFolders:
    def test_are_whole_again_at_the_next_opening(self, store: OnDisk) -> None:
        snapshot = store.db.snapshot()
        store.fail()
        for number in range(20, 40):
            store.db.put(("k", number), number)
        assert snapshot.count() == 20
        assert store.db.verify()["ok"]
        content = dict(store.db.scan())
        store.db.close()
        marks = [(store.path / f"replica-{number}" / CLOSED_MARK).exists() for number in range(3)]
        assert marks == [False, True, True], "the one that failed is not called clean"

        with kvstore.open(store.path) as db:
            assert dict(db.scan()) == content
            assert db.status()["healthy"]
            assert db.verify()["ok"]
            assert sorted(db.status()["bytes"]) == ["0", "1", "2"]
            assert_replicas_agree(db)

    def test_a_replica_that_was_left_far_behind_is_made_anew_and_named(self, tmp_path: Path) -> None:
        store = OnDisk(tmp_path / "store")
        store.db.close()
        store.db = kvstore.open(store.path, watch_retention=0)
        store.fail()
        for number in range(400):
            store.db.put("k", "x" * 500 + str(number))
        store.db.close()

        with kvstore.open(store.path) as db:
            assert ["replica 0" in line and "rebuilt" in line for line in db.status()["repaired"]] == [True]
            assert db.status()["healthy"]
            assert_replicas_agree(db)

    def test_compaction_and_backups_do_without_it(self, store: OnDisk, tmp_path: Path) -> None:
        store.fail()

        assert sorted(store.db.compact()["replicas"]) == ["1", "2"]
        store.db.put("compacted", 1)
        store.db.backup(tmp_path / "backup")
        content = dict(store.db.scan())
        store.db.close()

        for path in (tmp_path / "backup", store.path):
            with kvstore.open(path) as db:
                assert dict(db.scan()) == content
                assert db.verify()["ok"]
                assert_replicas_agree(db)

    def test_who_opens_to_read_finds_the_new_learner(self, store: OnDisk) -> None:
        store.fail()
        store.db.put("k", "new")

        with Remote(store.path, readonly=True) as remote:
            assert remote.opened == "open"
            assert remote.call("get", "k") == "new"
            store.db.put("k", "newer")
            assert remote.call("get", "k") == "newer"
        store.db.close()

    def test_who_was_reading_before_follows(self, store: OnDisk) -> None:
        with Remote(store.path, readonly=True) as remote:
            store.db.put("k", "old")
            assert remote.call("get", "k") == "old"
            store.fail()
            store.db.put("k", "new")
            while remote.call("get", "k") != "new":
                pass
            store.db.compact()
            store.db.put("k", "newer")
            while remote.call("get", "k") != "newer":
                pass
            store.db.close()
            with kvstore.open(store.path) as db:
                db.put("k", "newest")
                while remote.call("get", "k") != "newest":
                    pass


@pytest.mark.timeout(120)
@pytest.mark.parametrize("replica", [0, 1])
def test_a_disk_that_fails_at_any_call_is_done_without(replica: int, tmp_path: Path) -> None:
    """Readers notice nothing either, although LMDB may refuse all reads of a file whose roots it could not
    write. A commit makes few calls, so every call of some commits fails once."""
    points = 6
    said = running.run(
        "failing_replica", tmp_path, replica, points, preload=disk_shim.compiled(), timeout=110
    )

    assert int(said) == (points if replica == 0 else 0)

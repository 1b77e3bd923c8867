"""Another replica takes over while the store runs: whatever fails, and at whatever moment, callers get their
answers, nothing acknowledged is lost, and the next opening makes all replicas whole (contracts A4).

``KVSTORE_FAILING_RUNS`` says how often a concurrent workload meets a replica that fails; 100 by default.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

import kvstore
from kvstore import Database, Key
from kvstore.drivers.host import COORDINATOR_KEY, Host
from kvstore.eris.failure_coordinator import decode_record
from kvstore.eris.shard_state import HOST_TABLE
from kvstore.storage import MemoryDisk
from kvstore.storage.soundness import CLOSED_MARK
from tests.support import disk as disk_shim
from tests.support.power import assert_replicas_agree, environments, open_on, sync
from tests.support.programs import running
from tests.support.programs.remote import Remote
from tests.support.transactions import (
    Later,
    Stalled,
    key_on,
    run_all,
    unresolved,
    until_it_waits_or_is_over,
)

RUNS = int(os.environ.get("KVSTORE_FAILING_RUNS", "100"))
SHARDS = 3


def a_store(*, replicas: int = 3, **options: Any) -> tuple[MemoryDisk, Database]:
    """An empty store, open; replica 0 is the learner."""
    disk = MemoryDisk()
    return disk, open_on(disk, shards=SHARDS, replicas=replicas, **options)


def cluster_of(db: Database) -> Any:
    store: Any = db._store
    return store.cluster


def fail(db: Database, disk: MemoryDisk, commits: int = 0) -> int:
    """From now on the learner's disk takes so many commits and no more; return which replica that is."""
    learner: int = db.status()["learner"]
    disk.commits_left[str(learner)] = commits
    return learner


def assert_healed(disk: MemoryDisk, content: dict[Key, Any]) -> None:
    disk.commits_left.clear()
    with open_on(disk) as db:
        assert dict(db.scan()) == content
        assert sorted(environments(db)) == list(range(db.status()["replicas"]))
        assert_replicas_agree(db)
        assert db.verify()["ok"]
        assert db.status()["healthy"], db.status()
        db.put("after", 1)


class TestALearnerThatFails:
    @pytest.mark.parametrize("replicas", [3, 5])
    @pytest.mark.parametrize("commits", range(4))
    def test_is_followed_by_another_and_nobody_notices(self, replicas: int, commits: int) -> None:
        disk, db = a_store(replicas=replicas)
        fail(db, disk, commits)

        for number in range(8):
            with db.batch() as batch:
                batch.put(("n", number), number)
                for name in "abcdefgh":
                    batch.put(name, number)
            assert db["a"] == db["h"] == number
            assert db.add("sum", number) == sum(range(number + 1))
        content = dict(db.scan())
        db.close()

        assert len(content) == 8 + 8 + 1
        assert_healed(disk, content)

    def test_shows_in_the_status(self) -> None:
        disk, db = a_store()
        before = db.status()
        fail(db, disk)
        db.put("k", 1)
        after = db.status()
        db.close()

        assert before["views"] == {"0": 0, "1": 0, "2": 0}
        assert before["learners"] == {"0": 0, "1": 0, "2": 0}
        assert before["lag"].keys() == {"1", "2"}
        assert json.loads(json.dumps(after)) == after
        assert (after["epoch"], after["view"], after["learner"]) == (before["epoch"], 1, 1)
        assert after["views"] == after["learners"] == {"0": 1, "1": 1, "2": 1}
        assert after["lag"].keys() == {"2"}
        assert not after["healthy"]
        failed = "replica 0 failed: [Errno 5] injected commit failure; replica 1 is the learner now"
        assert after["problems"] == [failed]

    def test_is_never_written_again(self) -> None:
        disk, db = a_store()
        db.put("k", 1)
        fail(db, disk)
        before = disk.folders["0"].committed
        for number in range(5):
            db.put("k", number)
        db.close()

        assert disk.folders["0"].committed is before

    @pytest.mark.parametrize("commits", range(3))
    def test_and_the_next_one_too_is_one_too_many_of_three(self, commits: int) -> None:
        disk, db = a_store()
        fail(db, disk)
        db.put("k", 1)
        second = fail(db, disk, commits)
        for number in range(commits):
            db.put("k", 2 + number)

        with pytest.raises(kvstore.OutcomeUnknown):
            db.put("k", 99)

        with pytest.raises(kvstore.Failed):
            db.put("k", 100)
        with pytest.raises(kvstore.Failed):
            db.get("k")
        assert not db.status()["healthy"]
        db.close()
        disk.commits_left.clear()
        assert second == 1
        with open_on(disk) as db:
            assert db["k"] == 99, "the last replica had it"
            assert_replicas_agree(db)

    @pytest.mark.parametrize("second", ["1", "2"])
    def test_after_a_follower_is_one_too_many_of_three(self, second: str) -> None:
        disk, db = a_store()
        disk.commits_left[second] = 0
        db.put("k", 1)
        fail(db, disk)

        with pytest.raises(kvstore.OutcomeUnknown):
            db.put("k", 2)

        with pytest.raises(kvstore.Failed):
            db.get("k")
        db.close()
        disk.commits_left.clear()
        with open_on(disk) as db:
            assert db["k"] == 2

    def test_may_be_one_of_two_of_five(self) -> None:
        disk, db = a_store(replicas=5)
        lost = []
        for number in range(2):
            lost.append(fail(db, disk))
            db.put(("k", number), number)
        db.put("k", 1)
        status, content = db.status(), dict(db.scan())

        assert lost == [0, 1]
        assert status["learner"] == 2
        assert [problem[:16] for problem in status["problems"]] == ["replica 0 failed", "replica 1 failed"]
        assert all("replica 2 is the learner now" in problem for problem in status["problems"])
        fail(db, disk)
        with pytest.raises(kvstore.OutcomeUnknown):
            db.put("k", 2)
        db.close()
        assert_healed(disk, content | {"k": 2})


class TestAnotherThatFailsMeanwhile:
    """The view change has commits of its own, and each may be the last of that disk."""

    @pytest.mark.parametrize("another", ["1", "2", "3", "4"])
    @pytest.mark.parametrize("commits", range(6))
    def test_is_one_of_two_of_five(self, another: str, commits: int) -> None:
        disk, db = a_store(replicas=5)
        for number in range(3):
            db.put(("k", number), number)
        fail(db, disk)
        disk.commits_left[another] = commits

        for number in range(3, 6):
            with db.batch() as batch:
                for name in range(8):
                    batch.put((name, number), number)
            assert db.count() == 3 + 8 * (number - 2)
        content = dict(db.scan())
        assert any("replica 0 failed" in problem for problem in db.status()["problems"])
        db.close()

        assert_healed(disk, content)

    @pytest.mark.parametrize("another", ["1", "2"])
    @pytest.mark.parametrize("commits", range(6))
    def test_is_one_too_many_of_three_and_nothing_is_lost(self, another: str, commits: int) -> None:
        disk, db = a_store()
        acknowledged = [0]
        db.put("k", 0)
        fail(db, disk)
        disk.commits_left[another] = commits

        for number in range(1, 10):
            try:
                db.put("k", number)
            except kvstore.OutcomeUnknown:
                break
            acknowledged.append(number)
            assert db["k"] == number
        with pytest.raises(kvstore.Failed):
            db.put("k", 99)
        db.close()

        disk.commits_left.clear()
        with open_on(disk) as db:
            assert db["k"] in (acknowledged[-1], acknowledged[-1] + 1)
            assert_replicas_agree(db)


def spoil(monkeypatch: pytest.MonkeyPatch, host: Host, name: str, *, late: bool = False) -> None:
    """Have this host meet a damaged record in ``name``: before it did anything there, or after."""
    work: Callable[..., Any] = getattr(host, name)

    def broken(*arguments: Any) -> None:
        if late:
            work(*arguments)
        raise kvstore.Corrupt("a page is damaged", record="page 7")

    monkeypatch.setattr(host, name, broken)


class TestALearnerThatFailsBeforeItsCommit:
    @pytest.mark.parametrize(
        ("step", "late"),
        [("begin", False), ("handle", False), ("handle", True), ("finish", False), ("finish", True)],
    )
    def test_is_followed_by_another(self, step: str, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        disk, db = a_store()
        db.put("k", 1)
        spoil(monkeypatch, cluster_of(db).learner, step, late=late)

        db.put("k", 2)

        assert db["k"] == 2
        assert "a page is damaged" in db.status()["problems"][0]
        assert db.status()["learner"] == 1
        db.close()
        assert_healed(disk, {"k": 2})

    @pytest.mark.parametrize("step", ["begin", "handle", "finish"])
    def test_with_a_general_transaction(self, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its followers were not given the group yet."""
        disk, db = a_store()
        accounts = [key_on(db, shard, "account") for shard in range(SHARDS)]
        for account in accounts:
            db.put(account, 10)

        @db.transaction
        def transfer(tx: kvstore.Transaction) -> None:
            first, second = tx[accounts[0]], tx[accounts[1]]
            spoil(monkeypatch, cluster_of(db).learner, step)
            tx[accounts[1]] = second + 1
            tx[accounts[2]] = first

        transfer()
        assert [db[account] for account in accounts] == [10, 11, 10]
        assert db.status()["learner"] == 1
        content = dict(db.scan())
        db.close()
        assert_healed(disk, content)

    def test_without_a_majority_writes_end_and_reads_go_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        disk, db = a_store()
        disk.commits_left["2"] = 0
        db.put("k", 1)
        spoil(monkeypatch, cluster_of(db).learner, "handle")

        with pytest.raises(kvstore.OutcomeUnknown):
            db.put("k", 2)

        with pytest.raises(kvstore.Failed):
            db.put("k", 3)
        assert db["k"] == 1
        db.close()


class Scene:
    """Twins on two shards, locked by a function that stands still, and others in line for them."""

    def __init__(self, replicas: int = 3) -> None:
        self.disk, self.db = a_store(replicas=replicas)
        self.twins: tuple[Key, Key] = (key_on(self.db, 0, "twin"), key_on(self.db, 1, "twin"))
        self.third = key_on(self.db, 2, "third")
        self.db.put(self.third, 5)
        self.stalled = Stalled(self.db, self.twins)
        self.waiting: list[Later] = []

    def queue(self, call: Callable[[], Any]) -> None:
        before = unresolved(self.db)
        later = Later(call)
        until_it_waits_or_is_over(self.db, later, before)
        assert not later.is_over
        self.waiting.append(later)

    def queue_all_kinds(self) -> None:
        """Writes over one, two and three shards, and two more general transactions."""
        db, (left, right), third = self.db, self.twins, self.third

        def write_all() -> None:
            with db.batch() as batch:
                for key in (third, right, left):
                    batch.add(key, 10)

        @db.transaction
        def copy(tx: kvstore.Transaction) -> int:
            value: int = tx[left]
            tx[third] = tx[right] + value
            return value

        @db.transaction
        def back(tx: kvstore.Transaction) -> int:
            value: int = tx[third]
            tx[left] = tx[right] = value
            return value

        self.queue(lambda: db.add(right, 1))
        self.queue(write_all)
        self.queue(copy)
        self.queue(back)
        self.queue(lambda: db.add(left, 1))

    def end(self) -> list[Any]:
        self.db.put("elsewhere", 2)
        return [later.result() for later in self.waiting]


class TestLocks:
    """The learner fails while a function holds locks and others wait for them, or just as it lets go."""

    @pytest.mark.parametrize("commits", range(12))
    def test_are_held_by_the_new_learner(self, commits: int) -> None:
        scene = Scene()
        fail(scene.db, scene.disk, commits)
        scene.queue_all_kinds()
        for _ in range(4 if commits < 6 else 0):
            scene.db.put("elsewhere", 1)

        assert scene.stalled.go_on() == 1001
        ends = scene.end()

        db, (left, right), third = scene.db, scene.twins, scene.third
        for _ in range(12):
            db.put("elsewhere", 3)
        assert db.status()["learner"] == 1
        found = [db[left], db[right], db[third]]
        assert ends == [1002, None, 1011, 2023, 2024], "each in its turn"
        assert found == [2024, 2023, 2023]
        assert unresolved(db) == 0
        content = dict(db.scan())
        db.close()
        assert_healed(scene.disk, content)

    def test_that_are_let_go_in_the_failed_group_wake_those_that_wait_for_them(self) -> None:
        """What waits on several shards is resolved on the first one to begin the view."""
        scene = Scene()
        scene.queue_all_kinds()
        for _ in range(3):
            scene.db.put("elsewhere", 1)  # all that waits is stable on the followers by now
        fail(scene.db, scene.disk)

        assert scene.stalled.go_on() == 1001
        ends = [later.result() for later in scene.waiting]  # nobody else comes by

        assert ends == [1002, None, 1011, 2023, 2024]
        assert unresolved(scene.db) == 0
        assert scene.db.status()["learner"] == 1
        content = dict(scene.db.scan())
        scene.db.close()
        assert_healed(scene.disk, content)

    def test_whose_lease_runs_out_after_the_move_are_let_go(self) -> None:
        scene = Scene()
        scene.queue(lambda: scene.db.add(scene.twins[1], 1))
        fail(scene.db, scene.disk)
        scene.db.put("elsewhere", 1)

        assert scene.waiting[0].result() == 1001, "the lease ended by itself"
        assert scene.stalled.go_on() == 1001, "and the function ran again"
        assert unresolved(scene.db) == 0
        scene.db.close()


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
            number: decode_record(environment.read(HOST_TABLE, COORDINATOR_KEY) or b"")
            for number, environment in environments(db).items()
        }

        assert {number: record.view for number, record in records.items()} == {1: 1, 2: 1}
        db.close()


def test_a_sync_that_fails_moves_the_views_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, db = a_store(durability="interval")
    db.put("k", 1)
    environment = cluster_of(db).learner.environment

    def failing() -> None:
        environment.fail(OSError(5, "Input/output error"))
        raise kvstore.Failed("sync failed")

    monkeypatch.setattr(environment, "sync", failing)
    sync(db)

    assert db.status()["learner"] == 1
    assert db["k"] == 1
    db.put("k", 2)
    sync(db)
    assert db["k"] == 2
    content = dict(db.scan())
    db.close()
    disk.lose_power()
    assert_healed(disk, content)


def test_a_sync_that_fails_without_a_majority_refuses_all(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, db = a_store(durability="interval")
    disk.commits_left["1"] = 0
    db.put("k", 1)
    environment = cluster_of(db).learner.environment

    def failing() -> None:
        raise kvstore.Failed("sync failed")

    monkeypatch.setattr(environment, "sync", failing)
    sync(db)

    with pytest.raises(kvstore.Failed):
        db.put("k", 2)
    with pytest.raises(kvstore.Failed):
        db.get("k")
    monkeypatch.undo()
    db.close()


class OnDisk:
    """A store in real folders, whose learner can be made to refuse."""

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
    """Readers, too, meet nothing of it, although LMDB may let nobody read a file whose roots it could not
    write. A commit makes a handful of calls, so this is every call of some."""
    points = 6
    said = running.run(
        "failing_replica", tmp_path, replica, points, preload=disk_shim.compiled(), timeout=110
    )

    assert int(said) == (points if replica == 0 else 0)


ACCOUNTS, OPENING = 6, 100
PUTS, BATCHES, TRANSFERS = 12, 8, 6


class Workload:
    """Writers of every kind at once. Each remembers what was acknowledged, and looks at it at once."""

    def __init__(self, db: Database, randomly: random.Random) -> None:
        self.db = db
        self.seed = randomly.random()
        self.content: dict[Key, Any] = {}
        """What was acknowledged, of keys that one writer alone writes."""
        self.added = 0
        with db.batch() as batch:
            for account in range(ACCOUNTS):
                batch.put(("account", account), OPENING)

    def put(self, who: int) -> None:
        for number in range(PUTS):
            key = ("put", who, number % 5)
            self.db.put(key, number)
            self.content[key] = number
            assert self.db[key] == number

    def write_batches(self) -> None:
        for number in range(1, BATCHES + 1):
            with self.db.batch() as batch:
                for part in range(5):
                    batch.put(("batch", part), number)
                    batch.add(("sum", part), number)
            self.added += number
            with self.db.snapshot() as now:
                assert now.get_many([("batch", part) for part in range(5)]) == [number] * 5
                assert now.get_many([("sum", part) for part in range(5)]) == [self.added] * 5

    def transfer(self, who: int) -> None:
        randomly = random.Random(self.seed + who)

        @self.db.transaction(max_retries=1000, timeout=60)
        def move(tx: kvstore.Transaction, source: int, target: int) -> None:
            mine, theirs = tx["account", source], tx["account", target]
            tx["account", source] = mine - 1
            tx["account", target] = theirs + 1
            tx.add(("transfers", who))

        for number in range(TRANSFERS):
            source, target = randomly.sample(range(ACCOUNTS), 2)
            move(source, target)
            self.content["transfers", who] = number + 1
            assert self.db["transfers", who] == number + 1

    def watch(self) -> None:
        """Fold what comes until the end is seen: it is the store's state then."""
        folded: dict[Key, Any] = {}
        for change in self.db.watch(since=0):
            folded[change.key] = change.value
            if change.key == "end":
                break
        assert folded == dict(self.db.scan())

    def run(self) -> None:
        watcher = Later(self.watch)
        run_all(
            [
                *(lambda who=who: self.put(who) for who in range(2)),  # type: ignore[misc]  # bound now
                self.write_batches,
                *(lambda who=who: self.transfer(who) for who in range(2)),  # type: ignore[misc]  # bound now
            ]
        )
        self.db.put("end", 1)
        watcher.result()

    def check(self, db: Database) -> None:
        assert {key: db.get(key) for key in self.content} == self.content
        assert sum(balance for _, balance in db.scan(prefix=("account",))) == ACCOUNTS * OPENING
        assert [db["sum", part] for part in range(5)] == [self.added] * 5
        assert db["end"] == 1


def one_run(seed: int, replicas: int) -> tuple[bool, ...]:
    """Any minority fails, each at some moment; return for each replica whether it did."""
    randomly = random.Random(seed)
    disk, db = a_store(replicas=replicas)
    workload = Workload(db, randomly)
    victims = sorted(randomly.sample(range(replicas), replicas // 2))
    for victim in victims:
        disk.commits_left[str(victim)] = randomly.randrange(30)

    workload.run()
    disk.commits_left.update(dict.fromkeys(map(str, victims), 0))  # who has not failed yet does now
    for number in range(1 + replicas // 2):
        db.put("late", number)
    workload.check(db)
    while any(db.status()["lag"].values()):
        pass
    status = db.status()
    assert [int(problem.split()[1]) for problem in sorted(status["problems"])] == victims, (seed, status)
    assert status["learner"] not in victims
    content = dict(db.scan())
    db.close()

    assert_healed(disk, content)
    return tuple(number in victims for number in range(replicas))


def test_nothing_acknowledged_is_lost_whichever_replica_fails_and_whenever() -> None:
    failed = {one_run(seed, 3) for seed in range(RUNS)}

    assert RUNS < 20 or len(failed) == 3


def test_nor_with_two_of_five() -> None:
    for seed in range(RUNS // 8):
        one_run(seed, 5)

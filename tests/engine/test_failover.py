"""Failover while the store runs: whatever fails, and at whatever moment, callers are answered, nothing
acknowledged is lost, and the next opening makes all replicas whole (contracts A4).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import kvstore
from kvstore import Database, Key
from kvstore.engine.host import Host
from kvstore.eris.coordinator_replication import RECORD_KEY
from kvstore.eris.coordinator_state import decode_record
from kvstore.eris.shard_state import HOST_TABLE
from kvstore.storage import MemoryEnvironment
from kvstore.types import ShardId, TransactionId
from tests.support.failing import SHARDS, a_store, assert_healed, cluster_of, fail
from tests.support.power import WitnessedDisk, assert_replicas_agree, environments, image_of, open_on, sync
from tests.support.transactions import Later, Stalled, key_on, unresolved, until_it_waits_or_is_over


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

    def test_leaves_no_messages_of_its_view_behind(self) -> None:
        disk, db = a_store()
        fail(db, disk, 3)
        for number in range(6):
            db.put(("k", number), number)
            failed_in_status(db)

        cluster = cluster_of(db)
        assert cluster.learner.number == 1
        dropped = {**cluster.learner.dropped, **cluster.followers[0].host.dropped}
        assert "of another epoch or view" not in dropped
        db.close()

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


def failed_in_status(db: Database) -> set[int]:
    """Return the replicas that ``status`` reports as failed, after all followers have caught up."""
    while any(db.status()["lag"].values()):
        pass
    return {int(problem.split()[1]) for problem in db.status()["problems"]}


def failed_disks(db: Database) -> set[int]:
    alive = {number for number, found in environments(db).items() if found.failure is None}
    return set(range(db.status()["replicas"])) - alive


class TestAnotherThatFailsMeanwhile:
    """The view change makes commits itself, and a disk may fail at each of them."""

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
            assert failed_in_status(db) == failed_disks(db)
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
            assert len(db.status()["lag"]) == 1, "another one has it, and lives"
        with pytest.raises(kvstore.Failed):
            db.put("k", 99)
        db.close()

        disk.commits_left.clear()
        with open_on(disk) as db:
            assert db["k"] in (acknowledged[-1], acknowledged[-1] + 1)
            assert_replicas_agree(db)


def spoil(monkeypatch: pytest.MonkeyPatch, host: Host, name: str, *, late: bool = False) -> None:
    """Make ``name`` raise ``Corrupt`` on this host: before its work, or with ``late`` after it."""
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
        """The followers were not given the group of a general transaction yet."""
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


@pytest.mark.parametrize("replicas", [3, 5])
def test_a_process_that_ends_at_any_commit_of_it_loses_nothing(replicas: int) -> None:
    """Power may be lost there, too."""
    disk = WitnessedDisk()
    db = open_on(disk, shards=SHARDS, replicas=replicas)
    fail(db, disk, 2)
    for number in range(1, 5):
        with db.batch() as batch:
            for name in "abcdefgh":
                batch.put(name, number)
        disk.note = number
    assert db.status()["learner"] == 1
    db.close()

    for image in disk.images:
        if image.note:
            image.disk.lose_power()
            with open_on(image.disk) as found:
                values = {found[name] for name in "abcdefgh"}
                assert values in ({image.note}, {image.note + 1})
                assert_replicas_agree(found)
                assert found.verify()["ok"]


def test_a_view_that_cannot_begin_is_not_gone_on_in() -> None:
    """In one process no replica has promised to drop a transaction; else the coordinator would be needed."""
    disk, db = a_store()
    db.put("k", 1)
    shard = db.explain("k").shards[0]
    replica = cluster_of(db).followers[0].host.replicas[shard]
    replica.record.temp_drops.add(TransactionId(replica.record.epoch, ShardId(shard), replica.next_number))
    fail(db, disk)

    with pytest.raises(kvstore.OutcomeUnknown):
        db.put("k", 2)

    with pytest.raises(kvstore.Failed):
        db.put("k", 3)
    db.close()
    assert_healed(disk, {"k": 2})


class Scene:
    """Twin keys on two shards, locked by a function that is held up, and requests that wait for the locks."""

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
        """Queue writes over one, two and three shards, and two more general transactions."""
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
    """The learner fails while a function holds locks that requests wait for, or as it releases them."""

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
        """A request that waits on several shards is resolved on the first shard that begins the view."""
        scene = Scene()
        scene.queue_all_kinds()
        for _ in range(3):
            scene.db.put("elsewhere", 1)  # all waiting requests are now stable on the followers
        fail(scene.db, scene.disk)

        assert scene.stalled.go_on() == 1001
        ends = [later.result() for later in scene.waiting]  # no other request arrives

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


def test_a_view_is_synced_when_it_begins() -> None:
    """A view is synced whatever the durability: views never go back (contracts B3)."""
    disk, db = a_store(durability="none")
    db.put("k", 1)
    fail(db, disk)
    db.put("k", 2)
    cut = image_of(disk)
    db.close()

    cut.lose_power()
    kept = [MemoryEnvironment(cut, name).read(HOST_TABLE, RECORD_KEY) for name in ("1", "2")]
    assert [decode_record(record or b"").view for record in kept] == [1, 1]
    assert_healed(cut, {"k": 2})


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
    assert "of another epoch or view" not in cluster_of(db).followers[0].host.dropped
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

"""Disks that refuse a commit while the store runs, opens or closes (contracts A4, A5, B1, B2)."""

from __future__ import annotations

import contextlib
import itertools
import threading

import pytest

from kvstore.database.database import Database
from kvstore.eris.coordinator_replication import RECORD_KEY
from kvstore.eris.coordinator_state import decode_record
from kvstore.eris.shard_state import HOST_TABLE, record_key
from kvstore.eris.shard_state import decode_record as decode_shard
from kvstore.errors import Corrupt, DiskFull, Failed, OutcomeUnknown
from kvstore.storage import MemoryDisk, MemoryEnvironment
from kvstore.types import ShardId
from tests.support.inside import cluster_of
from tests.support.power import WitnessedDisk, assert_replicas_agree, open_on

SHARDS = 3
LEARNER, FOLLOWERS = "0", ("1", "2")


def a_store(*, replicas: int = 3, shards: int = SHARDS) -> tuple[MemoryDisk, Database]:
    """A store with one batch in it, open; replica 0 is the learner."""
    disk = MemoryDisk()
    db = open_on(disk, shards=shards, replicas=replicas)
    write(db, 1)
    wait_for_followers(db)
    assert db.status()["learner"] == int(LEARNER)
    return disk, db


def write(db: Database, number: int) -> None:
    """A batch over all shards: it shows in every key or in none."""
    with db.batch() as batch:
        for name in "abcdefgh":
            batch.put(name, number)
        batch.add("sum", number)


def write_until_it_fails(db: Database) -> int:
    """Write batches 2, 3, ... and return the first whose outcome is unknown."""
    for number in range(2, 100):
        try:
            write(db, number)
        except OutcomeUnknown:
            return number
    raise AssertionError("nothing failed")


def wait_for_followers(db: Database) -> None:
    for _ in range(100_000):
        if not any(db.status()["lag"].values()):
            return
    raise AssertionError("a follower is stuck")


def assert_holds(db: Database, *numbers: int) -> int:
    """All of these batches were executed, and nothing else; return the last one."""
    assert db["sum"] == sum(numbers)
    assert {db[name] for name in "abcdefgh"} == {numbers[-1]}
    return numbers[-1]


def assert_is_over(db: Database) -> None:
    """Nothing is written and nothing read until the store is opened again."""
    for refused in (lambda: write(db, 99), lambda: db.get("a"), db.snapshot):
        with pytest.raises(Failed):
            refused()


def reopened(disk: MemoryDisk, *unreachable: int) -> Database:
    disk.commits_left.clear()
    return open_on(disk, *unreachable)


@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize("commits", range(4))
class TestOneFollower:
    def test_fails_and_the_store_goes_on(self, follower: str, commits: int) -> None:
        disk, db = a_store()
        disk.commits_left[follower] = commits

        for number in range(2, 8):
            write(db, number)
            assert_holds(db, *range(1, number + 1))
        wait_for_followers(db)
        problems = db.status()["problems"]
        db.close()

        assert [f"replica {follower} failed" in problem for problem in problems] == [True]
        with reopened(disk) as db:
            assert_holds(db, *range(1, 8))
            assert_replicas_agree(db)
            assert db.status()["problems"] == []

    def test_that_failed_may_be_the_only_other_replica_that_is_lost(
        self, follower: str, commits: int
    ) -> None:
        disk, db = a_store()
        disk.commits_left[follower] = commits
        for number in range(2, 8):
            write(db, number)
        wait_for_followers(db)
        db.close()
        del disk.folders[follower]

        with reopened(disk) as db:
            assert_holds(db, *range(1, 8))
            assert_replicas_agree(db)


@pytest.mark.parametrize("commits", [*itertools.product(range(3), repeat=2)])
class TestBothFollowers:
    def test_fail_and_nothing_more_is_written(self, commits: tuple[int, int]) -> None:
        disk, db = a_store()
        disk.commits_left.update(zip(FOLLOWERS, commits, strict=True))

        acknowledged = list(range(1, write_until_it_fails(db)))

        for _ in range(2):
            with pytest.raises(Failed):
                write(db, 99)
        assert_holds(db, *acknowledged)  # reads go on, and show only what is at a quorum
        assert not db.status()["healthy"]
        db.close()
        with reopened(disk) as db:
            found = db["sum"]
            assert found in (sum(acknowledged), sum(acknowledged) + acknowledged[-1] + 1)
            assert_replicas_agree(db)
            write(db, 100)
            assert db["sum"] == found + 100

    def test_fail_and_the_outcome_is_the_same_for_all_shards(self, commits: tuple[int, int]) -> None:
        disk, db = a_store()
        disk.commits_left.update(zip(FOLLOWERS, commits, strict=True))
        number = write_until_it_fails(db)
        db.close()

        with reopened(disk) as db:
            found = {db[name] for name in "abcdefgh"}
            assert found in ({number - 1}, {number})
            assert db["sum"] == sum(range(1, next(iter(found)) + 1))


class TestTheLearner:
    @pytest.mark.parametrize("commits", range(3))
    def test_fails_alone_and_everything_ends_until_it_is_opened_again(self, commits: int) -> None:
        disk, db = a_store(replicas=1)
        disk.commits_left[LEARNER] = commits
        for number in range(2, 2 + commits):
            write(db, number)

        with pytest.raises(OutcomeUnknown) as caught:
            write(db, 2 + commits)

        assert caught.value.__cause__ is not None
        assert_is_over(db)
        db.close()
        with reopened(disk) as db:
            assert_holds(db, *range(1, 2 + commits))  # alone it never committed

    @pytest.mark.parametrize("follower", FOLLOWERS)
    @pytest.mark.parametrize("commits", range(3))
    def test_fails_with_a_follower_and_everything_ends(self, follower: str, commits: int) -> None:
        disk, db = a_store()
        disk.commits_left.update({LEARNER: commits, follower: commits})
        for number in range(2, 2 + commits):
            write(db, number)

        with pytest.raises(OutcomeUnknown) as caught:
            write(db, 2 + commits)

        assert caught.value.__cause__ is not None
        assert_is_over(db)
        db.close()
        with reopened(disk) as db:
            assert_holds(db, *range(1, 3 + commits))  # the other follower has it, and so it is completed
            assert_replicas_agree(db)

    @pytest.mark.parametrize("commits", range(3))
    def test_fails_and_another_takes_over(self, commits: int) -> None:
        disk, db = a_store()
        disk.commits_left[LEARNER] = commits

        for number in range(2, 8):
            write(db, number)
            assert_holds(db, *range(1, number + 1))

        assert db.status()["learner"] != int(LEARNER)
        db.close()
        with reopened(disk) as db:
            assert_holds(db, *range(1, 8))
            assert_replicas_agree(db)

    def test_may_be_lost_after_it_failed(self) -> None:
        disk, db = a_store()
        disk.commits_left[LEARNER] = 0
        write(db, 2)
        db.close()
        del disk.folders[LEARNER]

        with reopened(disk) as db:
            assert_holds(db, 1, 2)
            assert_replicas_agree(db)
            assert db.status()["learner"] != int(LEARNER)

    def test_that_is_another_one_after_a_loss_serves_as_well(self) -> None:
        disk, db = a_store()
        db.close()
        del disk.folders[LEARNER]
        with reopened(disk) as db:
            second = str(db.status()["learner"])
            assert second != LEARNER
            write(db, 2)
            disk.commits_left[second] = 0
            write(db, 3)
            assert str(db.status()["learner"]) != second

        with reopened(disk) as db:
            assert_holds(db, 1, 2, 3)
            assert_replicas_agree(db)


class TestAFullDisk:
    @pytest.mark.parametrize("replicas", [1, 3])
    def test_changes_nothing_and_is_over_when_there_is_room(self, replicas: int) -> None:
        disk, db = a_store(replicas=replicas)
        disk.full = True

        for _ in range(3):
            with pytest.raises(DiskFull):
                write(db, 2)
        assert_holds(db, 1)
        disk.full = False
        write(db, 3)

        assert_holds(db, 1, 3)
        db.close()
        with reopened(disk) as db:
            assert_holds(db, 1, 3)
            assert_replicas_agree(db)


class TestOpening:
    def interrupted(self) -> MemoryDisk:
        """Three disks that are at three different groups, as a crash leaves them."""
        disk, db = a_store()
        disk.commits_left.update({"1": 1, "2": 2})
        write_until_it_fails(db)
        db.close()
        disk.commits_left.clear()
        return disk

    @pytest.mark.parametrize("commits", range(3))
    @pytest.mark.parametrize("host", ["0", "1", "2"])
    def test_goes_on_without_the_one_replica_that_fails_in_it(self, host: str, commits: int) -> None:
        disk = self.interrupted()
        disk.commits_left[host] = commits

        with open_on(disk) as db:
            number = assert_holds(db, *range(1, db["a"] + 1))
            disk.commits_left.clear()
            write(db, number + 1)

        with reopened(disk) as db:
            assert_holds(db, *range(1, number + 2))
            assert_replicas_agree(db)

    @pytest.mark.parametrize("commits", [*itertools.product(range(3), repeat=3)])
    def test_that_is_cut_off_anywhere_is_taken_up_by_the_next(self, commits: tuple[int, int, int]) -> None:
        """After its first opening a store decides the same, however often and wherever it is cut off."""
        disk = self.interrupted()
        for _ in range(2):
            disk.commits_left = {str(host): left for host, left in enumerate(commits)}
            try:
                db = open_on(disk)
            except (Corrupt, OutcomeUnknown, Failed):
                continue
            db.close()

        with reopened(disk) as db:
            assert_holds(db, *range(1, db["a"] + 1))
            assert db["a"] >= 3, "the group that both the learner and replica 2 have was acknowledged"
            assert_replicas_agree(db)

    def test_adopts_nothing_that_a_majority_has_not_saved(self) -> None:
        """Contracts B1: what one replica alone completed could be dropped by the next opening, and until
        then a process that only reads would see it."""
        disk = WitnessedDisk()
        disk.folders = self.interrupted().folders
        open_on(disk).close()

        begun = 0
        for image in disk.images:
            hosts = [epochs_of(image.disk, name) for name in image.disk.folders]
            newest = max(adopted for adopted, _ in hosts)
            begun += len({adopted for adopted, _ in hosts}) > 1
            assert sum(saved >= newest for _, saved in hosts) >= 2
        assert begun, "some image is of a moment when some had begun the epoch and some had not"

    def test_with_one_replica_fails_as_a_whole(self) -> None:
        disk, db = a_store(replicas=1)
        db.close()
        disk.commits_left["0"] = 0

        with pytest.raises(OutcomeUnknown):
            open_on(disk)

        with reopened(disk) as db:
            assert_holds(db, 1)

    def test_cut_off_leaves_no_environment_open(self) -> None:
        disk, db = a_store()
        db.close()
        disk.commits_left = {"0": 0, "1": 0, "2": 0}

        with pytest.raises(Corrupt, match="majority"):
            open_on(disk)

        assert follower_threads() == []


class TestAReplicaThatComesBack:
    """Contracts B1 and B2: what it has is old, and something else was decided meanwhile."""

    def with_a_transaction_only_replica_has(self, host: int) -> MemoryDisk:
        """A store in which one follower logged a transaction that nobody else did."""
        disk, db = a_store(shards=1)
        others = [name for name in ("0", "1", "2") if name != str(host)]
        disk.commits_left.update(dict.fromkeys(others, 0))
        with pytest.raises(OutcomeUnknown):
            write(db, 2)
        wait_for_followers(db)
        db.close()
        disk.commits_left.clear()
        return disk

    def test_with_a_transaction_that_was_dropped_in_the_last_epoch_is_rebuilt(self) -> None:
        disk = self.with_a_transaction_only_replica_has(2)
        with reopened(disk, 2) as db:
            assert_holds(db, 1)
            write(db, 3)

        with reopened(disk) as db:
            assert_holds(db, 1, 3)
            assert_replicas_agree(db)

    def test_with_a_transaction_that_was_dropped_two_epochs_ago_is_rebuilt(self) -> None:
        disk = self.with_a_transaction_only_replica_has(2)
        with reopened(disk, 2) as db:
            write(db, 3)
        with reopened(disk, 2) as db:
            assert_holds(db, 1, 3)

        with reopened(disk) as db:
            assert_holds(db, 1, 3)
            assert_replicas_agree(db)

    def test_with_an_epoch_of_its_own_gives_it_up(self) -> None:
        disk, db = a_store(shards=1)
        db.close()
        with reopened(disk, 0) as db:
            assert db.status()["learner"] == 1
        with reopened(disk) as db:
            disk.commits_left.update({"1": 0, "2": 0})
            with pytest.raises(OutcomeUnknown):
                write(db, 2)  # only replica 0 logged it
        with pytest.raises(Corrupt):
            open_on(disk)  # and only replica 0 saved the START-EPOCH that completes it
        with reopened(disk, 0) as db:
            assert_holds(db, 1)
            write(db, 3)

        with reopened(disk) as db:
            assert_holds(db, 1, 3)
            assert_replicas_agree(db)

    def test_with_a_promise_that_nobody_else_kept_changes_nothing(self) -> None:
        disk, db = a_store()
        db.close()
        for _ in range(2):
            disk.commits_left.update({"0": 0, "1": 1, "2": 0})
            with pytest.raises(Corrupt):
                open_on(disk)
        with reopened(disk, 1) as db:
            assert_holds(db, 1)
            write(db, 2)

        with reopened(disk) as db:
            assert_holds(db, 1, 2)
            assert_replicas_agree(db)

    @pytest.mark.parametrize("host", [0, 1, 2])
    @pytest.mark.parametrize("openings", [1, 2, 3])
    def test_with_a_disk_of_long_ago_is_rebuilt(self, host: int, openings: int) -> None:
        disk, db = a_store()
        db.close()
        old = disk.folders[str(host)]
        number = 1
        for _ in range(openings):
            del disk.folders[str(host)]
            with reopened(disk) as db:
                number += 1
                write(db, number)
        disk.folders[str(host)] = old

        with reopened(disk) as db:
            assert_holds(db, *range(1, number + 1))
            assert_replicas_agree(db)


class TestClosing:
    def test_with_a_follower_that_failed_is_clean_for_the_others(self) -> None:
        disk, db = a_store()
        disk.commits_left["1"] = 0
        write(db, 2)
        wait_for_followers(db)
        db.close()

        assert follower_threads() == []
        with reopened(disk) as db:
            assert_holds(db, 1, 2)
            assert_replicas_agree(db)

    def test_with_a_learner_that_fails_in_it_lets_go_of_everything(self) -> None:
        disk, db = a_store()
        write(db, 2)
        wait_for_followers(db)
        disk.commits_left[LEARNER] = 0

        with contextlib.suppress(OutcomeUnknown):
            db.close()

        left = follower_threads()
        stop_followers(db)
        assert left == []
        with reopened(disk) as db:
            assert_holds(db, 1, 2)


def epochs_of(disk: MemoryDisk, folder: str) -> tuple[int, int]:
    """The epoch that a replica began last, and the one that its copy of the coordinator's record started."""
    environment = MemoryEnvironment(disk, folder)
    shard = decode_shard(environment.read(HOST_TABLE, record_key(ShardId(0))) or b"")
    record = decode_record(environment.read(HOST_TABLE, RECORD_KEY) or b"")
    return shard.last_normal_epoch, record.last_started


def follower_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "kvstore-follower" in thread.name]


def stop_followers(db: Database) -> None:
    """End the threads that a failed close may have left behind."""
    for follower in cluster_of(db).followers:
        follower.stop()

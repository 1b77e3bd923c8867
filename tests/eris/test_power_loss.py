"""Power loss at every commit boundary of a whole store: nothing acknowledged is lost, and no batch is halved.

The disk keeps an image of itself at each boundary; each image is then opened as after a power loss.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
from collections.abc import Iterator

import pytest

from kvstore.database.database import Database
from kvstore.errors import Corrupt
from kvstore.storage import MemoryDisk
from kvstore.types import ShardId
from tests.support.power import (
    Image,
    WitnessedDisk,
    assert_replicas_agree,
    environments,
    image_of,
    open_on,
    sync,
)

SHARDS = 3
NAMES = [f"key {number}" for number in range(8)]

Contents = dict[object, object]
Cut = tuple[int, int, int]
"""How many groups the learner and the two followers have."""


def write(db: Database, number: int) -> None:
    """Transaction ``number`` of the workload, over several shards: it shows in every key or in none."""
    chance = random.Random(number)
    with db.batch() as batch:
        batch.put("last", number)
        batch.add("sum", number)
        for name in chance.sample(NAMES, 3):
            batch.put(name, number)
        batch.delete(chance.choice(NAMES))


def contents(db: Database) -> Contents:
    return dict(db.scan())


def histories(count: int) -> list[Contents]:
    """What the store holds after each number of transactions."""
    with open_on(MemoryDisk(), shards=SHARDS) as db:
        after: list[Contents] = [contents(db)]
        for number in range(1, count + 1):
            write(db, number)
            after.append(contents(db))
    return after


HISTORY = histories(14)


def transactions_in(db: Database) -> int:
    """How many transactions of the workload are there, and nothing else is."""
    found = contents(db)
    number = found.get("last", 0)
    assert isinstance(number, int)
    assert found == HISTORY[number], "a whole number of transactions, each of them whole"
    return number


def lost_power(image: Image) -> MemoryDisk:
    disk = image_of(image.disk)
    disk.lose_power()
    return disk


@pytest.mark.parametrize("replicas", [1, 3])
class TestDurabilityCommit:
    def run(self, replicas: int) -> WitnessedDisk:
        """Two openings with a few transactions each; the disk's note is the last acknowledged one."""
        disk = WitnessedDisk()
        for numbers in (range(1, 5), range(5, 10)):
            with open_on(disk, shards=SHARDS, replicas=replicas) as db:
                for number in numbers:
                    write(db, number)
                    disk.note = number
        return disk

    def test_loses_nothing_that_was_acknowledged(self, replicas: int) -> None:
        images = [image for image in self.run(replicas).images if is_created(image, replicas)]
        assert len(images) >= 11 * replicas

        for image in images:
            with open_on(lost_power(image)) as db:
                # One transaction may be under way, and then it is there or it is not.
                assert image.note <= transactions_in(db) <= image.note + 1
                assert_replicas_agree(db)
                assert db.verify()["ok"]

    def test_and_neither_does_a_second_loss_during_the_opening(self, replicas: int) -> None:
        images = [image for image in self.run(replicas).images if is_created(image, replicas)]

        for image in images[:: 2 * replicas + 1]:
            again = WitnessedDisk()
            again.folders = lost_power(image).folders
            with open_on(again) as db:
                found = transactions_in(db)
            for second in again.images:
                with open_on(lost_power(second)) as db:
                    assert transactions_in(db) == found
                    assert_replicas_agree(db)


def is_created(image: Image, replicas: int) -> bool:
    """Whether the image is of a store, not of the half of one."""
    return len(image.disk.folders) == replicas and all(
        folder.manifest is not None for folder in image.disk.folders.values()
    )


@pytest.mark.parametrize("replicas", [1, 3])
class TestDurabilityInterval:
    def test_shows_exactly_the_last_synced_state(self, replicas: int) -> None:
        disk = WitnessedDisk()
        with open_on(disk, shards=SHARDS, replicas=replicas, durability="interval") as db:
            disk.images.clear()
            for number in range(1, 10):
                write(db, number)
                if number in (3, 4, 8):
                    sync(db)
                    disk.note = number
            settle(db, 9)
            images = list(disk.images)

        assert len(images) >= 9 * replicas
        for image in images:
            with open_on(lost_power(image), durability="interval") as db:
                assert transactions_in(db) == image.note
                assert_replicas_agree(db)

    def test_survives_the_end_of_the_process_without_loss(self, replicas: int) -> None:
        disk = WitnessedDisk()
        with open_on(disk, shards=SHARDS, replicas=replicas, durability="interval") as db:
            disk.images.clear()
            for number in range(1, 10):
                write(db, number)
                disk.note = number
            settle(db, 9)
            images = list(disk.images)

        for image in images:
            with open_on(image_of(image.disk), durability="interval") as db:
                assert image.note <= transactions_in(db) <= image.note + 1
                assert_replicas_agree(db)

    def test_never_begins_an_epoch_twice(self, replicas: int) -> None:
        """Contracts B3: epochs are always synced; the id of a client is the epoch of its opening."""
        disk = MemoryDisk()
        epochs = []
        for number in range(4):
            db = open_on(disk, shards=SHARDS, replicas=replicas, durability="interval")
            epochs.append(db.status()["epoch"])
            write(db, 1)
            disk = image_of(disk)
            db.close()
            disk.lose_power()
            assert epochs == sorted(set(epochs)), number

    def test_a_clean_close_is_synced(self, replicas: int) -> None:
        disk = MemoryDisk()
        with open_on(disk, shards=SHARDS, replicas=replicas, durability="interval") as db:
            for number in range(1, 4):
                write(db, number)
        disk.lose_power()

        with open_on(disk) as db:
            assert transactions_in(db) == 3


def settle(db: Database, number: int) -> None:
    """Wait until every follower has the last transaction."""
    for _ in range(10_000):
        if not any(db.status()["lag"].values()):
            return
    raise AssertionError(f"a follower never got transaction {number}")


class TestASyncRoundThatPowerLossCutsShort:
    """With ``interval`` and three replicas each environment syncs for itself, so a power loss may find any
    subset of them synced. What the others lost was at a quorum, but only in memory."""

    def cut_short(self, synced: tuple[int, ...]) -> MemoryDisk:
        disk = MemoryDisk()
        db = open_on(disk, shards=SHARDS, replicas=3, durability="interval")
        for number in (1, 2):
            write(db, number)
        settle(db, 2)
        sync(db)
        for number in range(3, 7):
            write(db, number)
        settle(db, 6)
        for number in synced:
            environments(db)[number].sync()
        found = image_of(disk)
        db.close()
        found.lose_power()
        return found

    def test_before_its_first_sync_leaves_the_last_round(self) -> None:
        with open_on(self.cut_short(()), durability="interval") as db:
            assert transactions_in(db) == 2

    @pytest.mark.parametrize("synced", [(0, 1), (0, 2), (1, 2), (0, 1, 2)])
    def test_after_a_majority_leaves_all(self, synced: tuple[int, ...]) -> None:
        with open_on(self.cut_short(synced), durability="interval") as db:
            assert transactions_in(db) == 6
            assert_replicas_agree(db)

    @pytest.mark.parametrize("synced", [(0,), (1,), (2,)])
    def test_of_a_minority_leaves_a_store_that_opens(self, synced: tuple[int, ...]) -> None:
        with open_on(self.cut_short(synced), durability="interval") as db:
            assert transactions_in(db) in (2, 3, 4, 5, 6)
            assert_replicas_agree(db)


GROUPS = 5


@functools.cache
def versions() -> list[MemoryDisk]:
    """Images of the disks of three replicas after 0, 1, ... groups."""
    disk = MemoryDisk()
    with open_on(disk, shards=SHARDS, replicas=3) as db:
        taken = [image_of(disk)]
        for number in range(1, GROUPS + 1):
            write(db, number)
            settle(db, number)
            taken.append(image_of(disk))
    return taken


def disk_of(cut: Cut, *, without: int | None = None) -> MemoryDisk:
    """A disk on which each host has as many groups as the cut says."""
    folders = {
        str(host): versions()[groups].folders[str(host)] for host, groups in enumerate(cut) if host != without
    }
    return image_of(MemoryDisk(folders=folders))


class TestThreeDisksAtAnyPointEach:
    """The hosts of a store commit in parallel, so a power loss finds them at different groups. Their
    versions are recorded one by one here and then put together in every way that can happen."""

    def cuts(self) -> Iterator[Cut]:
        """How many groups the learner and the followers may have when power is lost: the learner commits
        after one follower, and nobody begins a group before the learner ended the one before it."""
        for learner, *followers in itertools.product(range(GROUPS + 1), repeat=3):
            if learner <= max(followers) <= learner + 1:
                yield learner, followers[0], followers[1]

    def test_lose_nothing_that_was_acknowledged(self) -> None:
        for cut in self.cuts():
            disk = disk_of(cut)
            disk.lose_power()

            with open_on(disk) as db:
                assert cut[0] <= transactions_in(db) <= cut[0] + 1, cut
                assert_replicas_agree(db)

    @pytest.mark.parametrize("gone", [0, 1, 2])
    def test_and_neither_do_two_of_them_that_are_at_one_group(self, gone: int) -> None:
        self.open_without(gone, lag_min=0, lag_max=1)

    @pytest.mark.parametrize("gone", [0, 1, 2])
    def test_and_neither_do_two_of_them_that_are_further_apart(self, gone: int) -> None:
        self.open_without(gone, lag_min=2, lag_max=GROUPS)

    def test_an_opening_that_was_refused_spoils_nothing(self) -> None:
        """All three disks are whole. One was out of reach for one opening, which failed."""
        disk = disk_of((2, 0, 3))
        with contextlib.suppress(Corrupt):
            open_on(disk, 2).close()

        with open_on(disk) as db:
            assert 2 <= transactions_in(db) <= 3
            assert_replicas_agree(db)

    def open_without(self, gone: int, *, lag_min: int, lag_max: int) -> None:
        for cut in self.cuts():
            left = [groups for host, groups in enumerate(cut) if host != gone]
            if max(left) < cut[0] or not lag_min <= max(left) - min(left) <= lag_max:
                continue  # an acknowledged group may stand on the learner and one follower only

            with open_on(disk_of(cut, without=gone)) as db:
                assert cut[0] <= transactions_in(db) <= cut[0] + 1, cut
                assert_replicas_agree(db)
                assert len(db.status()["repaired"]) >= 1


def test_the_histories_are_what_they_seem() -> None:
    """The checks above are worth nothing unless two histories differ in every shard."""
    with open_on(MemoryDisk(), shards=SHARDS) as db:
        shards = {db.explain(name).shards for name in [*NAMES, "last", "sum"]}
    assert shards == {(ShardId(shard),) for shard in range(SHARDS)}
    assert all(before != after for before, after in itertools.pairwise(HISTORY))

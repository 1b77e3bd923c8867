"""A shard's log on a host that carries others too: a body is stored once (contracts A7), and truncation never
leaves a reference to a body that is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.engine import log_retention
from kvstore.eris.log import BODY, NO_OP, REFERENCE, BodyIndex, TransactionLog, read_body
from kvstore.eris.messages import MultiStamp, Request, Stamped
from kvstore.eris.shard_state import EFFECTS, log_name, table_name
from kvstore.errors import Corrupt
from kvstore.execution.operations import Operation
from kvstore.ports import Head
from kvstore.storage import MemoryDisk, MemoryEnvironment
from kvstore.storage.records import LOG, seal
from kvstore.types import ClientId, Epoch, RequestId, SequenceNumber, ShardId, Slot, Timestamp
from tests.support.cluster import Cluster, add, put

Parts = dict[ShardId, tuple[Operation, ...]]
EMPTY: Head = (1, 0, 0)


def a_transaction(clock: int, *shards: int, size: int = 10) -> Stamped:
    """A transaction over these shards."""
    parts: Parts = {ShardId(shard): (put("k", "v" * size),) for shard in shards}
    numbers = {ShardId(shard): SequenceNumber(1) for shard in shards}
    return Stamped(
        MultiStamp(Epoch(1), 0, Timestamp(clock), numbers),
        Request(ClientId(1), RequestId(clock), RequestId(0), parts),
    )


def take_appended(bodies: BodyIndex) -> tuple[int, int]:
    """What was appended since the last call, as the host's retention takes it."""
    taken = bodies.appended_bytes, bodies.appended_records
    bodies.appended_bytes = bodies.appended_records = 0
    return taken


class Shelf:
    """Three shards' logs over one memory environment, batch by batch."""

    def __init__(self) -> None:
        self.environment = MemoryEnvironment(MemoryDisk(), "0")
        self.heads: dict[int, Head] = dict.fromkeys(range(3), EMPTY)
        self.bodies = BodyIndex()

    @contextmanager
    def batch(self) -> Iterator[list[TransactionLog]]:
        """The logs as one batch sees them."""
        batch = self.environment.begin()
        logs = [
            TransactionLog(
                ShardId(shard),
                self.environment.log(log_name(ShardId(shard)), self.heads[shard]),
                self.environment.table(table_name(ShardId(shard), EFFECTS)),
                self.bodies,
            )
            for shard in range(3)
        ]
        yield logs
        self.heads = {shard: log.stored.head for shard, log in enumerate(logs)}
        self.bodies.forget()
        batch.commit()

    def records(self, shard: int) -> list[bytes]:
        """The raw slot records of one shard."""
        log = self.environment.view().log(log_name(ShardId(shard)), self.heads[shard])
        return [record for _, record in log.read(0, 1 << 20)]

    def kinds(self, shard: int) -> list[bytes]:
        return [record[:1] for record in self.records(shard)]


class TestABody:
    def test_stands_with_the_first_participant_and_the_others_refer_to_it(self) -> None:
        shelf = Shelf()
        both = a_transaction(1, 0, 2)

        with shelf.batch() as logs:
            logs[0].append(Slot(1), both)
            logs[2].append(Slot(1), both)

        assert (shelf.kinds(0), shelf.kinds(2)) == ([BODY], [REFERENCE])
        with shelf.batch() as logs:
            assert logs[0].read(Slot(1), 9)[0].stamped == both
            assert logs[2].read(Slot(1), 9)[0].stamped == both

    def test_of_one_shard_stands_there(self) -> None:
        shelf = Shelf()

        with shelf.batch() as logs:
            logs[1].append(Slot(1), a_transaction(1, 1))
            logs[1].append(Slot(2), None)

        assert shelf.kinds(1) == [BODY, NO_OP]

    def test_is_stored_once_however_many_take_part(self) -> None:
        shelf = Shelf()
        large = a_transaction(1, 0, 1, 2, size=10_000)

        with shelf.batch() as logs:
            for log in logs:
                log.append(Slot(1), large)

        sizes = [len(shelf.records(shard)[0]) for shard in range(3)]
        assert sizes[0] > 30_000
        assert sizes[1:] == [11, 11]
        assert take_appended(shelf.bodies) == (sum(sizes), 3)
        assert take_appended(shelf.bodies) == (0, 0)

    def test_is_not_shared_over_batches(self) -> None:
        """A reference never points outside what was committed with it."""
        shelf = Shelf()
        both = a_transaction(1, 0, 1)
        with shelf.batch() as logs:
            logs[0].append(Slot(1), both)

        with shelf.batch() as logs:
            logs[1].append(Slot(1), both)

        assert shelf.kinds(1) == [BODY]

    def test_is_not_shared_by_transactions_that_look_alike(self) -> None:
        shelf = Shelf()
        first, second = a_transaction(1, 0, 1), a_transaction(2, 0, 1)

        with shelf.batch() as logs:
            for slot, transaction in enumerate((first, second), 1):
                for log in logs[:2]:
                    log.append(Slot(slot), transaction)

        assert (shelf.kinds(0), shelf.kinds(1)) == ([BODY, BODY], [REFERENCE, REFERENCE])
        with shelf.batch() as logs:
            assert [entry.stamped for entry in logs[1].read(Slot(1), 9)] == [first, second]

    def test_may_be_put_in_the_place_of_something_else(self) -> None:
        shelf = Shelf()
        with shelf.batch() as logs:
            for log in logs:
                log.append(Slot(1), None)
        every = a_transaction(1, 0, 1, 2)

        with shelf.batch() as logs:
            for log in logs:
                log.replace(Slot(1), every)

        assert [shelf.kinds(shard) for shard in range(3)] == [[BODY], [REFERENCE], [REFERENCE]]
        with shelf.batch() as logs:
            assert [log.read(Slot(1), 1)[0].stamped for log in logs] == [every] * 3


def test_a_reference_leads_to_a_body_or_to_what_was_dropped() -> None:
    reference = REFERENCE + (0).to_bytes(2, "big") + (1).to_bytes(8, "big")

    with pytest.raises(AssertionError):
        read_body(reference, lambda shard, slot: reference)
    assert read_body(reference, lambda shard, slot: NO_OP) is None, "dropped for all its participants"


class TestAHost:
    def test_is_not_loaded_if_a_log_does_not_end_as_it_was_recorded(self) -> None:
        """Contracts B4: an older page that comes back is sound in itself."""
        cluster = Cluster(replicas=1)
        for number in (1, 2):
            cluster.submit({0: [add("n", number)]})
            cluster.run()
        cluster.crash(0)
        disk = cluster.disk.folders["0"].committed
        last = LOG + log_name(ShardId(0)) + (2).to_bytes(8, "big")
        another = (disk.get(last) or b"")[:-4].replace(b"n", b"m")
        disk.put(last, seal(last, another))

        with pytest.raises(Corrupt, match="does not match the head"):
            cluster.restart(0)

    def test_is_not_loaded_if_the_end_of_a_log_is_gone(self) -> None:
        cluster = Cluster(replicas=1)
        cluster.submit({0: [add("n")]})
        cluster.run()
        cluster.crash(0)
        cluster.disk.folders["0"].committed.delete(LOG + log_name(ShardId(0)) + (1).to_bytes(8, "big"))

        with pytest.raises(Corrupt, match="missing"):
            cluster.restart(0)


class TestRetention:
    """How long a log lives, on a whole host."""

    @staticmethod
    def fill(cluster: Cluster, batches: int, *, shards: Callable[[int], list[int]], size: int = 2000) -> None:
        for number in range(batches):
            parts = shards(number)
            cluster.submit({shard: [put(f"k{number % 7}", "v" * size)] for shard in parts})
            cluster.run()

    def test_keeps_a_log_bounded(self) -> None:
        cluster = Cluster(replicas=1, retention=40_000)

        self.fill(cluster, 400, shards=lambda number: [0])

        replica = cluster.replica(0)
        kept = replica.log.last - replica.log.first + 1
        assert replica.log.last == 400
        assert 20 <= kept <= 60, "40 kB are 20 slots, and a mark is made every 16 kB"

    def test_keeps_a_log_bounded_when_batches_are_large(self) -> None:
        cluster = Cluster(replicas=1, retention=40_000)

        for _ in range(12):
            for number in range(600):
                cluster.submit({0: [put("k", number)]})
            cluster.run()

        replica = cluster.replica(0)
        assert replica.log.last == 7200
        assert replica.log.last - replica.log.first + 1 <= 3000

    def test_keeps_what_was_promised_to_watchers(self) -> None:
        cluster = Cluster(replicas=1, retention=200_000)

        self.fill(cluster, 400, shards=lambda number: [0])

        log = cluster.log(0)
        assert len(log) >= 95  # 200,000 bytes of records of some 2,050

    def test_cuts_nothing_that_is_not_stable_and_executed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_retention, "MARK_BYTES_MIN", 200)
        cluster = Cluster(retention=1)
        for number in range(60):
            cluster.submit({0: [add("n", number)]})
            cluster.step()
            cluster.step()
            cluster.wire.clear()  # no word of synchronization gets through

        # The learner has executed all of it, but does not know that anybody else has it.
        assert cluster.record(0).executed == 60
        assert [cluster.replica(host).log.first for host in range(3)] == [1, 1, 1]
        assert cluster.values(1) == {}

        self.fill(cluster, 40, shards=lambda number: [0])
        assert all(cluster.replica(host).log.first > 60 for host in range(3))

    def test_cuts_followers_too(self) -> None:
        cluster = Cluster(retention=40_000)

        self.fill(cluster, 200, shards=lambda number: [0])

        assert all(cluster.replica(host).log.first > 100 for host in range(3))

    def test_goes_on_after_a_restart(self) -> None:
        cluster = Cluster(replicas=1, shards=2, retention=40_000)
        for number in range(40):
            self.fill(cluster, 10, shards=lambda number: [0, 1])
            cluster.crash(0)
            cluster.restart(0)
            cluster.change_epoch()
            assert cluster.problems(0) == [], number

        assert cluster.replica(0).log.last == 400
        assert cluster.replica(0).log.first > 300
        assert cluster.replica(0, 1).log.first > 300

    @settings(max_examples=40)
    @given(
        st.lists(
            st.tuples(
                st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=12),
                st.sampled_from(["run", "run", "run", "epoch", "restart"]),
            ),
            min_size=1,
            max_size=25,
        ),
        st.sampled_from([1, 3]),
    )
    def test_never_leaves_a_reference_to_a_body_that_is_gone(
        self, batches: list[tuple[list[set[int]], str]], replicas: int
    ) -> None:
        """With marks every few transactions, and a few records cut at a time."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(log_retention, "MARK_BYTES_MIN", 200)
            patch.setattr(log_retention, "CUT_MAX", 5)
            self.check_references(batches, replicas)

    def check_references(self, batches: list[tuple[list[set[int]], str]], replicas: int) -> None:
        cluster = Cluster(shards=4, replicas=replicas, retention=1)
        for transactions, then in batches:
            for shards in transactions:
                cluster.submit({shard: [add("n")] for shard in shards})
            while cluster.wire:
                cluster.step()
                for host in range(replicas):
                    assert cluster.problems(host) == []
            if then == "restart":
                hosts = range(replicas)
                cluster.crash(*hosts)
                cluster.restart(*hosts)
            if then != "run":
                cluster.change_epoch()
        for host in range(replicas):
            assert cluster.problems(host) == []
            for shard in range(4):
                assert cluster.cells(host, shard) == cluster.cells(0, shard)

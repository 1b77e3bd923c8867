"""Each invariant that is asserted in eris/ is broken once: the state is made wrong by hand, and the assertion
that fails names its label and the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import pytest

from kvstore.eris import (
    drop_decisions,
    dropped_messages,
    epoch_change,
    image_request,
    state_transfer,
    synchronization,
    view_change,
)
from kvstore.eris.client import Client, Outstanding
from kvstore.eris.client_window import ClientWindow
from kvstore.eris.coordinator_replication import RecordKeeper, ReplicatedCoordinator, Unsaved
from kvstore.eris.coordinator_state import CoordinatorRecord, encode_record
from kvstore.eris.effects import ReplicaAddress
from kvstore.eris.executor import Unresolved
from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.locks import Footprint, Locks
from kvstore.eris.log_tail import _ShardTail, committed_after
from kvstore.eris.messages import (
    Answer,
    EpochChangeAck,
    Image,
    LogEntry,
    MultiStamp,
    Prepared,
    Reply,
    Request,
    Stamped,
    SyncReply,
    TempDroppedTransaction,
    TransactionRequest,
)
from kvstore.eris.replica import Replica
from kvstore.eris.sequencer import Sequencer
from kvstore.eris.shard import Shard
from kvstore.eris.shard_state import HOST_TABLE, ShardRecord
from kvstore.eris.shard_state import encode_record as encode_shard_record
from kvstore.execution import procedures
from kvstore.execution.applied import Applied
from kvstore.execution.execute import Executed
from kvstore.execution.operations import DONE, REFUSED, Call, Operation, Outcome
from kvstore.storage import MemoryDisk, MemoryEnvironment
from kvstore.types import (
    ClientId,
    Epoch,
    RequestId,
    SequenceNumber,
    ShardId,
    Slot,
    Timestamp,
    ViewNumber,
)
from tests.support.broken import broken
from tests.support.cluster import Cluster, name, put

S0, S1 = ShardId(0), ShardId(1)


def stamped(number: int = 1, *, clock: int = 10**13, shards: Sequence[int] = (0,), epoch: int = 1) -> Stamped:
    """A transaction with this number at every shard it touches."""
    parts: dict[ShardId, tuple[Operation, ...]] = {ShardId(shard): (put("k", number),) for shard in shards}
    numbers = {ShardId(shard): SequenceNumber(number) for shard in shards}
    request = Request(ClientId(1), RequestId(number), RequestId(0), parts)
    return Stamped(MultiStamp(Epoch(epoch), 0, Timestamp(clock), numbers), request)


@contextmanager
def batch(replica: Replica, cluster: Cluster) -> Iterator[Replica]:
    """The replica, while its host has a batch open that comes to nothing."""
    host = cluster.hosts[replica.address.replica]
    host.begin()
    try:
        yield replica
    finally:
        host.abort()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def learner(cluster: Cluster) -> Iterator[Replica]:
    with batch(cluster.replica(0), cluster) as replica:
        yield replica


@pytest.fixture
def follower(cluster: Cluster) -> Iterator[Replica]:
    with batch(cluster.replica(1), cluster) as replica:
        yield replica


class TestTheSequencer:
    def test_a_counter_that_has_become_a_float_stands_still(self) -> None:
        sequencer = Sequencer(epoch=Epoch(1), shards=1, clock=Timestamp(0))
        sequencer.numbers = [2.0**53]  # type: ignore[list-item]  # that is what is wrong

        with broken("SEQUENCER-1", 2.0**53, "shard 0"):
            sequencer.handle(stamped().request, Timestamp(1))

    def test_a_clock_that_has_become_a_float_stands_still(self) -> None:
        sequencer = Sequencer(epoch=Epoch(1), shards=1, clock=Timestamp(0))
        sequencer.clock = 2.0**53  # type: ignore[assignment]  # that is what is wrong

        with broken("SEQUENCER-2", 2.0**53):
            sequencer.handle(stamped().request, Timestamp(1))


class TestAReplica:
    def test_writes_a_number_into_its_slot(self, learner: Replica) -> None:
        learner.held[SequenceNumber(1)] = stamped(3)

        with broken("REPLICA-1", "{0: 3}", "number 1"):
            dropped_messages.drain(learner)

    def test_executes_what_is_logged(self, learner: Replica) -> None:
        learner.record.executed = Slot(9)

        with broken("REPLICA-2", 9, 0):
            learner.take_status()

    def test_executes_as_a_follower_what_is_stable(self, follower: Replica) -> None:
        with broken("REPLICA-2", 1, 0):
            follower.executor.arrive(follower, Slot(1), None)

    def test_has_clocks_that_rise(self, learner: Replica) -> None:
        learner.record.clock = Timestamp(10**14)

        with broken("REPLICA-3", 10**13, 10**14):
            learner.take(stamped())

    def test_executes_a_request_once(self, learner: Replica) -> None:
        learner.record.windows[ClientId(1)] = ClientWindow(outcomes={RequestId(1): DONE})

        with broken("SHARD-1", "request 1", "client 1", "slot 7"):
            learner.remember(stamped(), Slot(7), DONE)

    def test_never_goes_back_behind_an_epoch(self, learner: Replica) -> None:
        learner.record.epoch, learner.record.last_normal_epoch = Epoch(3), Epoch(4)

        with broken("EPOCH-1", 3, 4):
            learner.take_status()

    def test_begins_an_epoch_where_its_log_ends(self, learner: Replica) -> None:
        learner.record.base = Slot(6)

        with broken("EPOCH-2", 6, 0):
            epoch_change._forget_losses(learner)

    def test_never_goes_back_to_a_view(self, learner: Replica) -> None:
        learner.record.view = ViewNumber(4)

        with broken("VIEW-1", 3, 4):
            view_change.join(learner, ViewNumber(3))

    def test_takes_part_in_no_view_that_has_not_begun(self, learner: Replica) -> None:
        learner.record.view = ViewNumber(3)

        with broken("VIEW-2", "view 3", "normal"):
            view_change._announce(learner)

    def test_begins_a_view_with_a_majority(self, follower: Replica) -> None:
        with broken("VIEW-3", "of 3", "view 0"):
            view_change._begin(follower)

    def test_counts_its_own_log_once(self, learner: Replica) -> None:
        record = learner.record

        with broken("SYNC-1", "replica 0", 9):
            synchronization.on_sync_reply(learner, SyncReply(S0, 0, record.epoch, record.view, Slot(9)))


class TestLostMessages:
    def test_what_is_promised_away_stays_out(self, learner: Replica) -> None:
        learner.take(stamped())
        learner.record.temp_drops.add(name(0, 1))
        learner.record.view = ViewNumber(3)

        with broken("LOSS-1", "view 3", name(0, 1)):
            view_change._be_normal(learner)

    def test_what_is_dropped_stays_out(self, learner: Replica) -> None:
        learner.record.perm_drops.add(name(0, 1))

        with broken("LOSS-2", name(0, 1), "slot 1"):
            learner.take(stamped())

    def test_nothing_is_promised_in_an_epoch_change(self) -> None:
        cluster = Cluster(shards=2)
        one, other = cluster.replica(0, 0), cluster.replica(0, 1)
        one.record.epoch = other.record.epoch = other.record.last_normal_epoch = Epoch(2)

        with batch(one, cluster), broken("LOSS-3", name(1, 5, epoch=2), "epoch 2"):
            dropped_messages.on_transaction_request(one, TransactionRequest(S0, name(1, 5, epoch=2)))

    def test_nothing_that_was_logged_is_promised_away(self) -> None:
        """Another replica stands in the place of the own one: it does not know of the slot."""
        cluster = Cluster(replicas=1)
        cluster.submit({0: [put("k", 1)]})
        cluster.run()
        replica = cluster.replica(0)
        replica.executor.replicas[S0] = Cluster(replicas=1).replica(0)

        with batch(replica, cluster), broken("LOSS-4", name(0, 1), "slot 1", 1):
            dropped_messages.on_transaction_request(replica, TransactionRequest(S0, name(0, 1)))

    def test_the_next_number_is_asked_for(self, follower: Replica) -> None:
        follower.missing = SequenceNumber(7)

        with broken("LOSS-5", 7, 1):
            dropped_messages.on_gap_timer(follower)


class TestTheExecutor:
    def test_executes_no_part_alone(self) -> None:
        cluster = Cluster(shards=2)
        with batch(cluster.replica(0), cluster) as replica:
            transaction = Unresolved(stamped(shards=(0, 1)), 2)
            transaction.slots[S0] = Slot(1)

            with broken("EXECUTOR-1", 10**13, "{0: 1}"):
                replica.executor._execute(transaction)

    def test_executes_slots_in_their_order(self, learner: Replica) -> None:
        with broken("EXECUTOR-2", 5, 0):
            learner.executor.arrive(learner, Slot(5), None)

    def test_claims_for_nobody_who_does_not_wait(self, learner: Replica) -> None:
        with broken("EXECUTOR-3", 10**13, 0):
            learner.executor._claim(Unresolved(stamped(), 1))

    def test_catches_up(self, follower: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Shard, "entries_up_to", lambda self, last: iter(()))
        follower.record.stable = Slot(4)
        follower.executor.behind.append(follower)

        with broken("EXECUTOR-4", 4, 0):
            follower.executor.catch_up()

    def test_releases_what_was_claimed(self) -> None:
        locks: Locks[str] = Locks()
        locks.claim(Footprint([(b"k", True)], []), "first")

        with broken("LOCKS-1", b"k", "'second'"):
            locks.release(Footprint([(b"k", True)], []), "second")

    def test_leaves_no_effect_of_what_is_refused(
        self, learner: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused = Executed({b"k": b"v"}, REFUSED)
        monkeypatch.setattr("kvstore.eris.shard.execute", lambda *arguments: refused)

        with broken("EXECUTE-2", "slot 1", "b'v'"):
            learner.execute(stamped(), Slot(1))

    def test_leaves_no_effect_of_a_body_that_raised(
        self, learner: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failed = Executed({b"k": b"v"}, Outcome(failure="ValueError: no"))
        monkeypatch.setattr(procedures, "run", lambda *arguments, **more: failed)

        with broken("PROCEDURE-2", "slot 1", "ValueError: no", "b'v'"):
            learner._run_procedure(Call("p", b"", {S0: ()}, ()), stamped(), Slot(1))

    def test_leaves_no_effect_of_what_a_region_refuses(self, learner: Replica) -> None:
        class Wrong:
            def execute(self, *arguments: object) -> Applied:
                return Applied(REFUSED, {b"k": b"v"})

        with broken("REGION-1", "slot 1", "b'v'"):
            learner._execute_in_region(Wrong(), stamped(), Slot(1))  # type: ignore[arg-type]  # a part of one


class TestTheLog:
    def test_has_no_gap(self, learner: Replica) -> None:
        with broken("LOG-1", 5, 0):
            learner.log.append(Slot(5), None)

    def test_has_the_slot_of_effects(self, learner: Replica) -> None:
        with broken("LOG-2", 9, 0):
            learner.log.note_changes(Slot(9), {})

    def test_is_truncated_before_a_slot(self, learner: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        log = learner.log
        for slot in range(1, 5):
            log.append(Slot(slot), None)
        truncate = type(log.stored).truncate_before
        monkeypatch.setattr(
            type(log.stored), "truncate_before", lambda stored, slot, most: truncate(stored, slot + 1, most)
        )

        with broken("LOG-3", "3 slots", 3):
            log.truncate_before(Slot(3), 10)

    def test_is_shown_forwards(self, cluster: Cluster) -> None:
        with broken("TAIL-1", "slot 9", "slot 0", "shard 0"):
            list(committed_after(cluster._view(0), [Slot(9)]))

    def test_is_shown_with_the_effects_of_each_slot(self, cluster: Cluster) -> None:
        class Wrong:
            def scan(self, *arguments: object, limit: int) -> list[tuple[bytes, bytes]]:
                return [(bytes(8), b"of slot 0")]

        tail = _ShardTail(cluster._view(0), S0, ShardRecord(), [Slot(0)], Slot(9), {})
        tail._effects = Wrong()  # type: ignore[assignment]  # all that it is asked for

        with broken("TAIL-2", bytes(8).hex(), (3).to_bytes(8, "big").hex()):
            tail._kept_effects(Slot(3))


class TestTheClient:
    @pytest.fixture
    def client(self) -> Client:
        client = Client(client=ClientId(1), replicas=1)
        client.submit({S0: (put("k", 1),), S1: (put("l", 1),)})
        return client

    def test_gives_no_request_up(self, client: Client) -> None:
        client.park()

        with broken("CLIENT-1", "request 1", [0, 1], []):
            client._answer(RequestId(1), Answer(RequestId(1), {}, {}))

    def test_calls_nothing_answered_that_is_not(self, client: Client) -> None:
        waiting = Outstanding(stamped().request)
        client.outstanding = {RequestId(5): waiting, RequestId(4): waiting}

        with broken("CLIENT-2", "request 2", 4):
            client.submit({S0: (put("k", 2),)})

    def test_hears_participants_only(self, client: Client) -> None:
        reply = Reply(ClientId(1), RequestId(1), ShardId(7), 0, Epoch(1), ViewNumber(0), Slot(1), DONE)

        with broken("CLIENT-4", "shard 7", "request 1"):
            client.handle(reply)

    def test_takes_the_outcome_of_learners(self) -> None:
        client = Client(client=ClientId(1), replicas=3)
        client.submit({S0: (put("k", 1),)})
        replies = [
            Reply(ClientId(1), RequestId(1), S0, replica, Epoch(1), ViewNumber(3), Slot(8))
            for replica in range(2)
        ]
        client.handle(replies[0])

        with broken("CLIENT-5", "replica 0", "view 3", "slot 8"):
            client.handle(replies[1])

    def test_is_remembered_without_what_it_was_answered(self) -> None:
        window = ClientWindow(answered=RequestId(5), outcomes={RequestId(3): DONE}, newest=RequestId(9))

        with broken("WINDOW-1", "request 3", 5):
            window.record(RequestId(6), RequestId(5), DONE)

    def test_has_transactions_that_end_once(self) -> None:
        window = ClientWindow(tombstones={RequestId(3): False})

        with broken("WINDOW-2", "preliminary 3", False, True):
            window.conclude(RequestId(3), DONE, committed=True)


class TestTheCoordinator:
    @pytest.fixture
    def coordinator(self) -> FailureCoordinator:
        record = CoordinatorRecord(epoch=Epoch(5), last_started=Epoch(5))
        return FailureCoordinator(record=record, shards=2, replicas=3)

    def test_starts_an_epoch_once(self, coordinator: FailureCoordinator) -> None:
        with broken("COORDINATOR-1", 5):
            coordinator.begin(Epoch(5))

    def test_leaves_nothing_out(
        self, coordinator: FailureCoordinator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FailureCoordinator, "_decided", lambda *arguments: {})
        coordinator.begin(Epoch(6))
        entry = LogEntry(Slot(1), stamped(shards=(0, 1), epoch=5))

        with broken("COORDINATOR-2", "epoch 6", name(1, 1, epoch=5)):
            for shard in (S0, S1):
                for replica in range(2):
                    entries = (entry,) if shard == S0 else ()
                    ack = EpochChangeAck(
                        Epoch(6),
                        shard,
                        replica,
                        Epoch(5),
                        ViewNumber(0),
                        Slot(0),
                        Slot(0),
                        Timestamp(0),
                        entries,
                    )
                    coordinator.handle(ack)

    def test_consults_majorities(self, coordinator: FailureCoordinator) -> None:
        coordinator.consulted = frozenset({ReplicaAddress(S0, 0), ReplicaAddress(S1, 2)})

        with broken("COORDINATOR-3", "3 replicas", "2 shards"):
            coordinator.begin(Epoch(6))

    def test_decides_one_way(self, coordinator: FailureCoordinator) -> None:
        with broken("DECISION-1", name(0, 1), "epoch 5"):
            coordinator.decide(found=(stamped(),), dropped=frozenset({name(0, 1)}))

    def test_decides_about_its_own_epoch(self, coordinator: FailureCoordinator) -> None:
        with broken("DECISION-2", name(0, 1, epoch=4), "epoch 5"):
            drop_decisions._drop(coordinator, [name(0, 1, epoch=4)])

    def test_drops_with_the_promises_of_majorities(
        self, coordinator: FailureCoordinator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(drop_decisions, "_has_promised", lambda *arguments: True)
        lost = name(0, 1, epoch=5)
        coordinator.promises[lost] = {}

        with broken("DECISION-3", lost, "{0: 1}", "3 replicas"):
            coordinator.handle(TempDroppedTransaction(S0, 1, ViewNumber(0), lost))


class TestItsRecord:
    def test_is_saved_before_it_is_spoken_of(self) -> None:
        role = ReplicatedCoordinator(number=0, coordinators=3, hosts=3, shards=1)
        leading = FailureCoordinator(record=CoordinatorRecord(counter=1), shards=1, replicas=3)
        role.unsaved.append(Unsaved(5, []))

        with broken("MAJORITY-1", 1, 5):
            role._hold_back(leading, [])

    def test_of_a_later_epoch_is_not_overtaken(self) -> None:
        role = ReplicatedCoordinator(number=0, coordinators=3, hosts=1, shards=1)
        role.prepare(Epoch(3))
        kept = encode_record(CoordinatorRecord(epoch=Epoch(9)))

        with broken("MAJORITY-2", "epoch 3", "epoch 9"):
            role.handle(Prepared(0, Epoch(3), Epoch(3), kept))

    def test_never_goes_back_on_a_host(self) -> None:
        environment = MemoryEnvironment(MemoryDisk(), "0")
        environment.begin()
        keeper = RecordKeeper(2, environment.table(HOST_TABLE))
        keeper.keep(CoordinatorRecord(epoch=Epoch(4), counter=7))

        with broken("MAJORITY-3", "host 2", 7, 4, 6):
            keeper.keep(CoordinatorRecord(epoch=Epoch(4), counter=6))


class TestAnImage:
    @staticmethod
    def image(*entries: LogEntry, **record: object) -> Image:
        """The image of a replica that began epoch 2."""
        fields = {"epoch": Epoch(2), "last_normal_epoch": Epoch(2)} | record
        encoded = encode_shard_record(msgspec.structs.replace(ShardRecord(), **fields))  # type: ignore[arg-type]
        return Image(S0, Epoch(2), encoded, ((),) * 7, entries, Timestamp(0))

    @pytest.fixture
    def asking(self, follower: Replica) -> Replica:
        follower.needs_image = True
        return follower

    def test_brings_its_whole_log(self, asking: Replica) -> None:
        with broken("IMAGE-1", "slot 5", 0):
            state_transfer.on_image(asking, self.image(head=(1, 5, 0)))

    def test_has_executed_what_is_stable(self, asking: Replica) -> None:
        with broken("IMAGE-2", "slot 5", "slot 4"):
            state_transfer.on_image(asking, self.image(executed=Slot(5), stable=Slot(4)))

    def test_says_what_was_cut(self, asking: Replica) -> None:
        with broken("IMAGE-3", "slot 1", "slot 3"):
            state_transfer.on_image(asking, self.image(LogEntry(Slot(3), None), head=(3, 3, 0)))

    def test_is_of_a_later_epoch_than_what_was_forgotten(self, asking: Replica) -> None:
        with broken("IMAGE-4", "epoch 1"):
            image_request.forget(asking, Epoch(1))

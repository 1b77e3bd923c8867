"""The failure coordinator in an epoch change: COORDINATOR-1 to COORDINATOR-3 (Eris, SOSP 2017, section 6.5;
contracts B1)."""

from __future__ import annotations

import msgspec
import pytest

from kvstore.eris.coordinator_state import CoordinatorRecord, decode_record, encode_record
from kvstore.eris.effects import Effect, ReplicaAddress, Send
from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.messages import (
    EpochChange,
    EpochChangeAck,
    LogEntry,
    MultiStamp,
    Request,
    Stamped,
    StartEpoch,
)
from kvstore.execution.operations import Operation
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
from tests.support.cluster import add

Parts = dict[ShardId, tuple[Operation, ...]]
LAST = Epoch(4)
"""The epoch that was started last, and in which all acknowledgements of these tests were normal."""
NEXT = Epoch(5)


def a_coordinator(
    *consulted: int, shards: int = 1, replicas: int = 3, view: int = 0, epoch: int = NEXT
) -> FailureCoordinator:
    """One that has just asked these replicas of every shard to leave the last epoch."""
    addresses = [
        ReplicaAddress(ShardId(shard), replica)
        for shard in range(shards)
        for replica in consulted or range(replicas)
    ]
    coordinator = FailureCoordinator(
        record=CoordinatorRecord(LAST, 2, LAST, ViewNumber(view)),
        shards=shards,
        replicas=replicas,
        consulted=frozenset(addresses),
    )
    coordinator.begin(Epoch(epoch))
    return coordinator


def a_transaction(clock: int, **numbers: int) -> Stamped:
    """A transaction with these numbers: ``a_transaction(7, s0=1, s2=4)``."""
    places = {ShardId(int(shard[1:])): SequenceNumber(number) for shard, number in numbers.items()}
    parts: Parts = {shard: (add("n"),) for shard in places}
    return Stamped(
        MultiStamp(LAST, 0, Timestamp(clock), places),
        Request(ClientId(LAST), RequestId(clock), RequestId(0), parts),
    )


def ack(
    replica: int,
    *entries: Stamped | None,
    shard: int = 0,
    base: int = 10,
    stable: int | None = None,
    view: int = 0,
    last_normal: int = LAST,
    clock: int = 0,
    epoch: int = NEXT,
) -> EpochChangeAck:
    """An acknowledgement that shows these entries above the stable slot."""
    above = base if stable is None else stable
    shown = tuple(LogEntry(Slot(above + at), entry) for at, entry in enumerate(entries, 1))
    return EpochChangeAck(
        Epoch(epoch), ShardId(shard), replica, Epoch(last_normal), ViewNumber(view), Slot(base),
        Slot(above), Timestamp(clock), shown,
    )  # fmt: skip


def starts(effects: list[Effect]) -> dict[tuple[int, int], StartEpoch]:
    """The START-EPOCHs by shard and replica."""
    found: dict[tuple[int, int], StartEpoch] = {}
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.to, ReplicaAddress)
        assert isinstance(effect.message, StartEpoch)
        found[effect.to.shard, effect.to.replica] = effect.message
    return found


def started(coordinator: FailureCoordinator, *acks: EpochChangeAck) -> dict[int, StartEpoch]:
    """Give it all of these; the last one starts the epoch. One START-EPOCH for each shard."""
    for message in acks[:-1]:
        assert coordinator.handle(message) == []
    found = starts(coordinator.handle(acks[-1]))
    assert coordinator.consulted is not None
    assert found.keys() == {(address.shard, address.replica) for address in coordinator.consulted}
    by_shard = {shard: message for (shard, _), message in found.items()}
    assert all(message == by_shard[shard] for (shard, _), message in found.items())
    return by_shard


def decided(message: StartEpoch) -> dict[int, Stamped | None]:
    return {entry.slot: entry.stamped for entry in message.entries}


class TestBeginning:
    def test_asks_every_replica_it_consults(self) -> None:
        coordinator = a_coordinator(shards=2)

        effects = coordinator.begin(Epoch(6))

        addresses = [ReplicaAddress(ShardId(shard), replica) for shard in (0, 1) for replica in range(3)]
        assert effects == [Send(address, EpochChange(Epoch(6))) for address in addresses]

    @pytest.mark.parametrize("epoch", [3, 4, 5])
    def test_never_goes_back_to_an_epoch(self, epoch: int) -> None:
        coordinator = a_coordinator()

        with pytest.raises(AssertionError, match="never go back"):
            coordinator.begin(Epoch(epoch))

    def test_remembers_what_was_started_last(self) -> None:
        record = a_coordinator(view=7).record

        assert (record.epoch, record.counter, record.last_started, record.view) == (NEXT, 1, LAST, 7)

    def test_needs_a_majority_of_every_shard(self) -> None:
        with pytest.raises(AssertionError, match="majority"):
            a_coordinator(1)
        a_coordinator(1, 2)
        with pytest.raises(AssertionError, match="majority"):
            a_coordinator(0, 3, replicas=5)


class TestStarting:
    def test_waits_for_every_replica_it_consults(self) -> None:
        coordinator = a_coordinator(0, 2, shards=2)

        for message in (ack(0), ack(0, shard=1), ack(2)):
            assert coordinator.handle(message) == []

        assert coordinator.record.last_started == LAST
        assert len(coordinator.handle(ack(2, shard=1))) == 4

    def test_is_saved_before_it_is_sent(self) -> None:
        """COORDINATOR-1: the driver writes the record before it carries out the sends."""
        coordinator = a_coordinator()

        messages = started(coordinator, ack(0), ack(1), ack(2))

        record = coordinator.record
        assert (record.epoch, record.counter, record.last_started) == (NEXT, 2, NEXT)
        assert record.start_epochs == tuple(messages.values())
        assert decode_record(encode_record(record)) == record

    def test_happens_once(self) -> None:
        """COORDINATOR-1"""
        coordinator = a_coordinator()
        started(coordinator, ack(0), ack(1), ack(2))
        record = coordinator.record

        assert coordinator.handle(ack(2, a_transaction(1, s0=1))) == []

        assert coordinator.record == record

    def test_counts_each_replica_once(self) -> None:
        coordinator = a_coordinator()

        assert [coordinator.handle(ack(0)) for _ in range(5)] == [[]] * 5

    def test_does_not_count_acknowledgements_of_another_epoch(self) -> None:
        coordinator = a_coordinator()

        assert coordinator.handle(ack(0, epoch=4)) == []
        assert coordinator.handle(ack(1, epoch=6)) == []

        assert coordinator.acks == {}

    def test_begins_anew_when_a_later_epoch_is_asked_for(self) -> None:
        coordinator = a_coordinator()
        coordinator.handle(ack(0, a_transaction(1, s0=1)))
        coordinator.begin(Epoch(6))

        messages = started(coordinator, ack(0, epoch=6), ack(1, epoch=6), ack(2, epoch=6))

        assert messages[0].entries == ()
        assert messages[0].epoch == 6

    def test_needs_only_one_of_a_majority_that_began_the_last_epoch(self) -> None:
        """What was committed in it stood at a majority that had begun it, and one of those is here."""
        coordinator = a_coordinator()
        fresh = a_transaction(1, s0=1)

        messages = started(coordinator, ack(0, last_normal=3), ack(1, last_normal=3), ack(2, fresh))

        assert list(decided(messages[0]).values()) == [fresh]

    def test_does_not_believe_the_log_of_a_replica_that_missed_the_last_epoch(self) -> None:
        coordinator = a_coordinator()
        stale = a_transaction(1, s0=1)
        fresh = a_transaction(2, s0=1)

        messages = started(coordinator, ack(0, stale, last_normal=3, base=3, view=9), ack(1), ack(2, fresh))

        assert decided(messages[0]) == {11: fresh}
        assert messages[0].view == 1, "neither its view, nor itself as the learner"


class TestTheCombinedLog:
    def test_is_nothing_when_all_is_stable(self) -> None:
        """So that a clean opening is one commit."""
        messages = started(a_coordinator(), *(ack(replica, stable=40) for replica in range(3)))

        assert (messages[0].stable, messages[0].entries) == (40, ())

    def test_has_what_any_consulted_replica_has(self) -> None:
        """COORDINATOR-2"""
        one, two = a_transaction(1, s0=1), a_transaction(2, s0=2)

        messages = started(a_coordinator(), ack(0), ack(1, one, two), ack(2, one))

        assert decided(messages[0]) == {11: one, 12: two}

    def test_has_at_every_participant_what_one_of_them_has(self) -> None:
        """COORDINATOR-2"""
        both = a_transaction(1, s0=1, s1=1)

        messages = started(
            a_coordinator(shards=3),
            *(ack(replica) for replica in range(3)),
            *(ack(replica, shard=2, base=5) for replica in range(3)),
            *(ack(replica, *([both] if replica == 1 else []), shard=1, base=20) for replica in range(3)),
        )

        assert decided(messages[0]) == {11: both}
        assert decided(messages[1]) == {21: both}
        assert decided(messages[2]) == {}

    def test_has_no_operation_where_nobody_has_anything(self) -> None:
        late = a_transaction(9, s0=4, s1=1)

        messages = started(
            a_coordinator(shards=2),
            *(ack(replica, a_transaction(1, s0=1)) for replica in range(3)),
            *(ack(replica, late, shard=1, base=0) for replica in range(3)),
        )

        assert decided(messages[0]) == {11: a_transaction(1, s0=1), 12: None, 13: None, 14: late}

    def test_takes_a_no_operation_that_is_shown_for_nothing(self) -> None:
        one, two = a_transaction(1, s0=1), a_transaction(2, s0=2)

        messages = started(a_coordinator(), ack(0, None, two), ack(1, one, two), ack(2))

        assert decided(messages[0]) == {11: one, 12: two}

    def test_begins_above_the_greatest_stable_slot(self) -> None:
        """What is stable anywhere is at a quorum, and never changes."""
        one, two, three = (a_transaction(number, s0=number) for number in (1, 2, 3))

        messages = started(
            a_coordinator(), ack(0, three, stable=12), ack(1, one, two), ack(2, two, stable=11)
        )

        assert messages[0].stable == 12
        assert decided(messages[0]) == {13: three}

    def test_of_replicas_that_began_with_different_logs_is_a_broken_invariant(self) -> None:
        coordinator = a_coordinator()
        coordinator.handle(ack(0, base=10))
        coordinator.handle(ack(1, base=11))

        with pytest.raises(AssertionError, match="same log"):
            coordinator.handle(ack(2, base=10))

    def test_has_the_greatest_clock_of_all(self) -> None:
        messages = started(
            a_coordinator(shards=2),
            *(ack(replica, clock=100 + replica) for replica in range(3)),
            *(ack(replica, shard=1, clock=50) for replica in range(3)),
        )

        assert [message.clock for message in messages.values()] == [102, 102]


class TestTheView:
    @pytest.mark.parametrize(
        ("view", "consulted", "expected"),
        [
            (0, (0, 1, 2), 0),
            (0, (1, 2), 1),
            (0, (0, 2), 0),
            (1, (0, 2), 2),
            (2, (0, 1), 3),
            (4, (0, 2), 5),
            (7, (0, 1), 7),
        ],
    )
    def test_stays_if_its_learner_was_consulted_and_moves_on_if_not(
        self, view: int, consulted: tuple[int, ...], expected: int
    ) -> None:
        coordinator = a_coordinator(*consulted, shards=2, view=view)

        messages = started(
            coordinator,
            *(ack(replica, shard=shard, view=view) for shard in (0, 1) for replica in consulted),
        )

        assert {message.view for message in messages.values()} == {expected}
        assert coordinator.record.view == expected

    def test_is_the_greatest_that_any_replica_has_seen(self) -> None:
        messages = started(a_coordinator(), ack(0, view=0), ack(1, view=4), ack(2, view=1))

        assert messages[0].view == 4


def test_its_record_is_ordered_by_epoch_and_then_by_what_it_did_in_it() -> None:
    coordinator = a_coordinator()
    begun = coordinator.record
    started(coordinator, ack(0), ack(1), ack(2))

    assert (begun.epoch, begun.counter) < (coordinator.record.epoch, coordinator.record.counter)
    assert msgspec.structs.replace(begun, counter=0) != begun

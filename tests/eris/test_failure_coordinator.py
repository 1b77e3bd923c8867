"""The failure coordinator in an epoch change (Eris, SOSP 2017, section 6.5; contracts B1): what it
refuses, its record, and the view that follows from whom it consulted. The other claims are transcripts:
``coordinator_waits``, ``coordinator_logs`` and ``coordinator_last_epoch``."""

from __future__ import annotations

import msgspec
import pytest

from kvstore.eris.coordinator_state import CoordinatorRecord, decode_record, encode_record
from kvstore.eris.effects import Effect, ReplicaAddress, Send
from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.messages import (
    EpochChangeAck,
    StartEpoch,
)
from kvstore.types import (
    Epoch,
    ShardId,
    Slot,
    Timestamp,
    ViewNumber,
)

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


def ack(replica: int, *, shard: int = 0, base: int = 10, view: int = 0) -> EpochChangeAck:
    """An acknowledgement that shows nothing above the stable slot."""
    return EpochChangeAck(
        NEXT, ShardId(shard), replica, LAST, ViewNumber(view), Slot(base), Slot(base), Timestamp(0), ()
    )


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


class TestBeginning:
    @pytest.mark.parametrize("epoch", [3, 4, 5])
    def test_never_goes_back_to_an_epoch(self, epoch: int) -> None:
        coordinator = a_coordinator()

        with pytest.raises(AssertionError, match="never go back"):
            coordinator.begin(Epoch(epoch))

    def test_needs_a_majority_of_every_shard(self) -> None:
        with pytest.raises(AssertionError, match="majority"):
            a_coordinator(1)
        a_coordinator(1, 2)
        with pytest.raises(AssertionError, match="majority"):
            a_coordinator(0, 3, replicas=5)


class TestStarting:
    def test_is_saved_before_it_is_sent(self) -> None:
        """COORDINATOR-1: the driver writes the record before it carries out the sends."""
        coordinator = a_coordinator()

        messages = started(coordinator, ack(0), ack(1), ack(2))

        record = coordinator.record
        assert (record.epoch, record.counter, record.last_started) == (NEXT, 2, NEXT)
        assert record.start_epochs == tuple(messages.values())
        assert decode_record(encode_record(record)) == record


class TestTheCombinedLog:
    def test_of_replicas_that_began_with_different_logs_is_a_broken_invariant(self) -> None:
        coordinator = a_coordinator()
        coordinator.handle(ack(0, base=10))
        coordinator.handle(ack(1, base=11))

        with pytest.raises(AssertionError, match="same log"):
            coordinator.handle(ack(2, base=10))


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


def test_its_record_is_ordered_by_epoch_and_then_by_what_it_did_in_it() -> None:
    coordinator = a_coordinator()
    begun = coordinator.record
    started(coordinator, ack(0), ack(1), ack(2))

    assert (begun.epoch, begun.counter) < (coordinator.record.epoch, coordinator.record.counter)
    assert msgspec.structs.replace(begun, counter=0) != begun

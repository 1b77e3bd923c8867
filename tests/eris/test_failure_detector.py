"""Suspicions from silence: of a learner, of the sequencer, of a client that keeps its locks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from kvstore.eris.failure_detector import (
    HEARTBEAT_NS,
    LEASE_NS,
    SILENCE_NS,
    SUSPECT_NS,
    FailureDetector,
    LockWatch,
    Timer,
)
from kvstore.eris.messages import Flush, MultiStamp, ReplicaMessage, Request, Stamped, StartEpoch, SyncCommit
from kvstore.eris.shard_state import ShardRecord, Status
from kvstore.types import ClientId, Epoch, RequestId, SequenceNumber, ShardId, Slot, Timestamp, ViewNumber
from tests.support.broken import broken

A, B = ShardId(0), ShardId(1)
SUSPECT, SILENCE = Timer(A, "suspect"), Timer(A, "silence")


@dataclass
class FakeReplica:
    is_learner: bool = False
    status: Status = Status.NORMAL
    record: ShardRecord = field(
        default_factory=lambda: ShardRecord(
            epoch=Epoch(5), last_normal_epoch=Epoch(5), view=ViewNumber(3), base=Slot(0)
        )
    )


def detector(backoff: int = 0) -> FailureDetector:
    return FailureDetector(0, lambda most: min(most, backoff))


def request(number: int) -> Request:
    return Request(ClientId(1), RequestId(number), RequestId(0), {A: ()})


def heartbeat(view: int) -> SyncCommit:
    return SyncCommit(A, Epoch(5), ViewNumber(view), Slot(0))


def stamped(epoch: int) -> Stamped:
    return Stamped(MultiStamp(Epoch(epoch), 0, Timestamp(1), {A: SequenceNumber(1)}), request(1))


def start_epoch() -> StartEpoch:
    return StartEpoch(Epoch(6), A, ViewNumber(3), Slot(0), (), Timestamp(0), Epoch(5))


class TestTheLearner:
    def test_is_suspected_after_a_silence_and_not_before(self) -> None:
        watch, replica = detector(), FakeReplica()
        assert watch.tick([replica], 0) == []
        assert watch.tick([replica], SUSPECT_NS) == []
        assert watch.tick([replica], SUSPECT_NS + 1) == [SUSPECT]

    def test_lives_while_it_is_heard(self) -> None:
        watch, replica = detector(), FakeReplica()
        watch.tick([replica], 0)
        watch.hear(A, heartbeat(3), replica, SUSPECT_NS)
        assert watch.tick([replica], SUSPECT_NS + 1) == []

    def test_of_an_earlier_view_is_no_evidence(self) -> None:
        """DETECTOR-1."""
        watch, replica = detector(), FakeReplica()
        watch.tick([replica], 0)
        watch.hear(A, heartbeat(2), replica, SUSPECT_NS)
        assert watch.tick([replica], SUSPECT_NS + 1) == [SUSPECT]

    def test_is_suspected_again_after_the_backoff(self) -> None:
        watch, replica = detector(backoff=100), FakeReplica()
        watch.tick([replica], 0)
        now = SUSPECT_NS + 1
        assert watch.tick([replica], now) == [SUSPECT]
        watch.hear(A, stamped(5), replica, now)
        assert watch.tick([replica], now + SUSPECT_NS + 100) == []
        assert watch.tick([replica], now + SUSPECT_NS + 101) == [SUSPECT]

    def test_of_each_shard_is_watched_by_itself(self) -> None:
        watch, replicas = detector(), [FakeReplica(), FakeReplica()]
        watch.tick(replicas, 0)
        watch.hear(A, heartbeat(3), replicas[0], SUSPECT_NS)
        assert watch.tick(replicas, SUSPECT_NS + 1) == [Timer(B, "suspect")]

    def test_says_that_it_lives(self) -> None:
        watch, replica = detector(), FakeReplica(is_learner=True)
        ticks = range(0, 3 * HEARTBEAT_NS, HEARTBEAT_NS // 4)
        beats = [now for now in ticks if Timer(A, "heartbeat") in watch.tick([replica], now)]
        assert beats == [0, HEARTBEAT_NS, 2 * HEARTBEAT_NS]

    def test_that_is_between_two_views_is_suspected_by_its_own_host(self) -> None:
        watch, replica = detector(), FakeReplica(is_learner=True, status=Status.VIEW_CHANGE)
        watch.tick([replica], 0)
        assert watch.tick([replica], SUSPECT_NS + 1) == [SUSPECT]


class TestTheSequencer:
    @pytest.mark.parametrize("sign", [Flush(A, Epoch(5), SequenceNumber(0)), stamped(5), start_epoch()])
    def test_lives_while_it_is_heard(self, sign: ReplicaMessage) -> None:
        watch, replica = detector(), FakeReplica(is_learner=True)
        watch.hear(A, sign, replica, SILENCE_NS)
        assert SILENCE not in watch.tick([replica], SILENCE_NS + 1)
        assert SILENCE in watch.tick([replica], 2 * SILENCE_NS + 1)

    @pytest.mark.parametrize("sign", [Flush(A, Epoch(4), SequenceNumber(0)), stamped(4), heartbeat(3)])
    def test_of_an_earlier_epoch_is_no_evidence_and_a_learner_is_none(self, sign: ReplicaMessage) -> None:
        """DETECTOR-1."""
        watch, replica = detector(), FakeReplica(is_learner=True)
        watch.hear(A, sign, replica, SILENCE_NS)
        assert SILENCE in watch.tick([replica], SILENCE_NS + 1)

    def test_is_suspected_once_for_all_shards_and_again_after_another_silence(self) -> None:
        watch, replicas = detector(), [FakeReplica(is_learner=True), FakeReplica(is_learner=True)]
        assert watch.tick(replicas, SILENCE_NS + 1).count(SILENCE) == 1
        assert SILENCE not in watch.tick(replicas, SILENCE_NS + 2)
        assert SILENCE in watch.tick(replicas, 2 * SILENCE_NS + 2)


class TestLocks:
    def test_that_are_held_for_longer_than_a_lease_are_suspected(self) -> None:
        """DETECTOR-2: the lease begins when this host sees them first."""
        watch, late = LockWatch(), 10 * LEASE_NS
        assert watch.look([request(1)], late) == []
        assert watch.look([request(1)], late + LEASE_NS) == []
        assert watch.look([request(1), request(2)], late + LEASE_NS + 1) == [request(1)]

    def test_are_suspected_again_after_another_lease(self) -> None:
        watch = LockWatch()
        watch.look([request(1)], 0)
        assert watch.look([request(1)], LEASE_NS + 1) == [request(1)]
        assert watch.look([request(1)], LEASE_NS + 2) == []
        assert watch.look([request(1)], 2 * LEASE_NS + 2) == [request(1)]

    def test_that_were_released_are_forgotten(self) -> None:
        watch = LockWatch()
        watch.look([request(1)], 0)
        watch.look([], 1)
        assert watch.look([request(1)], LEASE_NS + 1) == []


class TestTime:
    """DETECTOR-3: a driver whose clock goes back is found at once."""

    def test_never_goes_back_while_replicas_are_watched(self) -> None:
        watch, replica = detector(), FakeReplica()
        watch.hear(A, stamped(5), replica, 200)

        with broken("DETECTOR-3", 200, 100):
            watch.tick([replica], 100)
        with broken("DETECTOR-3", 200, 100):
            watch.hear(A, stamped(5), replica, 100)

    def test_never_goes_back_while_locks_are_watched(self) -> None:
        watch = LockWatch()
        watch.look([request(1)], 200)

        with broken("DETECTOR-3", 200, 100):
            watch.look([request(1)], 100)

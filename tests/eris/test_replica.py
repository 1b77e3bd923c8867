"""A replica in the normal case (Eris, SOSP 2017, section 6.2): any messages in any order, REPLICA-3, and what
is not saved. The single claims are transcripts: ``three_replicas``, ``gap_noticed``, ``retry`` and others."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.effects import ClientAddress, Effect, Send
from kvstore.eris.messages import MultiStamp, Reply, Request, Stamped
from kvstore.execution.operations import Outcome
from kvstore.types import ClientId, Epoch, RequestId, SequenceNumber, ShardId, Timestamp
from tests.support.cluster import Cluster, add

LEARNER = 0


def transaction(number: int, *, request: int | None = None, answered: int = 0) -> Stamped:
    """A transaction of shard 0 with this number, which counts itself in ``n``."""
    return Stamped(
        MultiStamp(Epoch(1), 0, Timestamp(10_000 + number), {ShardId(0): SequenceNumber(number)}),
        Request(ClientId(1), RequestId(request or number), RequestId(answered), {ShardId(0): (add("n"),)}),
    )


def replies(effects: list[Effect]) -> list[Reply]:
    assert all(isinstance(effect, Send) and isinstance(effect.to, ClientAddress) for effect in effects)
    return [effect.message for effect in effects if isinstance(effect, Send)]  # type: ignore[misc]  # Reply


class TestOutOfOrder:
    def test_the_clock_rises_with_the_slots(self) -> None:
        """REPLICA-3: a sequencer that goes back in time breaks an invariant, not the log."""
        cluster = Cluster()
        cluster.give(LEARNER, transaction(1))
        older = transaction(2)
        older = Stamped(msgspec.structs.replace(older.stamp, clock=Timestamp(1)), older.request)

        cluster.hosts[LEARNER].begin()
        with pytest.raises(AssertionError, match="REPLICA-3"):
            cluster.replica(LEARNER).handle(older)
        cluster.hosts[LEARNER].abort()

    @settings(max_examples=60)
    @given(st.permutations(range(1, 7)), st.lists(st.integers(1, 6), max_size=12))
    def test_whatever_arrives_the_log_is_a_prefix_and_nothing_runs_twice(
        self, order: list[int], repeats: list[int]
    ) -> None:
        cluster = Cluster(replicas=1)
        for number in [*repeats, *order, *range(1, 7)]:
            cluster.give(LEARNER, transaction(number))
            held = len(cluster.log(LEARNER))
            assert cluster.log(LEARNER) == [transaction(at) for at in range(1, held + 1)]
            assert cluster.values(LEARNER).get("n", 0) == held

        assert len(cluster.log(LEARNER)) == 6


class TestARetriedRequest:
    """R4, contracts C4: a retry is a new transaction with the id of the first."""

    @settings(max_examples=60)
    @given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=25))
    def test_any_copies_in_any_order_run_once_each(self, copies: list[tuple[int, int]]) -> None:
        cluster = Cluster(replicas=1)
        first: dict[int, Outcome] = {}
        ended = 0
        for number, (request, word) in enumerate(copies, 1):
            answered = min(word, request - 1)
            effects = cluster.give(0, transaction(number, request=request, answered=answered))
            if request <= ended:
                assert effects == []
                continue
            (reply,) = replies(effects)
            assert reply.slot == number
            if request not in first:
                ended = max(ended, answered)
                assert reply.outcome is not None
                first[request] = reply.outcome
            assert reply.outcome == first[request]
        assert cluster.values(0)["n"] == len(first)


def test_what_is_not_saved_is_not_known_after_a_crash() -> None:
    """The durability contract: a batch that was not committed never was."""
    cluster = Cluster()
    cluster.give(LEARNER, transaction(1))
    cluster.hosts[LEARNER].begin()
    cluster.replica(LEARNER).handle(transaction(2))
    cluster.crash(LEARNER)
    cluster.restart(LEARNER)

    assert cluster.log(LEARNER) == [transaction(1)]
    assert cluster.values(LEARNER) == {"n": 1}
    assert replies(cluster.give(LEARNER, transaction(2))) != []
    assert cluster.values(LEARNER) == {"n": 2}

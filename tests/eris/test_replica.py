"""A replica in the normal case (Eris, SOSP 2017, section 6.2): REPLICA-1 to REPLICA-3, and SHARD-1."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.effects import ClientAddress, Dropped, Effect, Send
from kvstore.eris.log_tail import committed_after
from kvstore.eris.messages import MultiStamp, Reply, Request, ResendRequest, Stamped
from kvstore.execution.operations import Operation, Outcome
from kvstore.types import ClientId, Epoch, RequestId, SequenceNumber, ShardId, Slot, Timestamp, ViewNumber
from tests.support.cluster import Cluster, add, delete, put

CLIENT = ClientId(1)
LEARNER, FOLLOWER = 0, 1


def transaction(
    number: int,
    *operations: Operation,
    request: int | None = None,
    answered: int = 0,
    epoch: int = 1,
    client: int = CLIENT,
) -> Stamped:
    """A transaction of shard 0 with this number; by default it counts itself in ``n``."""
    return Stamped(
        MultiStamp(Epoch(epoch), 0, Timestamp(10_000 * epoch + number), {ShardId(0): SequenceNumber(number)}),
        Request(
            ClientId(client),
            RequestId(request or number),
            RequestId(answered),
            {ShardId(0): operations or (add("n"),)},
        ),
    )


def replies(effects: list[Effect]) -> list[Reply]:
    assert all(isinstance(effect, Send) and isinstance(effect.to, ClientAddress) for effect in effects)
    return [effect.message for effect in effects if isinstance(effect, Send)]  # type: ignore[misc]  # Reply


def reason(effects: list[Effect]) -> str:
    """Why the one message was dropped."""
    assert isinstance(effects[0], Dropped)
    return effects[0].reason


def results(*values: bytes) -> Outcome:
    return Outcome(results=values)


class TestTheNextTransaction:
    def test_is_executed_and_answered_at_once_by_the_learner(self) -> None:
        cluster = Cluster()

        (reply,) = replies(cluster.give(LEARNER, transaction(1)))

        outcome = results(b"\x01")
        assert reply == Reply(
            CLIENT, RequestId(1), ShardId(0), LEARNER, Epoch(1), ViewNumber(0), Slot(1), outcome
        )
        assert cluster.cells(LEARNER) == {"n": (1, 1)}

    def test_is_logged_and_acknowledged_by_a_follower_but_not_executed(self) -> None:
        cluster = Cluster()

        (reply,) = replies(cluster.give(FOLLOWER, transaction(1)))

        assert (reply.slot, reply.replica, reply.outcome) == (1, FOLLOWER, None)
        assert cluster.log(FOLLOWER) == [transaction(1)]
        assert cluster.cells(FOLLOWER) == {}
        assert cluster.record(FOLLOWER).executed == 0

    def test_stands_in_the_slot_of_its_number(self) -> None:
        """REPLICA-1"""
        cluster = Cluster()
        for number in range(1, 6):
            cluster.give(LEARNER, transaction(number))

        assert cluster.log(LEARNER) == [transaction(number) for number in range(1, 6)]

    def test_counts_on_from_the_end_of_the_epoch_before(self) -> None:
        """REPLICA-1: slot = base + number."""
        cluster = Cluster()
        for number in (1, 2, 3):
            for host in range(3):
                cluster.give(host, transaction(number))
        cluster.change_epoch()

        (reply,) = replies(cluster.give(LEARNER, transaction(1, epoch=2, client=2)))

        assert (reply.epoch, reply.slot) == (2, 4)
        assert cluster.record(LEARNER).base == 3


class TestOutOfOrder:
    @pytest.mark.parametrize("host", [LEARNER, FOLLOWER])
    def test_a_duplicate_is_dropped(self, host: int) -> None:
        cluster = Cluster()
        cluster.give(host, transaction(1))

        assert "received before" in reason(cluster.give(host, transaction(1)))

        assert cluster.log(host) == [transaction(1)]

    @pytest.mark.parametrize("host", [LEARNER, FOLLOWER])
    def test_nothing_is_taken_over_a_gap(self, host: int) -> None:
        cluster = Cluster()
        cluster.give(host, transaction(1))

        asked = cluster.give(host, transaction(3))

        assert [type(e.message) for e in asked if isinstance(e, Send)] == [ResendRequest]
        assert cluster.log(host) == [transaction(1)]
        taken = [effect for effect in cluster.give(host, transaction(2)) if isinstance(effect, Send)]
        assert len(replies(list(taken))) == 2, "what was held back comes at once"
        assert cluster.log(host) == [transaction(number) for number in (1, 2, 3)]

    @pytest.mark.parametrize("epoch", [0, 2, 9])
    def test_another_epoch_is_dropped(self, epoch: int) -> None:
        cluster = Cluster()

        assert f"of epoch {epoch}" in reason(cluster.give(LEARNER, transaction(1, epoch=epoch)))

        assert cluster.log(LEARNER) == []

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

    def test_is_executed_once_and_answered_with_the_new_slot_and_the_first_outcome(self) -> None:
        cluster = Cluster()
        cluster.give(LEARNER, transaction(1, request=7))

        (reply,) = replies(cluster.give(LEARNER, transaction(2, request=7)))

        assert (reply.slot, reply.request, reply.outcome) == (2, 7, results(b"\x01"))
        assert cluster.cells(LEARNER) == {"n": (1, 1)}

    def test_changes_nothing_and_the_log_says_so(self) -> None:
        """A watch would otherwise show the first one's changes twice."""
        cluster = Cluster()
        cluster.give(LEARNER, transaction(1, put("k", 1), request=7))
        cluster.give(LEARNER, transaction(2, put("k", 1), request=7))

        environment = cluster.hosts[LEARNER].environment
        view = environment.view()
        seen = [list(committed.pieces[0].changes) for committed in committed_after(view, [Slot(0)])]
        assert seen == [[put("k", 1).key], []]

    def test_is_acknowledged_by_a_follower_under_its_new_slot(self) -> None:
        cluster = Cluster()
        cluster.give(FOLLOWER, transaction(1, request=7))

        (reply,) = replies(cluster.give(FOLLOWER, transaction(2, request=7)))

        assert (reply.slot, reply.outcome) == (2, None)
        assert len(cluster.log(FOLLOWER)) == 2

    def test_finds_its_outcome_whatever_ran_in_between(self) -> None:
        cluster = Cluster()
        cluster.give(LEARNER, transaction(1, request=1))
        cluster.give(LEARNER, transaction(2, delete("n", report=True), request=2))
        cluster.give(LEARNER, transaction(3, request=3))

        (again,) = replies(cluster.give(LEARNER, transaction(4, delete("n", report=True), request=2)))
        (first,) = replies(cluster.give(LEARNER, transaction(5, request=1)))

        assert (again.slot, again.outcome) == (4, results(True))  # type: ignore[arg-type]  # a report
        assert (first.slot, first.outcome) == (5, results(b"\x01"))
        assert cluster.cells(LEARNER) == {"n": (1, 3)}

    def test_is_known_after_a_crash(self) -> None:
        cluster = Cluster()
        cluster.give(LEARNER, transaction(1, request=7))
        cluster.crash(LEARNER)
        cluster.restart(LEARNER)

        (reply,) = replies(cluster.give(LEARNER, transaction(2, request=7)))

        assert (reply.slot, reply.outcome) == (2, results(b"\x01"))
        assert cluster.values(LEARNER) == {"n": 1}

    def test_of_another_client_is_another_request(self) -> None:
        cluster = Cluster()
        cluster.give(LEARNER, transaction(1, request=7, client=1))

        (reply,) = replies(cluster.give(LEARNER, transaction(2, request=7, client=2)))

        assert reply.outcome == results(b"\x02")

    def test_that_the_client_has_the_answer_of_is_ignored(self) -> None:
        cluster = Cluster()
        cluster.give(LEARNER, transaction(1, request=1))
        cluster.give(LEARNER, transaction(2, request=2, answered=1))

        assert cluster.give(LEARNER, transaction(3, request=1)) == []

        assert cluster.cells(LEARNER) == {"n": (2, 2)}
        assert cluster.record(LEARNER).executed == 3, "its slot is resolved all the same"

    def test_that_never_arrived_before_is_executed_even_if_a_later_one_was(self) -> None:
        """A window, not one cell: pipelined requests may be overtaken."""
        cluster = Cluster()
        cluster.give(LEARNER, transaction(1, request=5, answered=2))

        (reply,) = replies(cluster.give(LEARNER, transaction(2, request=3, answered=2)))

        assert reply.outcome == results(b"\x02")

    def test_is_executed_once_at_followers_too(self) -> None:
        cluster = Cluster()
        request = cluster.submit({0: [add("n", 5)]})
        cluster.step()
        cluster.carry(cluster.client.on_timer("retry"))
        cluster.run()
        cluster.change_epoch()

        assert cluster.answers[request].outcomes[ShardId(0)] == results(b"\x05")
        assert [cluster.cells(host) for host in range(3)] == [{"n": (5, 1)}] * 3
        assert [len(cluster.log(host)) for host in range(3)] == [2, 2, 2]

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


class TestAMultiShardTransaction:
    def test_has_its_own_place_at_each_participant(self) -> None:
        cluster = Cluster(shards=3)
        for _ in range(2):
            cluster.submit({2: [put("alone", 1)]})
        request = cluster.submit({0: [put("a", 1)], 2: [put("c", 1)]})
        cluster.run()

        assert cluster.answers[request].slots == {0: 1, 2: 3}
        assert cluster.cells(LEARNER, 0) == {"a": (1, 1)}
        assert cluster.cells(LEARNER, 1) == {}
        assert cluster.cells(LEARNER, 2) == {"alone": (1, 2), "c": (1, 3)}

    def test_is_stored_whole_with_every_participant(self) -> None:
        cluster = Cluster(shards=2)
        cluster.submit({0: [put("a", 1)], 1: [put("b", 2)]})
        cluster.run()

        for host in range(3):
            (at_0,), (at_1,) = cluster.log(host, 0), cluster.log(host, 1)
            assert at_0 == at_1
            assert at_0 is not None
            assert at_0.request.operations == {0: (put("a", 1),), 1: (put("b", 2),)}


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

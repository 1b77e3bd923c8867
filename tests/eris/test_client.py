"""The client: what counts as a quorum (Eris, SOSP 2017, section 6.2), CLIENT-1 to CLIENT-3, and nothing
given up."""

from __future__ import annotations

from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.eris.client import RETRY_MS, Client
from kvstore.eris.effects import CALLER, SEQUENCER, CancelTimer, Effect, Send, SetTimer
from kvstore.eris.messages import Answer, Reply, Request
from kvstore.execution.operations import Outcome
from kvstore.types import ClientId, Epoch, RequestId, ShardId, Slot, ViewNumber
from tests.support.cluster import put

ME = ClientId(4)
OUTCOME = Outcome(results=(b"the learner's",))


def a_client(*, replicas: int = 3) -> Client:
    return Client(client=ME, replicas=replicas)


def submit(client: Client, *shards: int) -> list[Effect]:
    return client.submit({ShardId(shard): (put("k", 1),) for shard in shards})


def reply(
    replica: int, *, shard: int = 0, request: int = 1, epoch: int = 1, view: int = 0, slot: int = 9
) -> Reply:
    """A reply; the learner of the view adds the outcome."""
    outcome = OUTCOME if replica == view % 3 else None
    return Reply(
        ME, RequestId(request), ShardId(shard), replica, Epoch(epoch), ViewNumber(view), Slot(slot), outcome
    )


def answers(effects: list[Effect]) -> list[Answer]:
    """What went to the caller."""
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send) and effect.to == CALLER and isinstance(effect.message, Answer)
    ]


def handle_all(client: Client, *replies: Reply) -> list[Answer]:
    return [answer for message in replies for answer in answers(client.handle(message))]


class TestAQuorum:
    def test_is_the_learner_and_one_follower_of_three(self) -> None:
        client = a_client()
        submit(client, 0)

        assert handle_all(client, reply(0)) == []
        assert handle_all(client, reply(2)) == [
            Answer(RequestId(1), {ShardId(0): Slot(9)}, {ShardId(0): OUTCOME})
        ]

    def test_may_be_completed_by_the_learner(self) -> None:
        client = a_client()
        submit(client, 0)

        assert handle_all(client, reply(1)) == []
        assert len(handle_all(client, reply(0))) == 1

    def test_without_the_learner_is_none(self) -> None:
        client = a_client()
        submit(client, 0)

        assert handle_all(client, reply(1), reply(2)) == []
        assert len(handle_all(client, reply(0))) == 1

    def test_has_the_learner_of_the_view_that_the_replies_name(self) -> None:
        client = a_client()
        submit(client, 0)

        assert handle_all(client, reply(0, view=4), reply(2, view=4)) == []
        assert len(handle_all(client, reply(1, view=4))) == 1

    @pytest.mark.parametrize("other", [{"epoch": 2}, {"view": 3}, {"slot": 10}])
    def test_never_has_replies_that_differ(self, other: dict[str, int]) -> None:
        for first, second in permutations([reply(0), reply(1, **other)]):
            client = a_client()
            submit(client, 0)

            assert handle_all(client, first, second) == []
        # The same learner stands for both, so it is the follower that is missing.
        client = a_client()
        submit(client, 0)
        assert handle_all(client, reply(0, **other), reply(1), reply(2)) == []

    def test_is_formed_by_those_that_agree_whatever_else_came(self) -> None:
        client = a_client()
        submit(client, 0)
        stale = [reply(0, epoch=1), reply(1, epoch=2, slot=3), reply(2, epoch=2, view=1)]

        assert handle_all(client, *stale) == []
        assert handle_all(client, reply(2, epoch=2), reply(0, epoch=2)) == [
            Answer(RequestId(1), {ShardId(0): Slot(9)}, {ShardId(0): OUTCOME})
        ]

    def test_counts_a_replica_once(self) -> None:
        client = a_client()
        submit(client, 0)

        assert handle_all(client, reply(0), reply(0), reply(0)) == []
        assert len(handle_all(client, reply(1))) == 1

    def test_of_one_replica_is_that_replica(self) -> None:
        client = a_client(replicas=1)
        submit(client, 0)

        assert len(handle_all(client, reply(0))) == 1

    def test_of_five_is_three(self) -> None:
        client = a_client(replicas=5)
        submit(client, 0)

        assert handle_all(client, reply(0), reply(3), reply(3)) == []
        assert len(handle_all(client, reply(4))) == 1

    @given(
        st.lists(
            st.builds(
                reply,
                st.integers(0, 2),
                shard=st.integers(0, 1),
                epoch=st.integers(1, 2),
                view=st.integers(0, 2),
                slot=st.integers(1, 2),
            ),
            max_size=40,
        )
    )
    def test_is_what_the_definition_says(self, replies: list[Reply]) -> None:
        client = a_client()
        submit(client, 0, 1)
        complete: dict[int, Reply] = {}
        answered: list[Answer] = []
        seen: list[Reply] = []

        for message in replies:
            seen.append(message)
            answered += handle_all(client, message)
            if message.shard not in complete and is_quorum(seen, message):
                complete[message.shard] = message
            assert bool(answered) == (len(complete) == 2)
        for answer in answered:
            assert answer.slots == {shard: message.slot for shard, message in complete.items()}
        assert len(answered) <= 1


def is_quorum(seen: list[Reply], last: Reply) -> bool:
    agree = {
        message.replica
        for message in seen
        if (message.shard, message.epoch, message.view, message.slot)
        == (last.shard, last.epoch, last.view, last.slot)
    }
    return len(agree) >= 2 and last.view % 3 in agree


class TestARequest:
    def test_goes_to_the_sequencer_once(self) -> None:
        client = a_client()

        effects = submit(client, 1, 0)

        assert effects[0] == Send(
            SEQUENCER,
            Request(ME, RequestId(1), RequestId(0), {ShardId(1): (put("k", 1),), ShardId(0): (put("k", 1),)}),
        )
        assert effects[1:] == [SetTimer("retry", RETRY_MS)]

    def test_is_answered_when_all_its_shards_are(self) -> None:
        client = a_client()
        submit(client, 0, 1)

        assert handle_all(client, reply(0), reply(1), reply(2), reply(0, shard=1)) == []
        (answer,) = handle_all(client, reply(2, shard=1))

        assert answer.slots == {0: 9, 1: 9}
        assert answer.outcomes == {0: OUTCOME, 1: OUTCOME}

    def test_is_answered_once(self) -> None:
        client = a_client()
        submit(client, 0)
        handle_all(client, reply(0), reply(1))

        assert handle_all(client, reply(2), reply(0), reply(1)) == []

    def test_of_somebody_else_is_not_counted(self) -> None:
        client = a_client()
        submit(client, 0)

        foreign = [msgspec.structs.replace(reply(replica), client=ClientId(5)) for replica in range(3)]

        assert handle_all(client, *foreign) == []

    def test_that_nobody_knows_is_not_counted(self) -> None:
        assert handle_all(a_client(), reply(0), reply(1), reply(2)) == []


class TestARetry:
    def test_sends_everything_outstanding_again_as_it_was(self) -> None:
        """CLIENT-1"""
        client = a_client()
        first, second, third = (submit(client, shard)[0] for shard in (0, 1, 0))
        handle_all(client, reply(0, shard=1, request=2), reply(1, shard=1, request=2))

        effects = client.on_timer("retry")

        assert effects == [first, third, SetTimer("retry", RETRY_MS)]
        assert second not in effects

    def test_keeps_the_id_so_that_a_late_reply_still_counts(self) -> None:
        client = a_client()
        submit(client, 0)
        handle_all(client, reply(0, slot=3))

        client.on_timer("retry")

        assert handle_all(client, reply(1, slot=3)) != []

    def test_may_be_answered_by_its_second_copy(self) -> None:
        client = a_client()
        submit(client, 0)
        client.on_timer("retry")

        assert handle_all(client, reply(0, slot=3), reply(1, slot=5), reply(0, slot=5)) == [
            Answer(RequestId(1), {ShardId(0): Slot(5)}, {ShardId(0): OUTCOME})
        ]

    def test_has_nothing_to_send_when_all_is_answered(self) -> None:
        client = a_client()
        submit(client, 0)
        handle_all(client, reply(0), reply(1))

        assert client.on_timer("retry") == []

    def test_timer_is_armed_exactly_while_requests_are_outstanding(self) -> None:
        """CLIENT-3"""
        client = a_client()
        arm, disarm = SetTimer("retry", RETRY_MS), CancelTimer("retry")

        assert arm in submit(client, 0)
        assert arm not in submit(client, 0)
        assert disarm not in client.handle(reply(0, request=1)) + client.handle(reply(1, request=1))
        assert disarm in client.handle(reply(0, request=2)) + client.handle(reply(1, request=2))
        assert arm in submit(client, 0)


@given(st.lists(st.integers(0, 3), max_size=30))
def test_a_request_says_what_is_answered_and_never_more(steps: list[int]) -> None:
    """CLIENT-2: 0 submits; another number answers the request that is so many places after the oldest."""
    client = a_client()
    outstanding: list[int] = []
    last = 0
    for step in steps:
        if step == 0 or step > len(outstanding):
            last += 1
            sent = submit(client, 0)[0]
            assert isinstance(sent, Send)
            assert isinstance(sent.message, Request)
            assert sent.message.request == last
            assert sent.message.answered == min(outstanding, default=last) - 1
            outstanding.append(last)
        else:
            request = outstanding.pop(step - 1)
            assert len(handle_all(client, reply(0, request=request), reply(1, request=request))) == 1

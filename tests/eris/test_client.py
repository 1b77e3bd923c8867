"""The client: any replies in any order (Eris, SOSP 2017, section 6.2), CLIENT-2 and CLIENT-3. The others
are transcripts: ``quorum``, ``quorum_replies``, ``retry_replies``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.eris.client import RETRY_MS, Client
from kvstore.eris.effects import CALLER, CancelTimer, Effect, Send, SetTimer
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


def test_the_retry_timer_is_armed_exactly_while_requests_are_outstanding() -> None:
    """CLIENT-3"""
    client = a_client()
    arm, disarm = SetTimer("retry", RETRY_MS), CancelTimer("retry")

    assert arm in submit(client, 0)
    assert arm not in submit(client, 0)
    assert client.on_timer("retry")[-1] == arm
    assert disarm not in client.handle(reply(0, request=1)) + client.handle(reply(1, request=1))
    assert disarm in client.handle(reply(0, request=2)) + client.handle(reply(1, request=2))
    assert client.on_timer("retry") == []
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

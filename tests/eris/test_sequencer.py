"""The sequencer: SEQUENCER-1 (numbers without gap or repeat) and SEQUENCER-2 (a clock that only rises)."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kvstore.eris.effects import GroupAddress, Send
from kvstore.eris.messages import Request, Stamped
from kvstore.eris.sequencer import Sequencer
from kvstore.execution.operations import Operation
from kvstore.types import ClientId, Epoch, RequestId, ShardId, Timestamp
from tests.support.cluster import put

Parts = dict[ShardId, tuple[Operation, ...]]
SHARDS = 4


def a_sequencer(*, clock: int = 0, epoch: int = 1) -> Sequencer:
    return Sequencer(epoch=Epoch(epoch), shards=SHARDS, clock=Timestamp(clock))


def request(*shards: int, number: int = 1, after: int = 0) -> Request:
    parts: Parts = {ShardId(shard): (put("k", shard),) for shard in shards}
    return Request(ClientId(1), RequestId(number), RequestId(0), parts, Timestamp(after))


def stamped(sequencer: Sequencer, what: Request, now: int = 0) -> Stamped:
    """The one message that the sequencer sends to all participants' groups."""
    sends = [effect for effect in sequencer.handle(what, Timestamp(now)) if isinstance(effect, Send)]
    message = sends[0].message
    assert isinstance(message, Stamped)
    assert all(send.message is message for send in sends)
    return message


def test_it_sends_one_stamp_to_the_group_of_every_participant_and_to_no_other() -> None:
    sequencer = a_sequencer()

    effects = sequencer.handle(request(2, 0), Timestamp(5))

    assert [effect.to for effect in effects if isinstance(effect, Send)] == [
        GroupAddress(ShardId(0)),
        GroupAddress(ShardId(2)),
    ]
    message = stamped(a_sequencer(), request(2, 0), 5)
    assert message.stamp.numbers == {0: 1, 2: 1}
    assert message.request == request(2, 0)


def test_the_lowest_shard_comes_first_in_the_stamp() -> None:
    """The log keeps a body with the lowest participant, which gets it first."""
    assert list(stamped(a_sequencer(), request(3, 1, 2)).stamp.numbers) == [1, 2, 3]


def test_a_retry_gets_another_stamp() -> None:
    """eris.md, 2.4: a retry is a new groupcast."""
    sequencer = a_sequencer()

    first, second = (stamped(sequencer, request(0, 1)) for _ in range(2))

    assert (first.stamp.numbers, second.stamp.numbers) == ({0: 1, 1: 1}, {0: 2, 1: 2})
    assert second.stamp.clock > first.stamp.clock
    assert first.request == second.request


@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, SHARDS - 1), min_size=1), st.integers(0, 50), st.integers(0, 90)),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, 60),
)
def test_s1_and_s2_hold_for_any_requests_at_any_times(
    wanted: list[tuple[set[int], int, int]], clock: int
) -> None:
    """The physical time comes as it likes: it may stand still, go back or jump."""
    sequencer = a_sequencer(clock=clock)
    stamps = []
    for shards, now, after in wanted:
        stamps.append(stamped(sequencer, request(*shards, after=after), now).stamp)
        assert stamps[-1].clock >= now
        assert stamps[-1].clock > after, "later than anything its sender has seen (contracts D1)"

    for shard in range(SHARDS):
        numbers = [stamp.numbers[ShardId(shard)] for stamp in stamps if shard in stamp.numbers]
        assert numbers == list(range(1, len(numbers) + 1)), "SEQUENCER-1"
    clocks = [clock, *(stamp.clock for stamp in stamps)]
    assert all(before < later for before, later in pairwise(clocks)), "SEQUENCER-2"
    for stamp, (shards, _, _) in zip(stamps, wanted, strict=True):
        assert stamp.numbers.keys() == shards
        assert stamp.epoch == 1


def test_the_clock_begins_above_every_time_in_any_log() -> None:
    assert stamped(a_sequencer(clock=1000), request(0), now=7).stamp.clock == 1001


def test_a_sender_from_the_future_moves_the_clock_for_good() -> None:
    """Contracts D1: after an import from a region that is ahead, a local write is still later."""
    sequencer = a_sequencer()
    ahead = stamped(sequencer, request(0, after=5000), now=10)

    local = stamped(sequencer, request(0), now=11)

    assert ahead.stamp.clock == 5001
    assert local.stamp.clock == 5002


def test_the_ids_of_a_transaction_are_one_for_each_participant() -> None:
    ids = stamped(a_sequencer(epoch=7), request(1, 3)).stamp.ids()

    assert ids == [(7, 1, 1), (7, 3, 1)]

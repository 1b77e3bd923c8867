"""The transactions that the learner committed after a position in the log, in commit order, for every watch.

The shards' logs are merged by the time of their transactions, which is unique, rises with the slots of each
shard, and is equal in all pieces of a transaction. A commit of the learner is closed (contracts A2), so a
view holds whole transactions. They are shown up to the first one that is not resolved on any shard (contracts
D8), so every transaction shown later has a later time.

INVARIANTS
    TAIL-1  A position only moves forward, so each slot is shown once, in order.
    TAIL-2  Each slot is shown with the effects that are kept for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from kvstore.eris.log import decode_changes, effects_key, read_body, reference_in
from kvstore.eris.messages import Conclusory, Stamped
from kvstore.eris.shard_state import (
    EFFECTS,
    HOST_TABLE,
    ShardRecord,
    decode_record,
    log_name,
    record_key,
    table_name,
)
from kvstore.execution.applied import ValueChanges
from kvstore.execution.execute import plain_effects
from kvstore.ports import CommitView
from kvstore.types import ShardId, Slot, Timestamp

READ_BYTES = 256 << 10
"""Approximate bytes of each shard's log that are read ahead."""
READ_MAX = 32
RECORD_BYTES_GUESS = 16 << 10


class CommittedPart(NamedTuple):
    """The effects of a transaction on one shard."""

    shard: ShardId
    slot: Slot
    changes: ValueChanges


class Committed(NamedTuple):
    """One whole transaction; a participant without changes has an empty piece."""

    stamped: Stamped
    pieces: list[CommittedPart]

    @property
    def time(self) -> Timestamp:
        return self.stamped.stamp.clock


BodyPlace = tuple[ShardId, Slot]
"""The place of a transaction's body: the slot of its lowest participant."""
Position = list[Slot]
"""The last slot that was returned, by shard."""


def shard_record(view: CommitView, shard: ShardId) -> ShardRecord:
    """Return the learner's record of a shard, as of this view."""
    stored = view.table(HOST_TABLE).get(record_key(shard))
    return ShardRecord() if stored is None else decode_record(stored)


def log_record(view: CommitView, shard: ShardId, slot: Slot) -> bytes:
    """Return one slot's record, as of this view."""
    return view.log(log_name(shard), shard_record(view, shard).head).read(slot, 1)[0][1]


def executed(view: CommitView, shards: int) -> Position:
    """Return the last slots that may be shown, by shard: before the first unresolved transaction."""
    return _ends(view, _records(view, shards))


def _records(view: CommitView, shards: int) -> list[ShardRecord]:
    return [shard_record(view, ShardId(shard)) for shard in range(shards)]


def _ends(view: CommitView, records: list[ShardRecord]) -> Position:
    """Return the last slots that may be shown, by shard, given those that are not resolved.

    A transaction that has overtaken an unresolved one on one of its shards is shown only when it can be shown
    as a whole (contracts D8).
    """
    unresolved = [
        _clock_at(view, ShardId(shard), record.waiting[0], record.waiting[0])
        for shard, record in enumerate(records)
        if record.waiting
    ]
    if not unresolved:
        return [record.executed for record in records]
    horizon = min(unresolved)
    return [_last_before(view, ShardId(shard), record, horizon) for shard, record in enumerate(records)]


def before(view: CommitView, shards: int, horizon: Timestamp) -> Position:
    """Return the last slot stamped before this time, by shard."""
    return [
        _last_before(view, ShardId(shard), record, horizon)
        for shard, record in enumerate(_records(view, shards))
    ]


def clock_of(view: CommitView, shard: ShardId, slot: Slot) -> Timestamp:
    """Return the time of a slot; 0 if there is none."""
    return _clock_at(view, shard, slot, Slot(shard_record(view, shard).head[0]))


def _last_before(view: CommitView, shard: ShardId, record: ShardRecord, horizon: Timestamp) -> Slot:
    """Return the last slot stamped before the horizon; times rise with the slots."""
    first = record.head[0]
    low, high = first - 1, int(record.executed)
    while low < high:
        middle = (low + high + 1) // 2
        if _clock_at(view, shard, Slot(middle), Slot(first)) < horizon:
            low = middle
        else:
            high = middle - 1
    return Slot(low)


def _clock_at(view: CommitView, shard: ShardId, slot: Slot, first: Slot) -> Timestamp:
    """Return the time of a slot; a NO-OP has the time of its predecessor."""
    while slot >= first:
        stamped = read_body(log_record(view, shard, slot), partial(log_record, view))
        if stamped is not None:
            return stamped.stamp.clock
        slot = Slot(slot - 1)
    return Timestamp(0)


def committed_after(view: CommitView, position: Position) -> Iterator[Committed]:
    """Yield the transactions after ``position``, and move it past each transaction that is yielded."""
    heads: dict[BodyPlace, Stamped] = {}
    records = _records(view, len(position))
    ends = _ends(view, records)
    tails = [
        _ShardTail(view, ShardId(shard), record, position, ends[shard], heads)
        for shard, record in enumerate(records)
    ]
    queue = [(clock, tail.shard) for tail in tails if (clock := tail.clock()) is not None]
    heapify(queue)
    while queue:
        time, shard = queue[0]
        stamped = tails[shard].stamped
        pieces = []
        while queue and queue[0][0] == time:
            tail = tails[heappop(queue)[1]]
            pieces.append(tail.take())
            if (clock := tail.clock()) is not None:
                heappush(queue, (clock, tail.shard))
        yield Committed(stamped, pieces)


class _ShardTail:
    """One shard's log behind a position: some records read ahead, of which only the first is decoded.

    ``heads`` holds the first transactions of all shards, by the place of their bodies, which participants
    share.
    """

    def __init__(
        self,
        view: CommitView,
        shard: ShardId,
        record: ShardRecord,
        position: Position,
        end: Slot,
        heads: dict[BodyPlace, Stamped],
    ) -> None:
        self.shard = shard
        self._view = view
        self._position = position
        self._heads = heads
        self._end = end
        self._log = view.log(log_name(shard), record.head)
        self._effects = view.table(table_name(shard, EFFECTS))
        self._records: deque[tuple[Slot, bytes]] = deque()
        self._read_up_to = position[shard]
        self._record_bytes = RECORD_BYTES_GUESS
        self._head: tuple[Slot, BodyPlace, Stamped] | None = None
        self._next_effects: tuple[bytes, bytes] | None = (b"", b"")

    def clock(self) -> Timestamp | None:
        """Return the time of the next transaction; None at the end."""
        while self._head is None:
            if self._records:
                self._decode(*self._records.popleft())
            elif self._read_up_to < self._end:
                self._read()
            else:
                assert self._position[self.shard] <= self._end, (
                    f"TAIL-1: shard {self.shard} was shown up to slot {self._position[self.shard]}, and ends "
                    f"at slot {self._end}"
                )
                self._position[self.shard] = self._end  # NO-OPs need no waiting
                return None
        return self._head[2].stamp.clock

    @property
    def stamped(self) -> Stamped:
        """Return the next transaction, which must exist."""
        assert self._head is not None
        return self._head[2]

    def _read(self) -> None:
        count = max(1, min(READ_MAX, READ_BYTES // self._record_bytes, self._end - self._read_up_to))
        records = self._log.read(self._read_up_to + 1, count)
        self._record_bytes = 1 + sum(len(record) for _, record in records) // len(records)
        self._records.extend((Slot(slot), record) for slot, record in records)
        first = records[0][0]
        assert first > self._read_up_to, f"TAIL-1: slot {first} is read after slot {self._read_up_to}"
        self._read_up_to = Slot(records[-1][0])

    def _decode(self, slot: Slot, record: bytes) -> None:
        place = reference_in(record) or (self.shard, slot)
        stamped = self._heads.get(place) or read_body(record, partial(log_record, self._view))
        assert self._head is None, f"TAIL-1: slot {slot} is next, and {self._head[0]} was not shown"
        if stamped is not None:
            self._heads[place] = stamped
            self._head = slot, place, stamped

    def take(self) -> CommittedPart:
        """Return the next transaction's piece, and move past it."""
        assert self._head is not None
        (slot, place, stamped), self._head = self._head, None
        assert slot > self._position[self.shard], (
            f"TAIL-1: slot {slot} of shard {self.shard} is shown after {self._position[self.shard]}"
        )
        self._heads.pop(place, None)
        self._position[self.shard] = slot
        kept = self._kept_effects(slot)
        request = stamped.request
        if kept is not None:
            changes = decode_changes(kept)
        elif type(request.half) is Conclusory:
            changes = {}  # its writes are in the slot of its preliminary (contracts A1)
        else:
            changes = plain_effects(request.operations[self.shard])
        return CommittedPart(self.shard, slot, changes)

    def _kept_effects(self, slot: Slot) -> bytes | None:
        """Return the kept effects of a slot, or None. Slots are asked for in order: one scan serves many."""
        key = effects_key(slot)
        if self._next_effects is not None and self._next_effects[0] < key:
            stop = effects_key(Slot(self._end + 1))
            self._next_effects = next(iter(self._effects.scan(key, stop, limit=1)), None)
            assert self._next_effects is None or self._next_effects[0] >= key, (
                f"TAIL-2: effects of {self._next_effects[0].hex()} are found from {key.hex()} on"
            )
        if self._next_effects is None or self._next_effects[0] != key:
            return None
        return self._next_effects[1]

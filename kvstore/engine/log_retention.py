"""How long a log lives (contracts A7): cut in chunks, at marks, below what anyone still needs.

A mark is the ends of all the host's logs at the end of one batch. Because a transaction's pieces are
always in one batch, logs cut at the same mark lose whole transactions only, and no slot that is kept
refers to a body that is gone. Below a mark the highest shard is cut first: bodies lie with a
transaction's lowest shard, so references go before what they refer to.

A mark may be cut at when every shard's stable slot and resolved end have passed it, and when what
lies above it is at least the retention that watchers were promised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from kvstore.eris.log import BodyIndex
from kvstore.eris.replica import Replica
from kvstore.eris.shard_state import HOST_TABLE
from kvstore.ports import CommitView, ReadableTable, Table
from kvstore.types import ShardId, Slot

MARK_PREFIX = b"mark"
TRUNCATED_KEY = b"cut"
"""Where the mark stands that the logs were cut at last, or are being cut at: the oldest cursor of a
watch, because everything after it is there, and whole."""
MARKS_MAX = 64
"""Marks within the retention: a log overshoots its retention by a sixty-fourth."""
MARK_BYTES_MIN = 16 << 10
CUT_MAX = 256
"""Records cut in one batch beyond twice those it appended: bounds the work, and outpaces the growth."""


class RetentionMark(msgspec.Struct, frozen=True, array_like=True):
    """The ends of all logs after ``appended`` bytes since the store was created."""

    appended: int
    ends: list[Slot]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RetentionMark).decode


class LogRetention:
    """Marks the logs of one host as they grow, and cuts them."""

    def __init__(self, table: Table, replicas: list[Replica], bodies: BodyIndex, retention: int) -> None:
        self._table = table
        self._replicas = replicas
        self._bodies = bodies
        self._retention = retention
        self._mark_bytes = max(MARK_BYTES_MIN, retention // MARKS_MAX)
        stop = MARK_PREFIX + b"\xff" * 9
        marks = (_decode(mark) for _, mark in table.scan(MARK_PREFIX, stop, limit=1 << 20))
        self._marks: deque[RetentionMark] = deque(marks)
        self._appended = self._marks[-1].appended if self._marks else 0
        self._next_mark = self._appended + self._mark_bytes
        # What the last opening had still to cut goes with the next mark: replicas that are behind may
        # be completed from it first.
        self._cutting = False
        self._cut: list[Slot] = []

    def trim(self, touched: set[ShardId]) -> None:
        """At the end of a batch: mark the logs when they have grown enough, and cut a chunk."""
        if self._bodies.is_displaced:
            self._forget_marks()
        bodies = self._bodies
        self._appended += bodies.appended_bytes
        records = bodies.appended_records
        bodies.appended_bytes = bodies.appended_records = 0
        if self._appended >= self._next_mark:
            self._mark()
            self._next_mark = self._appended + self._mark_bytes
        while self._marks and self._appended - self._marks[0].appended >= self._retention:
            if not self._pass_oldest_mark():
                break
        if self._cutting:
            self._cut_chunk(touched, CUT_MAX + 2 * records)

    def _forget_marks(self) -> None:
        """A log became another one, of an image perhaps: transactions lie in other places now."""
        for mark in self._marks:
            self._table.delete(_key(mark))
        self._marks.clear()
        self._cutting = self._bodies.is_displaced = False

    def _mark(self) -> None:
        mark = RetentionMark(self._appended, [replica.last_slot for replica in self._replicas])
        self._marks.append(mark)
        self._table.put(_key(mark), _encode(mark))

    def _pass_oldest_mark(self) -> bool:
        """Cut at the oldest mark from now on, if no shard needs what lies below it."""
        ends = self._marks[0].ends
        if any(end > low for end, low in zip(ends, self._low_water_marks(), strict=True)):
            return False
        mark = self._marks.popleft()
        self._table.delete(_key(mark))
        self._table.put(TRUNCATED_KEY, _encode(mark))
        self._cut = ends
        self._cutting = True
        return True

    def _low_water_marks(self) -> Iterable[Slot]:
        return (min(replica.record.stable, replica.record.resolved_end) for replica in self._replicas)

    def _cut_chunk(self, touched: set[ShardId], left: int) -> None:
        for replica in reversed(self._replicas):
            end = self._cut[replica.address.shard]
            if end >= replica.log.first:
                left -= replica.log.truncate_before(Slot(end + 1), left)
                touched.add(replica.address.shard)
                if left == 0:
                    return
        self._cutting = False


def kept_after(table: ReadableTable, shards: int) -> list[Slot]:
    """By shard, the slot after which everything is kept; ``table`` is the host's."""
    stored = table.get(TRUNCATED_KEY)
    return [Slot(0)] * shards if stored is None else _decode(stored).ends


def oldest(view: CommitView, shards: int) -> list[Slot]:
    """The oldest position after which everything is kept."""
    return kept_after(view.table(HOST_TABLE), shards)


def _key(mark: RetentionMark) -> bytes:
    return MARK_PREFIX + mark.appended.to_bytes(8, "big")

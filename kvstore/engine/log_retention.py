"""Log retention (contracts A7): logs are truncated in chunks, at marks, below every slot still needed.

A mark holds the ends of all logs of the host after one batch. Because a transaction's pieces are always
in one batch, logs truncated at one mark lose whole transactions only, and no slot that is kept refers
to a deleted body. Below a mark the highest shard is truncated first: a body lies with its transaction's
lowest shard, so references are deleted before the body they refer to.

The logs may be truncated at a mark when every shard's stable slot and resolved end have passed the mark,
and when the logs above the mark are at least as long as the retention that watches were promised.
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
"""Key of the mark at which the logs were last truncated, or are being truncated. It is the oldest
cursor of a watch: every transaction after this mark is kept whole."""
MARKS_MAX = 64
"""Number of marks within the retention: a log exceeds its retention by at most a sixty-fourth."""
MARK_BYTES_MIN = 16 << 10
CUT_MAX = 256
"""Most records truncated in one batch, beyond twice the records that the batch appended: bounds the
work, and outpaces the growth."""


class RetentionMark(msgspec.Struct, frozen=True, array_like=True):
    """The ends of all logs, by shard, after ``appended`` bytes since the store was created."""

    appended: int
    ends: list[Slot]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RetentionMark).decode


class LogRetention:
    """The marks of one host's logs, and the truncation of the logs at these marks."""

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
        # A truncation that the last opening did not finish is finished with the next mark: replicas that
        # are behind may need these records first.
        self._cutting = False
        self._cut: list[Slot] = []

    def trim(self, touched: set[ShardId]) -> None:
        """Mark the logs if they have grown enough, and truncate a chunk. Called at the end of a batch."""
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
        """Delete all marks: a log was replaced, so its transactions are in other slots now."""
        for mark in self._marks:
            self._table.delete(_key(mark))
        self._marks.clear()
        self._cutting = self._bodies.is_displaced = False

    def _mark(self) -> None:
        mark = RetentionMark(self._appended, [replica.last_slot for replica in self._replicas])
        self._marks.append(mark)
        self._table.put(_key(mark), _encode(mark))

    def _pass_oldest_mark(self) -> bool:
        """Begin to truncate at the oldest mark; return False if a shard still needs a slot below it."""
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
    """Return, by shard, the slot after which every slot is kept; ``table`` is the host's table."""
    stored = table.get(TRUNCATED_KEY)
    return [Slot(0)] * shards if stored is None else _decode(stored).ends


def oldest(view: CommitView, shards: int) -> list[Slot]:
    """Return, by shard, the slot after which a view's log is complete: the oldest position of a watch."""
    return kept_after(view.table(HOST_TABLE), shards)


def _key(mark: RetentionMark) -> bytes:
    return MARK_PREFIX + mark.appended.to_bytes(8, "big")

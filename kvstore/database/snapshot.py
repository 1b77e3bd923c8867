"""Snapshots: reads of one moment over all shards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from kvstore import keys, values
from kvstore.database.routing import Routing
from kvstore.engine.readers import ReadTransaction
from kvstore.eris.shard_state import REGISTERS, table_name
from kvstore.errors import NotFound
from kvstore.execution.stored_value import VERSION_BYTES, stored_version
from kvstore.keys import Key
from kvstore.ports import Row
from kvstore.types import ShardId

ROWS_FIRST, ROWS_MAX = 16, 512
"""Number of rows fetched from each shard at once: the first, which doubles during a scan, and its bound."""


def state_tables(shards: int) -> list[bytes]:
    """Return the table names of all shards' states, by shard."""
    return [table_name(ShardId(shard), REGISTERS) for shard in range(shards)]


class Snapshot:
    """The whole store at one moment, until the snapshot is closed. Usable from any thread.

    Every read raises ``SnapshotExpired`` after the snapshot's lifetime and ``Closed`` after ``close``.
    """

    __iter__ = None  # not a Mapping: use scan() to iterate

    def __init__(self, transaction: ReadTransaction, routing: Routing, tables: list[bytes]) -> None:
        self._transaction = transaction
        self._routing = routing
        self._tables = tables
        self._close_after_scan = False

    def of_tables(self, tables: list[bytes]) -> Snapshot:
        """Return a snapshot of other tables, one per shard, at this moment; it ends with this snapshot."""
        return Snapshot(self._transaction, self._routing, tables)

    def get(self, key: Key, default: Any = None) -> Any:
        """Return the value, or ``default`` if there is none. Each call returns a new copy."""
        cell = self._cell(key)
        return default if cell is None else values.decode(cell[VERSION_BYTES:])

    def __getitem__(self, key: Key) -> Any:
        cell = self._cell(key)
        if cell is None:
            raise NotFound(f"no value at {key!r}", key=key)
        return values.decode(cell[VERSION_BYTES:])

    def __contains__(self, key: Key) -> bool:
        return self._cell(key) is not None

    def version(self, key: Key) -> int | None:
        """Return the slot of the key's last write, or None if there is no value."""
        return stored_version(self._cell(key))

    def get_many(self, keys: Iterable[Key], default: Any = None) -> list[Any]:
        """Return the values in the order of the keys; ``default`` for a missing key."""
        return [self.get(key, default) for key in keys]

    def _cell(self, key: Key) -> bytes | None:
        encoded = keys.encode(key)
        return self.cell(self._routing.shard(key, encoded), encoded)

    def cell(self, shard: ShardId, encoded: bytes) -> bytes | None:
        """Return the stored value at an encoded key, version and encoded value, or None."""
        return self._transaction.get(self._tables[shard], encoded)

    def scan(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[Key, Any]]:
        """Return an iterator over ``(key, value)`` in key order; ``start`` is included, ``stop`` is not.

        Raises ``KeyInvalid`` and ``LimitExceeded`` at the call, and ``Corrupt`` at a damaged record.
        """
        low, high = keys.key_range(prefix=prefix, start=start, stop=stop)
        shards = self._routing.shards_of_range(prefix)
        return self._decoded(self.rows(low, high, reverse, keys.check_limit(limit), shards))

    def scan_and_close(self, **bounds: Any) -> Iterator[tuple[Key, Any]]:
        """Scan, and close this snapshot when the scan ends. For a snapshot without other users."""
        self._close_after_scan = True
        try:
            return self.scan(**bounds)
        except BaseException:
            self.close()
            raise

    def _decoded(self, chunks: Iterator[list[Row]]) -> Iterator[tuple[Key, Any]]:
        transaction, decode = self._transaction, values.decode
        for rows in chunks:
            for key, (_, cell) in zip(keys.decode_sorted([key for key, _ in rows]), rows, strict=True):
                if transaction.ended:
                    transaction.check()
                yield key, decode(cell[VERSION_BYTES:])
        if self._close_after_scan:
            self.close()

    def count(self, *, prefix: Key | None = None, start: Key | None = None, stop: Key | None = None) -> int:
        """Return the number of keys in the range."""
        low, high = keys.key_range(prefix=prefix, start=start, stop=stop)
        return sum(map(len, self.rows(low, high, False, None, self._routing.shards_of_range(prefix))))

    def rows(
        self,
        low: bytes,
        high: bytes,
        reverse: bool,
        limit: int | None,
        shards: Iterable[ShardId] | None = None,
    ) -> Iterator[list[Row]]:
        """Yield encoded keys and stored values, a chunk at a time; of these shards only, if given.

        The shards' rows are merged: rows below every shard's last fetched row are final.
        """
        tables = self._tables if shards is None else [self._tables[shard] for shard in shards]
        cursors = [_ShardCursor(self._transaction, table, low, high, reverse) for table in tables]
        left = float("inf") if limit is None else limit
        count = ROWS_FIRST
        while left > 0:
            ends = [end for cursor in cursors if (end := cursor.fill(int(min(count, left)))) is not None]
            bound = None if not ends else max(ends) if reverse else min(ends)
            rows = [row for cursor in cursors for row in cursor.take(bound)]
            if not rows:
                return
            rows.sort(reverse=reverse)
            if len(rows) > left:
                del rows[int(left) :]
            yield rows
            left -= len(rows)
            count = min(2 * count, ROWS_MAX)

    @property
    def age(self) -> int:
        """Nanoseconds since the snapshot was taken."""
        return self._transaction.age

    def close(self) -> None:
        """Close the snapshot. Does nothing the second time."""
        self._transaction.close()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _ShardCursor:
    """One shard's position in a merge."""

    __slots__ = ("_high", "_low", "_more", "_reverse", "_rows", "_table", "_transaction")

    def __init__(
        self, transaction: ReadTransaction, table: bytes, low: bytes, high: bytes, reverse: bool
    ) -> None:
        self._transaction, self._table, self._reverse = transaction, table, reverse
        self._low, self._high = low, high
        self._rows: list[Row] = []
        self._more = low < high

    def fill(self, count: int) -> bytes | None:
        """Fetch rows if none are left; return the last key, or None if no row follows the fetched rows."""
        if not self._rows and self._more:
            rows = self._transaction.scan(
                self._table, self._low, self._high, reverse=self._reverse, limit=count
            )
            self._rows = rows
            self._more = len(rows) == count
            if rows and self._reverse:
                self._high = rows[-1][0]
            elif rows:
                self._low = rows[-1][0] + b"\x00"
        return self._rows[-1][0] if self._more else None

    def take(self, bound: bytes | None) -> list[Row]:
        """Remove and return the rows up to ``bound``, or all rows if ``bound`` is None."""
        rows = self._rows
        if bound is None:
            split = len(rows)
        elif self._reverse:
            split = sum(1 for key, _ in rows if key >= bound)
        else:
            split = bisect_right(rows, bound, key=_key)
        self._rows = rows[split:]
        return rows[:split]


def _key(row: Row) -> bytes:
    return row[0]

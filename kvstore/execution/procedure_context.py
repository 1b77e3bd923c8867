"""The context of a stored procedure's body: the declared keys of the shard that the body runs on.

All writes are staged, so that a body that raises has no effect; reads see the staged writes. Writing a
declared key of another shard does nothing here: the body also runs on that shard, and writes the key
there. Reading such a key is refused, because its value is not on this shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from heapq import merge
from itertools import groupby
from typing import Any

from kvstore import keys, values
from kvstore.errors import Finished, KeyNotDeclared, LimitExceeded, NotFound
from kvstore.execution.execute import StagedWrites
from kvstore.execution.numbers import check_amount, check_number
from kvstore.execution.operations import Call
from kvstore.execution.stored_value import VERSION_BYTES
from kvstore.keys import Key
from kvstore.ports import ReadableTable
from kvstore.types import ShardId, Slot, Timestamp

WRITTEN_BYTES_MAX = 64 << 20
"""Upper bound on the keys and values that one part may write, in bytes (contracts C5)."""
ROWS_MAX = 256

Owns = Callable[[ShardId, bytes], bool]
"""Function of a shard and an encoded key: whether the key belongs to the shard."""
StagedRow = tuple[bytes, bytes | None]


class Part:
    """One shard's part of a call. ``shard``: its number; ``time``: the transaction's, in nanoseconds."""

    __iter__ = None  # not a Mapping: scan() iterates

    def __init__(
        self,
        call: Call,
        table: ReadableTable,
        *,
        shard: ShardId,
        time: Timestamp,
        owns: Owns,
    ) -> None:
        self.shard = int(shard)
        self.time = int(time)
        self._call = call
        self._own = frozenset(call.keys[shard])
        self._table: ReadableTable | None = table
        self._owns = owns
        self._staged: dict[bytes, bytes | None] = {}
        self._written = 0

    @property
    def keys(self) -> list[Key]:
        """The declared keys of this shard, in order."""
        return [keys.decode(encoded) for encoded in sorted(self._own)]

    # -- reading -----------------------------------------------------------------------------

    def get(self, key: Key, default: Any = None) -> Any:
        """Return the value, or ``default``. Raises ``KeyNotDeclared``, for a key of another shard too."""
        payload = self._payload(self._readable(key))
        return default if payload is None else values.decode(payload)

    def __getitem__(self, key: Key) -> Any:
        payload = self._payload(self._readable(key))
        if payload is None:
            raise NotFound(f"no value at {key!r}", key=key)
        return values.decode(payload)

    def __contains__(self, key: Key) -> bool:
        return self._payload(self._readable(key)) is not None

    def scan(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[Key, Any]]:
        """Iterate over this shard's ``(key, value)`` pairs in key order, as of this call.

        Raises:
            KeyNotDeclared: a part of the range was not declared.
        """
        low, high = keys.key_range(prefix=prefix, start=start, stop=stop)
        if not any(first <= low and high <= last for first, last in self._call.prefixes):
            self._refuse(prefix, "declare the prefix, and register the procedure with scans=True")
        written = [row for row in self._staged.items() if low <= row[0] < high]
        return self._rows(low, high, reverse, math.inf if limit is None else limit, written)

    def _rows(
        self, low: bytes, high: bytes, reverse: bool, left: float, written: list[StagedRow]
    ) -> Iterator[tuple[Key, Any]]:
        written.sort(reverse=reverse)
        rows = merge(written, self._stored(low, high, reverse), key=_key, reverse=reverse)
        for encoded, found in groupby(rows, key=_key):
            payload = next(found)[1]  # a staged row comes before the stored row of its key
            if left <= 0:
                return
            if payload is not None:
                yield keys.decode(encoded), values.decode(payload)
                left -= 1

    def _stored(self, low: bytes, high: bytes, reverse: bool) -> Iterator[StagedRow]:
        while rows := self._open().scan(low, high, reverse=reverse, limit=ROWS_MAX):
            yield from ((key, cell[VERSION_BYTES:]) for key, cell in rows)
            if reverse:
                high = rows[-1][0]
            else:
                low = rows[-1][0] + b"\x00"

    # -- writing -----------------------------------------------------------------------------

    def put(self, key: Key, value: Any) -> None:
        """Set the key, on the shard that it belongs to."""
        encoded, payload = self._declared(key), values.encode(value)
        if self._is_here(encoded):
            self._refuse_clash(key, encoded, deletes=False)
            self._stage(encoded, payload)

    __setitem__ = put

    def delete(self, key: Key) -> None:
        """Remove the key, if present, on the shard that it belongs to."""
        encoded = self._declared(key)
        if self._is_here(encoded):
            self._refuse_clash(key, encoded, deletes=True)
            self._stage(encoded, None)

    def __delitem__(self, key: Key) -> None:
        self[key]  # raises NotFound
        self.delete(key)

    def add(self, key: Key, n: int | float = 1) -> Any:
        """Add to the stored number, or to 0, and return the sum; None if the key is on another shard.

        Raises:
            TypeClash: the stored value is not a number.
            LimitExceeded: the sum cannot be stored.
        """
        encoded = self._declared(key)
        check_amount(n)
        if not self._is_here(encoded):
            return None
        before = self._payload(encoded)
        total = check_number(key, before, n)
        self._note_added(key, encoded, before, n)
        self._stage(encoded, total)
        return values.decode(total)

    def _note_added(self, key: Key, encoded: bytes, before: bytes | None, n: int | float) -> None:
        """Do nothing; in a region, note the addition; raise ``TypeClash`` if ``before`` is no counter."""

    def _refuse_clash(self, key: Key, encoded: bytes, *, deletes: bool) -> None:
        """Do nothing; in a region, raise ``TypeClash`` if the key shows another type than a register."""

    def _stage(self, encoded: bytes, payload: bytes | None) -> None:
        self._open()
        self._written += len(encoded) + len(payload or b"")
        if self._written > WRITTEN_BYTES_MAX:
            message = f"one part of a call may write at most {WRITTEN_BYTES_MAX} bytes"
            raise LimitExceeded(message, size=self._written, limit=WRITTEN_BYTES_MAX)
        self._staged[encoded] = payload

    # -- what was declared -------------------------------------------------------------------

    def _declared(self, key: Key) -> bytes:
        encoded = keys.encode(key)
        if encoded not in self._own and not self._is_declared(encoded):
            self._refuse(key, "name it in the procedure's keys")
        return encoded

    def _is_declared(self, encoded: bytes) -> bool:
        call = self._call
        return any(first <= encoded < last for first, last in call.prefixes) or any(
            encoded in elsewhere for elsewhere in call.keys.values()
        )

    def _is_here(self, encoded: bytes) -> bool:
        return encoded in self._own or self._owns(ShardId(self.shard), encoded)

    def _readable(self, key: Key) -> bytes:
        encoded = self._declared(key)
        if not self._is_here(encoded):
            self._refuse(key, "it is on another shard, and cannot be read here")
        return encoded

    def _refuse(self, key: Key | None, hint: str) -> None:
        message = f"{self._call.name!r} has not declared {key!r} on shard {self.shard}"
        raise KeyNotDeclared(message, hint=hint, key=key, shard=self.shard)

    # -- for the caller of the body ----------------------------------------------------------

    def _payload(self, encoded: bytes) -> bytes | None:
        table = self._open()
        if encoded in self._staged:
            return self._staged[encoded]
        cell = table.get(encoded)
        return None if cell is None else cell[VERSION_BYTES:]

    def _open(self) -> ReadableTable:
        if self._table is None:
            raise Finished("this part of a call is over; a procedure must not keep it")
        return self._table

    def finish(self, slot: Slot) -> StagedWrites:
        """End the part, and return its writes: stored values of this version, None for a removed key."""
        table, self._table = self._open(), None
        version = slot.to_bytes(VERSION_BYTES, "big")
        return {
            encoded: None if payload is None else version + payload
            for encoded, payload in self._staged.items()
            if payload is not None or table.get(encoded) is not None
        }

    def give_up(self) -> None:
        """End the part without effects."""
        self._table = None


def _key(row: StagedRow) -> bytes:
    return row[0]

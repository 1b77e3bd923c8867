"""Whether what a transaction read is still so: every value, and every scanned range (contracts C2).

A value is known by its version. A range is known by a digest over the keys and versions in it, so a
record that came, went or changed shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import msgspec

from kvstore.execution.execute import Executed, execute
from kvstore.execution.operations import Check, CheckRange, Operation, Outcome, Reserve
from kvstore.execution.stored_value import VERSION_BYTES, stored_version
from kvstore.ports import ReadableTable, Row
from kvstore.types import Slot

READ_SET_MAX = 10_000
"""Records one transaction may read (contracts A3)."""
DIGEST_BYTES = 16
ROWS_FIRST = 16
"""Rows read first of a range: a table reads as many whatever the range holds. Each next read doubles it."""
ROWS_MAX = 512


class Current(msgspec.Struct, frozen=True, array_like=True):
    """What a shard holds now of all that a preliminary named there, when some of it had changed.

    ``changed``: the first key that had; of a range its start. ``ranges``: the rows of each, in order.
    """

    changed: bytes
    cells: dict[bytes, bytes | None]
    ranges: list[tuple[bytes, bytes, list[Row]]]


encode_current = msgspec.msgpack.Encoder().encode
decode_current = msgspec.msgpack.Decoder(Current).decode


def digest_of(rows: Iterable[Row]) -> bytes:
    """What tells the records of a range from others; a row is a key and its cell, or just its version."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for key, cell in rows:
        digest.update(len(key).to_bytes(4, "big") + key + cell[:VERSION_BYTES])
    return digest.digest()


def first_changed(operations: Iterable[Operation], table: ReadableTable) -> bytes | None:
    """The first checked key, or start of a checked range, that is not as it was read; None if all are."""
    for operation in operations:
        key = _changed(operation, table)
        if key is not None:
            return key
    return None


def _changed(operation: Operation, table: ReadableTable) -> bytes | None:
    if type(operation) is Check:
        return None if stored_version(table.get(operation.key)) == operation.version else operation.key
    if type(operation) is CheckRange:
        found = digest_of(_rows(table, operation.start, operation.stop))
        return None if found == operation.digest else operation.start
    return None


def execute_validated(operations: tuple[Operation, ...], table: ReadableTable, slot: Slot) -> Executed:
    """Execute what one shard can validate itself: nothing, and refused, if anything has changed."""
    changed = first_changed(operations, table)
    if changed is not None:
        return Executed({}, Outcome(refused=True, results=(changed,)), plain=False)
    return execute(operations, table, slot)


def current(changed: bytes, operations: Iterable[Operation], table: ReadableTable) -> Current:
    """Everything that a preliminary's operations name on this shard, as it is now."""
    cells: dict[bytes, bytes | None] = {}
    ranges: list[tuple[bytes, bytes, list[Row]]] = []
    for operation in operations:
        match operation:
            case Check(key, _) | Reserve(key):
                cells[key] = table.get(key)
            case CheckRange(start, stop):
                ranges.append((start, stop, list(_rows(table, start, stop))))
    return Current(changed, cells, ranges)


def _rows(table: ReadableTable, start: bytes, stop: bytes) -> Iterator[Row]:
    """The rows of a range. One more than a transaction may read is enough to tell that it changed."""
    left, count = READ_SET_MAX + 1, ROWS_FIRST
    while left > 0:
        asked = min(left, count)
        rows = table.scan(start, stop, limit=asked)
        yield from rows
        if len(rows) < asked:
            return
        left -= asked
        count = min(2 * count, ROWS_MAX)
        start = rows[-1][0] + b"\x00"

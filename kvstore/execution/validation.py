"""The validation of what a transaction read: every value, and every scanned range (contracts C2).

A value is compared by its version. A range is compared by a digest of the keys and versions in it, so
that an added, removed or changed record is detected.
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
"""Most records that one transaction may read (contracts A3)."""
DIGEST_BYTES = 16
ROWS_FIRST = 16
"""Rows read first of a range: a table reads as many whatever the range holds. Each next read doubles it."""
ROWS_MAX = 512


class Current(msgspec.Struct, frozen=True, array_like=True):
    """The current state of all that a preliminary read or reserved on a shard, if some of it has changed.

    ``changed``: the first changed key, or the start of a changed range. ``ranges``: start, excluded end and
    rows of each range, in order.
    """

    changed: bytes
    cells: dict[bytes, bytes | None]
    ranges: list[tuple[bytes, bytes, list[Row]]]


encode_current = msgspec.msgpack.Encoder().encode
decode_current = msgspec.msgpack.Decoder(Current).decode


def digest_of(rows: Iterable[Row]) -> bytes:
    """Return the digest of a range's rows; a row is a key and its stored value, or just its version."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for key, cell in rows:
        digest.update(len(key).to_bytes(4, "big") + key + cell[:VERSION_BYTES])
    return digest.digest()


def first_changed(operations: Iterable[Operation], table: ReadableTable) -> bytes | None:
    """Return the first checked key, or start of a checked range, that has changed; None if none has."""
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
    """Execute operations that one shard can validate alone; refuse, without effect, if a read has changed."""
    changed = first_changed(operations, table)
    if changed is not None:
        return Executed({}, Outcome(refused=True, results=(changed,)), plain=False)
    return execute(operations, table, slot)


def current(changed: bytes, operations: Iterable[Operation], table: ReadableTable) -> Current:
    """Return the current state of all that a preliminary's operations name on this shard."""
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
    """Yield the rows of a range, up to one more than a transaction may read: enough to detect a change."""
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

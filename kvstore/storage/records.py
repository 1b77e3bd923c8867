"""Sealed records, and the logs and tables made of them; shared by both environments.

ON-DISK FORMAT 1 (drawn in docs/storage-format.md)
    key       1 byte    room: 0x02 logs, 0x03 tables, 0x04 the environment's own
              3 bytes   name of the log or table
              n bytes   the log's index as 8 bytes big-endian, or the table's key
    value     n bytes   payload
              4 bytes   CRC-32 of key and payload, little-endian
    A log's payload begins with the 4-byte checksum of the record before it, which chains them.

Because the checksum is stored little-endian at the end, the CRC over key and whole value is one
constant, ``RESIDUE``, so a check costs one pass and no slicing. The checksum covers the key too: a
record that surfaces under another key must not pass.

That a key is missing is checked as well (contracts B4): the records on both sides of the gap must be
sound and in order, or else a damaged page could hide a key that exists.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from operator import lt
from typing import Protocol
from zlib import crc32

from kvstore.errors import Corrupt

RESIDUE = 0x2144DF1C
LOG, TABLE, OWN = b"\x02", b"\x03", b"\x04"
COUNT_KEY = OWN + b"count"
"""Key of the count record: the number of records as of each commit, as 8 bytes big-endian."""
EMPTY_CHECKSUM = 0
"""Checksum to which the first record of a log is chained."""
ROWS_MAX = 1024
"""Number of rows fetched at a time in a walk over all records."""

Row = tuple[bytes, bytes]
Beside = tuple[list[Row], list[Row]]
"""The row below a key and the row above it; an empty list where there is no such row."""


Head = tuple[int, int, int]
"""First index, last index and last checksum of a log; ``last == first - 1`` when it is empty."""


class Raw(Protocol):
    """An ordered map of bytes inside one transaction, as both LMDB and memory provide it."""

    def get(self, key: bytes, /) -> bytes | None: ...
    def put(self, key: bytes, value: bytes, /) -> object: ...
    def delete(self, key: bytes, /) -> object: ...


class Owner(Protocol):
    """The holder of the transaction through which a log or table reads and writes."""

    @property
    def raw(self) -> Raw: ...

    @property
    def location(self) -> str: ...

    def distrust(self) -> None:
        """Note damage, so that the next opening examines everything."""

    @property
    def damage(self) -> tuple[type[Exception], ...]:
        """Exceptions that ``raw`` raises at a damaged page."""

    def rows(self, position: bytes, *, reverse: bool, limit: int) -> list[Row]:
        """Return up to ``limit`` rows upwards from the first key >= ``position``, or downwards below it."""

    def beside(self, key: bytes) -> Beside:
        """Return the neighbours of a missing key; none if the open batch removed the key."""


def seal(key: bytes, payload: bytes) -> bytes:
    """Return the stored value: the payload and the checksum of key and payload."""
    return payload + crc32(payload, crc32(key)).to_bytes(4, "little")


def corrupt(owner: Owner, key: bytes, what: str) -> Corrupt:
    """Return the error that names a damaged record by environment, room, name and key."""
    owner.distrust()
    room = {OWN: "record", LOG: "log", TABLE: "table"}.get(key[:1], "unknown room")
    record = f"{owner.location}: {room} {key[1:4].hex()} key {key[4:].hex()}"
    return Corrupt(f"{record}: {what}", record=record)


def fetch(owner: Owner, key: bytes) -> bytes | None:
    """Return the payload stored under ``key``, or None if the key is proved missing. Raises ``Corrupt``."""
    try:
        value = owner.raw.get(key)
    except owner.damage as error:
        raise corrupt(owner, key, str(error)) from error
    if value is None:
        _prove_missing(owner, key)
        return None
    if crc32(value, crc32(key)) != RESIDUE:
        raise corrupt(owner, key, "checksum does not match")
    return value[:-4]


def _prove_missing(owner: Owner, key: bytes) -> None:
    below, above = owner.beside(key)
    for neighbour, value in (*below, *above):
        if crc32(value, crc32(neighbour)) != RESIDUE:
            raise corrupt(owner, neighbour, "checksum does not match")
    if (below and below[0][0] >= key) or (above and above[0][0] <= key):
        raise corrupt(owner, key, "out of order")


def checked_rows(owner: Owner, low: bytes, high: bytes, *, reverse: bool, limit: int) -> list[Row]:
    """Return up to ``limit`` sound rows with ``low <= key < high``, values still sealed.

    A further row is read beyond either end, if there is one, so that gaps at the ends are proved too.
    """
    if low >= high or limit <= 0:
        return []
    rows = owner.rows(high if reverse else low, reverse=reverse, limit=limit)
    if reverse:
        rows.reverse()
    edge = owner.rows(high, reverse=False, limit=1) if reverse else owner.rows(low, reverse=True, limit=1)
    for key, value in edge:
        _check_row(owner, key, value)
        if (key < high) if reverse else (key >= low):
            raise corrupt(owner, key, "out of order")
    return _cut(owner, rows, low, high, reverse=reverse)


def _check_row(owner: Owner, key: bytes, value: bytes) -> None:
    if crc32(value, crc32(key)) != RESIDUE:
        raise corrupt(owner, key, "checksum does not match")


def _cut(owner: Owner, rows: list[Row], low: bytes, high: bytes, *, reverse: bool) -> list[Row]:
    """Check the rows, which are in ascending order here, and return the rows within the bounds."""
    if not rows:
        return rows
    keys, values = zip(*rows, strict=True)
    if set(map(crc32, values, map(crc32, keys))) != {RESIDUE}:  # one pass in C
        for key, value in rows:
            _check_row(owner, key, value)
    if not all(map(lt, keys, keys[1:])):
        wrong = next(key for before, key in pairwise(keys) if before >= key)
        raise corrupt(owner, wrong, "out of order")
    if (keys[-1] >= high) if reverse else (keys[0] < low):
        raise corrupt(owner, keys[0], "out of order")
    if keys[0] < low or keys[-1] >= high:
        rows = rows[bisect_left(keys, low) : bisect_left(keys, high)]
    if reverse:
        rows.reverse()
    return rows


class StoredTable:
    """One table: an ordered map of bytes to bytes under a common key prefix."""

    __slots__ = ("_owner", "_prefix")

    def __init__(self, owner: Owner, name: bytes) -> None:
        self._owner = owner
        self._prefix = TABLE + name

    def get(self, key: bytes) -> bytes | None:
        return fetch(self._owner, self._prefix + key)

    def put(self, key: bytes, value: bytes) -> None:
        full = self._prefix + key
        self._owner.raw.put(full, value + crc32(value, crc32(full)).to_bytes(4, "little"))

    def delete(self, key: bytes) -> None:
        self._owner.raw.delete(self._prefix + key)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False, limit: int) -> list[Row]:
        prefix = self._prefix
        rows = checked_rows(self._owner, prefix + start, prefix + stop, reverse=reverse, limit=limit)
        length = len(prefix)
        return [(key[length:], value[:-4]) for key, value in rows]


class StoredLog:
    """One log. Its owner stores the head outside the data that it covers, and passes it in here."""

    __slots__ = ("_chain", "_owner", "_prefix", "first", "last")

    def __init__(self, owner: Owner, name: bytes, head: Head) -> None:
        self._owner = owner
        self._prefix = LOG + name
        self.first, self.last, self._chain = head

    @property
    def head(self) -> Head:
        return self.first, self.last, self._chain

    def append(self, index: int, record: bytes) -> None:
        assert index == self.last + 1, f"LOG-1: append {index} after {self.last}"
        self._chain = self._write(index, self._chain, record)
        self.last = index

    def _write(self, index: int, chain: int, record: bytes) -> int:
        key = self._prefix + index.to_bytes(8, "big")
        payload = chain.to_bytes(4, "little") + record
        checksum = crc32(payload, crc32(key))
        self._owner.raw.put(key, payload + checksum.to_bytes(4, "little"))
        return checksum

    def read(self, first: int, count_max: int) -> list[tuple[int, bytes]]:
        first = max(first, self.first)
        entries = self._sealed(first, min(self.last, first + count_max - 1))
        return [(index, value[4:-4]) for index, value in entries]

    def _sealed(self, first: int, last: int) -> list[tuple[int, bytes]]:
        low, high = (self._prefix + index.to_bytes(8, "big") for index in (first, last + 1))
        rows = checked_rows(self._owner, low, high, reverse=False, limit=last + 1 - first)
        found = [(int.from_bytes(key[4:], "big"), value) for key, value in rows]
        missing = set(range(first, last + 1)) - {index for index, _ in found}
        if missing:
            key = self._prefix + min(missing).to_bytes(8, "big")
            raise corrupt(self._owner, key, "log record is missing")
        for (_, before), (index, value) in pairwise(found):
            if value[:4] != before[-4:]:
                key = self._prefix + index.to_bytes(8, "big")
                raise corrupt(self._owner, key, "not chained to the record before it")
        return found

    def check_end(self) -> None:
        if self.last < self.first:
            return
        _, value = self._sealed(self.last, self.last)[0]
        if int.from_bytes(value[-4:], "little") != self._chain:
            key = self._prefix + self.last.to_bytes(8, "big")
            raise corrupt(self._owner, key, "the last record does not match the head of the log")

    def replace(self, index: int, record: bytes) -> None:
        assert self.first <= index <= self.last, f"replace {index} outside {self.first}..{self.last}"
        after = [value[4:-4] for _, value in self._sealed(index + 1, self.last)]
        self.replace_from(index, [record, *after])

    def replace_from(self, index: int, records: list[bytes]) -> None:
        assert self.first <= index <= self.last, f"replace {index} outside {self.first}..{self.last}"
        self._chain = int.from_bytes(self._sealed(index, index)[0][1][:4], "little")
        for at in range(index + len(records), self.last + 1):
            self._owner.raw.delete(self._prefix + at.to_bytes(8, "big"))
        self.last = index - 1
        for at, record in enumerate(records, index):
            self.append(at, record)

    def reset(self, first: int) -> None:
        for at in range(self.first, self.last + 1):
            self._owner.raw.delete(self._prefix + at.to_bytes(8, "big"))
        self.first, self.last, self._chain = first, first - 1, EMPTY_CHECKSUM

    def truncate_before(self, index: int, count_max: int) -> int:
        first = self.first
        stop = min(index, first + count_max, self.last + 1)
        for at in range(first, stop):
            self._owner.raw.delete(self._prefix + at.to_bytes(8, "big"))
        self.first = max(first, stop)
        return self.first - first


def _is_found(owner: Owner, key: bytes, value: bytes) -> bool:
    """Return whether a look-up finds a row that a walk found: a damaged branch page can prevent it."""
    try:
        return owner.raw.get(key) == value
    except owner.damage:
        return False


def problems(owner: Owner) -> Iterator[str]:
    """Walk all records and yield a sentence for each record that is damaged, out of order or not found."""
    position, count = b"", 0
    while rows := owner.rows(position, reverse=False, limit=ROWS_MAX):
        for key, value in rows:
            if key < position:
                yield str(corrupt(owner, key, "out of order").args[0])
                return
            if crc32(value, crc32(key)) != RESIDUE:
                yield str(corrupt(owner, key, "checksum does not match").args[0])
            elif not _is_found(owner, key, value):
                yield str(corrupt(owner, key, "a look-up does not find it").args[0])
            position, count = key + b"\x00", count + 1
    stored = owner.raw.get(COUNT_KEY)
    recorded = int.from_bytes(stored[:8], "big") if stored else 0
    if recorded != count:
        owner.distrust()
        yield f"{owner.location}: {recorded} records were written, {count} are there"

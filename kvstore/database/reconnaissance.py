"""The reads of transactions (contracts C2).

The first run of a function is a *reconnaissance*: it reads one moment without locks and records its read
set, which the preliminary then locks and checks. If a value has changed, the function runs again on
``LockedReads``: the locked values as the shards hold them now, and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from kvstore.database.routing import Routing
from kvstore.database.snapshot import Snapshot
from kvstore.errors import LimitExceeded
from kvstore.execution.operations import Check, CheckRange, Operation
from kvstore.execution.reentrancy import own_work
from kvstore.execution.stored_value import VERSION_BYTES, stored_version
from kvstore.execution.validation import READ_SET_MAX, Current, digest_of
from kvstore.ports import Row
from kvstore.types import ShardId

Walk = tuple[bytes, bytes, tuple[ShardId, ...], bool]
"""Start of a range (included), its stop (excluded), its shards, and whether it is read in reverse."""

READ_AGAIN_MAX = 1000
"""Most records that an attempt reads only because an earlier attempt touched them."""
NEVER_READ = 0
"""Version that no key has, so that a check for it fails and returns the value."""


@dataclass(slots=True)
class ReadRange:
    """The part of a range that was read so far, on these shards, and its rows."""

    start: bytes
    stop: bytes
    shards: list[ShardId]
    reverse: bool
    rows: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class LockSets:
    """The keys and ranges that a transaction locks, for reading and for writing."""

    read: set[bytes] = field(default_factory=set)
    ranges: set[Walk] = field(default_factory=set)
    written: set[bytes] = field(default_factory=set)

    def is_empty(self) -> bool:
        return not (self.read or self.ranges or self.written)

    def include(self, other: LockSets) -> None:
        self.read |= other.read
        self.ranges |= other.ranges
        self.written |= other.written


class Reconnaissance:
    """Reads of one moment, which the first read fixes."""

    def __init__(self, open_snapshot: Callable[[], Snapshot], routing: Routing) -> None:
        self.open_snapshot = open_snapshot
        self._routing = routing
        self._snapshot: Snapshot | None = None
        self.shards: set[ShardId] = set()
        self.versions: dict[bytes, tuple[ShardId, int | None]] = {}
        """Shard and version of each key that was read."""
        self.ranges: list[ReadRange] = []
        self._count = 0

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that all reads use, taken at the first read."""
        return self._snapshot or self._take_snapshot()

    def _take_snapshot(self) -> Snapshot:
        """Take the snapshot as the store's own work, which is allowed while a user's function runs."""
        with own_work():
            self._snapshot = self.open_snapshot()
        return self._snapshot

    def cell(self, shard: ShardId, key: bytes) -> bytes | None:
        cell = (self._snapshot or self._take_snapshot()).cell(shard, key)
        if key not in self.versions:
            self._one_more()
            self.versions[key] = shard, stored_version(cell)
            self.shards.add(shard)
        return cell

    def read_untracked(self, shard: ShardId, key: bytes) -> bytes | None:
        return self.snapshot.cell(shard, key)

    def rows(self, start: bytes, stop: bytes, reverse: bool, shards: list[ShardId]) -> Iterator[Row]:
        if start >= stop:
            return
        begin = stop if reverse else start
        found = ReadRange(begin, begin, shards, reverse)
        self.ranges.append(found)
        self.shards.update(shards)
        for chunk in self.snapshot.rows(start, stop, reverse, None, shards):
            for row in chunk:
                self._one_more()
                if reverse:
                    found.start = row[0]
                else:
                    found.stop = row[0] + b"\x00"
                found.rows.append((row[0], row[1][:VERSION_BYTES]))
                yield row
        found.start, found.stop = start, stop

    def _one_more(self) -> None:
        self._count += 1
        if self._count > READ_SET_MAX:
            message = f"a transaction reads at most {READ_SET_MAX} records"
            hint = "read less, or read from a snapshot and validate what matters"
            raise LimitExceeded(message, hint=hint, size=self._count, limit=READ_SET_MAX)

    def allow_write(self, key: bytes) -> None:
        """Allow every write: no key is locked yet."""

    def expect(self, keys: Iterable[bytes]) -> None:
        """Add keys to the read set without reading them: the shards' votes will contain their values.

        Raises ``LimitExceeded`` for too many keys.
        """
        for key in keys:
            self._one_more()
            shard = self._routing.shard_of_encoded(key)
            self.versions[key] = shard, NEVER_READ
            self.shards.add(shard)

    def read_again(self, sets: LockSets) -> None:
        """Read what an earlier attempt locked or touched, so that this attempt locks it.

        A large range is read in part only, from its beginning: a queue may be longer than the read limit.
        """
        most = min(self._count + READ_AGAIN_MAX, READ_SET_MAX)
        for key in sets.read - self.versions.keys():
            if self._count < most:
                self.cell(self._routing.shard_of_encoded(key), key)
        walked = self.sets().ranges
        for start, stop, shards, reverse in sets.ranges - walked:
            for _ in islice(self.rows(start, stop, reverse, list(shards)), most - self._count):
                pass

    def sets(self) -> LockSets:
        """Return the read set."""
        walks = {(found.start, found.stop, tuple(found.shards), found.reverse) for found in self._walked()}
        return LockSets(set(self.versions), walks)

    def _walked(self) -> list[ReadRange]:
        """Return the ranges of which a part was read."""
        return [found for found in self.ranges if found.start < found.stop]

    def checks(self) -> dict[ShardId, list[Operation]]:
        """Return, by shard, the checks that the read set is unchanged."""
        checks: dict[ShardId, list[Operation]] = {shard: [] for shard in self.shards}
        for key, (shard, version) in self.versions.items():
            checks[shard].append(Check(key, version))
        for found in self._walked():
            rows: dict[ShardId, list[Row]] = {shard: [] for shard in found.shards}
            for row in sorted(found.rows):
                rows[self._routing.shard_of_encoded(row[0])].append(row)
            for shard in found.shards:
                checks[shard].append(CheckRange(found.start, found.stop, digest_of(rows[shard])))
        return checks

    def first_difference(self, changed: bytes, now: Snapshot) -> bytes | None:
        """Return the first key that differs now from what was read: ``changed``, or a key in a range from it.

        If nothing differs any more, return ``changed`` if it was read as a key, else None.
        """
        if changed in self.versions:
            shard, version = self.versions[changed]
            if stored_version(now.cell(shard, changed)) != version:
                return changed
        for found in self._walked():
            if found.start == changed:
                before = {key: cell[:VERSION_BYTES] for key, cell in found.rows}
                rows = (row for chunk in now.rows(found.start, found.stop, False, None) for row in chunk)
                after = {key: cell[:VERSION_BYTES] for key, cell in rows}
                if before != after:
                    return min(key for key, _ in before.items() ^ after.items())
        return changed if changed in self.versions else None

    def close(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()


class OutsideLocks(BaseException):
    """Raised to end the run of a function that touched an unlocked key, before it reads the value.

    Not an ``Exception``, so that the function does not handle it.
    """


class LockedReads:
    """The locked values as they are now. Other keys are refused, and recorded for the next attempt."""

    def __init__(self, seen: Reconnaissance, changed: dict[ShardId, Current], writable: set[bytes]) -> None:
        """``changed``: present values of the shards where values changed; other shards hold what was seen.

        Uses the reconnaissance's snapshot, which stays open until ``close``.
        """
        self._seen = seen
        self._writable = writable
        self.shards = set(seen.shards)
        self.missed = LockSets()
        """Keys and ranges that the function touched and that are not locked."""
        self._cells: dict[bytes, bytes | None] = {}
        self._ranges: list[tuple[bytes, bytes, list[Row]]] = []
        for held in changed.values():
            self._cells.update(held.cells)
        for key, (shard, _) in seen.versions.items():
            if key not in self._cells:
                self._cells[key] = seen.read_untracked(shard, key)
        for found in seen._walked():
            self._ranges.append((found.start, found.stop, _rows_now(seen, found, changed)))

    def cell(self, shard: ShardId, key: bytes) -> bytes | None:
        held = self._held(key)
        if held is None:
            self.missed.read.add(key)
            raise OutsideLocks
        return held[0]

    def read_untracked(self, shard: ShardId, key: bytes) -> bytes | None:
        held = self._held(key)
        if held is not None:
            return held[0]
        with own_work(), self._seen.open_snapshot() as now:
            return now.cell(shard, key)  # the key is locked for writing, so its value is stable

    def _held(self, key: bytes) -> tuple[bytes | None] | None:
        """Return the key's stored value in a tuple if the key is locked for reading, else None."""
        if key in self._cells:
            return (self._cells[key],)
        for start, stop, rows in self._ranges:
            if start <= key < stop:
                at = bisect_left(rows, (key, b""))
                return (rows[at][1] if at < len(rows) and rows[at][0] == key else None,)
        return None

    def rows(self, start: bytes, stop: bytes, reverse: bool, shards: list[ShardId]) -> Iterator[Row]:
        while start < stop:
            covering = self._covering(start, stop, reverse)
            if covering is None:
                self.missed.ranges.add((start, stop, tuple(shards), reverse))
                raise OutsideLocks
            low, high, rows = covering
            inside = [row for row in rows if max(low, start) <= row[0] < min(high, stop)]
            yield from reversed(inside) if reverse else inside
            if reverse:
                stop = max(low, start)
            else:
                start = min(high, stop)

    def _covering(self, start: bytes, stop: bytes, reverse: bool) -> tuple[bytes, bytes, list[Row]] | None:
        """Return a locked range that contains the end of this range where the read begins, or None."""
        for low, high, rows in self._ranges:
            if (low < stop <= high) if reverse else (low <= start < high):
                return low, high, rows
        return None

    def allow_write(self, key: bytes) -> None:
        if key not in self._writable:
            self.missed.written.add(key)
            raise OutsideLocks

    def close(self) -> None:
        self._seen.close()


def _rows_now(seen: Reconnaissance, found: ReadRange, changed: dict[ShardId, Current]) -> list[Row]:
    rows: list[Row] = []
    same = [shard for shard in found.shards if shard not in changed]
    for chunk in seen.snapshot.rows(found.start, found.stop, False, None, same) if same else ():
        rows += chunk
    for shard in found.shards:
        if shard in changed:
            held = changed[shard].ranges
            rows += next(now for start, stop, now in held if (start, stop) == (found.start, found.stop))
    if len(rows) > READ_SET_MAX:
        raise LimitExceeded(f"a transaction reads at most {READ_SET_MAX} records", limit=READ_SET_MAX)
    return sorted(rows)

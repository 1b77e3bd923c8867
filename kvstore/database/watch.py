"""Watches: every change after a cursor, in commit order.

A watch reads the log, so it also yields changes that were committed before the watch began, while the
program was not reading, or before a crash; each change once. If the log was truncated, a watch from the
beginning first yields the records that are older than the log. So folding a watch gives the store's state.

A watch keeps its place only: an interrupt discards what was read ahead, and the watch reads it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from kvstore import keys, values
from kvstore.database.routing import Routing
from kvstore.database.snapshot import Snapshot
from kvstore.engine.commit_signal import CommitSignal
from kvstore.engine.log_retention import oldest
from kvstore.engine.readers import Readers
from kvstore.eris.log_tail import Committed, Position, committed_after, executed
from kvstore.errors import Closed, CursorTrimmed, LimitExceeded, UsageError
from kvstore.execution.stored_value import VERSION_BYTES, stored_version
from kvstore.keys import Key
from kvstore.ports import CommitView
from kvstore.types import Slot

Cursor = dict[int, int | str]
"""A place in the log: the last slot seen of each shard, in a dict that can be stored as JSON.

Within a transaction the entry ``-1`` is the number of its changes that were seen; among records older
than the log the entry ``-2`` is the key of the last record seen, in hex.
"""
DELIVERED, OLDER = -1, -2
READ_AHEAD_BYTES = 1 << 20
READ_AHEAD_MAX = 256
"""Most transactions that are read ahead; the limit in bytes is ``READ_AHEAD_BYTES``."""
OLDER_ROWS = 500

T = TypeVar("T")


class Change(NamedTuple):
    """One key's new value, or its removal.

    ``version``: the slot that wrote or removed the key. ``time``: the transaction's time in nanoseconds; 0
    for a record that is older than the log. ``cursor``: the place after this change, for ``watch(since=)``.
    """

    key: Key
    value: Any
    deleted: bool
    version: int
    time: int
    cursor: Cursor


class WatchPlace(NamedTuple):
    """A watch's place: behind ``position``, and ``delivered`` changes of the next transaction."""

    position: Position
    delivered: int = 0
    older: bytes | None = None
    """Key of the last delivered record that is older than the log; None when all are delivered."""

    def cursor(self) -> Cursor:
        cursor: Cursor = dict(enumerate(self.position))
        if self.delivered:
            cursor[DELIVERED] = self.delivered
        if self.older is not None:
            cursor[OLDER] = self.older.hex()
        return cursor


class Watch:
    """An iterator over changes, made by ``Database.watch``. For one thread at a time.

    A watch holds no read transaction open between two calls of ``next``.
    """

    def __init__(
        self,
        *,
        readers: Readers,
        commits: CommitSignal,
        routing: Routing,
        snapshot: Callable[[], Snapshot],
        bounds: tuple[bytes, bytes],
        since: Cursor | int | None,
        timeout: float | None,
    ) -> None:
        self._readers = readers
        self._commits = commits
        self._routing = routing
        self._snapshot = snapshot
        self._low, self._high = bounds
        self._timeout = timeout
        self._deadline = commits.deadline(timeout)
        self._ended = False
        self._place = self._look(lambda view: self._begin(view, since))
        self._changes = self._stream()

    @property
    def cursor(self) -> Cursor:
        """The place after all changes that were delivered or skipped, as a cursor."""
        return self._place.cursor()

    def close(self) -> None:
        """End the watch. Does nothing the second time."""
        self._ended = True

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Change:
        if self._ended:
            raise StopIteration
        self._deadline = self._commits.deadline(self._timeout)
        try:
            return next(self._changes)
        except (StopIteration, Closed):
            self._ended = True
            raise StopIteration from None
        except BaseException:
            self._changes = self._stream()
            raise

    # -- where it begins ---------------------------------------------------------------------

    def _look(self, work: Callable[[CommitView], T]) -> T:
        """Return ``work(view)`` for a view of the last commit."""
        with self._readers.viewing() as view:
            return work(view)

    def _begin(self, view: CommitView, since: Cursor | int | None) -> WatchPlace:
        end = executed(view, self._routing.shards)
        if since is None:
            return WatchPlace(end)
        if isinstance(since, dict):
            place = parse_cursor(since, end)
            self._check_kept(view, place)
            return place
        if type(since) is not int or since != 0:
            raise UsageError(f"since is a cursor, 0 for the oldest change, or None for now, not {since!r}")
        kept = oldest(view, self._routing.shards)
        return WatchPlace(kept, older=b"" if any(kept) else None)

    def _check_kept(self, view: CommitView, place: WatchPlace) -> None:
        kept = oldest(view, self._routing.shards)
        if any(seen < end for seen, end in zip(place.position, kept, strict=True)):
            message = "the log no longer reaches back to this cursor"
            raise CursorTrimmed(message, cursor=place.cursor(), oldest=WatchPlace(kept).cursor())

    # -- what it delivers --------------------------------------------------------------------

    def _stream(self) -> Iterator[Change]:
        while self._place.older is not None:
            yield from self._older_records(self._place)
        while True:
            seen = self._commits.count
            read = self._look(self._read)
            for committed, position in read:
                yield from self._changes_of(committed, position)
            if not read and not self._commits.wait(seen, self._deadline):
                return

    def _read(self, view: CommitView) -> list[tuple[Committed, Position]]:
        """Read ahead; return transactions, each with the position after it."""
        self._check_kept(view, self._place)
        position = list(self._place.position)
        read: list[tuple[Committed, Position]] = []
        size = 0
        for committed in committed_after(view, position):
            read.append((committed, list(position)))
            size += sum(len(value or b"") for piece in committed.pieces for value in piece.changes.values())
            if len(read) == READ_AHEAD_MAX or size > READ_AHEAD_BYTES:
                break
        return read

    def _changes_of(self, committed: Committed, behind: Position) -> Iterator[Change]:
        before = self._place
        left = sum(len(piece.changes) for piece in committed.pieces)
        at = 0
        for piece in committed.pieces:
            for encoded, value in piece.changes.items():
                at, left = at + 1, left - 1
                if at <= before.delivered:
                    continue
                place = WatchPlace(before.position, at) if left else WatchPlace(behind)
                if self._low <= encoded < self._high:
                    change = _change(encoded, value, piece.slot, committed.time, place)
                    self._place = place  # moved last, so an interrupt loses no change
                    yield change
        self._place = WatchPlace(behind)

    def _older_records(self, place: WatchPlace) -> Iterator[Change]:
        """Yield some records that were written before the log begins. The log holds records changed since."""
        assert place.older is not None
        self._look(lambda view: self._check_kept(view, place))
        low = max(self._low, place.older + b"\x00" if place.older else b"")
        rows: list[tuple[bytes, bytes]] = []
        with self._snapshot() as view:
            for chunk in view.rows(low, self._high, False, OLDER_ROWS):
                rows += chunk
                if sum(len(cell) for _, cell in rows) > READ_AHEAD_BYTES:
                    break
        for encoded, cell in rows:
            version = stored_version(cell)
            assert version is not None
            key = keys.decode(encoded)
            seen = place._replace(older=encoded)
            if version <= place.position[self._routing.shard(key, encoded)]:
                change = _change(encoded, cell[VERSION_BYTES:], Slot(version), 0, seen)
                self._place = seen
                yield change
        older = rows[-1][0] if rows else None
        self._place = place._replace(older=older)


def _change(encoded: bytes, value: bytes | None, slot: Slot, time: int, place: WatchPlace) -> Change:
    decoded = None if value is None else values.decode(value)
    return Change(keys.decode(encoded), decoded, value is None, int(slot), int(time), place.cursor())


def parse_cursor(cursor: Cursor, end: Position) -> WatchPlace:
    """Return the place that a cursor names. Its shards may be strs, as JSON makes them.

    Raises:
        UsageError: it is not a cursor of a store with as many shards as ``end`` has.
        LimitExceeded: a slot is beyond ``end``, the log's end by shard.
    """
    try:
        entries = {_shard(name): entry for name, entry in cursor.items()}
        older = entries.pop(OLDER, None)
        delivered = _number(entries.pop(DELIVERED, 0))
        position = [Slot(_number(entries.pop(shard))) for shard in range(len(end))]
        place = WatchPlace(position, delivered, None if older is None else bytes.fromhex(str(older)))
    except (KeyError, ValueError, TypeError):
        raise UsageError(f"this is not a cursor of a store with {len(end)} shards: {cursor!r}") from None
    if entries:
        raise UsageError(f"this is not a cursor of a store with {len(end)} shards: {cursor!r}")
    for shard, (seen, last) in enumerate(zip(position, end, strict=True)):
        if seen > last:
            message = f"the cursor has slot {seen} of shard {shard}, whose log ends at {last}"
            raise LimitExceeded(message, size=seen, limit=int(last))
    return place


def _shard(name: object) -> int:
    if type(name) is not int and type(name) is not str:
        raise ValueError(name)
    return int(name)


def _number(entry: int | str) -> int:
    if type(entry) is not int or entry < 0:
        raise ValueError(entry)
    return entry

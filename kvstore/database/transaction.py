"""A user's transaction: reads of one moment, its own writes over them, and nothing sent before the end.

Where the reads come from is behind ``Reads``: first a reconnaissance, without locks; when the function has
to run again, what is locked. How it is committed is decided afterwards, by what it did (``routing.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

from kvstore import keys, values
from kvstore.database.routing import Route, Routing, route_of
from kvstore.errors import Finished, LimitExceeded, NotFound, UsageError
from kvstore.execution.numbers import check_amount, check_number
from kvstore.execution.operations import Add, Delete, KeyEffect, Operation, Put, SetAdd, SetRemove
from kvstore.execution.reentrancy import function_running, refuse_nested, refuse_unfinished, running
from kvstore.execution.stored_value import VERSION_BYTES, value_of
from kvstore.keys import Key
from kvstore.ports import Row
from kvstore.types import ShardId

AMOUNT_BYTES = 8
TRANSACTION_BYTES_MAX = 64 << 20
"""Bound on the keys and values of one transaction (contracts C5)."""

Own = tuple[bytes, "Written"]
Shards = set[ShardId]
State = Literal["open", "committed", "rolled back"]


class Reads(Protocol):
    """Where a transaction reads, all of it at one moment."""

    shards: set[ShardId]
    """Those that were read."""

    def cell(self, shard: ShardId, key: bytes) -> bytes | None:
        """A key's cell; from now on it is a part of what the transaction depends on."""

    def read_untracked(self, shard: ShardId, key: bytes) -> bytes | None:
        """The same, on which nothing depends: to refuse what could not be carried out."""

    def rows(self, start: bytes, stop: bytes, reverse: bool, shards: list[ShardId]) -> Iterator[Row]:
        """The rows of a range, in order; what was walked over is depended on."""

    def allow_write(self, key: bytes) -> None:
        """Called before a write; may end the run of the function."""

    def close(self) -> None: ...


class Written(NamedTuple):
    """What a transaction did to one key: a put or a delete, or some adds."""

    shard: ShardId
    operations: tuple[Operation, ...]
    value: bytes | None
    """What the transaction sees there now, encoded; None for nothing."""
    size: int
    """In bytes, of the key and of what is written."""

    @property
    def overwrites(self) -> bool:
        """Whether the value depends on nothing that was there before."""
        return type(self.operations[0]) in (Put, Delete)


class Transaction:
    """Made by ``Database.begin``, and for a function by ``Database.transaction`` and ``run``.

    As a context manager it commits at the end, and an exception rolls it back. For one thread at a time.
    Every call raises ``Finished`` after the end, but ``route`` stays readable.
    """

    __iter__ = None  # not a Mapping: say scan() to walk it

    def __init__(
        self,
        reads: Reads,
        routing: Routing,
        commit: Callable[[Transaction], Route] | None = None,
    ) -> None:
        """``commit`` is None for the transaction of a function, which is committed when that returns."""
        self.reads = reads
        self.written: dict[bytes, Written] = {}
        self._routing = routing
        self._commit = commit
        self.size = 0
        """Bytes of keys and values that it wrote."""
        self._state: State = "open"
        self._route: Route | None = None

    # -- reading -----------------------------------------------------------------------------

    def get(self, key: Key, default: Any = None) -> Any:
        """The value, or ``default``: what this transaction wrote, or what was there at its moment."""
        payload = self._payload(key)
        return default if payload is None else values.decode(payload)

    def __getitem__(self, key: Key) -> Any:
        payload = self._payload(key)
        if payload is None:
            raise NotFound(f"no value at {key!r}", key=key)
        return values.decode(payload)

    def __contains__(self, key: Key) -> bool:
        return self._payload(key) is not None

    def get_many(self, keys: Iterable[Key], default: Any = None) -> list[Any]:
        """The values in the order of the keys."""
        return [self.get(key, default) for key in keys]

    def _payload(self, key: Key) -> bytes | None:
        self._check()
        encoded = keys.encode(key)
        written = self.written.get(encoded)
        if written is not None and written.overwrites:
            return written.value
        cell = self.reads.cell(self._routing.shard(key, encoded), encoded)
        return value_of(cell) if written is None else written.value

    def scan(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[Key, Any]]:
        """Iterate over ``(key, value)`` in key order, with this transaction's writes as of this call.

        Raises:
            LimitExceeded: the transaction would depend on more than 10,000 records.
        """
        self._check()
        low, high = keys.key_range(prefix=prefix, start=start, stop=stop)
        shards = self._routing.shards_of_range(prefix)
        own = sorted((row for row in self.written.items() if low <= row[0] < high), reverse=reverse)
        stored = self.reads.rows(low, high, reverse, shards)
        return self._merged(own, stored, reverse, keys.check_limit(limit))

    def _merged(
        self, own: list[Own], stored: Iterator[Row], reverse: bool, limit: int | None
    ) -> Iterator[tuple[Key, Any]]:
        self._check()  # before anything is read: it may have ended since the call
        left = float("inf") if limit is None else limit
        if left == 0:
            return
        for encoded, payload in _overlaid(stored, own, reverse):
            yield keys.decode(encoded), values.decode(payload)
            left -= 1
            if left == 0:
                return
            self._check()

    def count(self, *, prefix: Key | None = None, start: Key | None = None, stop: Key | None = None) -> int:
        """How many keys there are in the range."""
        return sum(1 for _ in self.scan(prefix=prefix, start=start, stop=stop))

    # -- writing -----------------------------------------------------------------------------

    def put(self, key: Key, value: Any) -> None:
        """Set the key. Raises at once if the key or the value cannot be stored."""
        self._check()
        encoded, payload = keys.encode(key), values.encode(value)
        self._write(key, Put(encoded, payload), payload)

    __setitem__ = put

    def delete(self, key: Key) -> None:
        """Remove the key; a missing one is fine."""
        self._check()
        encoded = keys.encode(key)
        self._write(key, Delete(encoded), None)

    def __delitem__(self, key: Key) -> None:
        self[key]  # raises NotFound
        self.delete(key)

    def add(self, key: Key, n: int | float = 1) -> None:
        """Add to the number there, or to 0, without depending on it: other adds do not conflict.

        Raises:
            TypeClash: what is there at this transaction's moment is no number.
        """
        self._check()
        encoded, amount = keys.encode(key), check_amount(n)
        self.reads.allow_write(encoded)
        written = self.written.get(encoded)
        if written is None:
            before = value_of(self.reads.read_untracked(self._routing.shard(key, encoded), encoded))
        else:
            before = written.value
        total = check_number(key, before, n)
        if written is not None and written.overwrites:
            self._write(key, Put(encoded, total), total)
        else:
            self._write(key, Add(encoded, amount), total, behind=written)

    def update(self, key: Key, function: Callable[[Any], Any], default: Any = None) -> Any:
        """Set the key to what ``function`` makes of its value, or of ``default``; return that."""
        value = self.get(key, default)
        name = getattr(function, "__qualname__", repr(function))
        with running(name, self):
            value = function(value)
        refuse_unfinished(name, value)
        self.put(key, value)
        return value

    def _write(
        self, key: Key, operation: KeyEffect, value: bytes | None, behind: Written | None = None
    ) -> None:
        encoded = operation.key
        self.reads.allow_write(encoded)
        earlier, size = ((), len(encoded)) if behind is None else (behind.operations, behind.size)
        size += effect_size(operation)
        before = self.written.get(encoded)
        total = self.size + size - (0 if before is None else before.size)
        if total > TRANSACTION_BYTES_MAX:
            message = f"a transaction holds at most {TRANSACTION_BYTES_MAX} bytes; {key!r} does not fit"
            raise LimitExceeded(message, key=key, size=total, limit=TRANSACTION_BYTES_MAX)
        self.size = total
        self.written[encoded] = Written(self._routing.shard(key, encoded), (*earlier, operation), value, size)

    def changes(self, missing: Any = None) -> list[tuple[Key, Any, Any]]:
        """What it would change, in key order: ``(key, value before, value after)``.

        ``missing`` stands where there is no value.
        """
        self._check()
        found = []
        for encoded, written in sorted(self.written.items()):
            before = value_of(self.reads.read_untracked(written.shard, encoded))
            found.append((keys.decode(encoded), _value(before, missing), _value(written.value, missing)))
        return found

    # -- the end -----------------------------------------------------------------------------

    def savepoint(self) -> Savepoint:
        """A place to come back to: ``savepoint.rollback()`` undoes the writes made since.

        As a context manager it does so when an exception leaves the block.
        """
        self._check()
        return Savepoint(self, dict(self.written), self.size)

    def restore(self, written: dict[bytes, Written], size: int) -> None:
        """Go back to earlier writes; for a savepoint."""
        self._check()
        self.written, self.size = dict(written), size

    def commit(self) -> None:
        """Commit it.

        Raises:
            Conflict: what it read has changed; nothing happened.
            Finished: it ended before. UsageError: it belongs to a function.
        """
        self._check()
        commit = self._by_hand("commit")
        try:
            self._route = commit(self)
        except BaseException:
            self.end("rolled back")
            raise
        self.end("committed")

    def rollback(self) -> None:
        """Give it up; nothing happened."""
        self._check()
        self._by_hand("rollback")
        self.end("rolled back")

    def _by_hand(self, what: str) -> Callable[[Transaction], Route]:
        if self._commit is None:
            message = f"{what} of a transaction that ends when its function does"
            raise UsageError(message, hint="return to commit, raise kvstore.Abort to roll back")
        return self._commit

    def end(self, state: State, route: Route | None = None) -> None:
        """It is over; for whoever runs it."""
        self._route = route or self.route
        self._state = state
        self.reads.close()

    @property
    def route(self) -> Route:
        """How it would be committed now, or was: path, shards, rounds."""
        if self._route is not None:
            return self._route
        return route_of(self.read_shards, {written.shard for written in self.written.values()})

    @property
    def read_shards(self) -> Shards:
        """The shards of which something decides what it does."""
        return self.reads.shards

    @property
    def is_open(self) -> bool:
        """Whether it has neither been committed nor rolled back."""
        return self._state == "open"

    def _check(self) -> None:
        if function_running() is not None:
            refuse_nested(self)
        if self._state != "open":
            raise Finished(f"this transaction was {self._state}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._state != "open":
            return
        if kind is None:
            self.commit()
        else:
            self.end("rolled back")


class Savepoint:
    """A place within a transaction."""

    def __init__(self, transaction: Transaction, written: dict[bytes, Written], size: int) -> None:
        self._transaction = transaction
        self._written = written
        self._size = size

    def rollback(self) -> None:
        """Undo the writes made since. What was read stays read."""
        self._transaction.restore(self._written, self._size)

    def __enter__(self) -> Savepoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and self._transaction.is_open:
            self.rollback()


def _overlaid(stored: Iterator[Row], own: list[Own], reverse: bool) -> Iterator[Row]:
    """Keys and encoded values of what is stored under what was written, reading no row ahead."""
    own.reverse()  # the next one is the last
    for encoded, cell in stored:
        while own and own[-1][0] != encoded and (own[-1][0] < encoded) != reverse:
            yield from _present(own.pop())
        if own and own[-1][0] == encoded:
            yield from _present(own.pop())
        else:
            yield encoded, cell[VERSION_BYTES:]
    while own:
        yield from _present(own.pop())


def _present(own: Own) -> Iterator[Row]:
    encoded, written = own
    if written.value is not None:
        yield encoded, written.value


def _value(payload: bytes | None, missing: Any) -> Any:
    return missing if payload is None else values.decode(payload)


def effect_size(effect: KeyEffect) -> int:
    """Bytes that an effect writes besides its key."""
    match effect:
        case Put(_, written) | Add(_, written) | SetAdd(_, written) | SetRemove(_, written):
            return len(written)
        case Delete():
            return 0
        case _:
            return AMOUNT_BYTES

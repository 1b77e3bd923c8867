"""A user's transaction: reads of one moment under its own writes; nothing is sent before the end.

The reads come from a ``Reads``: first a reconnaissance, without locks; if the function has to run again,
the locked values. The path of the commit is chosen afterwards, by the shards it touched (``routing.py``).
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
"""Most bytes of keys and values in one transaction (contracts C5)."""

Own = tuple[bytes, "Written"]
Shards = set[ShardId]
State = Literal["open", "committed", "rolled back"]


class Reads(Protocol):
    """The source of a transaction's reads, all of one moment."""

    shards: set[ShardId]
    """Shards that were read."""

    def cell(self, shard: ShardId, key: bytes) -> bytes | None:
        """Return a key's stored value or None, and add the key to the read set."""

    def read_untracked(self, shard: ShardId, key: bytes) -> bytes | None:
        """Return a key's stored value or None without adding the key to the read set; to check a write."""

    def rows(self, start: bytes, stop: bytes, reverse: bool, shards: list[ShardId]) -> Iterator[Row]:
        """Yield the rows of a range in order, and add the range as far as it is read to the read set."""

    def allow_write(self, key: bytes) -> None:
        """Allow a write of the key, or end the run of the function."""

    def close(self) -> None: ...


class Written(NamedTuple):
    """A transaction's writes to one key: one put or delete, or some adds."""

    shard: ShardId
    operations: tuple[Operation, ...]
    value: bytes | None
    """Encoded value that the transaction reads at the key; None if there is no value."""
    size: int
    """Bytes of the key and of the written values."""

    @property
    def overwrites(self) -> bool:
        """Whether the new value does not depend on the old one."""
        return type(self.operations[0]) in (Put, Delete)


class Transaction:
    """A transaction, made by ``Database.begin``, or for a function by ``Database.run`` or a decorator.

    As a context manager it commits at the end of the block, and an exception rolls it back. For one thread at
    a time. After the end every call raises ``Finished``; ``route`` stays readable.
    """

    __iter__ = None  # not a Mapping: use scan() to iterate

    def __init__(
        self,
        reads: Reads,
        routing: Routing,
        commit: Callable[[Transaction], Route] | None = None,
    ) -> None:
        """``commit`` is None for a function's transaction, which is committed when the function returns."""
        self.reads = reads
        self.written: dict[bytes, Written] = {}
        self._routing = routing
        self._commit = commit
        self.size = 0
        """Bytes of the written keys and values."""
        self._state: State = "open"
        self._route: Route | None = None

    # -- reading -----------------------------------------------------------------------------

    def get(self, key: Key, default: Any = None) -> Any:
        """Return the value as this transaction wrote or read it; ``default`` if there is none."""
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
        """Return the values in the order of the keys; ``default`` for a missing key."""
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
        """Return an iterator over ``(key, value)`` in key order, with the writes made before this call.

        Raises:
            LimitExceeded: the transaction would read more than 10,000 records.
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
        self._check()  # the transaction may have ended since the call
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
        """Return the number of keys in the range."""
        return sum(1 for _ in self.scan(prefix=prefix, start=start, stop=stop))

    # -- writing -----------------------------------------------------------------------------

    def put(self, key: Key, value: Any) -> None:
        """Set the key. Raises ``KeyInvalid``, ``ValueNotSupported`` or ``LimitExceeded`` at once."""
        self._check()
        encoded, payload = keys.encode(key), values.encode(value)
        self._write(key, Put(encoded, payload), payload)

    __setitem__ = put

    def delete(self, key: Key) -> None:
        """Remove the key, if it exists."""
        self._check()
        encoded = keys.encode(key)
        self._write(key, Delete(encoded), None)

    def __delitem__(self, key: Key) -> None:
        self[key]  # raises NotFound
        self.delete(key)

    def add(self, key: Key, n: int | float = 1) -> None:
        """Add ``n`` to the number at the key, or to 0, without reading it: two adds do not conflict.

        Raises:
            TypeClash: the value at this transaction's moment is not a number.
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
        """Set the key to ``function(value)``, or ``function(default)`` without a value; return the result."""
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
        """Return the changes so far, in key order, as ``(key, value before, value after)``.

        ``missing`` stands for no value.
        """
        self._check()
        found = []
        for encoded, written in sorted(self.written.items()):
            before = value_of(self.reads.read_untracked(written.shard, encoded))
            found.append((keys.decode(encoded), _value(before, missing), _value(written.value, missing)))
        return found

    # -- the end -----------------------------------------------------------------------------

    def savepoint(self) -> Savepoint:
        """Return a savepoint: ``savepoint.rollback()`` undoes the writes made since.

        As a context manager it rolls back when an exception leaves the block.
        """
        self._check()
        return Savepoint(self, dict(self.written), self.size)

    def restore(self, written: dict[bytes, Written], size: int) -> None:
        """Restore earlier writes; called by a savepoint."""
        self._check()
        self.written, self.size = dict(written), size

    def commit(self) -> None:
        """Commit the transaction.

        Raises:
            Conflict: a value that it read has changed; nothing happened.
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
        """Discard the writes and end the transaction. Raises ``Finished``, ``UsageError`` like ``commit``."""
        self._check()
        self._by_hand("rollback")
        self.end("rolled back")

    def _by_hand(self, what: str) -> Callable[[Transaction], Route]:
        if self._commit is None:
            message = f"{what} is not allowed: this transaction ends when its function returns"
            raise UsageError(message, hint="return to commit, or raise kvstore.Abort to roll back")
        return self._commit

    def end(self, state: State, route: Route | None = None) -> None:
        """End the transaction in this state; called by its runner."""
        self._route = route or self.route
        self._state = state
        self.reads.close()

    @property
    def route(self) -> Route:
        """The route by which it was committed, or would be committed now: path, shards, rounds."""
        if self._route is not None:
            return self._route
        return route_of(self.read_shards, {written.shard for written in self.written.values()})

    @property
    def read_shards(self) -> Shards:
        """The shards that the transaction has read."""
        return self.reads.shards

    @property
    def is_open(self) -> bool:
        """Whether the transaction was neither committed nor rolled back."""
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
    """A point within a transaction to which its writes can be rolled back."""

    def __init__(self, transaction: Transaction, written: dict[bytes, Written], size: int) -> None:
        self._transaction = transaction
        self._written = written
        self._size = size

    def rollback(self) -> None:
        """Undo the writes made since the savepoint. The read set stays as it is."""
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
    """Yield keys and encoded values of the stored rows under the transaction's writes, reading none ahead."""
    own.reverse()  # so that pop() yields the next one
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
    """Return the number of bytes that an effect writes besides its key."""
    match effect:
        case Put(_, written) | Add(_, written) | SetAdd(_, written) | SetRemove(_, written):
            return len(written)
        case Delete():
            return 0
        case _:
            return AMOUNT_BYTES

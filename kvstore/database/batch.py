"""Batches: writes that are collected and committed as one transaction."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from kvstore import keys, values
from kvstore.database.routing import Route, Routing, route_of
from kvstore.database.transaction import TRANSACTION_BYTES_MAX
from kvstore.errors import Finished, LimitExceeded, TypeClash
from kvstore.execution.numbers import check_amount, check_number, is_number
from kvstore.execution.operations import Add, Delete, Operation, Put
from kvstore.execution.stored_value import value_of
from kvstore.keys import Key
from kvstore.types import ShardId


class Commit(NamedTuple):
    """A committed transaction: its slot by participating shard, and its route."""

    slots: dict[int, int]
    route: Route


class Batch:
    """Writes to any keys, committed as one transaction in one round: all of them or none.

    Use a batch once: as a context manager, or as the argument of ``submit``. If the ``with`` block raises,
    nothing is sent.
    """

    __slots__ = (
        "_commit",
        "_finished",
        "_numbers",
        "_read",
        "_routing",
        "idempotency_key",
        "operations",
        "size",
        "weight",
    )  # fmt: skip

    def __init__(
        self,
        routing: Routing,
        read: Callable[[ShardId, bytes], bytes | None],
        commit: Callable[[Batch], None],
        idempotency_key: Key | None,
    ) -> None:
        self._routing = routing
        self._read = read
        self._commit = commit
        self.idempotency_key = idempotency_key
        self._finished = False
        self._numbers: dict[bytes, bool | None] | None = None
        self.operations: dict[ShardId, list[Operation]] = {}
        self.size = 0
        self.weight = 0

    def put(self, key: Key, value: object) -> None:
        """Set the key. Raises ``KeyInvalid``, ``ValueNotSupported`` or ``LimitExceeded`` at once."""
        encoded, payload = keys.encode(key), values.encode(value)
        self._append(key, encoded, Put(encoded, payload), len(payload))
        if self._numbers is not None:
            self._numbers[encoded] = is_number(value)

    def delete(self, key: Key) -> None:
        """Remove the key, if it exists."""
        encoded = keys.encode(key)
        self._append(key, encoded, Delete(encoded), 0)
        if self._numbers is not None:
            self._numbers[encoded] = None

    def add(self, key: Key, n: int | float = 1) -> None:
        """Add ``n`` to the number at the key, or to 0. Raises ``TypeClash`` if the value is not a number."""
        encoded, amount = keys.encode(key), check_amount(n)
        self._check_target(key, encoded, n)
        self._append(key, encoded, Add(encoded, amount), len(amount))

    def _append(self, key: Key, encoded: bytes, operation: Operation, size: int) -> None:
        if self._finished:
            raise Finished("this batch was committed or submitted already")
        size += self.size + len(encoded)
        if size > TRANSACTION_BYTES_MAX:
            message = f"a batch holds at most {TRANSACTION_BYTES_MAX} bytes; {key!r} does not fit"
            raise LimitExceeded(message, key=key, size=size, limit=TRANSACTION_BYTES_MAX)
        self.size = size
        self.weight += 1
        shard = self._routing.shard(key, encoded)
        operations = self.operations.get(shard)
        if operations is None:
            self.operations[shard] = [operation]
        else:
            operations.append(operation)

    def _check_target(self, key: Key, encoded: bytes, n: int | float) -> None:
        """Raise ``TypeClash`` unless the key's value is a number: in this batch, or else in the store."""
        if self._numbers is None:
            self._numbers = {}
            for operations in self.operations.values():
                for operation in operations:
                    self._note(operation)
        if encoded not in self._numbers:
            check_number(key, value_of(self._read(self._routing.shard(key, encoded), encoded)), n)
            self._numbers[encoded] = True
        elif self._numbers[encoded] is False:
            raise TypeClash(f"add to {key!r}: this batch put a value there that is not a number", key=key)
        else:
            self._numbers[encoded] = True

    def _note(self, operation: Operation) -> None:
        assert self._numbers is not None
        match operation:
            case Put(key, value):
                self._numbers[key] = is_number(values.decode(value))
            case Delete(key):
                self._numbers[key] = None

    def belongs_to(self, routing: Routing) -> bool:
        """Return whether the batch was made by the database with this routing."""
        return self._routing is routing

    @property
    def route(self) -> Route:
        """The route of the batch: path, shards, rounds."""
        if not self.operations:
            return Route("independent", (), 0)
        return route_of(set(), set(self.operations))

    def finish(self) -> dict[ShardId, tuple[Operation, ...]]:
        """Finish the batch; return its operations by shard. Raises ``Finished`` the second time."""
        if self._finished:
            raise Finished("this batch was committed or submitted already")
        self._finished = True
        return {shard: tuple(operations) for shard, operations in self.operations.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            if not self._finished:
                self._commit(self)
        else:
            self._finished = True

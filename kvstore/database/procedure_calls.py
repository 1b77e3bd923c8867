"""Calling a stored procedure: its declared keys, their shards, the check before it is sent, its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvstore import keys, values
from kvstore.database.routing import Routing
from kvstore.database.transaction import TRANSACTION_BYTES_MAX
from kvstore.engine.readers import ReadTransaction
from kvstore.eris.shard_state import REGISTERS, table_name
from kvstore.errors import LimitExceeded, ProcedureFailed, UsageError
from kvstore.execution.operations import Call, Outcome
from kvstore.execution.procedures import Procedure, rehearse
from kvstore.keys import Key
from kvstore.types import ShardId, Timestamp


def declare(procedure: Procedure, args: Any, routing: Routing) -> Call:
    """Return the call as it is written to the log.

    Raises:
        ValueNotSupported, KeyInvalid: an argument is not a value, or a declared key is not a key.
        UsageError: the procedure's ``keys`` function raised for these arguments.
        LimitExceeded: arguments and keys are larger than a transaction may be.
    """
    arguments = values.encode(args)
    owned: dict[ShardId, set[bytes]] = {}
    prefixes = []
    for key in _declared_keys(procedure, arguments):
        if procedure.scans:
            prefixes.append(keys.prefix_range(key))
            for shard in routing.shards_of_prefix(key):
                owned.setdefault(shard, set())
        else:
            encoded = keys.encode(key)
            owned.setdefault(routing.shard(key, encoded), set()).add(encoded)
    by_shard = {shard: tuple(sorted(owned[shard])) for shard in sorted(owned)}
    call = Call(procedure.name, arguments, by_shard, tuple(prefixes))
    if size_of(call) > TRANSACTION_BYTES_MAX:
        message = f"the arguments and keys of {procedure.name!r} exceed {TRANSACTION_BYTES_MAX} bytes"
        raise LimitExceeded(message, size=size_of(call), limit=TRANSACTION_BYTES_MAX)
    return call


def _declared_keys(procedure: Procedure, arguments: bytes) -> list[Key]:
    try:
        return list(procedure.keys(values.decode(arguments)))
    except Exception as error:  # the function is the user's, so it may raise anything
        message = f"the keys function of {procedure.name!r} raised {type(error).__name__}: {error}"
        raise UsageError(message, hint="check the arguments and the function") from error


def size_of(call: Call) -> int:
    """Return the size of arguments and keys in bytes."""
    return len(call.arguments) + sum(len(key) for owned in call.keys.values() for key in owned)


def check_declared(call: Call, transaction: ReadTransaction, routing: Routing, time: Timestamp) -> None:
    """Run the body on a read transaction, without effect, to find undeclared keys before sending.

    Raises:
        KeyNotDeclared: the body touched a key that is not declared.
    """
    for shard in call.keys:
        rehearse(call, _ReadTable(transaction, shard), shard=shard, time=time, owns=routing.owns)


class _ReadTable:
    """A shard's table in a read transaction."""

    def __init__(self, transaction: ReadTransaction, shard: ShardId) -> None:
        self._transaction = transaction
        self._name = table_name(shard, REGISTERS)

    def get(self, key: bytes) -> bytes | None:
        return self._transaction.get(self._name, key)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False, limit: int
    ) -> list[tuple[bytes, bytes]]:
        return self._transaction.scan(self._name, start, stop, reverse=reverse, limit=limit)


def results_of(call: Call, outcomes: Mapping[ShardId, Outcome]) -> dict[int, Any]:
    """Return each part's result, by shard. Raises ``ProcedureFailed`` for the first part that raised."""
    results = {}
    for shard in call.keys:
        outcome = outcomes[shard]
        if outcome.failure:
            message = f"{call.name!r} failed on shard {shard}: {outcome.failure}"
            raise ProcedureFailed(message, name=call.name, shard=int(shard))
        result = outcome.results[0]
        assert isinstance(result, bytes)
        results[int(shard)] = values.decode(result)
    return results

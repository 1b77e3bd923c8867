"""Stored procedures: named functions that every replica runs on its own shard's data.

A call is an independent transaction over the shards of the keys that it declares (Eris, SOSP 2017,
section 4.1): one round in which no shard waits for another, so no data passes between shards and no
shard may refuse. The log holds the name, the arguments and the declared keys; replicas, and recovery,
run the body again.

INVARIANTS
    PROCEDURE-1  A body is a function of its arguments, its part and the transaction's time.
    PROCEDURE-2  A body that raises has no effect on that shard; other shards do not learn of it
        (contracts C1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any, NamedTuple, TypeAlias, TypeVar

from kvstore import values
from kvstore.errors import KeyNotDeclared, NestedCall, UnknownProcedure, UsageError
from kvstore.execution.execute import Executed
from kvstore.execution.operations import Call, Outcome
from kvstore.execution.procedure_context import Owns, Part
from kvstore.execution.reentrancy import qualified_name, refuse_body, running
from kvstore.keys import Key
from kvstore.ports import ReadableTable
from kvstore.types import ShardId, Slot, Timestamp

FAILURE_CHARS_MAX = 500

ProcedureBody: TypeAlias = Callable[[Part, Any], Any]
Declared: TypeAlias = Callable[[Any], Iterable[Key]]
AnyBody = TypeVar("AnyBody", bound=ProcedureBody)


class Procedure(NamedTuple):
    """A registered function, with the function that returns the keys it may touch."""

    name: str
    keys: Declared
    scans: bool
    body: ProcedureBody


_registered: dict[str, Procedure] = {}


def procedure(name: str, *, keys: Declared, scans: bool | None = None) -> Callable[[AnyBody], AnyBody]:
    """Register a function ``body(part, args)`` under a name, to be run by ``Database.call``.

    Args:
        name: is written to the log. A body that does something else takes another name.
        keys: returns all keys that the body may touch for the given arguments, hence the shards it runs on.
        scans: whether the body calls ``part.scan``. If so, each declared key is a prefix as well, and the
            body runs on every shard that may hold a key with it. None: found out from the body's code.

    Raises:
        BodyRefused: the function is async or a generator.
        UsageError: the name is taken by a function that is defined elsewhere. A function that is defined
            inside another function is replaced, because it is made anew each time.
    """
    if type(name) is not str or not name:
        raise UsageError(f"the name of a procedure must be a non-empty str, not {name!r}")
    if not callable(keys):
        raise UsageError(f"keys of {name!r} must be a function of the arguments, not {type(keys).__name__}")

    def register(body: AnyBody) -> AnyBody:
        refuse_body(body)
        known = _registered.get(name)
        places = (
            {qualified_name(body)} if known is None else {qualified_name(known.body), qualified_name(body)}
        )
        if len(places) > 1 and not any("<locals>" in qualified_name for qualified_name in places):
            raise UsageError(f"the procedure {name!r} is two functions: {' and '.join(sorted(places))}")
        does_scan = _mentions_scan(body) if scans is None else scans
        _registered[name] = Procedure(name, keys, does_scan, body)
        return body

    return register


def _mentions_scan(body: Callable[..., Any]) -> bool:
    code = getattr(body, "__code__", None)
    return code is not None and any("scan" in inner.co_names for inner in _codes(code))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def procedure_named(name: str) -> Procedure:
    """Return the procedure of this name. Raises ``UnknownProcedure``."""
    known = _registered.get(name)
    if known is None:
        raise UnknownProcedure(f"no procedure is registered as {name!r}", name=name)
    return known


def run(
    call: Call, table: ReadableTable, slot: Slot, *, shard: ShardId, time: Timestamp, owns: Owns
) -> Executed:
    """Run one shard's part of a call and return its writes and outcome.

    Raises ``UnknownProcedure``; any other error that the body raises becomes its outcome.
    """
    part = Part(call, table, shard=shard, time=time, owns=owns)
    try:
        result = perform(call, part)
        return Executed(part.finish(slot), Outcome(results=(result,)), plain=False)
    except (MemoryError, UnknownProcedure):
        raise  # not caused by the body: another replica may succeed
    except BaseException as error:
        # Any error, SystemExit too: the shard continues, as all its replicas do (PROCEDURE-2).
        return Executed({}, Outcome(failure=failure_of(error)), plain=False)
    finally:
        part.give_up()


def rehearse(call: Call, table: ReadableTable, *, shard: ShardId, time: Timestamp, owns: Owns) -> None:
    """Run the body without effects, to raise ``KeyNotDeclared``, ``NestedCall`` or ``UnknownProcedure``.

    Other errors of the body are ignored.
    """
    part = Part(call, table, shard=shard, time=time, owns=owns)
    try:
        perform(call, part)
    except (KeyNotDeclared, NestedCall, UnknownProcedure, MemoryError, KeyboardInterrupt):
        raise
    except BaseException:  # the body will raise in the call, too, and is reported then
        pass
    finally:
        part.give_up()


def perform(call: Call, part: Part) -> bytes:
    """Run the body of a call on this part; return its result, encoded."""
    body = procedure_named(call.name).body
    with running(call.name):
        return values.encode(body(part, values.decode(call.arguments)))


def failure_of(error: BaseException) -> str:
    """Return the text in an outcome for an error that a body raised."""
    return f"{type(error).__name__}: {error}"[:FAILURE_CHARS_MAX]

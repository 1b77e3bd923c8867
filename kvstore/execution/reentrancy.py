"""The check that a user's function which the store runs does not itself call the store.

The function has a transaction, or a part of a call, to work with. A call of the store could wait for
locks that the function's own transaction holds, and would read the state of another moment.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from kvstore.errors import BodyRefused, NestedCall, UsageError


class _Running(NamedTuple):
    name: str
    transaction: object
    """The transaction, or the part of a call, that was passed to the function."""


_running: ContextVar[_Running | None] = ContextVar("running", default=None)
function_running = _running.get
"""Function that returns the running user function, or None: a quick check before ``refuse_nested``."""


@contextmanager
def running(name: str, transaction: object = None) -> Iterator[None]:
    """Mark the function of this name as run by the store for the duration of the block."""
    before = _running.set(_Running(name, transaction))
    try:
        yield
    finally:
        _running.reset(before)


@contextmanager
def own_work() -> Iterator[None]:
    """Allow calls of the store for the duration of the block: the store works for the function."""
    before = _running.set(None)
    try:
        yield
    finally:
        _running.reset(before)


def refuse_nested(transaction: object = None) -> None:
    """Raise ``NestedCall`` inside a function that the store runs, except for its own transaction."""
    found = _running.get()
    if found is not None and (transaction is None or found.transaction is not transaction):
        raise NestedCall(f"{found.name!r} called the store that runs it", hint="use what was passed to it")


def refuse_body(body: Callable[..., Any]) -> None:
    """Raise ``BodyRefused`` for an async function or a generator, and ``UsageError`` for a non-function."""
    if not callable(body):
        raise UsageError(f"the body of a transaction must be a function, not {type(body).__name__}")
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(body) for is_kind in kinds):
        name = qualified_name(body)
        raise BodyRefused(f"{name} is async or a generator: it would run after its transaction")


def refuse_unfinished(name: str, result: object) -> None:
    """Raise ``BodyRefused`` for a function that returned a generator or an awaitable."""
    if inspect.isgenerator(result) or inspect.isawaitable(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()  # otherwise Python warns that the coroutine was never awaited
        raise BodyRefused(f"{name} returned a {type(result).__name__}: it would run after its transaction")


def qualified_name(body: Callable[..., Any]) -> str:
    """Return the module and the qualified name of a function."""
    return f"{getattr(body, '__module__', '?')}.{getattr(body, '__qualname__', repr(body))}"

"""Which function of a user the store is running just now: inside it, calling the store is refused.

The function has a transaction, or a part of one, to work with. Calling the store itself could wait for
locks that the function's own transaction holds, and would show it a second moment.
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
    """What the function was given to work with."""


_running: ContextVar[_Running | None] = ContextVar("running", default=None)
function_running = _running.get
"""What is running, or None: a quick look before ``refuse_nested``."""


@contextmanager
def running(name: str, transaction: object = None) -> Iterator[None]:
    """For the length of the block the store runs the function of this name."""
    before = _running.set(_Running(name, transaction))
    try:
        yield
    finally:
        _running.reset(before)


@contextmanager
def own_work() -> Iterator[None]:
    """For the length of the block the store works for itself, on behalf of the function."""
    before = _running.set(None)
    try:
        yield
    finally:
        _running.reset(before)


def refuse_nested(transaction: object = None) -> None:
    """Raise ``NestedCall`` inside a function that the store runs, unless it uses its own transaction."""
    found = _running.get()
    if found is not None and (transaction is None or found.transaction is not transaction):
        raise NestedCall(f"{found.name!r} called the store that runs it", hint="use what was passed to it")


def refuse_body(body: Callable[..., Any]) -> None:
    """Raise ``BodyRefused`` for a function that would not be over when it returns, ``UsageError`` for what
    is no function."""
    if not callable(body):
        raise UsageError(f"the body of a transaction is a function, not {type(body).__name__}")
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(body) for is_kind in kinds):
        name = qualified_name(body)
        raise BodyRefused(f"{name} is async or a generator: it would run after its transaction")


def refuse_unfinished(name: str, result: object) -> None:
    """The same, for a function that returned the rest of its work."""
    if inspect.isgenerator(result) or inspect.isawaitable(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()  # or Python complains that nobody awaited it
        raise BodyRefused(f"{name} returned a {type(result).__name__}: it would run after its transaction")


def qualified_name(body: Callable[..., Any]) -> str:
    """Where a function was defined."""
    return f"{getattr(body, '__module__', '?')}.{getattr(body, '__qualname__', repr(body))}"

"""Decorators that run a function as a transaction."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from kvstore.database.commit import Task
from kvstore.database.transaction import Transaction
from kvstore.errors import LimitExceeded, UsageError
from kvstore.execution.reentrancy import qualified_name, refuse_body

MAX_RETRIES, TIMEOUT_S = 20, 10.0
RETRIES_MOST = 1_000_000

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
TransactionBody = Callable[Concatenate[Transaction, P], R]


class RunsTasks(Protocol):
    """An object that runs functions as transactions: a database or a region."""

    def run_task(self, task: Task) -> Any: ...


class Bound(Protocol[P, R_co]):
    """A decorated function of one database, which begins a transaction or joins its first argument."""

    @overload
    def __call__(self, transaction: Transaction, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Free(Protocol[P, R_co]):
    """A decorated function whose first argument is a database or a transaction."""

    def __call__(self, where: RunsTasks | Transaction, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def bound(
    where: RunsTasks, body: TransactionBody[P, R], max_retries: int, timeout: float | None
) -> Bound[P, R]:
    """Return ``body`` as a transaction of this database. Raises ``BodyRefused`` and ``LimitExceeded``."""
    refuse_body(body)
    check_limits(max_retries, timeout)

    @functools.wraps(body)
    def call(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], Transaction):
            return body(*args, **kwargs)
        return where.run_task(task_of(body, args, kwargs, max_retries, timeout))

    return call


@overload
def transactional(function: TransactionBody[P, R], /) -> Free[P, R]: ...
@overload
def transactional(
    *, max_retries: int = MAX_RETRIES, timeout: float | None = TIMEOUT_S
) -> Callable[[TransactionBody[P, R]], Free[P, R]]: ...
def transactional(
    function: Any = None, /, *, max_retries: int = MAX_RETRIES, timeout: float | None = TIMEOUT_S
) -> Any:
    """Decorate a function ``body(tx, ...)`` to run as a transaction of a database given at each call.

    A call with a ``Database`` as first argument begins a transaction there; a call with a ``Transaction``
    joins that transaction. The decorator works with and without parentheses.

    Args:
        max_retries: number of retries after a conflict, from 0 on; then a call raises ``Conflict``.
        timeout: seconds for all attempts together, then a call raises ``TimedOut``; None is no limit.

    Raises:
        BodyRefused: the function is async or a generator.
        LimitExceeded: ``max_retries`` or ``timeout`` is out of range.
    """
    check_limits(max_retries, timeout)

    def decorate(body: Any) -> Any:
        refuse_body(body)

        @functools.wraps(body)
        def call(where: Any, /, *args: Any, **kwargs: Any) -> Any:
            if isinstance(where, Transaction):
                return body(where, *args, **kwargs)
            if not hasattr(where, "run_task"):
                wanted = f"{qualified_name(body)} takes a database or a transaction as first argument"
                raise UsageError(f"{wanted}, not {type(where).__name__}")
            return where.run_task(task_of(body, args, kwargs, max_retries, timeout))

        return call

    return decorate if function is None else decorate(function)


def task_of(
    body: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    max_retries: int,
    timeout: float | None,
) -> Task:
    """Return the task that calls ``body`` with a transaction and these arguments."""
    name = getattr(body, "__qualname__", repr(body))
    return Task(name, lambda transaction: body(transaction, *args, **kwargs), max_retries, timeout)


def check_limits(max_retries: int, timeout: float | None) -> None:
    """Raise ``LimitExceeded`` if a limit is out of range."""
    if type(max_retries) is not int or not 0 <= max_retries <= RETRIES_MOST:
        message = f"max_retries is an int from 0 to {RETRIES_MOST}, not {max_retries!r}"
        raise LimitExceeded(message, limit=RETRIES_MOST)
    if timeout is not None and (type(timeout) not in (int, float) or not timeout > 0 or math.isnan(timeout)):
        raise LimitExceeded(f"timeout is a number of seconds above 0, or None, not {timeout!r}", limit=0)

"""Deferring SIGINT on the main thread, so that Ctrl-C never stops protocol code half-way."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the functions behind signal's, ten times as fast
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

MAIN_THREAD = threading.main_thread().ident
"""Id of the only thread on which Python runs signal handlers; no other thread is ever interrupted."""
_SIGINT = int(signal.SIGINT)


class Deferred:
    """A context manager that defers SIGINT to the end of its block. For the main thread only."""

    __slots__ = ("_frame", "_handler", "_pending")

    def __enter__(self) -> None:
        self._pending = False
        self._handler: Any = _signal.getsignal(_SIGINT)
        if callable(self._handler):
            _signal.signal(_SIGINT, self._keep)

    def _keep(self, _number: int, frame: FrameType | None) -> None:
        self._pending = True
        self._frame = frame

    def __exit__(self, *_: object) -> None:
        if callable(self._handler):
            _signal.signal(_SIGINT, self._handler)
            if self._pending:
                self._handler(_SIGINT, self._frame)


def run_uninterrupted(work: Callable[..., T], *args: Any) -> T:
    """Call ``work(*args)``; on the main thread, defer SIGINT until the call has returned."""
    handler: Any = _signal.getsignal(_SIGINT) if threading.get_ident() == MAIN_THREAD else None
    if not callable(handler):
        return work(*args)
    kept: list[FrameType | None] = []
    _signal.signal(_SIGINT, lambda _number, frame: kept.append(frame))
    try:
        return work(*args)
    finally:
        _signal.signal(_SIGINT, handler)
        if kept:
            handler(_SIGINT, kept[-1])


def uninterrupted() -> AbstractContextManager[None]:
    """Return a ``Deferred`` on the main thread, and an empty context manager on every other thread."""
    return Deferred() if threading.get_ident() == MAIN_THREAD else nullcontext()

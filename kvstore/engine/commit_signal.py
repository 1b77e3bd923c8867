"""How those who wait for the next commit hear of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

LOOK_AGAIN_S = 1.0
"""A safety net: a sleeper looks again after so long. Where that was needed, ``woken_by_timer`` counts it."""
POLL_S = 0.05
"""The same, where another process commits and nobody tells."""


class CommitSignal:
    """Counts the groups that were committed, and wakes whoever sleeps until the next.

    A sleeper has a queue of its own, so that one that was interrupted keeps nobody waiting.
    """

    def __init__(self, *, announced: bool) -> None:
        """``announced``: whether somebody calls ``announce``."""
        self.count = 0
        self.woken_by_timer = 0
        """Sleepers that were told of nothing although something was committed: 0."""
        self._announced = announced
        self._nap = LOOK_AGAIN_S if announced else POLL_S
        self._sleepers: set[SimpleQueue[None]] = set()
        self.listener: Callable[[], None] | None = None
        """Told of each at once, on the thread that commits: it has to be quick."""

    def announce(self) -> None:
        """Something was committed, or the store is being closed."""
        self.count += 1
        if self.listener is not None:
            self.listener()
        if self._sleepers:
            sleepers, self._sleepers = self._sleepers, set()
            for sleeper in tuple(sleepers):
                sleeper.put(None)

    @staticmethod
    def deadline(seconds: float | None) -> float:
        """When so many seconds from now are over."""
        return math.inf if seconds is None else time.monotonic() + seconds

    def wait(self, seen: int, deadline: float) -> bool:
        """Sleep until it is worth looking again; False when the deadline is over.

        ``seen``: ``count`` before the caller looked for the last time.
        """
        left = min(self._nap, deadline - time.monotonic())
        if left <= 0:
            return False
        sleeper: SimpleQueue[None] = SimpleQueue()
        self._sleepers.add(sleeper)
        if self.count == seen:  # looked at after it was added: an announcement is never missed
            try:
                sleeper.get(timeout=left)
            except Empty:
                self._count_missed(sleeper, seen)
        self._sleepers.discard(sleeper)
        return True

    def _count_missed(self, sleeper: SimpleQueue[None], seen: int) -> None:
        """Count a sleep that ended by its timer, though an announcement should have ended it."""
        if self._announced and self.count != seen:
            try:
                sleeper.get(timeout=LOOK_AGAIN_S)  # it may be a moment behind the count
            except Empty:
                self.woken_by_timer += 1

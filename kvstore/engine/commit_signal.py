"""Waking the threads that wait for the next commit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

LOOK_AGAIN_S = 1.0
"""Longest sleep without an announcement, in seconds: a safety net; ``woken_by_timer`` counts its uses."""
POLL_S = 0.05
"""Pause between two polls, in seconds, where another process commits and makes no announcement."""


class CommitSignal:
    """A count of the committed groups that threads can wait on.

    Each sleeper has a queue of its own, so that an interrupted sleeper delays no other.
    """

    def __init__(self, *, announced: bool) -> None:
        """``announced``: whether this process commits and calls ``announce``."""
        self.count = 0
        self.woken_by_timer = 0
        """Sleepers that missed an announcement and were woken by their timer; expected to be 0."""
        self._announced = announced
        self._nap = LOOK_AGAIN_S if announced else POLL_S
        self._sleepers: set[SimpleQueue[None]] = set()
        self.listener: Callable[[], None] | None = None
        """Callback for each announcement, called on the thread that commits; it must return quickly."""

    def announce(self) -> None:
        """Wake all sleepers: a group was committed, or the store is being closed."""
        self.count += 1
        if self.listener is not None:
            self.listener()
        if self._sleepers:
            sleepers, self._sleepers = self._sleepers, set()
            for sleeper in tuple(sleepers):
                sleeper.put(None)

    @staticmethod
    def deadline(seconds: float | None) -> float:
        """Return the time of ``time.monotonic`` in ``seconds`` from now; infinity for None."""
        return math.inf if seconds is None else time.monotonic() + seconds

    def wait(self, seen: int, deadline: float) -> bool:
        """Sleep until a commit may have happened; return False when the deadline has passed.

        ``seen`` is the value of ``count`` before the caller last read the store.
        """
        left = min(self._nap, deadline - time.monotonic())
        if left <= 0:
            return False
        sleeper: SimpleQueue[None] = SimpleQueue()
        self._sleepers.add(sleeper)
        if self.count == seen:  # compared after adding the sleeper, so no announcement is missed
            try:
                sleeper.get(timeout=left)
            except Empty:
                self._count_missed(sleeper, seen)
        self._sleepers.discard(sleeper)
        return True

    def _count_missed(self, sleeper: SimpleQueue[None], seen: int) -> None:
        """Count a sleep that its timer ended although an announcement should have."""
        if self._announced and self.count != seen:
            try:
                sleeper.get(timeout=LOOK_AGAIN_S)  # the wake-up follows the count
            except Empty:
                self.woken_by_timer += 1

"""The deadline of a transaction's attempts, and the pauses between them."""

from __future__ import annotations

import random
import time

from kvstore.errors import TimedOut

PAUSE_S, PAUSE_MAX_S = 0.0002, 0.02
"""Longest pause before the first retry, in seconds, which doubles with each attempt, and its bound."""


class Backoff:
    """One deadline for all attempts. Pauses are random, so that two conflicting callers do not meet again."""

    def __init__(self, seconds: float | None) -> None:
        """``seconds`` for all attempts together; None is no limit."""
        self._began = time.monotonic()
        self._seconds = seconds

    @property
    def deadline(self) -> float | None:
        """The deadline as a time of ``time.monotonic``, or None."""
        return None if self._seconds is None else self._began + self._seconds

    def check(self, name: str) -> None:
        """Raise ``TimedOut`` if the deadline has passed."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise self.timed_out(name)

    def timed_out(self, name: str) -> TimedOut:
        waited = time.monotonic() - self._began
        return TimedOut(f"{name} was not committed within {self._seconds} s; nothing happened", waited=waited)

    def pause(self, attempt: int) -> None:
        """Wait before the next attempt; ``attempt`` is the number of the last one, from 1 on."""
        longest = min(PAUSE_MAX_S, PAUSE_S * 2 ** min(attempt, 20))
        time.sleep(random.uniform(0, longest))  # need not be unpredictable

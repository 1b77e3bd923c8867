"""How long somebody goes on trying, and how long he waits between two attempts."""

from __future__ import annotations

import random
import time

from kvstore.errors import TimedOut

PAUSE_S, PAUSE_MAX_S = 0.0002, 0.02
"""The longest pause after the first attempt, doubled after each, and its bound."""


class Backoff:
    """For all attempts together. The pauses are random, so that two who collided do not do so again."""

    def __init__(self, seconds: float | None) -> None:
        """None is for ever."""
        self._began = time.monotonic()
        self._seconds = seconds

    @property
    def deadline(self) -> float | None:
        """By ``time.monotonic``."""
        return None if self._seconds is None else self._began + self._seconds

    def check(self, name: str) -> None:
        """Raise ``TimedOut`` when it is over."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise self.timed_out(name)

    def timed_out(self, name: str) -> TimedOut:
        waited = time.monotonic() - self._began
        return TimedOut(f"{name} was not committed within {self._seconds} s; nothing happened", waited=waited)

    def pause(self, attempt: int) -> None:
        """Wait after this attempt, counted from 1."""
        longest = min(PAUSE_MAX_S, PAUSE_S * 2 ** min(attempt, 20))
        time.sleep(random.uniform(0, longest))  # nobody guesses it for a purpose

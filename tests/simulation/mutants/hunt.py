"""Playing seeds with a bug in the code, until one shows it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.simulation.mutants import MUTANTS
from tests.simulation.mutants.planting import Mutant, planted
from tests.simulation.run import play

SECONDS_MAX = 40
"""Of processor time that a seed may take; without a bug it takes about one."""
SEEDS = 200


class DoesNotEnd(Exception):
    """A seed took far too long."""


class Caught(NamedTuple):
    """What came of a hunt: the first seed that shows the bug, and what saw it; None when no seed did."""

    name: str
    seed: int | None
    violation: str = ""

    def __str__(self) -> str:
        if self.seed is None:
            return f"{self.name}: not caught"
        return f"{self.name}: {self.seed + 1} seeds, {self.violation}"


def hunt(name: str, seeds: int = SEEDS) -> Caught:
    """Play seeds from 0 on. One that fails without the bug too does not count."""
    bug = MUTANTS[name]
    for seed in range(seeds):
        violation = violation_of(bug, seed)
        if violation and not within_time(seed, bug.profile):
            return Caught(name, seed, violation)
    return Caught(name, None)


def violation_of(bug: Mutant, seed: int) -> str:
    """What a seed shows of a bug, in a line; nothing if it does not."""
    with planted(bug):
        return within_time(seed, bug.profile)


def within_time(seed: int, profile: str) -> str:
    """The violation that a seed shows; also that it does not end."""
    try:
        with _limit(SECONDS_MAX):
            return " ".join(play(seed, profile).violation.split())
    except DoesNotEnd:  # where nobody could take it for a violation
        return "DoesNotEnd"


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _give_up(number: int, frame: object) -> None:
    raise DoesNotEnd(f"more than {SECONDS_MAX} seconds")

"""What came of a seed, whatever was played."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Result:
    """One seed. ``shape`` says what was played on."""

    seed: int
    profile: str
    shape: object
    trace: str = ""
    transactions: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violation: str = ""


def violation_of(play: Callable[[], None]) -> str:
    """What a judge, or a role, had to say of it; empty if nothing."""
    try:
        play()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
    return ""

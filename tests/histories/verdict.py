"""What a checker answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Verdict = Literal["ok", "violation", "unknown"]


@dataclass(frozen=True)
class Result:
    """``ok`` is proven by an order that was found, ``violation`` by what ``explanation`` shows.

    ``unknown`` is the answer when neither could be shown; the explanation says why. ``anomaly`` names a
    violation as Adya and Elle do.
    """

    verdict: Verdict
    anomaly: str | None = None
    explanation: str = ""

    def __str__(self) -> str:
        return self.verdict if self.anomaly is None else f"{self.verdict}: {self.anomaly}"


class Anomaly(NamedTuple):
    """Something that no order can bring about."""

    name: str
    explanation: str

    def result(self) -> Result:
        return Result("violation", self.name, self.explanation)


class Undecidable(Exception):
    """The history does not say enough to be judged; the message says what is missing."""

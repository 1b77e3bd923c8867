"""Strict serializability of what the clients saw, by the project's own checker of histories."""

from __future__ import annotations

from tests.histories.history import History
from tests.histories.strict_serializability import check
from tests.simulation.ledger import require


def judge(history: History) -> None:
    """Raise ``Violation`` unless some serial order explains the history and agrees with real time."""
    result = check(history)
    require(result.verdict != "violation", f"not strictly serializable: {result.explanation}")
    require(result.verdict != "unknown", f"the checker could not tell: {result.explanation}")

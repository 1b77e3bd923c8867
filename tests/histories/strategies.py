"""Small random histories for Hypothesis, of a store that is mostly right: both verdicts are common."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.histories.evidence import Shape
from tests.histories.history import Operation, Outcome, Transaction, append, read, write

_KEYS = ("x", "y", "z")
_OUTCOMES = [Outcome.OK] * 8 + [Outcome.FAILED, Outcome.UNKNOWN]
_STALE = [0] * 8 + [1, 2]
"""How many transactions a snapshot is behind."""


@st.composite
def histories(draw: st.DrawFn, shape: Shape, timed: bool, most: int = 4, keys: int = 2) -> list[Transaction]:
    """A history of at most so many transactions. Without times they are of three processes."""
    states: list[dict[str, Any]] = [{}]
    history, value = [], 0
    for number in range(draw(st.integers(1, most))):
        state = dict(states[max(0, number - draw(st.sampled_from(_STALE)))])
        operations: list[Operation] = []
        for key in draw(st.lists(st.sampled_from(_KEYS[:keys]), min_size=1, max_size=3)):
            value += 1
            operations.append(_operation(draw, shape, state, key, value))
        outcome = draw(st.sampled_from(_OUTCOMES))
        happened = outcome is Outcome.OK or draw(st.booleans())
        written = {operation.key for operation in operations if operation.kind != "read"}
        news = {key: state[key] for key in written if happened}
        states.append(states[-1] | news)
        history.append(_transaction(draw, number, tuple(operations), outcome, timed))
    return history


def _operation(draw: st.DrawFn, shape: Shape, state: dict[str, Any], key: str, value: int) -> Operation:
    """One operation in this state. Once in a while it reads what nobody can have written there."""
    if draw(st.booleans()):
        state[key] = (*state.get(key, ()), value) if shape == "list" else value
        return append(key, value) if shape == "list" else write(key, value)
    seen = state.get(key)
    if draw(st.integers(0, 19)) == 19:
        wrong = draw(st.integers(1, value + 3))
        seen = (*(seen or ()), wrong) if shape == "list" else wrong
    return read(key, seen)


def _transaction(
    draw: st.DrawFn, number: int, operations: tuple[Operation, ...], outcome: Outcome, timed: bool
) -> Transaction:
    if not timed:
        return Transaction(draw(st.integers(0, 2)), operations, outcome=outcome)
    called = number * 4 - draw(st.integers(1, 9))
    returned = None if outcome is Outcome.UNKNOWN else number * 4 + draw(st.integers(0, 9))
    return Transaction(number, operations, called, returned, outcome)

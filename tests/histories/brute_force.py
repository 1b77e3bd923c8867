"""Oracles: the definitions themselves, tried on every order of a handful of transactions."""

from __future__ import annotations

from typing import Any

from tests.histories.history import History, Outcome, Transaction, is_timed

State = dict[Any, Any]


def is_strictly_serializable(history: History) -> bool:
    """Whether what happened, and some of what may have, can be put in an order that explains all answers."""
    sure = {node for node, one in enumerate(history) if one.outcome is Outcome.OK}
    perhaps = {node for node, one in enumerate(history) if one.outcome is Outcome.UNKNOWN}
    return _explained(history, sure, perhaps, {})


def _explained(history: History, left: set[int], perhaps: set[int], state: State) -> bool:
    """Whether all that are left can follow in this state, with some of those that perhaps happened."""
    if not left:
        return True
    for node in left | perhaps:
        earlier = {other for other in left | perhaps if is_before(history, other, node)}
        after = None if earlier & left else state_after(state, history[node])
        if after is not None and _explained(history, left - {node}, perhaps - earlier - {node}, after):
            return True
    return False


def is_before(history: History, one: int, other: int) -> bool:
    """Whether clients saw that one was done when the other began."""
    if not is_timed(history):
        return history[one].process == history[other].process and one < other
    returned, called = history[one].returned, history[other].called
    return returned is not None and called is not None and returned < called


def state_after(before: State, one: Transaction) -> State | None:
    """What a transaction leaves; ``None`` if it could not have read there what it was told."""
    state = dict(before)
    for kind, key, value in one.operations:
        if kind == "write":
            state[key] = value
        elif kind == "append":
            state[key] = (*state.get(key, ()), value)
        elif one.outcome is Outcome.OK and state.get(key) != (value if value != () else None):
            return None
    return state

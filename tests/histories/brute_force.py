"""Oracles: the definitions themselves, tried on every order of a handful of transactions."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
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


def is_causally_consistent(history: History) -> bool:
    """Whether in some order everybody who knows of two writes of a key has read the later one."""
    happened = [one for one in history if one.outcome is Outcome.OK or _was_seen(one, history)]
    read_from = [_read_from(one, happened) for one in happened]
    if None in read_from:
        return False
    sources = [source or {} for source in read_from]
    known = _closed(happened, sources)
    numbers = range(len(happened))
    if any((node, node) in known for node in numbers):
        return False
    return any(
        all(place[one] < place[other] for one, other in known)
        and all(_is_latest(happened, known, place, node, sources[node]) for node in numbers)
        for place in permutations(numbers)
    )


def _was_seen(one: Transaction, history: History) -> bool:
    if one.outcome is not Outcome.UNKNOWN:
        return False
    told = [other for other in history if other.outcome is Outcome.OK]
    reads = {(key, value) for other in told for kind, key, value in other.operations if kind == "read"}
    return any(kind == "write" and (key, value) in reads for kind, key, value in one.operations)


def _read_from(one: Transaction, happened: list[Transaction]) -> dict[Any, int | None] | None:
    """From whom each key was read, ``None`` in it for nobody; ``None`` for all if it cannot be told."""
    sources: dict[Any, int | None] = {}
    own: State = {}
    first: State = {}
    for kind, key, value in one.operations if one.outcome is Outcome.OK else ():
        if kind == "write":
            own[key] = value
        elif key in own or key in first:
            if value != own.get(key, first.get(key)):
                return None
        else:
            first[key] = value
            last = [node for node, other in enumerate(happened) if _last_write(other, key) == value]
            if value is not None and (not last or happened[last[0]] is one):
                return None
            sources[key] = None if value is None else last[0]
    return sources


def _last_write(one: Transaction, key: Any) -> Any:
    return next((value for kind, at, value in reversed(one.operations) if (kind, at) == ("write", key)), None)


def _closed(happened: list[Transaction], sources: list[dict[Any, int | None]]) -> set[tuple[int, int]]:
    """Who is known to whom, directly or through others."""
    numbers = range(len(happened))
    known = {(one, two) for one in numbers for two in numbers if is_before(_untimed(happened), one, two)}
    known |= {(source, node) for node in numbers for source in sources[node].values() if source is not None}
    for between in numbers:
        known |= {(a, b) for a in numbers for b in numbers if {(a, between), (between, b)} <= known}
    return known


def _untimed(happened: list[Transaction]) -> list[Transaction]:
    return [replace(one, called=None, returned=None) for one in happened]


def _is_latest(
    happened: list[Transaction],
    known: set[tuple[int, int]],
    place: tuple[int, ...],
    node: int,
    sources: dict[Any, int | None],
) -> bool:
    """Whether what was read of each key is the last write that was known."""
    return not any(
        (other, node) in known
        and _last_write(happened[other], key) is not None
        and other != source
        and (source is None or place[other] > place[source])
        for key, source in sources.items()
        for other in range(len(happened))
    )

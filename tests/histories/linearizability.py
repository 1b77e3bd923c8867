"""Can operations on one object have taken effect one after another, each between its call and its return?

The search of Wing and Gong with Lowe's memory of states ("Testing for linearizability", 2017), as in
Porcupine. It needs no unique values, so it judges what the graph of dependencies cannot, but key by key
only: histories whose transactions touch one key each. A history is linearizable when each of its objects is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from tests.histories.history import History, Outcome, Transaction
from tests.histories.verdict import Anomaly, Result, Undecidable

BUDGET = 5_000_000
"""Steps of the search for one object; each takes some microseconds."""

T = TypeVar("T")


class Interval(NamedTuple, Generic[T]):
    """An operation, and when; ``returned`` is ``None`` when it may never take effect."""

    called: int
    returned: int | None
    operation: T


Step = Callable[[Any, T], tuple[bool, Hashable]]
"""From a state and an operation: whether its answer is right there, and the state after it."""


def check_linearizability(history: History, budget: int = BUDGET) -> Result:
    """Judge a history of lists and registers, each transaction on one key.

    Raises:
        ValueError: a transaction touches several keys, or the history has no times.
    """
    of_key: defaultdict[Any, list[Interval[Transaction]]] = defaultdict(list)
    for one in history:
        keys = {key for _, key, _ in one.operations}
        if len(keys) > 1 or one.called is None:
            raise ValueError(f"not of one key, or without time: {one}")
        if keys and one.outcome is not Outcome.FAILED:
            of_key[keys.pop()].append(Interval(one.called, one.returned, one))
    return check_objects(of_key, _after, budget)


def _after(state: Any, one: Transaction) -> tuple[bool, Hashable]:
    for kind, _, value in one.operations:
        if kind == "write":
            state = value
        elif kind == "append":
            state = (*(state or ()), value)
        elif one.outcome is Outcome.OK and (value if value != () else None) != state:
            return False, None
    return True, state


def check_objects(of_key: dict[Any, list[Interval[T]]], step: Step[T], budget: int = BUDGET) -> Result:
    """Judge each object by itself, from the state ``None`` on.

    All are tried with little effort first: one that is found wrong outweighs those that are left open.
    """
    left_open = of_key
    for effort in (budget // 100, budget):
        answers = {key: _answer(left_open[key], step, effort) for key in left_open}
        for key, answer in answers.items():
            if answer is False:
                told = f"no order of the {len(of_key[key])} operations on {key!r} explains what was read"
                return Anomaly("not-linearizable", told).result()
        left_open = {key: of_key[key] for key, answer in answers.items() if answer is None}
    if left_open:
        return Result("unknown", explanation=f"the budget is spent at {', '.join(map(repr, left_open))}")
    return Result("ok")


def _answer(intervals: Sequence[Interval[T]], step: Step[T], budget: int) -> bool | None:
    try:
        return is_linearizable(intervals, step, budget)
    except Undecidable:
        return None


def is_linearizable(intervals: Sequence[Interval[T]], step: Step[T], budget: int) -> bool:
    """Whether there is an order.

    Raises:
        Undecidable: that many steps did not find out.
    """
    events = _Events(intervals)
    state: Hashable = None
    done, seen = 0, set[tuple[int, Hashable]]()
    taken: list[tuple[int, Hashable]] = []
    at = events.first()
    while events.returns_left:
        budget -= 1
        if budget < 0:
            raise Undecidable("the budget is spent, and there may be an order")
        call = events.call_at(at)
        if call is not None:
            legal, after = step(state, intervals[call].operation)
            if legal and (done | 1 << call, after) not in seen:
                seen.add((done | 1 << call, after))
                taken.append((call, state))
                events.lift(call)
                done, state, at = done | 1 << call, after, events.first()
            else:
                at = events.after(at)
        elif taken:
            call, state = taken.pop()
            events.put_back(call)
            done ^= 1 << call
            at = events.after(events.place_of(call))
        else:
            return False
    return True


class _Events:
    """Calls and returns by time, as a linked list from which an operation can be lifted and put back.

    Calls come before returns of the same time. Place 0 is the end on both sides.
    """

    def __init__(self, intervals: Sequence[Interval[Any]]) -> None:
        calls = [(one.called, False, number) for number, one in enumerate(intervals)]
        returns = [
            (one.returned, True, number) for number, one in enumerate(intervals) if one.returned is not None
        ]
        events = sorted(calls + returns)
        self.returns_left = len(returns)
        self._next: list[int] = [*range(1, len(events) + 1), 0]
        self._previous: list[int] = [len(events), *range(len(events))]
        self._calls: list[int | None] = [
            None,
            *(None if is_return else number for _, is_return, number in events),
        ]
        self._places: list[list[int]] = [[] for _ in intervals]
        for place, (_, _, number) in enumerate(events, 1):
            self._places[number].append(place)

    def first(self) -> int:
        return self._next[0]

    def after(self, place: int) -> int:
        return self._next[place]

    def call_at(self, place: int) -> int | None:
        """The operation that is called here; ``None`` at a return and at the end."""
        return self._calls[place]

    def place_of(self, call: int) -> int:
        return self._places[call][0]

    def lift(self, call: int) -> None:
        for place in self._places[call]:
            self._next[self._previous[place]] = self._next[place]
            self._previous[self._next[place]] = self._previous[place]
        self.returns_left -= len(self._places[call]) - 1

    def put_back(self, call: int) -> None:
        for place in reversed(self._places[call]):
            self._next[self._previous[place]] = place
            self._previous[self._next[place]] = place
        self.returns_left += len(self._places[call]) - 1

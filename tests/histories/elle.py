"""Histories as Jepsen and Elle write them: EDN, one event a line, of list-append and register transactions.

``{:type :invoke, :process 0, :f :txn, :value [[:append 1 2] [:r 1 nil]], :time 5}`` and later the same with
``:ok`` (what was read filled in), ``:fail`` (it did not happen) or ``:info`` (nobody knows).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from tests.histories.edn import Keyword, parse, printed
from tests.histories.history import History, Kind, Operation, Outcome, Transaction, is_timed

_KINDS: dict[str, Kind] = {"append": "append", "r": "read", "w": "write"}
_TYPES = {"invoke", *(outcome.value for outcome in Outcome)}
_NAMES = {kind: Keyword(name) for name, kind in _KINDS.items()}


class Call(NamedTuple):
    """An invocation and what came back. ``function`` is its ``:f``, "txn" where there is none.

    ``key`` is that of workloads whose operations are on one key.
    """

    process: int
    function: str
    key: Any
    asked: Any
    answered: Any
    called: int
    returned: int | None
    outcome: Outcome


def read_elle(text: str) -> list[Transaction]:
    """The transactions, by the time of their call.

    Times are those of the events where they grow from each event to the next; otherwise an event's time is
    its place in the file, as in Jepsen, where that order is the real one. A transaction without a process
    gets one of its own.

    Raises:
        ValueError: an event is not that of a transaction.
    """
    return [transaction(call) for call in calls(text)]


def transaction(call: Call) -> Transaction:
    """A call of ``:txn`` as a transaction. Where no answer came, what was asked stands for it."""
    if call.function != "txn":
        raise ValueError(f"{call.function!r} is no transaction")
    operations = call.answered if call.answered is not None else call.asked
    return Transaction(
        call.process, tuple(map(_operation, operations)), call.called, call.returned, call.outcome
    )


def _operation(entry: Any) -> Operation:
    name, key, value = entry
    if name not in _KINDS:
        raise ValueError(f"an operation {name!r} is neither of lists nor of registers")
    return Operation(_KINDS[name], key, value)


def calls(text: str) -> list[Call]:
    """Every invocation by a client with its completion, of whatever workload, by the time of the call."""
    events = [event for event in _events(text) if not isinstance(event.get("process"), str)]
    return sorted(_paired(events, _times(events)), key=lambda call: call.called)


def _times(events: list[dict[str, Any]]) -> list[int]:
    times: list[int] = [event["time"] for event in events if event.get("time") is not None]
    growing = len(times) == len(events) and all(before < after for before, after in pairwise(times))
    return times if growing else list(range(len(events)))


def _events(text: str) -> Iterator[dict[str, Any]]:
    """One map after another, or all of them in one vector. A nemesis' process is a keyword."""
    for form in parse(text):
        for event in form if isinstance(form, tuple) else [form]:
            if not isinstance(event, dict) or event.get("type") not in _TYPES:
                raise ValueError(f"no event: {printed(event)}")
            yield event


def _paired(events: list[dict[str, Any]], times: list[int]) -> Iterator[Call]:
    """A completion belongs to the oldest open invocation of its process and function."""
    unnamed = 1 + max((event.get("process") or 0 for event in events), default=0)
    open_calls: defaultdict[tuple[Any, str], list[Call]] = defaultdict(list)
    for event, time in zip(events, times, strict=True):
        function = str(event.get("f", "txn"))
        process, waiting = event.get("process"), open_calls[event.get("process"), function]
        if event["type"] == "invoke":
            if process is None:
                process, unnamed = unnamed, unnamed + 1
            asked = event.get("key"), event.get("value")
            waiting.append(Call(process, function, *asked, None, time, None, Outcome.UNKNOWN))
        elif not waiting:
            raise ValueError(f"nothing was invoked that this completes: {printed(event)}")
        else:
            outcome = Outcome(event["type"])
            returned = None if outcome is Outcome.UNKNOWN else time
            yield waiting.pop(0)._replace(answered=event.get("value"), returned=returned, outcome=outcome)
    for waiting in open_calls.values():
        yield from waiting


def write_elle(history: History) -> str:
    """The history as EDN. An unknown outcome is told at the end.

    Raises:
        ValueError: the history has no times, which in this format stand for the order.
        TypeError: a key or a value has no EDN.
    """
    if not is_timed(history):
        raise ValueError("EDN histories are in real time, and this one has none")
    events = [event for one in history for event in _events_of(one)]
    # Of two events at the same time the call is the first, so that nothing seems to be before the other.
    events.sort(key=lambda event: (event.time, event.type != "invoke"))
    last = events[-1].time if events else 0
    unknown = [one for one in history if one.outcome is Outcome.UNKNOWN]
    events += [_Event(last + after, "info", one) for after, one in enumerate(unknown, 1)]
    return "".join(_line(index, event) for index, event in enumerate(events))


class _Event(NamedTuple):
    time: int
    type: str
    transaction: Transaction


def _events_of(one: Transaction) -> Iterator[_Event]:
    assert one.called is not None
    yield _Event(one.called, "invoke", one)
    if one.returned is not None:
        yield _Event(one.returned, one.outcome.value, one)


def _line(index: int, event: _Event) -> str:
    asked = event.type == "invoke"
    value = [
        (_NAMES[kind], key, None if asked and kind == "read" else value)
        for kind, key, value in event.transaction.operations
    ]
    fields = {
        "index": index,
        "time": event.time,
        "type": Keyword(event.type),
        "process": event.transaction.process,
        "f": Keyword("txn"),
        "value": value,
    }
    return printed({Keyword(name): item for name, item in fields.items()}) + "\n"

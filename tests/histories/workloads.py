"""Jepsen's other workloads, as far as they can be judged here, and which is which.

* get, put and append of strings: key by key, by a search for an order.
* set and comments: each element is a register of its own that is written once, and a read reads them all.
* long fork: a key holds 1 once it was written; who wrote it was not recorded, so somebody did at some time.
* bank and counter: what is written is not unique, so they do not fit the checker. Only their invariant is
  looked at, which is less than strict serializability: a total that stays, and sums that lie between what was
  certainly and what was possibly added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tests.histories.elle import Call, calls, transaction
from tests.histories.history import Outcome, Transaction, read, write
from tests.histories.linearizability import Interval, check_objects
from tests.histories.strict_serializability import check
from tests.histories.verdict import Anomaly, Result

STRICT = "strictly serializable"


def check_calls(text: str) -> tuple[str, Result]:
    """Judge an EDN history of a workload known here: which it is, is seen from what is called in it.

    Returns:
        What such a history promises, and whether it keeps it.

    Raises:
        ValueError: it is none of them.
    """
    recorded = calls(text)
    reads = (call.answered for call in recorded if call.function == "read" and call.answered is not None)
    answer = next(reads, None)
    match sorted({call.function for call in recorded}):
        case ["txn"]:
            return STRICT, check([transaction(call) for call in recorded])
        case ["read"] if isinstance(answer, tuple):
            return STRICT, check(read_long_fork(recorded))
        case ["read", "write"]:
            return STRICT, check(read_comments(recorded))
        case ["add", "read"] if isinstance(answer, tuple | frozenset):
            return STRICT, check(read_set(recorded))
        case ["read"] | ["read", "transfer"]:
            return "the total stays", check_bank(recorded)
        case ["add"] | ["add", "read"]:
            return "sums are possible", check_counter(recorded)
        case functions if set(functions) <= {"append", "get", "put"}:
            return "linearizable", check_strings(recorded)
        case functions:
            raise ValueError(f"no workload known here calls {', '.join(functions)}")


def check_strings(recorded: Sequence[Call]) -> Result:
    """Strings that are put, appended to and got. A get without answer says nothing and is left out."""
    of_key: defaultdict[Any, list[Interval[Call]]] = defaultdict(list)
    for call in recorded:
        if call.outcome is Outcome.OK or (call.outcome is Outcome.UNKNOWN and call.function != "get"):
            of_key[call.key].append(Interval(call.called, call.returned, call))
    return check_objects(of_key, _string_after)


def _string_after(string: str | None, call: Call) -> tuple[bool, str | None]:
    match call.function:
        case "get":
            return call.answered == (string or ""), string
        case "put":
            return True, call.asked
        case _:
            return True, (string or "") + call.asked


def read_set(recorded: Sequence[Call]) -> list[Transaction]:
    """Adds of elements, and reads of the whole set."""
    added = {call.asked for call in recorded if call.function == "add"}
    return _elements(recorded, added.union(*(_set_read(call) for call in recorded)))


def read_comments(recorded: Sequence[Call]) -> list[Transaction]:
    """Writes of elements, and reads of all. Elements from before the file begins are left out."""
    return _elements(recorded, {call.asked for call in recorded if call.function == "write"})


def _set_read(call: Call) -> frozenset[Any]:
    return frozenset(call.answered if call.function == "read" and call.outcome is Outcome.OK else ())


def _elements(recorded: Sequence[Call], universe: set[Any]) -> list[Transaction]:
    history = []
    for call in recorded:
        if call.function == "read":
            found = _set_read(call)
            operations = [read(element, True if element in found else None) for element in universe]
        else:
            operations = [write(call.asked, True)]
        history.append(Transaction(call.process, tuple(operations), call.called, call.returned, call.outcome))
    return history


def read_long_fork(recorded: Sequence[Call]) -> list[Transaction]:
    """Reads of several keys each, and for each key that was seen a writer that may have come at any time."""
    reads = [transaction(call._replace(function="txn")) for call in recorded]
    seen = sorted({key for one in reads for _, key, value in one.operations if value is not None})
    begin = min(call.called for call in recorded)
    processes = range(max(call.process for call in recorded) + 1, 10**9)
    writers = [
        Transaction(process, (write(key, 1),), begin, None, Outcome.UNKNOWN)
        for process, key in zip(processes, seen, strict=False)
    ]
    return [*reads, *writers]


def check_bank(recorded: Sequence[Call]) -> Result:
    """Transfers leave the total as it is."""
    answered = [call for call in recorded if call.function == "read" and call.outcome is Outcome.OK]
    totals = [sum(call.answered.values()) for call in answered]
    for call, total in zip(answered, totals, strict=True):
        if total != totals[0]:
            told = f"process {call.process} read {call.answered}, in all {total} and not {totals[0]}"
            return Anomaly("wrong-total", told).result()
    return Result("ok")


def check_counter(recorded: Sequence[Call]) -> Result:
    """A counter is no less than what was added before it was read, and no more than was asked for."""
    added = [call for call in recorded if call.function == "add" and call.outcome is not Outcome.FAILED]
    for call in recorded:
        if call.function == "read" and call.returned is not None and call.outcome is Outcome.OK:
            least = sum(max(0, one.asked) for one in added if one.returned and one.returned < call.called)
            least += sum(min(0, one.asked) for one in added if one.called < call.returned)
            most = sum(max(0, one.asked) for one in added if one.called < call.returned)
            most += sum(min(0, one.asked) for one in added if one.returned and one.returned < call.called)
            if not least <= call.answered <= most:
                told = f"process {call.process} read {call.answered}, not between {least} and {most}"
                return Anomaly("wrong-sum", told).result()
    return Result("ok")

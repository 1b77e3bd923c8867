"""Register histories as JSON Lines: one operation on one key a line, for checkers of linearizability.

``{"client": 0, "key": "x", "op": "cas", "arg": 2, "old": 1, "out": null, "ok": true, "call": 5, "ret": 9}``;
``op`` is read, write, append or cas, ``out`` is what was read, and without ``ret`` the outcome is unknown.
"""

from __future__ import annotations

import json
from typing import Any

from tests.histories.history import History, Operation, Outcome, Transaction, append, is_timed, read, write


def write_register_lines(history: History) -> str:
    """The history as JSON Lines, by the time of the call.

    Raises:
        ValueError: a transaction is more than one operation, and no cas either, or there are no times.
        TypeError: a key or a value has no JSON.
    """
    if not is_timed(history):
        raise ValueError("register lines have a time of call, and this history has none")
    by_call = sorted(history, key=lambda one: one.called or 0)
    return "".join(json.dumps(_line(one), ensure_ascii=False) + "\n" for one in by_call)


def _line(one: Transaction) -> dict[str, Any]:
    line = {"client": one.process, **_operation(one), "ok": one.outcome is Outcome.OK, "call": one.called}
    return line if one.returned is None else line | {"ret": one.returned}


def _operation(one: Transaction) -> dict[str, Any]:
    line: dict[str, Any] = {"key": None, "op": "", "arg": None, "old": None, "out": None}
    match one.operations:
        case (("read", key, out),):
            return line | {"key": key, "op": "read", "out": out}
        case (("write" | "append" as op, key, arg),):
            return line | {"key": key, "op": op, "arg": arg}
        case (("read", key, old), ("write", same, arg)) if same == key:
            return line | {"key": key, "op": "cas", "old": old, "arg": arg}
    raise ValueError(f"no single operation on one key: {one}")


def read_register_lines(text: str) -> list[Transaction]:
    """A cas that worked is a transaction that read and wrote.

    Raises:
        ValueError: a line is no such operation.
    """
    return [_transaction(json.loads(line)) for line in text.split("\n") if line.strip()]


def _transaction(line: dict[str, Any]) -> Transaction:
    returned = line.get("ret")
    outcome = Outcome.OK if line.get("ok") else Outcome.FAILED
    if returned is None:
        outcome = Outcome.UNKNOWN
    return Transaction(line["client"], _operations(line), line["call"], returned, outcome)


def _operations(line: dict[str, Any]) -> tuple[Operation, ...]:
    key = line["key"]
    match line["op"]:
        case "read":
            return (read(key, line.get("out")),)
        case "write":
            return (write(key, line["arg"]),)
        case "append":
            return (append(key, line["arg"]),)
        case "cas":
            return (read(key, line["old"]), write(key, line["arg"]))
    raise ValueError(f"no operation {line['op']!r}")

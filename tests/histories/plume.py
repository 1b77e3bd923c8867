"""Register histories as sessions without times: the text of Plume and dbcop, and that of AWDIT.

Plume: ``w(key,value,session,transaction)`` and ``r(...)``, integers. Session 0, transaction 0 writes the
initial 0 of every key, which here is ``None``; transaction -1 was aborted. AWDIT: ``w key value`` and
``r key value``, a line of ``-`` ends a transaction and a line of ``=`` a session; nothing is initial.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from tests.histories.history import History, Kind, Operation, Outcome, Transaction, read, write

_PLUME = re.compile(r"([rw])\((-?\d+),(-?\d+),(-?\d+),(-?\d+)\)$")
_ABORTED = -1


def read_plume(text: str) -> list[Transaction]:
    """The transactions in the order of the file; session 1 is process 0. Neighbouring aborts are one.

    Raises:
        ValueError: a line is not of the format.
    """
    lines = [_plume_line(line) for line in text.splitlines() if line.strip()]
    return [
        Transaction(
            process=session - 1,
            operations=tuple(operation for _, _, operation in group),
            outcome=Outcome.FAILED if number == _ABORTED else Outcome.OK,
        )
        for (session, number), group in groupby(lines, key=lambda line: line[:2])
        if (session, number) != (0, 0)
    ]


def _plume_line(line: str) -> tuple[int, int, Operation]:
    found = _PLUME.match(line.strip())
    if found is None:
        raise ValueError(f"no line of the format: {line!r}")
    key, value, session, number = map(int, found.groups()[1:])
    operation = read(key, value or None) if found[1] == "r" else write(key, value)
    return session, number, operation


def write_plume(history: History) -> str:
    """The history without its times. What failed is there by its writes, what is unknown if it was seen.

    Raises:
        ValueError: a key or a value is no integer, a value written is 0, or there are lists. ``numbered``
            makes integers of other keys and values.
    """
    keys = sorted({operation.key for one in history for operation in one.operations})
    lines = [f"w({key},0,0,0)\n" for key in keys]
    for number, one in enumerate(_by_process(history), 1):
        lines += _plume_lines(one, _ABORTED if one.outcome is Outcome.FAILED else number)
    return "".join(lines)


def numbered(history: History) -> list[Transaction]:
    """The same history with integers for its keys, from 0 on, and for the values of each key, from 1 on."""
    keys: dict[Any, int] = {}
    values: dict[Any, dict[Any, int]] = defaultdict(dict)

    def renamed(kind: Kind, key: Any, value: Any) -> Operation:
        number = None if value is None else values[key].setdefault(value, len(values[key]) + 1)
        return Operation(kind, keys.setdefault(key, len(keys)), number)

    return [
        replace(one, operations=tuple(renamed(*operation) for operation in one.operations)) for one in history
    ]


def _by_process(history: History) -> Iterator[Transaction]:
    """Those that have a place in the text, each process in its order."""
    seen = {
        operation
        for one in history
        if one.outcome is Outcome.OK
        for operation in one.operations
        if operation.kind == "read"
    }
    for one in sorted(history, key=lambda one: (one.process, one.called or 0)):
        writes = tuple(operation for operation in one.operations if operation.kind != "read")
        if one.outcome is Outcome.OK:
            yield one
        elif one.outcome is Outcome.FAILED:
            yield Transaction(one.process, writes, outcome=Outcome.FAILED)
        elif any(read(key, value) in seen for _, key, value in writes):
            yield Transaction(one.process, writes)


def _plume_lines(one: Transaction, number: int) -> Iterator[str]:
    for kind, key, value in one.operations:
        if kind == "append" or type(key) is not int or not isinstance(value, int | None) or value == 0:
            raise ValueError(f"only integers, and only registers: {one}")
        yield f"{kind[0]}({key},{value or 0},{one.process + 1},{number})\n"


def read_awdit(text: str) -> list[Transaction]:
    """The transactions of one session after another.

    Raises:
        ValueError: a line is not of the format.
    """
    history: list[Transaction] = []
    process, operations = 0, list[Operation]()
    for line in [*text.splitlines(), "====="]:
        if line.startswith(("-", "=")):
            if operations:
                history.append(Transaction(process, tuple(operations)))
            operations = []
            process += line.startswith("=")
        elif line.strip():
            operations.append(_awdit_line(line))
    return history


def _awdit_line(line: str) -> Operation:
    match line.split():
        case ["r", key, value]:
            return read(int(key), int(value))
        case ["w", key, value]:
            return write(int(key), int(value))
    raise ValueError(f"no line of the format: {line!r}")

"""Which checker fits which file."""

from __future__ import annotations

import re

from tests.histories.causal import check_causal
from tests.histories.history import History
from tests.histories.linearizability import check_linearizability
from tests.histories.plume import read_awdit, read_plume
from tests.histories.register_lines import read_register_lines
from tests.histories.strict_serializability import check
from tests.histories.verdict import Result
from tests.histories.workloads import STRICT, check_calls


def judge(text: str) -> list[tuple[str, Result]]:
    """What a history promises, and whether it keeps it. The format is seen from the first line.

    Raises:
        ValueError: the text is in none of the formats.
    """
    first = text.lstrip()
    if re.match(r"[rw]\(", first):
        return _judge_sessions(read_plume(text))
    if re.match(r"[rw] ", first):
        return _judge_sessions(read_awdit(text))
    if re.match(r'\{\s*"', first):
        return [(STRICT, _judge_registers(read_register_lines(text)))]
    return [check_calls(text)]


def _judge_sessions(history: History) -> list[tuple[str, Result]]:
    return [
        ("causally consistent", check_causal(history)),
        ("serializable in the order of sessions", check(history)),
    ]


def _judge_registers(history: History) -> Result:
    """By dependencies, and where values are not unique by search."""
    result = check(history)
    return check_linearizability(history) if result.verdict == "unknown" else result

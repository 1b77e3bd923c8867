"""The search for an order of operations on single keys."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.histories.brute_force import is_strictly_serializable
from tests.histories.history import Outcome, Transaction, append, read, write
from tests.histories.linearizability import check_linearizability
from tests.histories.simulation import simulate
from tests.histories.strategies import histories


@pytest.mark.parametrize("shape", ["list", "register"])
def test_the_verdict_is_that_of_trying_every_order(shape: str) -> None:
    @settings(max_examples=200)
    @given(histories("list" if shape == "list" else "register", timed=True, most=6, keys=1))
    def agrees(history: list[Transaction]) -> None:
        assert (check_linearizability(history).verdict == "ok") == is_strictly_serializable(history)

    agrees()


def test_values_need_not_be_unique() -> None:
    history = [
        Transaction(0, (write("x", 1),), 0, 1),
        Transaction(0, (write("x", 2),), 2, 3),
        Transaction(0, (write("x", 1),), 4, 9),
        Transaction(1, (read("x", 1),), 5, 6),
        Transaction(1, (read("x", 2),), 7, 8),
    ]

    assert check_linearizability(history).verdict == "violation"
    assert check_linearizability(history[:4]).verdict == "ok"


def test_each_key_is_judged_by_itself() -> None:
    history = simulate(1, 60, "register")
    singles = [
        Transaction(one.process, (operation,), one.called, one.returned, one.outcome)
        for one in history
        if one.outcome is Outcome.OK
        for operation in one.operations
        if operation.kind == "write"
    ]
    key = singles[0].operations[0].key

    assert check_linearizability(singles).verdict == "ok"
    result = check_linearizability([*singles, Transaction(99, (read(key, -1),), 10**6, 10**6 + 1)])
    assert (result.verdict, result.anomaly) == ("violation", "not-linearizable")
    assert f"on {key}" in result.explanation


def test_gives_up_when_the_budget_is_spent() -> None:
    history = [Transaction(number, (append("x", number),), 0, 9) for number in range(9)]

    result = check_linearizability([*history, Transaction(9, (read("x", (9,)),), 0, 9)], budget=1000)
    assert result.verdict == "unknown"
    assert "'x'" in result.explanation


def test_transactions_of_several_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="not of one key"):
        check_linearizability([Transaction(0, (write("x", 1), write("y", 1)), 0, 1)])

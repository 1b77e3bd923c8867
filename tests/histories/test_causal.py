"""The checker of causal consistency: by hand, against the definition, on planted faults, on recorded ones."""

from __future__ import annotations

import csv
import os

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from tests.histories import regions
from tests.histories.brute_force import is_causally_consistent
from tests.histories.causal import check_causal
from tests.histories.files import judge
from tests.histories.history import Operation, Outcome, Transaction, append, read, write
from tests.histories.plume import read_awdit, read_plume
from tests.histories.regions import CausalFault, simulate_regions
from tests.histories.strategies import histories
from tests.histories.strict_serializability import check
from tests.histories.test_recorded_histories import HISTORIES, text_of

EXAMPLES = int(os.environ.get("KVSTORE_HISTORY_EXAMPLES", "100"))
TRANSACTIONS = int(os.environ.get("KVSTORE_HISTORY_TRANSACTIONS", "3000"))

SMALL = histories("register", timed=False, most=6)


def sessions(*transactions: tuple[int, list[Operation]]) -> list[Transaction]:
    return [Transaction(process, tuple(operations)) for process, operations in transactions]


@settings(max_examples=EXAMPLES)
@given(SMALL)
def test_the_verdict_is_that_of_the_definition(history: list[Transaction]) -> None:
    assert (check_causal(history).verdict == "ok") == is_causally_consistent(history)


@pytest.mark.parametrize("wanted", [True, False])
def test_both_verdicts_occur(wanted: bool) -> None:
    quick = settings(phases=[Phase.generate], max_examples=3000)

    assert find(SMALL, lambda history: is_causally_consistent(history) is wanted, settings=quick)


class TestByHand:
    @pytest.mark.parametrize(
        ("anomaly", "history"),
        [
            (None, [(0, [write("x", 1)]), (1, [read("x", None)]), (1, [read("x", 1)])]),
            ("write-co-init-read", [(0, [write("x", 1)]), (1, [read("x", 1)]), (1, [read("x", None)])]),
            ("write-co-read", [(0, [write("x", 1)]), (0, [write("x", 2)]), (0, [read("x", 1)])]),
            ("fractured-read", [(0, [write("x", 1), write("y", 1)]), (1, [read("x", 1), read("y", None)])]),
            ("cyclic-co", [(0, [read("x", 1), write("y", 2)]), (1, [read("y", 2), write("x", 1)])]),
            ("G1b", [(0, [write("x", 1), write("x", 2)]), (1, [read("x", 1)])]),
            ("unwritten-read", [(0, [read("x", 1)])]),
            ("internal", [(0, [write("x", 1)]), (1, [read("x", None), read("x", 1)])]),
        ],
    )  # fmt: skip
    def test_what_a_session_may_read(
        self, anomaly: str | None, history: list[tuple[int, list[Operation]]]
    ) -> None:
        assert check_causal(sessions(*history)).anomaly == anomaly
        assert is_causally_consistent(sessions(*history)) == (anomaly is None)

    def test_a_long_fork_is_causal_and_not_serializable(self) -> None:
        history = sessions(
            (0, [write("x", 1)]),
            (1, [write("y", 1)]),
            (2, [read("x", 1), read("y", None)]),
            (3, [read("x", None), read("y", 1)]),
        )

        assert check_causal(history).verdict == "ok"
        assert check(history).verdict == "violation"

    def test_the_explanation_names_who_decided(self) -> None:
        history = sessions(
            (0, [write("x", 1), write("y", 1)]),
            (1, [write("x", 2), write("y", 2)]),
            (2, [read("x", 1), read("y", 2)]),
        )
        result = check_causal(history)

        assert result.anomaly == "cyclic-cf"
        assert result.explanation.splitlines()[-3:] == [
            "T0 -[arbitration y]-> T1 -[arbitration x]-> T0",
            "T2 decided key 'y'",
            "T2 decided key 'x'",
        ]

    def test_times_only_give_the_order_of_a_process(self) -> None:
        late = Transaction(0, (read("x", None),), 20, 29)
        early = Transaction(0, (write("x", 1),), 0, 9)

        assert check_causal([late, early]).anomaly == "write-co-init-read"
        assert check_causal([Transaction(1, late.operations, 20, 29), early]).verdict == "ok"

    def test_what_is_unknown_and_was_seen_comes_after_what_its_process_did(self) -> None:
        history = [
            Transaction(0, (write("x", 1),)),
            Transaction(0, (write("y", 1),), outcome=Outcome.UNKNOWN),
            Transaction(1, (read("y", 1),)),
            Transaction(1, (read("x", None),)),
        ]

        assert check_causal(history).anomaly == "write-co-init-read"
        assert check_causal(history[:2] + history[3:]).verdict == "ok"

    @pytest.mark.parametrize("operations", [[append("x", 1)], [read("x", (1,))], [write("x", None)]])
    def test_what_is_no_register_is_not_judged(self, operations: list[Operation]) -> None:
        assert check_causal(sessions((0, operations))).verdict == "unknown"


NAMES: dict[CausalFault, str] = {
    regions.own_write_forgotten: "write-co-read",
    regions.dependency_missing: "write-co-read",
    regions.fractured: "fractured-read",
    regions.nothing_there: "write-co-init-read",
    regions.circle: "cyclic-co",
    regions.no_agreement: "cyclic-cf",
    regions.never_written: "unwritten-read",
    regions.failed_write_seen: "G1a",
    regions.half_seen: "G1b",
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", NAMES, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault: CausalFault, seed: int) -> None:
    result = check_causal(simulate_regions(seed, 200, fault))

    assert result.verdict == "violation"
    assert result.anomaly == NAMES[fault], result.explanation


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_regions_that_ship_in_causal_order_are_found_correct(seed: int) -> None:
    result = check_causal(simulate_regions(seed, 100))

    assert result.verdict == "ok", result.explanation


def test_a_long_history_is_judged() -> None:
    history = simulate_regions(1, TRANSACTIONS)

    assert check_causal(history).verdict == "ok"
    assert check(history).verdict == "violation", "regions that are apart are not serializable"


class TestRecordedHistories:
    """See ``test_recorded_histories``. No verdict differs."""

    def test_litmus_cases_are_causal_where_their_folder_says_so(self) -> None:
        text_of("awdit/none/hb-cycle.txt")
        paths = sorted(HISTORIES.glob("awdit/**/*.txt"))

        assert len(paths) == 22
        for path in paths:
            result = check_causal(read_awdit(path.read_text(encoding="utf-8")))
            is_causal = path.relative_to(HISTORIES).parts[1] == "causal"
            assert result.verdict == ("ok" if is_causal else "violation"), path

    def test_executions_are_causal_where_plume_says_so(self) -> None:
        rows = list(csv.DictReader(text_of("executions/expected.csv").splitlines()))

        assert len(rows) == 19
        for row in rows:
            result = check_causal(read_plume(text_of(f"executions/{row['file']}")))
            assert result.verdict == ("ok" if row["plume_TCC"] == "ACCEPT" else "violation"), row["file"]

    def test_the_program_judges_both_promises_of_sessions(self) -> None:
        answers = judge(text_of("awdit/causal/lost-update.txt"))

        assert [(promise, result.verdict) for promise, result in answers] == [
            ("causally consistent", "ok"),
            ("serializable in the order of sessions", "violation"),
        ]

"""The checker of strict serializability: by hand, and many small histories against the definition."""

from __future__ import annotations

import os

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from tests.histories.brute_force import is_strictly_serializable
from tests.histories.evidence import Shape
from tests.histories.history import Operation, Outcome, Transaction, append, read, write
from tests.histories.ordering import Search
from tests.histories.simulation import simulate
from tests.histories.strategies import histories
from tests.histories.strict_serializability import check, play_back

EXAMPLES = int(os.environ.get("KVSTORE_HISTORY_EXAMPLES", "100"))
TRANSACTIONS = int(os.environ.get("KVSTORE_HISTORY_TRANSACTIONS", "3000"))

QUICK = settings(phases=[Phase.generate], max_examples=3000)

SMALL = {
    "lists": histories("list", timed=True),
    "lists without times": histories("list", timed=False),
    "registers": histories("register", timed=True),
    "registers without times": histories("register", timed=False),
    "more registers": histories("register", timed=True, most=7, keys=3),
    "more registers without times": histories("register", timed=False, most=7),
}


def together(*transactions: list[Operation]) -> list[Transaction]:
    """All at the same time."""
    return [Transaction(number, tuple(one), 0, 9) for number, one in enumerate(transactions)]


def in_turn(*transactions: list[Operation]) -> list[Transaction]:
    return [
        Transaction(number, tuple(one), 10 * number, 10 * number + 9)
        for number, one in enumerate(transactions)
    ]


@pytest.mark.parametrize("kind", SMALL)
class TestAgainstTheDefinition:
    def test_the_verdict_is_that_of_trying_every_order(self, kind: str) -> None:
        @settings(max_examples=EXAMPLES)
        @given(SMALL[kind])
        def agrees(history: list[Transaction]) -> None:
            result = check(history)
            assert result.verdict == ("ok" if is_strictly_serializable(history) else "violation"), result

        agrees()

    def test_both_verdicts_occur(self, kind: str) -> None:
        for wanted in (True, False):
            find(SMALL[kind], lambda history: is_strictly_serializable(history) is wanted, settings=QUICK)  # noqa: B023


ONE, TWO = [append("x", 1)], [append("x", 2)]


class TestLists:
    def test_the_explanation_names_the_edges_of_the_cycle(self) -> None:
        result = check(together([read("x", ()), append("y", 1)], [read("y", ()), append("x", 2)]))

        assert (result.verdict, result.anomaly) == ("violation", "G2")
        assert result.explanation.splitlines() == [
            "T0 = process 0: read x (), append y 1",
            "T1 = process 1: read y (), append x 2",
            "T0 -[rw x]-> T1 -[rw y]-> T0",
        ]

    def test_an_acknowledged_append_must_be_seen_from_then_on(self) -> None:
        result = check(in_turn([append("x", 1)], [append("x", 2)], [read("x", (1,))]))

        assert result.anomaly == "G-single-realtime"
        assert "T2 -[rw x]-> T1 -[real time]-> T2" in result.explanation

    @pytest.mark.parametrize(
        ("anomaly", "history"),
        [
            ("internal", together([append("x", 1), read("x", ())])),
            ("internal", together([append("x", 1)], [read("x", ()), read("x", (1,))])),
            ("future-read", together([read("x", (1,)), append("x", 1)])),
            ("unwritten-read", together([read("x", (1,))])),
            ("duplicate-elements", together([append("x", 1)], [read("x", (1, 1))])),
            ("incompatible-order", together(ONE, TWO, [read("x", (1,))], [read("x", (2, 1))])),
            ("incompatible-order", together([*ONE, *TWO, append("x", 3)], [read("x", (2, 1, 3))])),
            ("incompatible-order", together([*ONE, *TWO], [append("x", 3)], [read("x", (1, 3))])),
            ("G1b", together([append("x", 1), append("x", 2)], [read("x", (1,))])),
            ("G0", together([append("x", 1), append("x", 3)], [append("x", 2)], [read("x", (1, 2, 3))])),
        ],
    )  # fmt: skip
    def test_reads_that_no_order_brings_about(self, anomaly: str, history: list[Transaction]) -> None:
        assert check(history).anomaly == anomaly
        assert not is_strictly_serializable(history)

    def test_appends_that_nobody_saw_are_in_any_order(self) -> None:
        assert check(together([append("x", 1)], [append("x", 2)], [append("x", 3)])).verdict == "ok"


class TestRegisters:
    def test_the_order_of_writes_follows_from_who_read_and_wrote(self) -> None:
        """2 was written by one that had read 1, so who saw 2 in one place cannot see 1 in another."""
        history = together(
            [write("x", 1)],
            [read("x", 1), write("x", 2), write("y", 3)],
            [read("y", 3), read("x", 1)],
        )

        assert check(history).anomaly == "G-single"

    def test_an_order_that_no_single_read_gives_is_found(self) -> None:
        """Either order of the writes of x would do for each reader alone; y and z leave one only."""
        history = together(
            [write("x", 1), write("y", 1)],
            [write("x", 2), write("z", 2)],
            [read("x", 1), read("z", 2)],
            [read("x", 2), read("y", 1)],
        )

        assert not is_strictly_serializable(history)
        assert check(history).verdict == "violation"
        assert check(history[:3]).verdict == "ok"

    def test_the_order_of_writes_is_that_of_the_clients_where_they_saw_one(self) -> None:
        """Without real time y could have become 3 first, but that is not what anybody saw."""
        history = [
            Transaction(0, (write("y", 1),), 0, 9),
            Transaction(1, (write("x", 2), write("y", 3)), 10, 19),
            Transaction(2, (read("x", 2), read("y", 1)), 10, 19),
        ]

        assert check(history).anomaly == "G-single"

    def test_versions_that_were_made_from_each_other_are_a_cycle(self) -> None:
        history = together([read("x", 2), write("x", 1)], [read("x", 1), write("x", 2)])

        assert check(history).anomaly == "G1c"

    @pytest.mark.parametrize(("keys", "count", "spread"), [(2, 60, 10), (3, 40, 20), (4, 40, 60)])
    def test_an_order_is_found_when_nearly_everything_overlaps(
        self, keys: int, count: int, spread: int
    ) -> None:
        """Here first choices are often wrong, and are found out late."""
        for seed in range(EXAMPLES):
            history = simulate(seed, count, "register", keys=keys, spread=spread)
            assert check(history).verdict == "ok", seed

    def test_gives_up_when_the_budget_is_spent(self) -> None:
        history = [Transaction(number, (write("x", number),), 0, 100) for number in range(9)]
        history += [Transaction(10 + number, (read("x", number),), 0, 100) for number in range(9)]

        assert check(history).verdict == "ok"
        result = check(history, budget=3)
        assert (result.verdict, result.anomaly) == ("unknown", None)
        assert "budget" in result.explanation

    @pytest.mark.parametrize(
        "history",
        [
            together([write("x", 1)], [write("x", 1)]),
            together([write("x", None)]),
            together([write("x", 1), append("x", 2)]),
        ],
    )
    def test_what_does_not_say_enough_is_not_judged(self, history: list[Transaction]) -> None:
        assert check(history).verdict == "unknown"


class TestOutcomes:
    def test_unknown_may_have_happened_or_not(self) -> None:
        unknown = Transaction(0, (append("x", 1),), 0, None, Outcome.UNKNOWN)

        assert check([unknown, *in_turn([read("x", ())])]).verdict == "ok"
        assert check([unknown, *in_turn([read("x", (1,))])]).verdict == "ok"
        assert check([unknown, *in_turn([read("x", ())], [read("x", (1,))])]).verdict == "ok"
        assert check([unknown, *in_turn([read("x", (1,))], [read("x", ())])]).verdict == "violation"

    def test_unknown_happens_as_a_whole_or_not(self) -> None:
        unknown = Transaction(0, (append("x", 1), append("y", 1)), 0, None, Outcome.UNKNOWN)

        result = check([unknown, *in_turn([read("x", (1,))], [read("y", ())])])
        assert result.anomaly == "G-single-realtime"

    def test_what_was_read_before_an_unknown_outcome_counts_for_nothing(self) -> None:
        operations = (read("x", (9,)), append("x", 1), read("x", (8,)))
        unknown = Transaction(0, operations, 0, None, Outcome.UNKNOWN)

        assert check([unknown, *in_turn([read("x", (1,))])]).verdict == "ok"

    def test_unknown_does_not_happen_before_its_call(self) -> None:
        unknown = Transaction(0, (append("x", 1),), 20, None, Outcome.UNKNOWN)

        assert check([unknown, *in_turn([read("x", (1,))])]).anomaly == "G1c-realtime"

    def test_failed_never_happened(self) -> None:
        failed = Transaction(0, (append("x", 1),), 0, 5, Outcome.FAILED)

        assert check([failed, *in_turn([read("x", ())])]).verdict == "ok"
        assert check([failed, *in_turn([read("x", (1,))])]).anomaly == "G1a"

    def test_what_failed_may_be_tried_again(self) -> None:
        failed = Transaction(0, (append("x", 1),), 0, 5, Outcome.FAILED)

        assert check([failed, *in_turn([append("x", 1)], [read("x", (1,))])]).verdict == "ok"

    def test_at_the_same_time_is_not_before(self) -> None:
        met = [Transaction(0, (append("x", 1),), 0, 5), Transaction(1, (read("x", ()),), 5, 9)]

        assert check(met).verdict == "ok"

    def test_without_times_only_processes_have_an_order(self) -> None:
        def history(process: int) -> list[Transaction]:
            return [Transaction(0, (append("x", 1),)), Transaction(process, (read("x", ()),))]

        assert check(history(1)).verdict == "ok"
        assert check(history(0)).anomaly == "G-single-process"


class TestTheProof:
    """An order that was found is played back, so that "ok" cannot come from a mistake in the graph."""

    HISTORY = in_turn([append("x", 1)], [read("x", (1,))])

    def test_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Search, "order", lambda search: [1, 0])

        with pytest.raises(AssertionError):
            check(self.HISTORY)

    def test_is_accepted_when_it_is_right(self) -> None:
        play_back(self.HISTORY, [0, 1])

    def test_is_refused_when_a_read_is_not_explained(self) -> None:
        with pytest.raises(AssertionError):
            play_back(together([append("x", 1)], [read("x", (1,))]), [1, 0])

    def test_is_refused_when_clients_saw_another_order(self) -> None:
        with pytest.raises(AssertionError):
            play_back(in_turn([append("x", 1)], [append("y", 1)]), [1, 0])
        with pytest.raises(AssertionError):
            play_back([Transaction(0, (append("x", 1),)), Transaction(0, (append("y", 1),))], [1, 0])


@pytest.mark.parametrize("shape", ["list", "register"])
def test_a_long_history_is_judged(shape: Shape) -> None:
    assert check(simulate(1, TRANSACTIONS, shape)).verdict == "ok"


@given(st.integers(0, 10**6), st.sampled_from(["list", "register"]))
@settings(max_examples=20)
def test_a_correct_store_is_found_correct(seed: int, shape: Shape) -> None:
    result = check(simulate(seed, 120, shape))

    assert result.verdict == "ok", result.explanation

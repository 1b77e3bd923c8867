"""Every format there and back, and what foreign writers do that ours does not."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.histories.edn import EDNError, Keyword, Symbol, parse, printed
from tests.histories.elle import calls, read_elle, write_elle
from tests.histories.history import Operation, Outcome, Transaction, append, read, write
from tests.histories.plume import numbered, read_awdit, read_plume, write_plume
from tests.histories.register_lines import read_register_lines, write_register_lines

NAMES = st.text(string.ascii_letters, min_size=1).map(Keyword)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    NAMES,
)
FORMS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple),
        st.frozensets(SCALARS, max_size=4),
        st.dictionaries(SCALARS, inner, max_size=4),
    ),
)


class TestEDN:
    @settings(max_examples=50)
    @given(st.lists(FORMS))
    def test_there_and_back(self, forms: list[Any]) -> None:
        assert list(parse("\n".join(map(printed, forms)))) == forms

    @pytest.mark.parametrize(
        ("text", "form"),
        [
            ("{:a 1, :b [nil true]}", {"a": 1, "b": (None, True)}),
            ("#{1 2 ; a set\n 3}", frozenset({1, 2, 3})),
            ("(1 -2 +3 4N 1.5 2e3 1.5M)", (1, -2, 3, 4, 1.5, 2000.0, 1.5)),
            ('"a\\n\\"b\\" \\u00e4"', 'a\n"b" ä'),
            ("[#_ ignored \\a \\newline \\u0041]", ("a", "\n", "A")),
            ("#jepsen.history.Op{:index 0}", {"index": 0}),
            ("[java.sql.SQLException -]", (Symbol("java.sql.SQLException"), Symbol("-"))),
        ],
    )
    def test_what_others_write(self, text: str, form: Any) -> None:
        assert list(parse(text)) == [form]

    @pytest.mark.parametrize("text", ["[1", "]", "{:a}", '"open', "[1}", "#tag", "1x"])
    def test_refuses_what_is_none(self, text: str) -> None:
        with pytest.raises(EDNError):
            list(parse(text))

    @pytest.mark.parametrize("value", [b"bytes", float("nan"), object()])
    def test_does_not_print_what_it_has_not(self, value: object) -> None:
        with pytest.raises(TypeError):
            printed(value)


KEYS = st.one_of(st.integers(), st.text(max_size=3), NAMES)
VALUES = st.one_of(st.integers(), st.text(max_size=3))
OPERATIONS = st.one_of(
    st.builds(append, KEYS, VALUES),
    st.builds(write, KEYS, VALUES),
    st.builds(read, KEYS, st.one_of(st.none(), VALUES, st.lists(VALUES, max_size=3))),
)


@st.composite
def timed_histories(draw: st.DrawFn, operations: st.SearchStrategy[list[Operation]]) -> list[Transaction]:
    """By the time of the call, no two events at once, as a recorder makes them."""
    history = []
    for process, tried in enumerate(draw(st.lists(operations, max_size=5))):
        outcome = draw(st.sampled_from(Outcome))
        called = 10 * process + draw(st.integers(0, 9))
        returned = 10**6 + 10 * draw(st.integers(0, 99)) * 100 + process
        history.append(
            Transaction(
                process, tuple(tried), called, None if outcome is Outcome.UNKNOWN else returned, outcome
            )
        )
    return history


class TestElle:
    @given(timed_histories(st.lists(OPERATIONS, max_size=4)))
    def test_there_and_back(self, history: list[Transaction]) -> None:
        assert read_elle(write_elle(history)) == history

    def test_looks_like_this(self) -> None:
        history = [
            Transaction(0, (append("x", 1), read("x", (1,))), 3, 9),
            Transaction(1, (write(Keyword("y"), 2),), 5, None, Outcome.UNKNOWN),
        ]

        assert write_elle(history).splitlines() == [
            '{:index 0, :time 3, :type :invoke, :process 0, :f :txn, :value [[:append "x" 1] [:r "x" nil]]}',
            "{:index 1, :time 5, :type :invoke, :process 1, :f :txn, :value [[:w :y 2]]}",
            '{:index 2, :time 9, :type :ok, :process 0, :f :txn, :value [[:append "x" 1] [:r "x" [1]]]}',
            "{:index 3, :time 10, :type :info, :process 1, :f :txn, :value [[:w :y 2]]}",
        ]

    def test_without_times_the_place_in_the_file_is_the_time(self) -> None:
        for time in ("", ":time 0 "):
            text = "".join(
                f"{{{time}:type :{kind} :process 4 :value [[:w 1 2]]}}\n" for kind in ("invoke", "ok")
            )

            assert read_elle(text) == [Transaction(4, (write(1, 2),), 0, 1)]

    def test_without_a_process_each_has_its_own(self) -> None:
        text = "".join(f"{{:type :{kind} :value [[:w 1 2]]}}\n" for kind in ("invoke", "ok") * 2)

        assert [one.process for one in read_elle(text)] == [1, 2]

    def test_an_invocation_that_never_ended_is_unknown(self) -> None:
        (one,) = read_elle("{:type :invoke :process 0 :value [[:append 1 2]]}")

        assert (one.outcome, one.operations) == (Outcome.UNKNOWN, (append(1, 2),))

    def test_the_nemesis_is_no_client(self) -> None:
        assert calls("{:type :info :process :nemesis :f :kill :time 1}") == []

    @pytest.mark.parametrize("text", ["[1]", "{:process 1}", "{:type :done}", "{:type :ok :process 1}"])
    def test_what_is_no_event_or_was_never_invoked_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"no event|nothing was invoked"):
            calls(text)

    def test_other_operations_are_refused(self) -> None:
        with pytest.raises(ValueError, match="cas"):
            read_elle("{:type :invoke :value [[:cas 1 2]]}")

    def test_calls_come_first_at_the_same_time(self) -> None:
        """Two that met must not become one after the other."""
        text = write_elle([Transaction(0, (), 1, 5), Transaction(1, (), 5, 9)])

        one, other = read_elle(text)
        assert (one.called, one.returned, other.called, other.returned) == (0, 2, 1, 3)


JSON_VALUES = st.one_of(st.none(), st.integers(), st.text())
REGISTER_OPERATIONS = st.one_of(
    st.builds(lambda key, value: [read(key, value)], st.text(), JSON_VALUES),
    st.builds(lambda key, value: [write(key, value)], st.text(), JSON_VALUES),
    st.builds(lambda key, value: [append(key, value)], st.text(), JSON_VALUES),
    st.builds(lambda key, old, new: [read(key, old), write(key, new)], st.text(), JSON_VALUES, JSON_VALUES),
)


class TestRegisterLines:
    @given(timed_histories(REGISTER_OPERATIONS))
    def test_there_and_back(self, history: list[Transaction]) -> None:
        assert read_register_lines(write_register_lines(history)) == history

    def test_looks_like_this(self) -> None:
        history = [
            Transaction(0, (read("x", 1), write("x", 2)), 5, 9),
            Transaction(1, (write("x", 3),), 6, None, Outcome.UNKNOWN),
        ]

        assert write_register_lines(history).splitlines() == [
            '{"client": 0, "key": "x", "op": "cas", "arg": 2, "old": 1, "out": null,'
            ' "ok": true, "call": 5, "ret": 9}',
            '{"client": 1, "key": "x", "op": "write", "arg": 3, "old": null, "out": null,'
            ' "ok": false, "call": 6}',
        ]

    @pytest.mark.parametrize(
        "operations", [(), (write("x", 1), write("y", 1)), (read("x", 1), write("y", 1))]
    )
    def test_has_no_line_for_more_than_one_operation(self, operations: tuple[Operation, ...]) -> None:
        with pytest.raises(ValueError, match="no single operation"):
            write_register_lines([Transaction(0, operations, 1, 2)])

    def test_refuses_another_operation(self) -> None:
        with pytest.raises(ValueError, match="swap"):
            read_register_lines('{"client": 0, "key": "x", "op": "swap", "call": 1}')


INTEGER_WRITES = st.builds(write, st.integers(), st.integers().filter(bool))
INTEGER_READS = st.builds(read, st.integers(), st.one_of(st.none(), st.integers().filter(bool)))
INTEGER_OPERATIONS = st.one_of(INTEGER_WRITES, INTEGER_READS)


@st.composite
def sessions(draw: st.DrawFn) -> list[Transaction]:
    """Without times, process after process; no two that failed beside each other, and those only write."""
    history: list[Transaction] = []
    for process in range(draw(st.integers(0, 3))):
        for _ in range(draw(st.integers(0, 4))):
            after_a_failure = bool(history) and history[-1].outcome is Outcome.FAILED
            fails = not after_a_failure and draw(st.booleans())
            operations = draw(
                st.lists(INTEGER_WRITES if fails else INTEGER_OPERATIONS, min_size=1, max_size=4)
            )
            outcome = Outcome.FAILED if fails else Outcome.OK
            history.append(Transaction(process, tuple(operations), outcome=outcome))
    return history


class TestPlume:
    @given(sessions())
    def test_there_and_back(self, history: list[Transaction]) -> None:
        assert read_plume(write_plume(history)) == history

    def test_looks_like_this(self) -> None:
        history = [
            Transaction(1, (read(7, None), write(7, 5)), 3, 4),
            Transaction(0, (write(7, 9), read(8, 6)), 3, 4, Outcome.FAILED),
            Transaction(0, (write(8, 6),), 1, 2),
        ]

        assert write_plume(history).splitlines() == [
            "w(7,0,0,0)",
            "w(8,0,0,0)",
            "w(8,6,1,1)",
            "w(7,9,1,-1)",
            "r(7,0,2,3)",
            "w(7,5,2,3)",
        ]

    def test_what_is_unknown_is_there_if_it_was_seen(self) -> None:
        unknown = [Transaction(n, (write(1, n), read(2, n)), 1, None, Outcome.UNKNOWN) for n in (5, 6)]

        lines = write_plume([*unknown, Transaction(9, (read(1, 6),), 2, 3)]).splitlines()

        assert lines == ["w(1,0,0,0)", "w(2,0,0,0)", "w(1,6,7,1)", "r(1,6,10,2)"]

    @pytest.mark.parametrize("operation", [write(1, 0), write("x", 1), write(1, "a"), append(1, 1)])
    def test_has_only_integers(self, operation: Operation) -> None:
        with pytest.raises(ValueError, match="only integers"):
            write_plume([Transaction(0, (operation,))])

    def test_other_keys_and_values_are_numbered(self) -> None:
        history = [
            Transaction(0, (write(("a", 1), "one"), write("b", "one")), 3, 4),
            Transaction(1, (read("b", "one"), read(("a", 1), None), write(("a", 1), "two")), 5, 6),
        ]

        assert numbered(history) == [
            Transaction(0, (write(0, 1), write(1, 1)), 3, 4),
            Transaction(1, (read(1, 1), read(0, None), write(0, 2)), 5, 6),
        ]

    def test_refuses_another_line(self) -> None:
        with pytest.raises(ValueError, match="no line"):
            read_plume("w(1,0,0,0)\nw(1,2,3)\n")


class TestAWDIT:
    def test_has_transactions_and_sessions(self) -> None:
        assert read_awdit("w 0 1\nr 1 2\n-----\nw 0 2\n=====\n-----\nr 0 0\n") == [
            Transaction(0, (write(0, 1), read(1, 2))),
            Transaction(0, (write(0, 2),)),
            Transaction(1, (read(0, 0),)),
        ]

    def test_refuses_another_line(self) -> None:
        with pytest.raises(ValueError, match="no line"):
            read_awdit("w 0\n")

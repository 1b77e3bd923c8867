"""Workloads that are not of transactions, the program, and how it knows one file from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.histories.__main__ import main
from tests.histories.files import judge
from tests.histories.verdict import Result


def events(*told: str) -> str:
    """``"0 invoke read nil"`` and so on: process, type, function, value."""
    fields = (line.split(maxsplit=3) for line in told)
    return "".join(f"{{:process {p} :type :{t} :f :{f} :value {v}}}\n" for p, t, f, v in fields)


def verdict(text: str) -> str:
    ((_, result),) = judge(text)
    return str(result)


class TestASet:
    ADDED = ("0 invoke add 1", "0 ok add 1")

    def test_has_what_was_added(self) -> None:
        assert verdict(events(*self.ADDED, "1 invoke read nil", "1 ok read #{1}")) == "ok"

    def test_does_not_lose_it(self) -> None:
        text = events(*self.ADDED, "1 invoke read nil", "1 ok read #{}")

        assert verdict(text) == "violation: G-single-realtime"

    def test_may_have_what_was_perhaps_added(self) -> None:
        for outcome in ("#{}", "#{1}"):
            text = events("0 invoke add 1", "0 info add 1", "1 invoke read nil", f"1 ok read {outcome}")
            assert verdict(text) == "ok"

    def test_does_not_have_what_nobody_added(self) -> None:
        text = events(*self.ADDED, "1 invoke read nil", "1 ok read [1 2]")

        assert verdict(text) == "violation: unwritten-read"


class TestABank:
    @pytest.mark.parametrize(
        ("second", "expected"), [("{0 3, 1 7}", "ok"), ("{0 3, 1 8}", "violation: wrong-total")]
    )
    def test_keeps_its_total(self, second: str, expected: str) -> None:
        text = events(
            "0 invoke read nil",
            "0 ok read {0 5, 1 5}",
            "0 invoke transfer {:from 0 :to 1 :amount 2}",
            "0 ok transfer {:from 0 :to 1 :amount 2}",
            "1 invoke read nil",
            f"1 ok read {second}",
        )

        assert verdict(text) == expected


class TestACounter:
    """2 was added; 3 is being added while it is read; -1 was asked for and never answered."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(0, "violation: wrong-sum"), (1, "ok"), (5, "ok"), (6, "violation: wrong-sum")],
    )
    def test_is_between_what_was_and_what_may_have_been_added(self, value: int, expected: str) -> None:
        text = events(
            "0 invoke add 2",
            "0 ok add 2",
            "1 invoke add -1",
            "1 info add -1",
            "2 invoke read nil",
            "0 invoke add 3",
            f"2 ok read {value}",
            "0 ok add 3",
        )

        assert verdict(text) == expected


class TestStrings:
    def history(self, got: str) -> str:
        return events(
            '0 invoke put "a"',
            '0 ok put "a"',
            '1 invoke append "b"',
            '1 info append "b"',
            "2 invoke get nil",
            f'2 ok get "{got}"',
        )

    @pytest.mark.parametrize("got", ["a", "ab"])
    def test_have_what_was_written_into_them(self, got: str) -> None:
        assert verdict(self.history(got)) == "ok"

    @pytest.mark.parametrize("got", ["", "b", "ba", "abb"])
    def test_have_nothing_else(self, got: str) -> None:
        assert verdict(self.history(got)) == "violation: not-linearizable"


LINE = '{{"client": {0}, "key": "x", "op": "{1}", "arg": 1, "out": 1, "ok": true, "call": {2}, "ret": {3}}}\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w(1,0,0,0)\nw(1,5,1,1)\nr(1,5,2,2)\n", "ok"),
        ("w(1,0,0,0)\nr(1,5,2,2)\n", "violation: unwritten-read"),
        ("r 1 5\n=====\nw 1 5\n", "ok"),
        ("r 1 4\n=====\nw 1 5\n", "violation: unwritten-read"),
        (LINE.format(0, "write", 1, 2) + LINE.format(1, "read", 3, 4), "ok"),
        (LINE.format(0, "write", 3, 4) + LINE.format(1, "read", 1, 2), "violation: G1c-realtime"),
    ],
)
def test_a_format_is_recognised(text: str, expected: str) -> None:
    assert str(judge(text)[0][1]) == expected


def test_registers_whose_values_are_not_unique_are_judged_key_by_key() -> None:
    twice = LINE.format(0, "write", 1, 2) + LINE.format(0, "write", 3, 4)

    assert verdict(twice + LINE.format(1, "read", 5, 6)) == "ok"
    assert verdict(LINE.format(1, "read", 0, 0) + twice) == "violation: not-linearizable"


class TestTheProgram:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "history"

    def test_ends_with_0_when_all_is_well(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path.write_text("r 1 5\n=====\nw 1 5\n")

        assert main([str(path)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{path}: causally consistent: ok",
            f"{path}: serializable in the order of sessions: ok",
        ]

    def test_ends_with_2_when_it_cannot_say(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path.write_text("w 1 5\n=====\nw 1 5\n")

        assert main([str(path)]) == 2
        assert ": unknown\n    5 was written to key 1 twice" in capsys.readouterr().out

    def test_goes_on_after_what_it_cannot_read(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path.write_text("r 1 4\n=====\nw 1 5\n")

        assert main([f"{path}.gone", __file__, str(path)]) == 1
        assert capsys.readouterr().out.count("a history: unknown") == 2

    def test_says_how_it_is_called(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 2
        assert "FILE..." in capsys.readouterr().err


def test_a_result_is_printed_with_its_anomaly() -> None:
    assert str(Result("violation", "G0")) == "violation: G0"
    assert str(Result("unknown", explanation="why")) == "unknown"

"""Histories that others recorded, with the verdicts of others. Skipped where they are not there.

One verdict differs on purpose. ``rw-register.edn`` is strictly serializable to Elle, which does not ask who
wrote what was read: one process writes 2, reads 3, which nobody wrote, and reads 2. No order explains that.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.histories.__main__ import main
from tests.histories.elle import read_elle
from tests.histories.files import judge
from tests.histories.plume import read_awdit, read_plume
from tests.histories.strict_serializability import check
from tests.histories.verdict import Result

HISTORIES = Path(__file__).parents[3] / "shared" / "data" / "histories"


def text_of(name: str) -> str:
    if not (HISTORIES / name).exists():
        pytest.skip("the recorded histories are not beside this repository")
    return (HISTORIES / name).read_text(encoding="utf-8")


def result_of(name: str) -> Result:
    """By the strongest promise that the format has."""
    return judge(text_of(name))[-1][1]


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("elle/paper-example.edn", "violation: G-single"),
        ("elle/list-append-gh-30.edn", "violation: G2"),
        ("elle/si-without-g-single.edn", "violation: G2"),
        ("elle/rw-register.edn", "violation: unwritten-read"),
        ("elle-cli-jepsen/bank.edn", "ok"),
        ("elle-cli-jepsen/bank-neg.edn", "ok"),
        ("elle-cli-jepsen/counter.edn", "ok"),
        ("elle-cli-jepsen/set.edn", "ok"),
        ("elle-cli-jepsen/set_full.edn", "violation: unwritten-read"),
        ("elle-cli-jepsen/long-fork.edn", "violation: G2"),
        ("elle-cli-jepsen/comments.edn", "violation: G-single-realtime"),
        ("porcupine-kv/c01-ok.txt", "ok"),
        ("porcupine-kv/c01-bad.txt", "violation: not-linearizable"),
        ("porcupine-kv/c10-ok.txt", "ok"),
        ("porcupine-kv/c10-bad.txt", "violation: not-linearizable"),
        ("porcupine-kv/c50-ok.txt", "ok"),
        ("porcupine-kv/c50-bad.txt", "violation: not-linearizable"),
        ("awdit/causal/fully-ser.txt", "ok"),
        ("awdit/causal/lost-update.txt", "violation: G-single"),
    ],
)
def test_the_verdict_is_known(name: str, verdict: str) -> None:
    assert str(result_of(name)) == verdict


def test_the_list_above_is_that_of_the_files() -> None:
    rows = list(csv.DictReader(text_of("porcupine-kv/expected.csv").splitlines()))

    assert len(rows) == 6
    assert all((row["linearizable"] == "true") == ("-ok" in row["file"]) for row in rows)


def test_what_is_wrong_with_the_register_history_is_the_one_read() -> None:
    history = read_elle(text_of("elle/rw-register.edn"))

    assert check(history).verdict == "violation"
    assert check([one for one in history if one.operations[0].value != 3]).verdict == "ok"


def test_no_litmus_case_below_causal_is_serializable() -> None:
    text_of("awdit/none/hb-cycle.txt")
    for path in HISTORIES.glob("awdit/*/**/*.txt"):
        if path.relative_to(HISTORIES).parts[1] != "causal":
            assert check(read_awdit(path.read_text(encoding="utf-8"))).verdict == "violation", path


def test_serializability_of_executions_is_as_dbcop_says() -> None:
    rows = list(csv.DictReader(text_of("executions/expected.csv").splitlines()))

    assert len(rows) == 19
    for row in rows:
        verdict = check(read_plume(text_of(f"executions/{row['file']}"))).verdict
        assert (verdict == "ok") == (row["dbcop_SER"] == "ok"), row["file"]


def test_the_program_prints_the_verdicts_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    text_of("elle/paper-example.edn")
    paths = [str(HISTORIES / name) for name in ("elle-cli-jepsen/set.edn", "elle/paper-example.edn")]

    assert main(paths) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{paths[0]}: strictly serializable: ok"
    assert lines[1] == f"{paths[1]}: strictly serializable: violation: G-single"
    assert lines[-1] == "    T3 -[rw 255]-> T1 -[wr 255]-> T2 -[ww 256]-> T3"

"""Transactions in the shell: commands that take part, messages, and that no write is lost silently."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kvstore
from kvstore.cli.commands.reports import route_line
from kvstore.cli.commands.session import Session
from kvstore.cli.commands.store_commands import COMMANDS
from kvstore.cli.failures import EndOfSession
from kvstore.cli.shell import run_scripts
from tests.cli.conftest import BANK, Done, Kv, Shell, lines

OPEN = "a transaction is open: commit or rollback first"
NONE_OPEN = "no transaction is open: begin opens one"


def on_two_shards(db: kvstore.Database) -> tuple[str, str]:
    """Return two keys of different shards."""
    shard = db.explain("a").shards
    other = next(f"b{number}" for number in range(99) if db.explain(f"b{number}").shards != shard)
    return "a", other


class TestWhatIsInside:
    def test_is_seen_inside_only_until_it_is_committed(self, db: kvstore.Database, shell: Shell) -> None:
        db.put("old", 1)
        assert shell("begin; put a 1; delete old; add hits 2") == (
            '"a" = 1  int\n"old" deleted\n"hits" += 2  int\n',
            "",
        )
        assert list(db.scan()) == [("old", 1)]
        assert shell("get a; count; scan") == (
            '1\n2\n{"key": "a", "value": 1}\n{"key": "hits", "value": 2}\n',
            "",
        )
        assert shell("get old") == ("", 'error: no value at "old"\n')

        assert shell("commit") == ("", "(route)\n")
        assert list(db.scan()) == [("a", 1), ("hits", 2)]

    def test_is_gone_when_it_is_rolled_back(self, db: kvstore.Database, shell: Shell) -> None:
        assert shell("begin; put a 1; put b 1; rollback")[1] == "rolled back: 2 writes undone\n"
        assert shell("begin; put a 1; rollback")[1] == "rolled back: 1 write undone\n"
        assert list(db.scan()) == []

    def test_is_of_one_moment(self, db: kvstore.Database, shell: Shell) -> None:
        db.put("a", 1)
        shell("begin; get a")
        db.put("a", 2)
        db.put("b", 2)

        assert shell("get a; count") == ("1\n1\n", "")

    def test_adds_without_reading(self, db: kvstore.Database, shell: Shell) -> None:
        shell("begin; add hits; add hits 1.5")
        db.add("hits", 10)

        assert shell("commit") == ("", "(route)\n")
        assert db["hits"] == 12.5

    def test_refuses_what_cannot_be_and_goes_on(self, db: kvstore.Database, shell: Shell) -> None:
        db.put("text", "x")
        shell("begin; put a 1")
        for line in ("add text", "put 5 x", "put (x) 1", "gte a", "rollback --to nowhere", "begin"):
            assert shell(line)[1].startswith("error: "), line

        assert shell("put b 2; commit") == ('"b" = 2  int\n', "(route)\n")
        assert dict(db.scan()) == {"text": "x", "a": 1, "b": 2}


class TestWhatIsBeside:
    @pytest.mark.parametrize("command", ["version a", "call bank.settle {day: 7}", "compact"])
    def test_is_refused_where_it_would_not_be_a_part(self, shell: Shell, command: str) -> None:
        name = command.partition(" ")[0]
        refusal = f"error: {name} cannot run in a transaction: commit or rollback first\n"

        assert shell(f"begin; {command}") == ("", refusal)

    def test_sees_what_is_committed(self, kv: Kv) -> None:
        kv("put", "s", "a", "1")
        inside = "put b 2; backup copy; watch --since 0 --timeout 0; verify; explain a; status; help"

        done = kv("shell", "s", "-c", f"begin; {inside}; commit")

        assert done.code == 0, done.err
        assert '"key": "b"' not in done.out
        assert "\nok: " in done.out
        assert kv("count", "copy").out == "1\n"
        assert kv("count", "s").out == "2\n"

    def test_has_an_answer_for_every_command(self, db: kvstore.Database) -> None:
        """Every command that writes takes part or is refused: no write bypasses an open transaction."""
        beside = {command.name for command in COMMANDS if command.in_transaction == "beside"}

        assert [command.name for command in COMMANDS if command.writes and command.name in beside] == []

    def test_explains_the_open_transaction(self, db: kvstore.Database, shell: Shell) -> None:
        a, b = on_two_shards(db)
        db.put(a, 1)

        assert '"path": "independent"' in shell(f"begin; put {b} 1; explain")[0]
        assert '"path": "general"' in shell(f"get {a}; explain")[0]
        assert '"path": "independent"' in shell(f"explain {a}")[0]
        assert shell("rollback; explain")[1].endswith("without KEY, explain needs an open transaction\n")


class TestTheRoute:
    @pytest.mark.parametrize(
        ("route", "line"),
        [
            (kvstore.Route("independent", (0, 1, 3), 1), "independent, 3 shards, 1 round, 0.4 ms"),
            (kvstore.Route("one-shard", (2,), 1), "one-shard, 1 shard, 1 round, 0.4 ms"),
            (kvstore.Route("general", (0, 1), 2), "general, 2 shards, 2 rounds, 0.4 ms"),
            (kvstore.Route("read-only", (0, 1), 0), "read-only, 0 rounds, 0.4 ms"),
        ],
    )
    def test_is_a_line(self, route: kvstore.Route, line: str) -> None:
        assert route_line(route, 0.0004) == line

    @pytest.mark.parametrize(
        ("inside", "line"),
        [
            ("put {a} 1", "independent, 1 shard, 1 round"),
            ("put {a} 1; add {b}", "independent, 2 shards, 1 round"),
            ("get {a}; put {a} 1", "one-shard, 1 shard, 1 round"),
            ("get {a}; put {b} 1", "general, 2 shards, 2 rounds"),
            ("get {a}; diff", "read-only, 0 rounds"),
            ("", "read-only, 0 rounds"),
        ],
    )
    def test_is_told_beside_the_result(self, kv: Kv, inside: str, line: str) -> None:
        with kvstore.open("s") as db:
            a, b = on_two_shards(db)
            db.put(a, 0)

        done = kv("shell", "s", "-c", "begin", "-c", inside.format(a=a, b=b), "-c", "commit")

        *_, told = done.err.splitlines()
        assert done.code == 0
        assert re.fullmatch(rf"{line}, \d+\.\d ms", told), done.err
        assert line not in done.out

    def test_of_a_single_write_is_told_with_its_time(self, kv: Kv) -> None:
        done = kv("shell", "s", "-c", "put a 1; timing on; put a 2; get a; begin; put a 3; commit")

        timing, put, get, begin, inside, commit = done.err.splitlines()
        for line in (put, commit):
            assert re.fullmatch(r"independent, 1 shard, 1 round, \d+\.\d ms", line)
        for line in (timing, get, begin, inside):
            assert re.fullmatch(r"\d+\.\d ms", line)


class TestDiff:
    CHANGES = "begin; put new 1; put nulled null; delete gone; delete never; add n 2"

    @pytest.fixture(autouse=True)
    def records(self, db: kvstore.Database) -> None:
        for key, value in [("nulled", "x y"), ("gone", [1]), ("n", 5), ("other", 0)]:
            db.put(key, value)

    def test_tells_null_from_nothing(self, shell: Shell) -> None:
        shell(self.CHANGES)

        assert shell("diff") == (
            '{"key": "gone", "before": [1]}\n'
            '{"key": "n", "before": 5, "after": 7}\n'
            '{"key": "never"}\n'
            '{"key": "new", "after": 1}\n'
            '{"key": "nulled", "before": "x y", "after": null}\n',
            "",
        )

    def test_is_a_table_for_a_person(self, shell: Shell) -> None:
        shell.session.settings.format = None
        shell.session.settings.width = lambda: 80
        shell(self.CHANGES)

        assert shell("diff")[0].splitlines() == [
            "key       before    after",
            "--------  --------  -------",
            '"gone"    [1]',
            '"n"       5         7',
            '"never"',
            '"new"               1',
            '"nulled"  "x y"     null',
        ]

    def test_has_the_other_formats(self, shell: Shell) -> None:
        shell(self.CHANGES)

        assert shell("diff --format csv")[0].splitlines()[:3] == ["key,before,after", "gone,[1],", "n,5,7"]
        assert shell("diff --format raw")[0].splitlines()[:2] == ["gone\t[1]\t", "n\t5\t7"]
        assert shell("diff --format json")[0].startswith('[\n{"key": "gone", "before": [1]},\n')
        shell.session.settings.width = lambda: 20
        assert shell("diff --format table")[0].startswith('key     "gone"\nbefore  [1]\nafter\n\nkey ')

    def test_says_so_when_there_is_nothing(self, shell: Shell) -> None:
        assert shell("begin; get n; diff") == ("5\n", "no writes are pending\n")

    def test_reads_nothing_that_the_commit_depends_on(self, db: kvstore.Database, shell: Shell) -> None:
        shell("begin; add n; diff")
        db.put("n", 100)

        assert shell("commit") == ("", "(route)\n")
        assert db["n"] == 101


class TestSavepoints:
    def test_are_come_back_to(self, db: kvstore.Database, shell: Shell) -> None:
        assert shell("begin; put a 1; savepoint one; put b 2; savepoint two; put a 3; delete b")[1] == ""
        assert shell("rollback --to two")[1] == "rolled back to two: 2 writes pending\n"
        assert shell("get a; get b")[0] == "1\n2\n"
        assert shell("rollback --to one")[1] == "rolled back to one: 1 write pending\n"
        assert shell("put c 4; rollback --to one; put d 5; commit")[1].endswith("(route)\n")
        assert dict(db.scan()) == {"a": 1, "d": 5}

    def test_that_came_later_are_gone(self, shell: Shell) -> None:
        shell("begin; savepoint one; savepoint two; rollback --to one")

        assert shell("rollback --to two") == ("", 'error: no savepoint "two"\n')
        assert shell("rollback --to on") == ("", 'error: no savepoint "on"; did you mean one?\n')

    def test_of_the_same_name_move(self, shell: Shell) -> None:
        shell("begin; savepoint p; put a 1; savepoint q; savepoint p; put b 1; rollback --to p")

        assert shell("rollback --to q")[1] == "rolled back to q: 1 write pending\n"
        assert shell("rollback --to p")[1] == 'error: no savepoint "p"\n'

    def test_end_with_the_transaction(self, shell: Shell) -> None:
        shell("begin; savepoint p; commit; begin")

        assert shell("rollback --to p") == ("", 'error: no savepoint "p"\n')


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("begin; begin", OPEN),
        ("commit", NONE_OPEN),
        ("rollback", NONE_OPEN),
        ("rollback --to p", NONE_OPEN),
        ("savepoint p", NONE_OPEN),
        ("diff", NONE_OPEN),
        ("begin; commit; commit", NONE_OPEN),
        ("begin; rollback; diff", NONE_OPEN),
        ("retry", "nothing to retry: no commit has failed with a conflict"),
        ("begin now", "begin takes no terms: begin"),
        ("begin; commit --now", "commit has no option --now"),
        ("begin; rollback p", "rollback takes no terms: rollback [--to NAME]"),
        ("begin; rollback --to", "--to takes a value: rollback [--to NAME]"),
        ("begin; savepoint", "NAME is missing: savepoint NAME"),
        ("begin; savepoint (1,)", "NAME is text, not (1,)"),
        ("begin; savepoint a b", "2 names: quote them"),
        ("begin; diff --format tabel", "format is one of table, json, jsonl, csv, raw, not"),
        ("begni", 'no command "begni"; did you mean begin?'),
        ("begin; version a", "version cannot run in a transaction"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(kv: Kv, script: str, message: str) -> None:
    done = kv("shell", "s", "-c", script)

    assert done.code == 2
    assert f"error: -c:1: {message}" in done.err


def test_a_session_that_only_reads_begins_none(kv: Kv) -> None:
    kv("put", "s", "a", "1")

    done = kv("shell", "s", "--read-only", "-c", "begin; put a 2")

    assert done.code == 1
    assert done.err.endswith("s was opened with readonly=True (open without readonly=True)\n")
    assert len(done.err.splitlines()) == 1


class TestTheEndOfAScript:
    LOST = "the open transaction was rolled back: 1 write undone\n"

    @pytest.mark.parametrize(
        "script", ["begin; put a 1", "begin; put a 1; exit", "begin\nput a 1\nquit\ncommit"]
    )
    def test_rolls_back_and_says_so(self, kv: Kv, script: str) -> None:
        kv("put", "s", "b", "1")

        done = kv("shell", "s", stdin=script.encode())

        assert done == Done(1, '"a" = 1  int\n', f"error: {self.LOST}")
        assert kv("scan", "s").records == '"b" = 1\n'

    def test_is_behind_the_last_of_several(self, kv: Kv) -> None:
        assert kv("shell", "s", "-c", "begin", "-c", "put a 1", "-c", "commit").code == 0
        assert kv("get", "s", "a").out == "1\n"

    @pytest.mark.parametrize("option", [[], ["--keep-going"]])
    @pytest.mark.parametrize(
        ("line", "code"), [("get nothing", 1), ("put b (x)", 2), ("put b 1; gte a; put c 1", 2), ("begin", 2)]
    )
    def test_comes_with_an_error_inside_a_transaction(
        self, kv: Kv, option: list[str], line: str, code: int
    ) -> None:
        script = f"put before 1\nbegin\nput a 1\n{line}\nput never 1\ncommit\n"

        done = kv("shell", "s", *option, "-c", script, "-c", "put never 1")

        assert done.code == code
        error, lost = done.err.splitlines()
        assert error.startswith("error: -c:4: ")
        assert re.fullmatch(r"the open transaction was rolled back: [12] writes? undone", lost)
        assert kv("scan", "s").records == '"before" = 1\n'

    def test_comes_with_an_interrupt(self, db: kvstore.Database, capsys: pytest.CaptureFixture[str]) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_scripts(Session(db), [lines("begin", "put a 1", interrupted, "commit")], keep_going=False)

        assert capsys.readouterr().err == f"error: {self.LOST}"
        assert list(db.scan()) == []


class TestThePrompt:
    def test_counts_the_keys_that_are_to_be_written(self, shell: Shell) -> None:
        story = [
            ("put a 1", ""), ("begin", "*0"), ("get a", "*0"), ("put a 2", "*1"), ("put a 3", "*1"),
            ("put b (x)", "*1"), ("begin", "*1"), ("put b 1; add c", "*3"), ("savepoint p", "*3"),
            ("delete d", "*4"), ("rollback --to p", "*3"), ("rollback --to q", "*3"), ("commit", ""),
            ("commit", ""), ("begin; rollback", ""), ("begin; version a", "*0"), ("rollback", ""),
        ]  # fmt: skip
        for line, state in story:
            shell(line)
            assert shell.prompt == f"kvstore{state}> ", line

    def test_stays_where_the_session_ends(self, db: kvstore.Database, shell: Shell) -> None:
        with pytest.raises(EndOfSession):
            shell("begin; put a 1; exit; commit")

        assert shell.session.close() == "the open transaction was rolled back: 1 write undone"
        assert shell.session.close() == ""
        assert list(db.scan()) == []


class TestAPastedTransaction:
    @pytest.mark.parametrize(
        "text",
        [
            "begin\nput a 1\nget x\nput b 1\ncommit",
            "begin\nput a 1\nput b (x)\ncommit",
            "begin; put a 1; get x; commit",
        ],
    )
    def test_stops_at_its_first_error(self, db: kvstore.Database, shell: Shell, text: str) -> None:
        _, err = shell(text)

        error, stopped = err.splitlines()
        assert error.startswith(("error: line 3: ", "error: no value"))
        assert stopped == "the rest was not run: the transaction is open"
        assert shell.prompt == "kvstore*1> "
        assert list(db.scan()) == []

    def test_says_nothing_of_a_rest_where_there_is_none(self, shell: Shell) -> None:
        assert shell("begin\nget x\n\n")[1] == 'error: line 2: no value at "x"\n'

    def test_outside_a_transaction_goes_on(self, db: kvstore.Database, shell: Shell) -> None:
        shell("get x; put a 1\nput b (x)\nput c 1")

        assert [key for key, _ in db.scan()] == ["a", "c"]


def test_a_procedure_runs_again_when_the_transaction_is_over(kv: Kv, tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(BANK)
    kv("put", "s", '("acct", 1)', "100")

    done = kv(
        "--load", "bank", "shell", "s", "-c", 'begin; add ("acct", 1); commit; call bank.settle {day: 7}'
    )

    assert done.code == 0
    assert kv("get", "s", '("acct", 1)').out == "108\n"

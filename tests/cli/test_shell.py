"""Scripts of the shell: their sources, where they stop, and their messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.cli.commands.command import Command
from kvstore.cli.commands.store_commands import COMMANDS
from tests.cli.conftest import BANK, Done, Kv

WORKING_ALONE = [command for command in COMMANDS if command.name != "retry" and not command.of_regions]
"""Commands that need neither a conflict (test_retry.py) nor regions (test_geo_shell.py)."""


class TestWhereAScriptComesFrom:
    def test_from_a_line(self, kv: Kv) -> None:
        assert kv("shell", "s", "-c", "put a 1; get a", "-c", "get a").out == '"a" = 1  int\n1\n1\n'

    def test_from_a_file(self, kv: Kv, tmp_path: Path) -> None:
        (tmp_path / "script").write_bytes(b"\xef\xbb\xbfput a [1, # one\r\n 2]\r\nget a\r\n")

        assert kv("shell", "s", "-f", "script") == Done(0, '"a" = [1, 2]  list\n[1, 2]\n', "")

    @pytest.mark.parametrize("arguments", [[], ["-f", "-"]])
    def test_from_standard_input(self, kv: Kv, arguments: list[str]) -> None:
        assert kv("shell", "s", *arguments, stdin=b"put a 1\nget a").out == '"a" = 1  int\n1\n'

    def test_not_from_a_person_whose_terminal_does_not_show_the_answers(self, kv: Kv, tmp_path: Path) -> None:
        done = kv("shell", "s", stdin=None)

        assert done == Done(
            2, "", "error: say what to run: kvstore shell PATH -c COMMAND, -f FILE, or < FILE\n"
        )
        assert list(tmp_path.iterdir()) == []

    def test_from_one_of_them(self, kv: Kv) -> None:
        assert kv("shell", "s", "-c", "help", "-f", "x").code == 2

    def test_a_missing_file_is_told_before_anything_is_created(self, kv: Kv, tmp_path: Path) -> None:
        assert kv("shell", "s", "-f", "nothing") == Done(1, "", "error: nothing: No such file or directory\n")
        assert list(tmp_path.iterdir()) == []


class TestTheFirstError:
    @pytest.mark.parametrize(
        ("script", "code", "message"),
        [
            ("get k", 1, '-c:1: no value at "k"'),
            ("put a 1\n\nput b 2; get k; put c 3\nput d 4", 1, '-c:3: no value at "k"'),
            ("put a 1; put b (acct)", 2, "-c:1: a one-element tuple needs a comma"),
            ("put name Ada Lovelace", 2, "-c:1: 2 values: quote them"),
            ("put 5 x", 2, '-c:1: write (5,) or "5"'),
            ("put uuid'00000000-0000-0000-0000-000000000005' x", 2, "-c:1: write (uuid"),
            ("gte k", 2, '-c:1: no command "gte"; did you mean get?'),
            ("frobnicate", 2, '-c:1: no command "frobnicate"; try help'),
            ("get k --limit 5", 2, "-c:1: get has no option --limit"),
            ("put k --x", 2, "-c:1: put has no option --x; to make it text, quote it"),
            ("scan --limt 5", 2, "-c:1: scan has no option --limt; did you mean --limit?"),
            ("get k --format jso", 2, "-c:1: format is one of table, json, jsonl, csv, raw, not"),
            ("scan --raw --format csv", 2, "-c:1: --raw is a format already: leave out --format"),
            ("timing of", 2, '-c:1: WHEN is one of on, off, not "of"; did you mean off?'),
            ("format", 2, "-c:1: NAME is missing: format NAME"),
            ("scan --limit", 2, "-c:1: --limit takes a value"),
            ("scan --limit --reverse", 2, "-c:1: --limit takes a value"),
            ("scan --limit 1 --limit 2", 2, "-c:1: --limit is given twice"),
            ("scan --limit x", 2, '-c:1: limit is a number, not "x"'),
            ("scan --limit -1", 2, "-c:1: "),
            ("add k x", 2, '-c:1: N is a number, not "x"'),
            ("put k x; add k 1", 1, "-c:1: "),
            ("put a 1\nput b [1,\n2", 2, "-c:2: this [ is never closed"),
            ("backup (1,)", 2, "-c:1: FOLDER is text, not (1,)"),
            ("put a b\udcff", 2, "-c:1: this is not UTF-8 text"),
        ],
    )
    def test_stops_the_script_with_its_exit_code(self, kv: Kv, script: str, code: int, message: str) -> None:
        done = kv("shell", "s", "-c", script, "-c", "put never 1")

        assert done.code == code
        assert done.err.startswith(f"error: {message}")
        assert len(done.err.splitlines()) == 1
        assert kv("get", "s", "never").code == 1

    def test_names_the_file_and_the_line(self, kv: Kv, tmp_path: Path) -> None:
        (tmp_path / "bad").write_bytes(b"put a 1\nput b [1,\n don't]\n")
        (tmp_path / "latin").write_bytes(b"put a 1\nput b \xe9\n")

        assert kv("shell", "s", "-f", "bad").err == 'error: bad:3: quote the whole word: "don\'t"\n'
        assert kv("shell", "s", "-f", "latin").err == "error: latin:2: this is not UTF-8 text\n"
        assert kv("shell", "s", stdin=b"\nget k\n").err == 'error: <stdin>:2: no value at "k"\n'

    def test_keeps_what_went_before_and_nothing_of_its_own_line(self, kv: Kv) -> None:
        kv("shell", "s", "-c", "put a 1\nput b 2; put c (x)")

        assert kv("scan", "s").out == '{"key": "a", "value": 1}\n'

    def test_does_not_stop_a_script_that_keeps_going(self, kv: Kv) -> None:
        done = kv(
            "shell", "s", "--keep-going", "-c", "put a 1\nget b; put c 3\nput d (x)\nget c", "-c", "get a"
        )

        assert done == Done(
            1,
            '"a" = 1  int\n"c" = 3  int\n3\n1\n',
            'error: -c:2: no value at "b"\nerror: -c:3: a one-element tuple needs a comma\n',
        )


class TestReadOnly:
    def test_refuses_to_write(self, kv: Kv) -> None:
        kv("put", "s", "a", "1")

        done = kv("shell", "s", "--read-only", "-c", "get a; put a 2")

        assert (done.code, done.out) == (1, "1\n")
        assert kv("get", "s", "a").out == "1\n"

    def test_creates_nothing(self, kv: Kv) -> None:
        assert kv("shell", "s", "--read-only", "--shards", "2", "-c", "help").code == 2


class TestVerbs:
    def test_all_work_in_a_script(self, kv: Kv) -> None:
        script = """
        put ("acct", "eu", 1) 100     # an account
        add hits; add hits -2; version hits
        get hits --raw
        scan ("acct",) --reverse --limit 5
        scan acct
        count; count ("acct",) --start ("acct", "x")
        delete hits; explain hits; status --json; verify; backup "copy of s"
        """

        done = kv("shell", "s", "-c", script)

        assert done.code == 0, done.err
        assert done.out.startswith('("acct", "eu", 1) = 100  int\n"hits" = 1  int\n"hits" = -1  int\n')
        assert (
            '\n-1\n{"key": {"$tuple": ["acct", "eu", 1]}, "value": 100}\n2\n0\n"hits" deleted\npath: '
            in done.out
        )
        assert done.err == 'tuples begin so: scan ("acct",)\n'

    def test_help_lists_and_explains_them(self, kv: Kv) -> None:
        assert len(kv("shell", "s", "-c", "help").out.splitlines()) == len(COMMANDS)
        for command in COMMANDS:
            explained = kv("shell", "s", "-c", f"help {command.name}").out
            assert explained.startswith(command.usage)
            assert command.example in explained
        assert kv("shell", "s", "-c", "help gte").code == 2

    @pytest.mark.parametrize("command", WORKING_ALONE, ids=lambda command: command.name)
    def test_examples_of_the_help_work(self, kv: Kv, tmp_path: Path, command: Command) -> None:
        kv("shell", "s", "-c", 'put ("acct", "eu", 1) 100; put hits 5')
        (tmp_path / "bank.py").write_text(BANK)

        assert kv("--load", "bank", "shell", "s", "-c", command.example).code == 0

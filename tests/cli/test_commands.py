"""The verbs as arguments of the program: their output and exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

import kvstore
from kvstore.cli.app import main, program
from kvstore.cli.commands.reports import status_lines, verify_lines
from kvstore.cli.commands.store_commands import COMMANDS
from kvstore.cli.formats.tables import Settings
from kvstore.cli.language.json_notation import from_json
from kvstore.cli.language.printing import show
from tests.cli.conftest import Done, Kv


class TestPutAndGet:
    @pytest.mark.parametrize(
        ("key", "value", "echo", "printed"),
        [
            ('("acct", "eu", 1)', "100", '("acct", "eu", 1) = 100  int', "100"),
            ("k", "1e5", '"k" = 100000.0  float', "100000.0"),
            ("k", "Ada Lovelace", '"k" = "Ada Lovelace"  str', '"Ada Lovelace"'),
            ("k", "01234", '"k" = "01234"  str', '"01234"'),
            ("don't", '"5"', '"don\'t" = "5"  str', '"5"'),
            ("k", '{"a": [1, (2, 3)]}', '"k" = {"a": [1, [2, 3]]}  map', '{"a": [1, [2, 3]]}'),
            ("k", "(1, 2)", '"k" = [1, 2]  list', "[1, 2]"),
            ("k", "null", '"k" = null  null', "null"),
            ("k", "true", '"k" = true  bool', "true"),
            ('b"k"', r'b"\x00"', r'b"k" = b"\x00"  bytes', r'b"\x00"'),
            ("k", "-2", '"k" = -2  int', "-2"),
            ("k", "-inf", '"k" = -inf  float', "-inf"),
        ],
    )
    def test_put_echoes_what_it_understood(
        self, kv: Kv, key: str, value: str, echo: str, printed: str
    ) -> None:
        assert kv("put", "s", key, value) == Done(0, f"{echo}\n", "")
        assert kv("get", "s", key) == Done(0, f"{printed}\n", "")

    def test_text_forces_text(self, kv: Kv) -> None:
        assert kv("put", "s", "5", "(1,)", "--text") == Done(0, '"5" = "(1,)"  str\n', "")
        assert kv("get", "s", "--text", "5").out == '"(1,)"\n'

    def test_raw_prints_text_bare(self, kv: Kv) -> None:
        kv("put", "s", "k", "a b")

        assert kv("get", "s", "k", "--raw").out == "a b\n"

    def test_an_argument_that_looks_like_an_option_follows_two_dashes(self, kv: Kv) -> None:
        assert kv("put", "s", "--", "--limit", "--x").out == '"--limit" = "--x"  str\n'

    def test_a_missing_key_is_a_failure(self, kv: Kv) -> None:
        kv("put", "s", "a", "1")

        assert kv("get", "s", "k") == Done(1, "", 'error: no value at "k"\n')
        assert kv("version", "s", '("k",)') == Done(1, "", 'error: no value at ("k",)\n')

    def test_none_is_a_value(self, kv: Kv) -> None:
        kv("put", "s", "k", "None")

        assert kv("get", "s", "k") == Done(0, "null\n", "")


class TestAddAndDelete:
    def test_add_takes_a_negative_number_and_prints_the_sum(self, kv: Kv) -> None:
        assert kv("add", "s", "hits").out == '"hits" = 1  int\n'
        assert kv("add", "s", "hits", "-2").out == '"hits" = -1  int\n'
        assert kv("add", "s", "hits", "0.5").out == '"hits" = -0.5  float\n'
        assert kv("add", "s", "--text", "5", "-2").out == '"5" = -2  int\n'

    @pytest.mark.parametrize("number", ["x", "true", '"5"', "[1]"])
    def test_add_takes_nothing_else(self, kv: Kv, number: str) -> None:
        assert kv("add", "s", "hits", number).code == 2

    def test_adding_to_text_is_a_failure(self, kv: Kv) -> None:
        kv("put", "s", "k", "x")

        assert kv("add", "s", "k").code == 1

    def test_deleting_is_no_failure_when_there_is_nothing(self, kv: Kv) -> None:
        kv("put", "s", "k", "x")

        assert kv("delete", "s", "k") == kv("delete", "s", "k") == Done(0, '"k" deleted\n', "")
        assert kv("get", "s", "k").code == 1


class TestScanAndCount:
    @pytest.fixture(autouse=True)
    def records(self, kv: Kv) -> None:
        script = 'put us1 a; put us2 b; put ("us", 1) c; put ("us", 2) {"d": 1}; put ("eu", 1) 5'
        kv("shell", "s", "-c", script)

    @pytest.mark.parametrize(
        ("arguments", "keys"),
        [
            ([], ['"us1"', '"us2"', '("eu", 1)', '("us", 1)', '("us", 2)']),
            (["us"], ['"us1"', '"us2"']),
            (['("us",)'], ['("us", 1)', '("us", 2)']),
            (["--limit", "2"], ['"us1"', '"us2"']),
            (["--limit", "0"], []),
            (["--reverse", "--limit", "1"], ['("us", 2)']),
            (["--start", "us2", "--stop", '("us", 1)'], ['"us2"', '("eu", 1)']),
            (['("us",)', "--start", '("us", 2)'], ['("us", 2)']),
        ],
    )
    def test_scan_prints_records_in_key_order(self, kv: Kv, arguments: list[str], keys: list[str]) -> None:
        done = kv("scan", "s", *arguments)

        assert [show(from_json(line)["key"]) for line in done.out.splitlines()] == keys
        assert (done.code, done.err) == (0, "")
        if "--limit" not in arguments:
            assert kv("count", "s", *arguments).out == f"{len(keys)}\n"

    def test_scan_prints_json_lines_for_other_programs(self, kv: Kv) -> None:
        assert kv("scan", "s", '("us",)').out == (
            '{"key": {"$tuple": ["us", 1]}, "value": "c"}\n'
            '{"key": {"$tuple": ["us", 2]}, "value": {"d": 1}}\n'
        )

    def test_raw_leaves_quotes_away(self, kv: Kv) -> None:
        assert kv("scan", "s", "us", "--raw").out == "us1\ta\nus2\tb\n"
        assert kv("scan", "s", '("us",)', "--raw").out == '("us", 1)\tc\n("us", 2)\t{"d": 1}\n'

    def test_text_that_matches_nothing_is_told_how_tuples_begin(self, kv: Kv) -> None:
        assert kv("scan", "s", "acct") == Done(0, "", 'tuples begin so: scan ("acct",)\n')
        assert kv("count", "s", "acct") == Done(0, "0\n", 'tuples begin so: count ("acct",)\n')
        assert kv("scan", "s", '("acct",)') == Done(0, "", "")

    @pytest.mark.parametrize("limit", ["-1", "1.5", "x", "true"])
    def test_a_limit_is_a_whole_number(self, kv: Kv, limit: str) -> None:
        assert kv("scan", "s", "--limit", limit).code == 2


class TestReports:
    def test_status_begins_with_how_it_is(self, kv: Kv) -> None:
        kv("put", "s", "k", "1")

        lines = kv("status", "s").out.splitlines()

        assert lines[0] == "healthy"
        assert all(": " in line for line in lines[1:])
        assert isinstance(json.loads(kv("status", "s", "--json").out), dict)

    def test_status_is_a_line_for_each_fact(self) -> None:
        disk = {"free": 5, "full": False}
        status = {"path": "a b", "healthy": True, "shards": 4, "disk": disk, "repaired": ["x"], "e": {}}

        assert list(status_lines(status, Settings())) == [
            "healthy",
            "path: a b",
            "shards: 4",
            "disk.free: 5",
            "disk.full: false",
            'repaired: ["x"]',
            "e: {}",
        ]
        assert next(status_lines(status | {"healthy": False}, Settings())) == "unhealthy"

    def test_verify_counts(self, kv: Kv) -> None:
        kv("shell", "s", "-c", "put a 1; put b 2")

        done = kv("verify", "s")

        assert done.code == 0
        assert done.out.startswith("ok: ")
        assert json.loads(kv("verify", "s", "--json").out)["ok"] is True

    def test_verify_lists_problems(self) -> None:
        report = {"ok": False, "records": 5, "problems": ["a is damaged", {"record": 5}]}

        assert list(verify_lines(report, Settings())) == ["a is damaged", '{"record": 5}']

    def test_a_backup_opens_and_equals(self, kv: Kv) -> None:
        kv("shell", "s", "-c", "put a 1; put b [2]")

        assert kv("backup", "s", "5") == Done(0, "backed up to 5\n", "")
        assert kv("scan", "5").out == kv("scan", "s").out
        assert kv("backup", "s", "5").code == 1

    def test_explain_names_the_path(self, kv: Kv) -> None:
        kv("put", "s", "k", "1")

        lines = kv("explain", "s", "k").out.splitlines()

        assert [line.split(":")[0] for line in lines] == ["path", "shards", "rounds"]


class TestMisuse:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["put", "s", "name", "Ada", "Lovelace"], "2 values: quote them"),
            (["get", "s", "a", "b"], "2 keys: quote them"),
            (["put", "s", "k"], "VALUE is missing: put KEY VALUE"),
            (["get", "s"], "KEY is missing: get KEY [--raw] [--format NAME]"),
            (["status", "s", "x"], "status takes no terms: status [--json] [--format NAME]"),
            (["put", "s", "5", "x"], 'write (5,) or "5"'),
            (["put", "s", "1e5", "x"], 'write (1e5,) or "1e5"'),
            (["get", "s", "true"], 'write (true,) or "true"'),
            (["scan", "s", "5"], 'write (5,) or "5"'),
            (["get", "s", "[1]"], 'a key is a string, b"..." or a tuple such as ("a", 1)'),
            (
                ["scan", "s", "--format", "jsn"],
                'format is one of table, json, jsonl, csv, raw, not "jsn"; did',
            ),
            (["put", "s", "k", "v", "--shrads", "4"], "No such option '--shrads'"),
            (["put", "s", "k", "v", "--shards", "0"], "Invalid value for '--shards'"),
            (["gte", "s"], "No such command 'gte'"),
            (["get"], "Missing argument 'PATH'"),
            (["put", "s", "k", "\udcff"], "this is not UTF-8 text"),
            (["put", "s", "k", 'uuid"00000000-0000-0000-0000-000000000005"'], ""),
            (["put", "s", "", "v"], ""),
            (["put", "s", "k" * 600, "v"], ""),
            (["put", "s", "(nan,)", "v"], ""),
        ],
    )
    def test_is_told_in_a_sentence_and_exits_2(self, kv: Kv, arguments: list[str], message: str) -> None:
        done = kv(*arguments)

        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"error: {message}")
        assert "Traceback" not in done.err

    def test_no_arguments_print_the_help(self, kv: Kv) -> None:
        done = kv()

        assert done.code == 2
        assert "Usage: kvstore" in done.out + done.err


class TestOpening:
    @pytest.mark.parametrize("command", ["get s k", "scan s", "count s", "status s", "verify s", "backup s t",
                                         "version s k", "explain s k", "export s f.csv",
                                         "shell --read-only s -c help"])  # fmt: skip
    def test_reading_never_creates(self, kv: Kv, command: str, tmp_path: Path) -> None:
        done = kv(*command.split())

        assert done.code == 4
        assert done.err.startswith("error: ")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("command", ["put s k 1", "delete s k", "add s k", "shell s -c help"])
    def test_writing_does(self, kv: Kv, command: str) -> None:
        assert kv(*command.split()).code == 0
        assert kv("status", "s").code == 0

    def test_it_is_created_as_the_options_say(self, kv: Kv) -> None:
        assert kv("put", "s", "k", "1", "--shards", "2", "--durability", "none").code == 0
        assert kv("put", "s", "k", "1", "--shards", "3").code == 4
        assert kv("put", "s", "k", "1", "--shards", "2").code == 0

    def test_a_missing_parent_and_a_foreign_folder_cannot_be_opened(self, kv: Kv, tmp_path: Path) -> None:
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign" / "letter.txt").write_text("dear")

        assert kv("put", "no/such/s", "k", "1").code == 4
        assert kv("put", "foreign", "k", "1").code == 4
        assert kv("get", "foreign", "k").code == 4


class Broken:
    """A store whose every operation raises the error of a test."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, kind: type[BaseException], error: BaseException, trace: TracebackType) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {"repaired": ["replica-1 was rebuilt", "2 slots were completed"]}

    def put(self, key: object, value: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (kvstore.Conflict("too many conflicts", key="k"), 3, "error: too many conflicts"),
        (kvstore.TimedOut("no answer"), 3, "error: no answer"),
        (kvstore.DiskFull("the disk is full"), 1, "error: the disk is full"),
        (kvstore.OutcomeUnknown("who knows"), 1, "error: who knows"),
        (kvstore.ReadOnly("only read"), 1, "error: only read"),
        (kvstore.Failed(), 1, "error: close the store"),
        (OSError("odd"), 1, "error: odd"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_of_the_store_have_their_exit_codes(
    kv: Kv, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    monkeypatch.setattr(kvstore, "open", lambda *_, **__: Broken(error))

    done = kv("put", "s", "k", "v")

    repairs = "repaired: replica-1 was rebuilt\nrepaired: 2 slots were completed\n"
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(repairs + message)


def test_they_have_them_in_the_shell_too(kv: Kv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvstore, "open", lambda *_, **__: Broken(kvstore.Conflict("too many", key="k")))

    done = kv("shell", "s", "-c", "\nput k v")

    assert done.code == 3
    assert done.err.endswith("error: -c:2: too many\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (kvstore.Locked("held by 5", pid=5), 4),
        (kvstore.Corrupt("bad manifest"), 4),
        (PermissionError(13, "Permission denied", "s"), 4),
        (kvstore.LimitExceeded("too many shards"), 2),
    ],
)
def test_a_store_that_cannot_be_opened(
    kv: Kv, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(kvstore, "open", refuse)

    assert kv("get", "s", "k").code == kv("put", "s", "k", "v").code == code


def test_every_verb_of_the_shell_is_a_command_of_the_program() -> None:
    verbs = {command.name for command in COMMANDS if not command.shell_only}

    assert set(program.commands) - verbs == {"import", "export", "dump", "load", "restore", "shell"}
    assert verbs < set(program.commands)


@pytest.mark.parametrize("name", sorted(program.commands))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: kvstore {name}" in capsys.readouterr().out


def test_letters_are_printed_whatever_the_locale(kv: Kv, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.stdout.reconfigure(encoding="ascii")  # type: ignore[union-attr]

    assert kv("put", "s", "k", "žluť").code == 0

"""Results in each format, on terminals of any width and elsewhere."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.document import Document
from wcwidth import wcswidth

from kvstore.cli.formats.tables import FORMATS, Settings, fact_lines, row_lines, value_text
from kvstore.cli.highlighting import Highlighter
from kvstore.cli.language.grammar import parse_argument
from kvstore.cli.language.json_notation import from_json
from kvstore.cli.language.printing import show
from tests.cli.conftest import Kv
from tests.cli.test_printing import KEYS, VALUES, shape

COLUMNS = ("key", "value")
ROWS = [("us", 1), (("us", 1), ["a", {2: None}])]
RECORDS = st.lists(st.tuples(KEYS, VALUES), max_size=4)


def settings(format: str | None = None, width: int | None = None) -> Settings:
    return Settings(format=format, width=lambda: width)


def rows(found: list[Any], format: str | None = None, width: int | None = None) -> list[str]:
    return list(row_lines(COLUMNS, found, settings(format, width)))


class TestRecords:
    def test_are_json_lines_for_a_program_and_a_table_for_a_person(self) -> None:
        assert rows(ROWS) == rows(ROWS, "jsonl")
        assert rows(ROWS, width=80) == rows(ROWS, "table")
        assert rows(ROWS, "table") == [
            "key        value",
            "---------  ----------------",
            '"us"       1',
            '("us", 1)  ["a", {2: null}]',
        ]

    @pytest.mark.parametrize("format", FORMATS)
    def test_that_are_none_are_no_mistake(self, format: str) -> None:
        assert rows([], format) == {"json": ["[]"], "csv": ["key,value"]}.get(format, [])

    @given(RECORDS)
    def test_read_back_from_json_lines(self, records: list[Any]) -> None:
        read = [from_json(line) for line in rows(records, "jsonl")]

        assert shape([(each["key"], each["value"]) for each in read]) == shape(records)

    @given(RECORDS)
    def test_are_one_array_of_json(self, records: list[Any]) -> None:
        text = "\n".join(rows(records, "json"))

        assert shape(from_json(text)) == shape([{"key": key, "value": value} for key, value in records])

    @given(RECORDS)
    def test_read_back_from_csv_as_arguments_of_the_program_do(self, records: list[Any]) -> None:
        header, *read = csv.reader(io.StringIO("\n".join(rows(records, "csv"))))

        assert header == list(COLUMNS)
        assert shape([tuple(map(parse_argument, row)) for row in read]) == shape(records)

    @given(RECORDS.filter(bool), st.integers(1, 200))
    def test_fit_a_terminal_or_are_blocks(self, records: list[Any], width: int) -> None:
        lines = rows(records, width=width)

        if lines[0].split() == list(COLUMNS):
            assert max(map(wcswidth, lines[: len(records) + 2])) <= width
        else:
            cells = [(f"key    {show(key)}", f"value  {show(value)}") for key, value in records]
            assert [line for line in lines if line] == [line for block in cells for line in block]

    def test_are_cut_where_they_would_not_fit(self) -> None:
        assert rows([("k", "x" * 21)], width=30)[2] == '"k"    "' + "x" * 21 + '"'
        assert rows([("k", "x" * 22)], width=30)[2] == '"k"    "' + "x" * 21 + "…"
        assert rows([("k", "中" * 12)], width=30)[2] == '"k"    "' + "中" * 10 + "…"

    def test_that_were_cut_are_told(self) -> None:
        lines = rows([("k", "x" * 100), ("l", 1)], width=30)

        assert lines[2] == '"k"    "' + "x" * 21 + "…"
        assert lines[-1] == "(values ending in … are shortened: get or --format jsonl prints them in full)"
        assert "cut" not in "".join(rows([("k", "x" * 100)], "table"))

    def test_come_page_by_page(self) -> None:
        asked = []

        def endless() -> Any:
            for number in range(10**9):
                asked.append(number)
                yield number, None

        lines = row_lines(COLUMNS, endless(), settings("table"))

        assert next(lines).startswith("key")
        assert len(asked) == 500


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("a b", {"table": '"a b"', "json": '"a b"', "csv": "a b", "raw": "a b"}),
        ("5", {"table": '"5"', "json": '"5"', "csv": '"""5"""', "raw": "5"}),
        (b"\x00", {"table": r'b"\x00"', "json": '{"$bytes": "AA=="}', "raw": r'b"\x00"'}),
        (math.inf, {"table": "inf", "json": '{"$float": "inf"}', "csv": "inf", "raw": "inf"}),
        ("a\nb", {"table": r'"a\nb"', "json": r'"a\nb"', "csv": r'"""a\nb"""', "raw": "a\nb"}),
    ],
)
def test_a_value_alone(value: Any, printed: dict[str, str]) -> None:
    assert {name: value_text(value, settings(name)) for name in printed} == printed
    assert value_text(value, settings()) == printed["table"]
    assert value_text(value, settings("jsonl")) == printed["json"]


def test_facts_in_every_format() -> None:
    facts = {"path": "a b", "disk": {"free": 5}, "repaired": ["x"]}

    def said(format: str | None, width: int | None = None) -> str:
        return "\n".join(fact_lines(facts, settings(format, width)))

    assert said(None) == said("raw") == 'path: a b\ndisk.free: 5\nrepaired: ["x"]'
    assert said(None, 80) == said("table") == 'path       a b\ndisk.free  5\nrepaired   ["x"]'
    assert json.loads(said("json")) == json.loads(said("jsonl")) == facts
    assert said("csv") == 'path,a b\ndisk.free,5\nrepaired,"[""x""]"'


@pytest.mark.parametrize("command", ["scan", "get k", "count", "version k", "status", "verify", "explain k"])
def test_every_command_with_results_takes_every_format(kv: Kv, command: str) -> None:
    verb, *terms = command.split()
    kv("put", "s", "k", "[1, 2]")

    for name in FORMATS:
        done = kv(verb, "s", *terms, "--format", name)
        in_the_shell = kv("shell", "s", "--format", name, "-c", command)
        assert (done.code, done.err) == (0, ""), name
        assert done.out
        if verb in ("scan", "get", "count", "version"):
            assert in_the_shell.out == done.out
        if name in ("json", "jsonl"):
            from_json(done.out)


def colored(text: str) -> list[tuple[str, str]]:
    document = Document(text)
    shown = Highlighter().lex_document(document)
    fragments = [fragment for number in range(document.line_count) for fragment in shown(number)]
    return [(style.removeprefix("class:"), part.strip()) for style, part, *_ in fragments if part.strip()]


@pytest.mark.parametrize(
    ("text", "styles"),
    [
        ("get k", [("command", "get"), ("", "k")]),
        ("gte k", [("", "gte"), ("", "k")]),
        ("count; count", [("command", "count"), ("", ";"), ("command", "count")]),
        ("scan --limit 5", [("command", "scan"), ("option", "--limit"), ("number", "5")]),
        ("put 'a # b' null # c", [("command", "put"), ("string", "'a # b'"), ("constant", "null"),
                                  ("comment", "# c")]),
        ("put 'a\nb' 1", [("command", "put"), ("string", "'a"), ("string", "b'"), ("number", "1")]),
        ("put k [1, # one\n2]\nget k", [("command", "put"), ("", "k"), ("", "["), ("number", "1"), ("", ","),
                                        ("comment", "# one"), ("number", "2"), ("", "]"),
                                        ("command", "get"), ("", "k")]),
        ('put uuid"5" x', [("command", "put"), ("mistake", 'uuid"5" x')]),
        ("put don't x\nget k", [("command", "put"), ("mistake", "don't x"), ("command", "get"), ("", "k")]),
        ("put k \"half", [("command", "put"), ("", "k"), ("string", '"half')]),
    ],
)  # fmt: skip
def test_what_is_typed_is_colored_by_its_kind(text: str, styles: list[tuple[str, str]]) -> None:
    assert colored(text) == styles

"""Results as text: rows, one value, or facts, in the requested format.

By default, rows are a table on a terminal and JSON lines elsewhere, for programs to read; a value is printed
alone, in the shell's notation; facts are ``name: value`` lines, or a table on a terminal.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kvstore.cli.language.grammar import parse_argument
from kvstore.cli.language.json_notation import to_json
from kvstore.cli.language.printing import show, show_raw

FORMATS: Final = ("table", "json", "jsonl", "csv", "raw")


class Absent:
    """A field of a row without a value, which is not null: printed as a blank, and left out of JSON."""


ABSENT: Final = Absent()

_PAGE_ROWS: Final = 500
"""The most rows of one table, so that a scan of any length prints early and in bounded memory."""
_LAST_COLUMN_MIN: Final = 20
"""The narrowest last column of a table; rows with less room are printed as blocks."""
_WIDTH_UNKNOWN: Final = 80
_GAP: Final = 2
_HEADING_MARGIN: Final = 2
"""Columns that tabulate adds to a heading."""


def output_width() -> int | None:
    """Return the present width of the terminal on standard output, in columns; None without a terminal."""
    if not sys.stdout.isatty():
        return None
    return os.get_terminal_size(sys.stdout.fileno()).columns or _WIDTH_UNKNOWN


@dataclass(slots=True)
class Settings:
    """The settings of a session, which hold for all commands until they are changed."""

    format: str | None = None
    """The format of results; None if it depends on whether the output is a terminal."""
    timing: bool = False
    color: bool = False
    width: Callable[[], int | None] = output_width

    def row_format(self) -> str:
        """Return the format in which rows are printed now."""
        return self.format or ("jsonl" if self.width() is None else "table")


def row_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]], settings: Settings) -> Iterator[str]:
    """Return rows as lines, of which at most a page is held in memory."""
    match settings.row_format():
        case "table":
            return _tables(columns, iter(rows), settings.width)
        case "json":
            return _array(_object(columns, row) for row in rows)
        case "csv":
            return itertools.chain([_csv_line(columns)], (_csv_line(map(_csv_cell, row)) for row in rows))
        case "raw":
            return ("\t".join(_shown(field, show_raw) for field in row) for row in rows)
        case _:
            return (_object(columns, row) for row in rows)


def value_text(value: Any, settings: Settings) -> str:
    """Return the text of one value, which is alone on its line."""
    match settings.format:
        case "json" | "jsonl":
            return to_json(value)
        case "csv":
            return _csv_line([_csv_cell(value)])
        case "raw":
            return show_raw(value)
        case _:
            return show(value)


def fact_lines(facts: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """Yield the lines of named facts that JSON can hold; nested facts have dotted names, except in JSON."""
    match settings.format or ("raw" if settings.width() is None else "table"):
        case "table":
            yield from _simple_table([(name, _fact(fact)) for name, fact in _flat(facts)], ())
        case "json":
            yield json.dumps(facts, indent=2, ensure_ascii=False)
        case "jsonl":
            yield to_json(dict(facts))
        case "csv":
            yield from (_csv_line([name, _csv_cell(fact)]) for name, fact in _flat(facts))
        case _:
            yield from (f"{name}: {_fact(fact)}" for name, fact in _flat(facts))


def _object(columns: Sequence[str], row: Sequence[Any]) -> str:
    fields = zip(columns, row, strict=True)
    return to_json({name: field for name, field in fields if field is not ABSENT})


def _array(items: Iterator[str]) -> Iterator[str]:
    """Yield a JSON array over several lines. Each item is held back until it is known if a comma follows."""
    last = next(items, None)
    if last is None:
        yield "[]"
        return
    yield "["
    for item in items:
        yield f"{last},"
        last = item
    yield last
    yield "]"


def _csv_cell(value: Any) -> str:
    """Return a CSV field: a str is bare if it would be read as that str in an argument of the program."""
    if type(value) is str and value.isprintable() and parse_argument(value) == value:
        return value
    return _shown(value)


def _shown(field: Any, show: Callable[[Any], str] = show) -> str:
    return "" if field is ABSENT else show(field)


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _flat(facts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, fact in facts.items():
        if isinstance(fact, Mapping) and fact:
            yield from _flat(fact, f"{above}{name}.")
        else:
            yield f"{above}{name}", fact


def _fact(fact: Any) -> str:
    return fact if isinstance(fact, str) and fact.isprintable() else show(fact)


def _tables(
    columns: Sequence[str], rows: Iterator[Sequence[Any]], width: Callable[[], int | None]
) -> Iterator[str]:
    was_cut = False
    while page := [[_shown(field) for field in row] for row in itertools.islice(rows, _PAGE_ROWS)]:
        room = _room_for_last(columns, page, width())
        if room is not None and room < _LAST_COLUMN_MIN:
            yield from _blocks(columns, page)
            continue
        for row in page if room is not None else ():
            whole, row[-1] = row[-1], clip(row[-1], room or 0)
            was_cut = was_cut or row[-1] is not whole
        yield from _simple_table(page, columns)
    if was_cut:
        yield "(values ending in … are shortened: get or --format jsonl prints them in full)"


def _room_for_last(columns: Sequence[str], page: list[list[str]], width: int | None) -> int | None:
    """Return the columns of the terminal left for each row's last field; None if the width is unlimited."""
    if width is None:
        return None
    from wcwidth import wcswidth

    headings = [heading + " " * _HEADING_MARGIN for heading in columns]
    before = range(len(columns) - 1)
    return width - sum(_GAP + max(wcswidth(row[at]) for row in [headings, *page]) for at in before)


def clip(text: str, room: int) -> str:
    """Return the text, or its beginning and an ellipsis, in at most ``room`` columns."""
    from wcwidth import wcwidth

    used = end = 0
    for at, letter in enumerate(text):
        used += max(wcwidth(letter), 0)
        if used < room:
            end = at + 1
        elif used > room:
            return text[:end] + "…"
    return text


def _blocks(columns: Sequence[str], page: list[list[str]]) -> Iterator[str]:
    """Yield each row as a block of lines, in full: the terminal wraps long lines."""
    names = max(map(len, columns))
    for row in page:
        for name, cell in zip(columns, row, strict=True):
            yield f"{name:{names}}  {cell}".rstrip()
        yield ""


def _simple_table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> Iterator[str]:
    from tabulate import tabulate

    style = "simple" if columns else "plain"
    table = tabulate(rows, headers=columns, tablefmt=style, disable_numparse=True)
    return (line.rstrip() for line in table.split("\n"))

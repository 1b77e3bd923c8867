"""Results as text: rows, one value, or facts, in the format that was asked for.

Nobody has to ask. Rows are a table on a terminal and JSON lines elsewhere, where programs read them; a value
stands alone, in the shell's notation; facts are ``name: value`` lines, or a table on a terminal.
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
    """What stands in a row where there is no value, which is not null: a blank, and no member of JSON."""


ABSENT: Final = Absent()

_PAGE_ROWS: Final = 500
"""Rows that become one table: a scan of any length shows something soon, in bounded memory."""
_LAST_COLUMN_MIN: Final = 20
"""Narrower than that, and each row becomes a block instead."""
_WIDTH_UNKNOWN: Final = 80
_GAP: Final = 2
_HEADING_MARGIN: Final = 2
"""What tabulate adds to a heading."""


def output_width() -> int | None:
    """The columns of the terminal that standard output is, at this moment; None if it is none."""
    if not sys.stdout.isatty():
        return None
    return os.get_terminal_size(sys.stdout.fileno()).columns or _WIDTH_UNKNOWN


@dataclass(slots=True)
class Settings:
    """What holds for all commands of a session until it is changed."""

    format: str | None = None
    """None: as the output is."""
    timing: bool = False
    color: bool = False
    width: Callable[[], int | None] = output_width

    def row_format(self) -> str:
        """How rows are printed at this moment."""
        return self.format or ("jsonl" if self.width() is None else "table")


def row_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]], settings: Settings) -> Iterator[str]:
    """Rows of keys and values, as many as there are: nothing is kept longer than a page."""
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
    """One value, alone on its line."""
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
    """Named facts, which JSON can say; nested ones have dotted names, except in JSON."""
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
    """A JSON array over several lines. An item waits until it is known whether a comma follows it."""
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
    """Text is bare where an argument of the program that is typed so would be the same text."""
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
        yield "(what ends in … was cut to fit: get shows it whole, or --format jsonl)"


def _room_for_last(columns: Sequence[str], page: list[list[str]], width: int | None) -> int | None:
    """Columns of the terminal that are left for the last field of each row; None: as many as it takes."""
    if width is None:
        return None
    from wcwidth import wcswidth

    headings = [heading + " " * _HEADING_MARGIN for heading in columns]
    before = range(len(columns) - 1)
    return width - sum(_GAP + max(wcswidth(row[at]) for row in [headings, *page]) for at in before)


def clip(text: str, room: int) -> str:
    """The text, or as much of its beginning as leaves room for the sign that it was cut."""
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
    """A row over several lines, whole: the terminal breaks what is too long."""
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

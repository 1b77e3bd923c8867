"""How a CSV file is stored so that export can write it again byte for byte.

    (prefix, *key)                        -> {column: field, ...}   a row, without its key columns
    ("csv:file", prefix)                  -> the layout: header, key columns, line end; see ``Layout.record``
    ("csv:line", prefix, *key)            -> the original text of a row, if ``text_of`` would differ

``key`` is the row's fields in the key columns, or the row's number, from 1, if the file was imported without
key columns. The reserved keys are outside the prefix, so ``count (prefix,)`` is the number of rows.

A row's original text is written only while it parses to the row's fields: a row that was changed since the
import is formatted anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import kvstore
from kvstore.cli.failures import CommandFailed, Misuse
from kvstore.cli.formats.csv_records import (
    CsvRecord,
    Malformed,
    fields_of,
    line_end,
    text_of,
    without_line_end,
)
from kvstore.cli.language.printing import show

FILES: Final = "csv:file"
LINES: Final = "csv:line"

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,19})(\.[0-9]{1,20})?")
_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 64) - 1
"""The bounds of 64-bit integers, signed or unsigned, which are all that other programs read."""
_BOOLS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The description of a CSV file, without its rows."""

    prefix: str
    header: str
    """The header line of the file, with its line end."""
    columns: tuple[str, ...]
    key: tuple[str, ...]
    types: bool
    """Whether ``typed`` converted the fields, key columns included."""
    byte_order_mark: bool
    ends_with_newline: bool

    @property
    def file_key(self) -> tuple[str, str]:
        return FILES, self.prefix

    @property
    def newline(self) -> str:
        return line_end(self.header)

    @property
    def value_columns(self) -> tuple[str, ...]:
        return tuple(column for column in self.columns if column not in self.key)

    def row_key(self, part: Sequence[Any]) -> tuple[Any, ...]:
        return self.prefix, *part

    def line_key(self, part: Sequence[Any]) -> tuple[Any, ...]:
        return LINES, self.prefix, *part

    def record(self) -> dict[str, Any]:
        """Return the layout as a value to store."""
        return {
            "header": self.header,
            "columns": list(self.columns),
            "key": list(self.key),
            "types": self.types,
            "byte_order_mark": self.byte_order_mark,
            "ends_with_newline": self.ends_with_newline,
        }

    @classmethod
    def of_record(cls, prefix: str, record: dict[str, Any]) -> Layout:
        return cls(
            prefix=prefix,
            header=record["header"],
            columns=tuple(record["columns"]),
            key=tuple(record["key"]),
            types=record["types"],
            byte_order_mark=record["byte_order_mark"],
            ends_with_newline=record["ends_with_newline"],
        )

    def same_rows(self, other: Layout) -> bool:
        """Return whether rows of both layouts can be stored under one prefix."""
        return (self.columns, self.key, self.types) == (other.columns, other.key, other.types)

    def text_of_row(self, part: Sequence[Any], value: Any, own_text: str | None) -> str:
        """Return a row as CSV text, with its line end.

        Raises:
            CommandFailed: the value is not a row of this file.
        """
        fields = self._fields(part, value)
        if own_text is not None and _says(own_text, fields):
            return own_text
        return text_of(fields) + self.newline

    def _fields(self, part: Sequence[Any], value: Any) -> list[str]:
        expected = self.value_columns
        if (
            not isinstance(value, dict)
            or len(value) != len(expected)
            or any(c not in value for c in expected)
        ):
            names = ", ".join(show(column) for column in expected)
            raise CommandFailed(f"the value of {show(self.row_key(part))} is not a map of {names}")
        named = value | dict(zip(self.key, part, strict=True)) if self.key else value
        return [field_text(named[column]) for column in self.columns]


def layout_of(
    header: CsvRecord, *, prefix: str, key: Sequence[str], types: bool, byte_order_mark: bool
) -> Layout:
    """Return the layout of a file with this header line.

    Raises:
        Misuse: a key column is missing in the file, or is named twice.
        Malformed: two columns have one name.
    """
    for number, column in enumerate(header.fields):
        if column in header.fields[:number]:
            raise Malformed(f"two columns are called {show(column)}", 0)
    for number, column in enumerate(key):
        if column not in header.fields:
            has = ", ".join(header.fields)
            raise Misuse(f"--key: there is no column {show(column)}; the file has {has}")
        if column in key[:number]:
            raise Misuse(f"--key: {show(column)} is named twice")
    newline = line_end(header.text)
    return Layout(
        prefix=prefix,
        header=without_line_end(header.text) + (newline or "\n"),
        columns=tuple(header.fields),
        key=tuple(key),
        types=types,
        byte_order_mark=byte_order_mark,
        ends_with_newline=bool(newline),
    )


def stored_layout(reader: kvstore.Database | kvstore.Snapshot, prefix: str) -> Layout | None:
    """Return the layout of the file that was imported under this prefix, or None."""
    record = reader.get((FILES, prefix))
    return None if record is None else Layout.of_record(prefix, record)


def typed(field: str) -> str | int | float | bool:
    """Return the number or boolean that a field spells, if it prints as exactly that field; else the field.

    So ``007``, ``1.50``, ``1e5``, ``True`` and the empty field stay text, and export restores the file.
    """
    if field in _BOOLS:
        return _BOOLS[field]
    number = _NUMBER.fullmatch(field)
    if number is None:
        return field
    value = float(field) if number.group(1) else int(field)
    if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
        return field
    return value if field_text(value) == field else field


def field_text(value: Any) -> str:
    """Return the text of a value for CSV. Lists, maps and bytes, never imported, print as in the shell."""
    if isinstance(value, str):
        return value
    return "" if value is None else show(value)


def _says(text: str, fields: list[str]) -> bool:
    try:
        return fields_of(without_line_end(text)) == fields
    except Malformed:
        return False

"""Import and export of CSV files, streaming."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, Final

import kvstore
from kvstore.cli.failures import CommandFailed
from kvstore.cli.formats.csv_layout import LINES, Layout, layout_of, stored_layout, typed
from kvstore.cli.formats.csv_records import (
    CsvRecord,
    Malformed,
    RecordReader,
    line_end,
    text_of,
    without_line_end,
)
from kvstore.cli.formats.importing import ImportOptions, ImportRow
from kvstore.cli.formats.lines import BYTE_ORDER_MARK
from kvstore.cli.formats.streams import Progress
from kvstore.cli.language.printing import show

EXPORT_ROWS: Final = 500
"""The number of exported rows whose original texts are looked up together."""


def read_header(stream: BinaryIO, name: str, options: ImportOptions) -> CsvSource:
    """Read the header of a file, before any store is opened for the rows.

    Raises:
        kvstore.BadLine: the header is missing or malformed.
        Misuse: the header lacks a key column.
    """
    reader = RecordReader(stream, name)
    records = iter(reader)
    header = next(records, None)
    if header is None:
        raise reader.bad_line(1, "the file is empty: a header line is needed")
    try:
        layout = layout_of(
            header,
            prefix=options.prefix,
            key=options.key,
            types=options.types,
            byte_order_mark=reader.has_mark,
        )
    except Malformed as error:
        raise reader.bad_line(1, str(error)) from None
    return CsvSource(reader, records, layout, options.last_wins)


class CsvSource:
    """A CSV file whose header has been read."""

    def __init__(
        self, reader: RecordReader, records: Iterator[CsvRecord], layout: Layout, last_wins: bool
    ) -> None:
        self.reader = reader
        self.name = layout.prefix
        self.options: Mapping[str, Any] = {
            "format": "csv", "key": list(layout.key), "types": layout.types, "last_wins": last_wins
        }  # fmt: skip
        self.keys_are_new = bool(layout.key) and not last_wins
        self._records = records
        self._layout = layout
        self._again = False
        self._convert: Callable[[str], Any] = typed if layout.types else str
        self._key_at = [layout.columns.index(column) for column in layout.key]
        self._value_at = [layout.columns.index(column) for column in layout.value_columns]

    def begin(self, db: kvstore.Database) -> Sequence[tuple[Any, Any]]:
        layout = self._layout
        before = stored_layout(db, layout.prefix)
        if before is not None and not layout.same_rows(before):
            raise CommandFailed(
                f"{show(layout.prefix)} was imported with other columns, --key or --types:"
                " use another --prefix"
            )
        self._again = before is not None
        return ((layout.file_key, layout.record()),)

    def rows(self) -> Iterator[ImportRow]:
        for number, record in enumerate(self._records, start=1):
            yield self._row(record, number)

    def _row(self, record: CsvRecord, number: int) -> ImportRow:
        layout = self._layout
        if len(record.fields) != len(layout.columns):
            found = f"{len(record.fields)} fields where the header has {len(layout.columns)}"
            raise self.reader.bad_line(record.line, found)
        fields = [self._convert(field) for field in record.fields]
        part = tuple([fields[at] for at in self._key_at]) if self._key_at else (number,)
        value = {column: fields[at] for column, at in zip(layout.value_columns, self._value_at, strict=True)}
        return ImportRow(record.line, layout.row_key(part), value, self._beside(record, part))

    def _beside(self, record: CsvRecord, part: Sequence[Any]) -> Sequence[tuple[Any, Any]]:
        """Return the record of the row's original text, if export would differ. Most rows need none."""
        layout = self._layout
        text = record.text
        if not line_end(text):  # the last line: stored with a line end, which export leaves out
            unended = replace(layout, ends_with_newline=False).record()
            return ((layout.file_key, unended), *self._own_text(record, part, text + layout.newline))
        return self._own_text(record, part, text)

    def _own_text(self, record: CsvRecord, part: Sequence[Any], text: str) -> Sequence[tuple[Any, Any]]:
        layout = self._layout
        if text != text_of(record.fields) + layout.newline:
            return ((layout.line_key(part), text),)
        return ((layout.line_key(part), None),) if self._again else ()


def export_file(
    view: kvstore.Snapshot, prefix: str, write: Callable[[bytes], object], progress: Progress
) -> tuple[int, int]:
    """Write the file that was imported under ``prefix``, in key order. ``progress`` is called with rows read.

    Returns the number of rows, and of records under the prefix whose key is not as long as a row's.

    Raises:
        CommandFailed: no file was imported under ``prefix``, or a value is not a row of the file.
    """
    layout = stored_layout(view, prefix)
    if layout is None:
        raise CommandFailed(f"no CSV file was imported with the prefix {show(prefix)}")
    lines = _Lines(view, layout, progress)
    last = layout.header
    if layout.byte_order_mark:
        write(BYTE_ORDER_MARK)
    for line in lines:
        write(last.encode())
        last = line
    write((last if layout.ends_with_newline else without_line_end(last)).encode())
    return lines.rows, lines.beside


class _Lines:
    """The rows of a file as lines. Iteration counts ``rows``, and the other records in ``beside``."""

    def __init__(self, view: kvstore.Snapshot, layout: Layout, progress: Progress) -> None:
        self.rows = 0
        self.beside = 0
        self._view = view
        self._layout = layout
        self._progress = progress

    def __iter__(self) -> Iterator[str]:
        layout = self._layout
        with_own_text = any(True for _ in self._view.scan(prefix=(LINES, layout.prefix), limit=1))
        rows = self._rows()
        while block := list(itertools.islice(rows, EXPORT_ROWS)):
            own_texts: Sequence[str | None] = [None] * len(block)
            if with_own_text:
                own_texts = self._view.get_many([layout.line_key(part) for part, _ in block])
            self._progress(len(block))
            for (part, value), own_text in zip(block, own_texts, strict=True):
                yield layout.text_of_row(part, value, own_text)

    def _rows(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        length = 1 + max(1, len(self._layout.key))
        for key, value in self._view.scan(prefix=(self._layout.prefix,)):
            assert isinstance(key, tuple), "a tuple prefix matches tuples only"
            if len(key) == length:
                self.rows += 1
                yield key[1:], value
            else:
                self.beside += 1

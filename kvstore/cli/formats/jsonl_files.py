"""Import and export of JSON Lines, streaming: JSON as ``json_notation.py`` writes it, one text per line.

A line is a record, ``{"key": ..., "value": ...}``, as export writes it and import restores it exactly; or a
row of another program, a map with members that make up the key, as columns of a CSV file do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import kvstore
from kvstore.cli.formats.importing import ImportOptions, ImportRow
from kvstore.cli.formats.lines import Line, LineReader
from kvstore.cli.formats.streams import Progress
from kvstore.cli.language.json_notation import from_json, to_json
from kvstore.cli.language.printing import show

_RECORD = {"key", "value"}


class _JsonSource:
    """The common base of both kinds of lines."""

    def __init__(self, stream: BinaryIO, file: str, name: str, options: Mapping[str, Any]) -> None:
        self.reader = LineReader(stream, file)
        self.name = name
        self.options = {"format": "jsonl", **options}

    def begin(self, db: kvstore.Database) -> Sequence[tuple[Any, Any]]:
        return ()

    def _content(self, line: Line) -> Any:
        try:
            return from_json(line.text)
        except ValueError as error:
            raise self.reader.bad_line(line.number, str(error)) from None


class RecordSource(_JsonSource):
    """Lines that each hold a key and a value."""

    def __init__(self, stream: BinaryIO, file: str, name: str, *, last_wins: bool) -> None:
        super().__init__(stream, file, name, {"lines": "records", "last_wins": last_wins})
        self.keys_are_new = not last_wins

    def rows(self) -> Iterator[ImportRow]:
        for line in self.reader:
            record = self._content(line)
            if not isinstance(record, dict) or record.keys() != _RECORD:
                message = 'not {"key": ..., "value": ...}; rows of another form need --key or --prefix'
                raise self.reader.bad_line(line.number, message)
            yield ImportRow(line.number, record["key"], record["value"])


class RowSource(_JsonSource):
    """Lines that are maps; members are taken out of each map as its key, or the rows are numbered."""

    def __init__(self, stream: BinaryIO, file: str, options: ImportOptions) -> None:
        shape = {"lines": "rows", "key": list(options.key), "last_wins": options.last_wins}
        super().__init__(stream, file, options.prefix, shape)
        self.keys_are_new = bool(options.key) and not options.last_wins
        self._columns = options.key

    def rows(self) -> Iterator[ImportRow]:
        for number, line in enumerate(self.reader, start=1):
            row = self._content(line)
            if not isinstance(row, dict):
                raise self.reader.bad_line(line.number, "a row is a map: {...}")
            part = tuple([self._taken(row, column, line) for column in self._columns]) or (number,)
            yield ImportRow(line.number, (self.name, *part), row)

    def _taken(self, row: dict[Any, Any], column: str, line: Line) -> Any:
        if column not in row:
            raise self.reader.bad_line(line.number, f"--key: the row has no {show(column)}")
        return row.pop(column)


def export_records(
    view: kvstore.Snapshot, prefix: str | None, write: Callable[[bytes], object], progress: Progress
) -> int:
    """Write all records, or the records under a prefix, in key order; return their number."""
    records = 0
    for key, value in view.scan(prefix=None if prefix is None else (prefix,)):
        write(f'{{"key": {to_json(key)}, "value": {to_json(value)}}}\n'.encode())
        records += 1
        progress(1)
    return records

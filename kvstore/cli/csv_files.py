"""CSV files into the store and out of it, streaming: memory does not grow with the file.

Rows go in by chunks, each an atomic batch, a few of them under way at once. A line that cannot be stored ends
the import with ``kvstore.BadLine``: nothing of its chunk is stored, all chunks before it are, and the message
says how many rows that is. An import may be run again: rows are replaced, and none is stored twice.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final

import kvstore
from kvstore.cli.csv_layout import LINES, Layout, layout_of, stored_layout, typed
from kvstore.cli.csv_records import (
    BYTE_ORDER_MARK,
    Malformed,
    Record,
    RecordReader,
    line_end,
    text_of,
    without_line_end,
)
from kvstore.cli.failures import CommandFailed
from kvstore.cli.printing import show

CHUNK_ROWS: Final = 1000
CHUNK_BYTES: Final = 4 << 20
"""A chunk is full when it has so many. With one record of 16 MiB more it is still one transaction."""
CHUNKS_UNDER_WAY_MAX: Final = 4
"""Submitted and not yet durable: enough to keep the store busy while the next chunk is read."""
EXPORT_ROWS: Final = 500
"""Rows whose own texts are looked up together."""

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How a file is to be stored."""

    prefix: str
    key: Sequence[str] = ()
    types: bool = False
    last_wins: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A CSV file whose header has been read."""

    reader: RecordReader
    rows: Iterator[Record]
    layout: Layout
    options: ImportOptions


def read_header(stream: BinaryIO, name: str, options: ImportOptions) -> Source:
    """Read a file as far as its header, before any store is opened for it.

    Raises:
        kvstore.BadLine: there is none, or it is malformed.
        Misuse: it does not have the key columns.
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
    return Source(reader, records, layout, options)


def import_rows(db: kvstore.Database, source: Source, progress: Progress) -> int:
    """Store the rows of a file; return their number. ``progress`` is told of bytes read.

    Raises:
        kvstore.BadLine: of the line that cannot be stored.
        CommandFailed: rows of another file are there already.
    """
    chunks = _Chunks(db)
    again = _check_layout(db, source.layout)
    try:
        _Import(db, source, again).run(chunks, progress)
    except kvstore.BadLine as error:
        stored = chunks.finish()
        told = f"{error.args[0]}; the {stored} rows before its chunk are stored, nothing of the chunk is"
        raise kvstore.BadLine(told, file=error.file, line=error.line) from error.__cause__
    return chunks.finish()


def export_file(
    view: kvstore.Snapshot, prefix: str, write: Callable[[bytes], object], progress: Progress
) -> tuple[int, int]:
    """Write the file that was imported under ``prefix``, in the order of its keys. ``progress``: rows read.

    Returns the number of rows, and of records beside them: those whose key is not as long as a row's.

    Raises:
        CommandFailed: nothing was imported there, or a value is no row of that file.
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


@contextmanager
def written_beside(path: str) -> Iterator[BinaryIO]:
    """A file that takes its name only when it is complete; until then a file of that name stays as it is."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device has no beside
        with open(path, "wb") as stream:
            yield stream
        return
    folder, name = os.path.split(os.path.realpath(path))
    unfinished = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        with open(unfinished, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, os.path.join(folder, name))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise


def _check_layout(db: kvstore.Database, layout: Layout) -> bool:
    """Whether the file was imported before, wholly or in part."""
    before = stored_layout(db, layout.prefix)
    if before is not None and not layout.same_rows(before):
        raise CommandFailed(
            f"{show(layout.prefix)} was imported with other columns, --key or --types: use another --prefix"
        )
    return before is not None


class _Import:
    """The rows of one file on their way into batches."""

    def __init__(self, db: kvstore.Database, source: Source, again: bool) -> None:
        layout = source.layout
        self._db = db
        self._reader = source.reader
        self._rows = source.rows
        self._layout = layout
        self._again = again
        self._convert: Callable[[str], Any] = typed if layout.types else str
        self._seen = _SeenKeys() if layout.key and not source.options.last_wins else None
        self._key_at = [layout.columns.index(column) for column in layout.key]
        self._value_at = [layout.columns.index(column) for column in layout.value_columns]

    def run(self, chunks: _Chunks, progress: Progress) -> None:
        batch = self._db.batch()
        batch.put(self._layout.file_key, self._layout.record())
        rows, began, told = 0, self._reader.position, 0
        for number, record in enumerate(self._rows, start=1):
            if rows == CHUNK_ROWS or self._reader.position - began >= CHUNK_BYTES:
                chunks.submit(batch, rows)
                progress(began - told)
                batch = self._db.batch()
                rows, began, told = 0, self._reader.position, began
            self._put_row(batch, record, number)
            rows += 1
        chunks.submit(batch, rows)
        progress(self._reader.position - told)

    def _put_row(self, batch: kvstore.Batch, record: Record, number: int) -> None:
        layout = self._layout
        if len(record.fields) != len(layout.columns):
            found = f"{len(record.fields)} fields where the header has {len(layout.columns)}"
            raise self._reader.bad_line(record.line, found)
        fields = [self._convert(field) for field in record.fields]
        part = tuple([fields[at] for at in self._key_at]) if self._key_at else (number,)
        if self._seen is not None and not self._seen.add(part):
            raise self._reader.bad_line(record.line, f"the key {show(layout.row_key(part))} was there before")
        value = {column: fields[at] for column, at in zip(layout.value_columns, self._value_at, strict=True)}
        try:
            batch.put(layout.row_key(part), value)
            self._put_own_text(batch, record, part)
        except kvstore.UsageError as error:
            raise self._reader.bad_line(record.line, str(error)) from error

    def _put_own_text(self, batch: kvstore.Batch, record: Record, part: Sequence[Any]) -> None:
        """Keep the row's text where it would be written otherwise. Most files have no such row."""
        layout = self._layout
        text = record.text
        if not line_end(text):  # the last line: as if it had a line end, which is left out again on export
            text += layout.newline
            batch.put(layout.file_key, replace(layout, ends_with_newline=False).record())
        if text != text_of(record.fields) + layout.newline:
            batch.put(layout.line_key(part), text)
        elif self._again:
            batch.delete(layout.line_key(part))


class _Chunks:
    """Batches on their way to the disk, at most CHUNKS_UNDER_WAY_MAX at once."""

    def __init__(self, db: kvstore.Database) -> None:
        self._db = db
        self._under_way: deque[tuple[Future[Any], int]] = deque()
        self._stored = 0

    def submit(self, batch: kvstore.Batch, rows: int) -> None:
        while len(self._under_way) >= CHUNKS_UNDER_WAY_MAX:
            self._wait_for_first()
        self._under_way.append((self._db.submit(batch), rows))

    def finish(self) -> int:
        """Wait for all; return how many rows are stored."""
        while self._under_way:
            self._wait_for_first()
        return self._stored

    def _wait_for_first(self) -> None:
        future, rows = self._under_way.popleft()
        future.result()
        self._stored += rows


class _SeenKeys:
    """The keys of one file. SQLite keeps them, in a nameless file once they are many: memory is bounded."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add(self, part: Sequence[Any]) -> bool:
        """Whether the key is new."""
        key = repr(part).encode()
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1


class _Lines:
    """The rows of a file as lines. ``rows`` and ``beside`` count as it goes."""

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

"""The rows of a file into the store, whatever its format; streaming: memory does not grow with the file.

A line that cannot be stored ends the import with ``kvstore.BadLine``: nothing of its chunk is stored, all
chunks before it are, and the message says how many rows that is. An import may be run again: rows are
replaced, and none is stored twice.

How far it has come stands in the store, and changes with each chunk, in the chunk's own batch:

    ("import:progress", name)   -> {"options", "bytes", "lines", "rows", "digest"}

``digest`` is that of the bytes read so far. An import that is resumed reads them again, as it must know all
keys, and goes on behind them if they are the same. The last chunk removes the record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, Protocol

import kvstore
from kvstore.cli.failures import CommandFailed
from kvstore.cli.formats.chunks import Chunks
from kvstore.cli.formats.streams import Measured, Progress
from kvstore.cli.language.printing import show

PROGRESS: Final = "import:progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How a file is to be stored."""

    prefix: str
    key: Sequence[str] = ()
    types: bool = False
    last_wins: bool = False


class ImportRow(NamedTuple):
    """A row as a record. ``beside`` are records that change with it; None removes one."""

    line: int
    key: Any
    value: Any
    beside: Sequence[tuple[Any, Any]] = ()


class RowReader(Protocol):
    """What reads the file; ``line`` is the next line's number."""

    file: str
    line: int
    stream: Measured

    def bad_line(self, line: int, message: str) -> kvstore.BadLine: ...


class Source(Protocol):
    """A file about to be imported."""

    @property
    def name(self) -> str:
        """What progress is kept under."""

    @property
    def reader(self) -> RowReader: ...

    @property
    def options(self) -> Mapping[str, Any]:
        """What must be the same when the import is resumed."""

    @property
    def keys_are_new(self) -> bool:
        """Whether a key that was there before is an error."""

    def begin(self, db: kvstore.Database) -> Sequence[tuple[Any, Any]]:
        """Say what is to be stored before the rows.

        Raises:
            CommandFailed: rows of another file are there already.
        """

    def rows(self) -> Iterator[ImportRow]:
        """Yield the rows.

        Raises:
            kvstore.BadLine: of the line that is none.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """How far an import has come."""

    options: dict[str, Any]
    bytes: int
    lines: int
    rows: int
    digest: str


class ImportCount(NamedTuple):
    """How many rows of a file are stored, and how many of them were before this run."""

    rows: int
    before: int


def import_rows(
    db: kvstore.Database, source: Source, progress: Progress, *, resume: bool = False
) -> ImportCount:
    """Store the rows of a file. ``progress`` is told of bytes read.

    Raises:
        kvstore.BadLine: of the line that cannot be stored.
        CommandFailed: rows of another file are there already, or this is not the file to go on with.
    """
    first = source.begin(db)
    record = db.get((PROGRESS, source.name)) if resume else None
    mark = None if record is None else _Mark(**record)
    chunks = Chunks(db, source.reader.stream, progress, stored=0 if mark is None else mark.rows)
    before = chunks.stored
    try:
        _Import(source, chunks).run(first, mark)
    except kvstore.BadLine as error:
        told = (
            f"{error.args[0]}; the {chunks.wait()} rows before its chunk are stored, nothing of the chunk is"
        )
        raise kvstore.BadLine(told, file=error.file, line=error.line) from error.__cause__
    return ImportCount(chunks.stored, before)


class _Import:
    """The rows of one file on their way into chunks."""

    def __init__(self, source: Source, chunks: Chunks) -> None:
        self._source = source
        self._reader = source.reader
        self._chunks = chunks
        self._rows = chunks.stored
        self._seen = _SeenKeys() if source.keys_are_new else None
        self._mark_key = (PROGRESS, source.name)

    def run(self, first: Sequence[tuple[Any, Any]], mark: _Mark | None) -> None:
        chunks = self._chunks
        rows = self._source.rows()
        if mark is not None:
            self._skip(rows, mark)
        self._put_all(first)
        for row in rows:
            self._put(row)
            if chunks.full:
                chunks.batch.put(self._mark_key, asdict(self._mark()))
                chunks.submit()
        chunks.batch.delete(self._mark_key)
        chunks.submit()
        chunks.wait()

    def _skip(self, rows: Iterator[ImportRow], mark: _Mark) -> None:
        """Read what is stored already, and be sure that it is that."""
        if mark.options != self._source.options:
            raise CommandFailed(
                f"the import of {show(self._source.name)} was begun with other options:"
                " give the same again, or leave out --resume"
            )
        stream = self._reader.stream
        try:
            while stream.position < mark.bytes and (row := next(rows, None)) is not None:
                self._check_new(row)
        except kvstore.BadLine as error:
            raise self._changed(mark) from error
        if stream.position != mark.bytes or stream.digest() != mark.digest:
            raise self._changed(mark)

    def _changed(self, mark: _Mark) -> CommandFailed:
        return CommandFailed(
            f"{self._reader.file} is not the file whose first {mark.lines} lines are stored:"
            " to begin at its start leave out --resume"
        )

    def _put(self, row: ImportRow) -> None:
        self._check_new(row)
        try:
            self._chunks.batch.put(row.key, row.value)
            self._put_all(row.beside)
        except kvstore.UsageError as error:
            raise self._reader.bad_line(row.line, str(error)) from error
        self._chunks.rows += 1
        self._rows += 1

    def _put_all(self, records: Sequence[tuple[Any, Any]]) -> None:
        for key, value in records:
            if value is None:
                self._chunks.batch.delete(key)
            else:
                self._chunks.batch.put(key, value)

    def _check_new(self, row: ImportRow) -> None:
        if self._seen is not None and not self._seen.add(row.key):
            raise self._reader.bad_line(row.line, f"the key {show(row.key)} was there before")

    def _mark(self) -> _Mark:
        stream = self._reader.stream
        return _Mark(
            options=dict(self._source.options),
            bytes=stream.position,
            lines=self._reader.line - 1,
            rows=self._rows,
            digest=stream.digest(),
        )


class _SeenKeys:
    """The keys of one file. SQLite keeps them, in a nameless file once they are many: memory is bounded."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add(self, key: Any) -> bool:
        """Whether the key is new."""
        text = repr(key).encode()
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (text,)).rowcount == 1

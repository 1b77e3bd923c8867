"""Import of the rows of a file of any format; streaming: memory does not grow with the file.

A line that cannot be stored ends the import with ``kvstore.BadLine``: its chunk is not stored, all chunks
before it are, and the message gives the number of their rows. An import may be run again: rows are replaced,
and none is stored twice.

The progress of an import is kept in the store, and updated by each chunk in the chunk's own batch:

    ("import:progress", name)   -> {"options", "bytes", "lines", "rows", "digest"}

``digest`` is the SHA-256 of the bytes read so far. A resumed import reads these bytes again, because it must
know all keys, and continues after them if the digest is equal. The last chunk removes the progress.
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
    """How to store the rows of a file."""

    prefix: str
    key: Sequence[str] = ()
    types: bool = False
    last_wins: bool = False


class ImportRow(NamedTuple):
    """A row as a record. ``beside`` holds further records to write with it; None deletes one."""

    line: int
    key: Any
    value: Any
    beside: Sequence[tuple[Any, Any]] = ()


class RowReader(Protocol):
    """The reader of a file; ``line`` is the number of the next line."""

    file: str
    line: int
    stream: Measured

    def bad_line(self, line: int, message: str) -> kvstore.BadLine: ...


class Source(Protocol):
    """A file about to be imported."""

    @property
    def name(self) -> str:
        """The name under which progress is kept."""

    @property
    def reader(self) -> RowReader: ...

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that must not change when the import is resumed."""

    @property
    def keys_are_new(self) -> bool:
        """Whether a key that occurs twice in the file is an error."""

    def begin(self, db: kvstore.Database) -> Sequence[tuple[Any, Any]]:
        """Return the records to store before the rows.

        Raises:
            CommandFailed: rows of another file are stored already.
        """

    def rows(self) -> Iterator[ImportRow]:
        """Yield the rows.

        Raises:
            kvstore.BadLine: a line is not a row.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """The progress of an import."""

    options: dict[str, Any]
    bytes: int
    lines: int
    rows: int
    digest: str


class ImportCount(NamedTuple):
    """The number of a file's rows that are stored, and that were stored before this run."""

    rows: int
    before: int


def import_rows(
    db: kvstore.Database, source: Source, progress: Progress, *, resume: bool = False
) -> ImportCount:
    """Store the rows of a file. ``progress`` is called with the bytes read.

    Raises:
        kvstore.BadLine: a line cannot be stored.
        CommandFailed: rows of another file are stored already, or the import cannot be resumed.
    """
    first = source.begin(db)
    record = db.get((PROGRESS, source.name)) if resume else None
    mark = None if record is None else _Mark(**record)
    chunks = Chunks(db, source.reader.stream, progress, stored=0 if mark is None else mark.rows)
    before = chunks.stored
    try:
        _Import(source, chunks).run(first, mark)
    except kvstore.BadLine as error:
        told = f"{error.args[0]}; the {chunks.wait()} rows before its chunk are stored, the chunk is not"
        raise kvstore.BadLine(told, file=error.file, line=error.line) from error.__cause__
    return ImportCount(chunks.stored, before)


class _Import:
    """The rows of one file being put into chunks."""

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
        """Read past the rows that are stored already, and check that they have not changed."""
        if mark.options != self._source.options:
            raise CommandFailed(
                f"the import of {show(self._source.name)} was begun with other options:"
                " repeat those options, or leave out --resume"
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
            raise self._reader.bad_line(row.line, f"the key {show(row.key)} was used before")

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
    """The keys of one file, kept by SQLite, which moves many keys to a temporary file: memory is bounded."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add(self, key: Any) -> bool:
        """Add a key; return whether it is new."""
        text = repr(key).encode()
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (text,)).rowcount == 1

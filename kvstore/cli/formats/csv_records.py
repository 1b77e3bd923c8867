"""CSV exactly as RFC 4180 defines it: records with their line numbers and original text.

Python's ``csv`` module accepts more (a quote inside a plain field, a carriage return as a line end) and does
not return the text it read, so a file could not be written again byte for byte. Here such lines are refused,
with their line number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple

import kvstore
from kvstore.cli.formats.lines import BYTE_ORDER_MARK
from kvstore.cli.formats.streams import Measured

RECORD_BYTES_MAX: Final = 16 << 20
"""The most bytes of a record, line ends in quoted fields included: the size limit of a value."""

_FIELD: Final = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"|([^",\r\n]*+)')
_NEEDS_QUOTES: Final = re.compile(r'[",\r\n]')


class CsvRecord(NamedTuple):
    """A record; ``text`` is its source with the line end, which the last record may lack."""

    line: int
    fields: list[str]
    text: str


class Malformed(ValueError):
    """The text is not CSV; ``at`` is the index of the mistake."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


class RecordReader:
    """Reads a CSV file record by record; ``line`` is the number of the next line."""

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self.file = file
        self.line = 1
        self.has_mark = False
        self.stream = Measured(stream)

    def __iter__(self) -> Iterator[CsvRecord]:
        """Yield the records.

        Raises:
            kvstore.BadLine: a record is not UTF-8, not CSV, or too long.
        """
        while raw := self._read():
            if b'"' in raw:
                raw = self._whole_record(raw)
            if len(raw) > RECORD_BYTES_MAX:
                raise self.bad_line(self.line, f"a record of more than {RECORD_BYTES_MAX} bytes")
            yield self._record(raw)

    def bad_line(self, line: int, message: str) -> kvstore.BadLine:
        return kvstore.BadLine(f"{self.file}:{line}: {message}", file=self.file, line=line)

    def _read(self) -> bytes:
        at_start = not self.stream.position
        raw = self.stream.readline(RECORD_BYTES_MAX + 1)
        if at_start and raw.startswith(BYTE_ORDER_MARK):
            self.has_mark = True
            return raw[len(BYTE_ORDER_MARK) :]
        return raw

    def _whole_record(self, raw: bytes) -> bytes:
        """Read on while a quoted field is open, that is, while the number of quotes is odd."""
        pieces = [raw]
        quotes = raw.count(b'"')
        size = len(raw)
        while quotes % 2 and size <= RECORD_BYTES_MAX and (raw := self._read()):
            pieces.append(raw)
            quotes += raw.count(b'"')
            size += len(raw)
        return b"".join(pieces)

    def _record(self, raw: bytes) -> CsvRecord:
        first = self.line
        try:
            text = raw.decode()
            fields = fields_of(without_line_end(text))
        except UnicodeDecodeError as error:
            raise self.bad_line(first + raw.count(b"\n", 0, error.start), "not UTF-8 text") from None
        except Malformed as error:
            raise self.bad_line(first + text.count("\n", 0, error.at), str(error)) from None
        self.line += raw.count(b"\n")
        return CsvRecord(first, fields, text)


def fields_of(text: str) -> list[str]:
    """Split a record, without its line end, into fields.

    Raises:
        Malformed: a quote or carriage return where RFC 4180 has none.
    """
    if '"' not in text and "\r" not in text:
        return text.split(",")
    fields = []
    at = 0
    while True:
        field = _FIELD.match(text, at)
        assert field is not None, "a field may be empty"
        quoted, plain = field.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"'))
        end = field.end()
        if end == len(text):
            return fields
        if text[end] != ",":
            raise _malformed(text, at, end, quoted is not None)
        at = end + 1


def text_of(fields: Sequence[str]) -> str:
    """Return fields as a record without line end, quoted only where needed; ``fields_of`` reads it back."""
    if len(fields) == 1 and not fields[0]:
        return '""'  # most programs do not read an empty line as a record
    return ",".join([_quoted(field) if _NEEDS_QUOTES.search(field) else field for field in fields])


def line_end(text: str) -> str:
    """Return the line end of a record: CR LF, LF, or none."""
    if text.endswith("\r\n"):
        return "\r\n"
    return "\n" if text.endswith("\n") else ""


def without_line_end(text: str) -> str:
    end = line_end(text)
    return text[: -len(end)] if end else text


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'


def _malformed(text: str, start: int, end: int, after_quotes: bool) -> Malformed:
    if after_quotes:
        return Malformed("a comma is missing after a closing quote", end)
    if end == start and text[end] == '"':
        return Malformed("a quoted field is never closed", end)
    if text[end] == '"':
        return Malformed("a quote inside a field: quote the whole field and double the quote", end)
    return Malformed("a carriage return outside quotes", end)

"""The dump format: the whole store as text, written and read record by record.

    {"kvstore dump": 1, "written by": "0.1.0", "shards": 4, "replicas": 1, "placement": null}
    [KEY, VALUE]                                    a line per record, in key order
    {"records": 2, "sha256": "..."}                 the number of records, the digest of all earlier lines

Each line is JSON in UTF-8, with keys and values in the notation of ``json_notation.py``. A dump without its
last line is incomplete.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple

import kvstore
from kvstore.cli.formats.lines import Line, LineReader
from kvstore.cli.language.json_notation import from_json, to_json

VERSION: Final = 1
NAME: Final = "kvstore dump"
_SHAPE: Final = ("shards", "replicas", "placement")


class DumpRecord(NamedTuple):
    """A record, and the number of its line."""

    line: int
    key: Any
    value: Any


def dump_lines(view: kvstore.Snapshot, status: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the lines of a dump of this snapshot; ``status`` is the status of its store."""
    header = {NAME: VERSION, "written by": kvstore.__version__} | {name: status[name] for name in _SHAPE}
    records = (f"[{to_json(key)}, {to_json(value)}]" for key, value in view.scan())
    digest = hashlib.sha256()
    lines = 0
    for text in itertools.chain([json.dumps(header)], records):
        line = _line(text)
        digest.update(line)
        lines += 1
        yield line
    yield _line(json.dumps({"records": lines - 1, "sha256": digest.hexdigest()}))


def _line(text: str) -> bytes:
    return f"{text}\n".encode()


class Dump:
    """A dump being read. ``shape`` holds the options of ``kvstore.open`` that recreate the dumped store.

    Raises:
        kvstore.BadLine: the file is not a dump, or an incomplete or changed dump.
        kvstore.WrongFormat: the dump has an unknown version of the format.
    """

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self.reader = LineReader(stream, file)
        self._lines = iter(self.reader)
        self.shape = self._shape()

    def _shape(self) -> dict[str, Any]:
        line = next(self._lines, None)
        header = None if line is None else self._content(line)
        if not isinstance(header, dict) or NAME not in header:
            raise self.reader.bad_line(1, f'not a dump: the first line must be {{"{NAME}": {VERSION}, ...}}')
        if header[NAME] != VERSION:
            message = f"{self.reader.file} is a dump of version {header[NAME]}; this version reads {VERSION}"
            raise kvstore.WrongFormat(message, path=self.reader.file, found=header[NAME], expected=VERSION)
        return {name: header.get(name) for name in _SHAPE}

    def records(self) -> Iterator[DumpRecord]:
        """Yield the records. Only the end of the iteration proves that the dump is complete."""
        for line in self._lines:
            content = self._content(line)
            if isinstance(content, dict):
                self._check_end(line, content)
                return
            if not isinstance(content, list) or len(content) != 2:
                raise self.reader.bad_line(line.number, "not [KEY, VALUE]")
            yield DumpRecord(line.number, *content)
        raise self._cut_short(self.reader.line)

    def _content(self, line: Line) -> Any:
        if not line.text.endswith("\n"):
            raise self._cut_short(line.number)
        try:
            return from_json(line.text)
        except ValueError as error:
            raise self.reader.bad_line(line.number, str(error)) from None

    def _check_end(self, line: Line, end: dict[Any, Any]) -> None:
        count, digest = line.number - 2, self.reader.stream.digest_before()  # all but the first and last line
        if end.get("records") != count:
            message = f"the dump was changed: {count} records, not {end.get('records')}"
            raise self.reader.bad_line(line.number, message)
        if end.get("sha256") != digest:
            message = f"the dump was changed: its SHA-256 is {digest}, not {end.get('sha256')}"
            raise self.reader.bad_line(line.number, message)
        if next(self._lines, None) is not None:
            raise self.reader.bad_line(line.number + 1, "there is text after the end of the dump")

    def _cut_short(self, line: int) -> kvstore.BadLine:
        return self.reader.bad_line(line, "the dump is incomplete: its last line is missing")

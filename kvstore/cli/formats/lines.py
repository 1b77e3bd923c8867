"""Files with one JSON text a line: read with line numbers, and refused by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

import kvstore
from kvstore.cli.formats.streams import Measured

LINE_BYTES_MAX: Final = 192 << 20
"""The longest value, 16 MiB, with room for the notation: an empty bytes object takes eight times its size."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """``text`` is the line with its line end, which the last one may lack."""

    number: int
    text: str


class LineReader:
    """Reads a file line by line. ``line`` is the next line's number."""

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self.file = file
        self.line = 1
        self.stream = Measured(stream)

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines.

        Raises:
            kvstore.BadLine: one is not UTF-8, or too long.
        """
        while raw := self.stream.readline(LINE_BYTES_MAX + 1):
            if len(raw) > LINE_BYTES_MAX:
                raise self.bad_line(self.line, f"a line of more than {LINE_BYTES_MAX} bytes")
            if self.line == 1:
                raw = raw.removeprefix(BYTE_ORDER_MARK)
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                raise self.bad_line(self.line, "not UTF-8 text") from None
            self.line += 1
            yield Line(self.line - 1, text)

    def bad_line(self, line: int, message: str) -> kvstore.BadLine:
        return kvstore.BadLine(f"{self.file}:{line}: {message}", file=self.file, line=line)

"""Files with one JSON text per line, read with line numbers, which errors name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

import kvstore
from kvstore.cli.formats.streams import Measured

LINE_BYTES_MAX: Final = 192 << 20
"""The longest line: a value of 16 MiB in the notation, where empty bytes take eight times their size."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line; ``text`` includes the line end, which the last line may lack."""

    number: int
    text: str


class LineReader:
    """Reads a file line by line; ``line`` is the number of the next line."""

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self.file = file
        self.line = 1
        self.stream = Measured(stream)

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines.

        Raises:
            kvstore.BadLine: a line is not UTF-8, or too long.
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

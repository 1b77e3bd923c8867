"""Records into the store by chunks, each of them an atomic batch.

One chunk is on its way to the disk while the next is filled, never two: so of all chunks those that are
stored are the first ones, whatever ends the program, and the progress that a chunk records is true.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Final

import kvstore
from kvstore.cli.formats.streams import Measured, Progress

CHUNK_ROWS: Final = 1000
CHUNK_BYTES: Final = 4 << 20
"""A chunk is full when it has so many. With one row of the greatest size more it is still one transaction."""


class Chunks:
    """``batch`` is the chunk being filled, of ``rows`` rows; ``stored`` rows are known to be on the disk.

    ``progress`` is told how much of the stream has gone into chunks.
    """

    def __init__(self, db: kvstore.Database, stream: Measured, progress: Progress, stored: int = 0) -> None:
        self.stored = stored
        self.rows = 0
        self.batch = db.batch()
        self._db = db
        self._stream = stream
        self._progress = progress
        self._told = 0
        self._under_way: tuple[Future[kvstore.Commit], int] | None = None

    @property
    def full(self) -> bool:
        return self.rows >= CHUNK_ROWS or self.batch.size >= CHUNK_BYTES

    def submit(self) -> None:
        """Send the chunk, and begin another."""
        self.wait()
        self._under_way = self._db.submit(self.batch), self.rows
        self.batch, self.rows = self._db.batch(), 0
        self._progress(self._stream.position - self._told)
        self._told = self._stream.position

    def wait(self) -> int:
        """Wait for what was sent; return how many rows are stored."""
        if self._under_way is not None:
            future, rows = self._under_way
            self._under_way = None
            future.result()
            self.stored += rows
        return self.stored

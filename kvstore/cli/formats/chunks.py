"""Storing records in chunks, each of them an atomic batch.

At most one chunk is being committed while the next is filled. So the stored chunks are always the first ones,
whatever ends the program, and the progress that a chunk records is true.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Final

import kvstore
from kvstore.cli.formats.streams import Measured, Progress

CHUNK_ROWS: Final = 1000
CHUNK_BYTES: Final = 4 << 20
"""The size from which a chunk is full. With one more row of the largest size it still fits a transaction."""


class Chunks:
    """``batch`` is the chunk being filled, with ``rows`` rows; ``stored`` rows are known to be on the disk.

    ``progress`` is called with the bytes of the stream that each chunk took.
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
        """Submit the chunk when the previous chunk is stored, and begin another."""
        self.wait()
        self._under_way = self._db.submit(self.batch), self.rows
        self.batch, self.rows = self._db.batch(), 0
        self._progress(self._stream.position - self._told)
        self._told = self._stream.position

    def wait(self) -> int:
        """Wait for the submitted chunk; return the number of rows stored."""
        if self._under_way is not None:
            future, rows = self._under_way
            self._under_way = None
            future.result()
            self.stored += rows
        return self.stored

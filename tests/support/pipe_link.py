"""A link between two processes (``kvstore.Link``): a socket with a name in the file system.

One end listens, the other connects, and both do so again whenever the connection is lost: a process that
was killed and restarted reaches the other end again. A message is sent as its length in four bytes and its
bytes; an incomplete message is discarded. Senders do not wait: a message without a connection, or with more
than ``QUEUED_MAX`` messages before it, is lost.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue

QUEUED_MAX = 64
AGAIN_S = 0.02
"""Seconds between two checks for the other end, and for the close of this end."""
LENGTH_BYTES = 4


class PipeLink:
    """One end of the link. ``path`` must be short: the system allows about a hundred bytes."""

    def __init__(self, path: str | os.PathLike[str], *, listens: bool) -> None:
        self._path = os.fspath(path)
        self._listener = self._listen() if listens else None
        self._queue: Queue[bytes | None] = Queue(QUEUED_MAX)
        self._connection: socket.socket | None = None
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, deliver: Callable[[bytes], None]) -> None:
        for work in (lambda: self._receive(deliver), self._carry):
            thread = threading.Thread(target=work, name="pipe-link", daemon=True)
            self._threads.append(thread)
            thread.start()

    def send(self, message: bytes) -> None:
        with suppress(Full):
            self._queue.put_nowait(message)

    def close(self) -> None:
        self._closed.set()
        self._hang_up()
        with suppress(Full):
            self._queue.put_nowait(None)
        for thread in self._threads:
            thread.join()
        if self._listener is not None:
            self._listener.close()

    def _listen(self) -> socket.socket:
        with suppress(FileNotFoundError):
            os.unlink(self._path)  # left by a killed process
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._path)
        listener.listen(1)
        listener.settimeout(AGAIN_S)
        return listener

    def _receive(self, deliver: Callable[[bytes], None]) -> None:
        while not self._closed.is_set():
            connection = self._meet()
            if connection is None:
                continue
            self._connection = connection
            with connection, suppress(OSError):
                while not self._closed.is_set() and (message := _read_message(connection)) is not None:
                    deliver(message)
            self._connection = None

    def _meet(self) -> socket.socket | None:
        """Return a connection to the other end, or None if it is not there yet."""
        if self._listener is not None:
            with suppress(OSError):
                connection, _ = self._listener.accept()
                connection.settimeout(None)
                return connection
            return None
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            self._closed.wait(AGAIN_S)
            return None
        return connection

    def _carry(self) -> None:
        while not self._closed.is_set():
            message = self._queue.get()
            connection = self._connection
            if message is None or connection is None:
                continue
            try:
                connection.sendall(len(message).to_bytes(LENGTH_BYTES, "big") + message)
            except OSError:
                self._hang_up()  # half a message may have been sent

    def _hang_up(self) -> None:
        connection = self._connection
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _read_message(connection: socket.socket) -> bytes | None:
    """Return the next message; None at the end, complete or within a message."""
    length = _read(connection, LENGTH_BYTES)
    return None if length is None else _read(connection, int.from_bytes(length, "big"))


def _read(connection: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 16))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)

"""One process writes (architecture, section 4): an exclusive lock on a file in the store's folder."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from kvstore.errors import Locked

LOCK_FILE = "writer.lock"


class WriterLock:
    """Held from construction to ``release``. The file holds the pid of the holder, for messages.

    The lock belongs to the open file, so a child that is forked would keep it alive: ``forget``
    closes the child's copy without releasing the parent's lock.
    """

    def __init__(self, store: Path) -> None:
        self._file = os.open(store / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _pid_in(self._file)
            os.close(self._file)
            message = f"{store} is open for writing in process {pid or 'unknown'}"
            raise Locked(message, path=str(store), pid=pid) from error
        os.ftruncate(self._file, 0)
        with suppress(OSError):  # a full disk: the lock holds all the same, it only cannot say by whom
            os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        with suppress(OSError):  # a disk that fails: the file still names who held it, which harms nobody
            os.ftruncate(self._file, 0)
        os.close(self._file)

    def forget(self) -> None:
        """In a forked child: let go of the inherited file, not of the lock."""
        os.close(self._file)


def _pid_in(file: int) -> int | None:
    text = os.pread(file, 32, 0).strip()
    return int(text) if text.isdigit() else None

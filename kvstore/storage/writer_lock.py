"""The lock that lets one process write (architecture, section 4), on a file in the store's folder."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from kvstore.errors import Locked

LOCK_FILE = "writer.lock"


class WriterLock:
    """A lock that is held from construction to ``release``. The file holds the holder's pid, for messages.

    The lock belongs to the open file, so a forked child would keep the lock alive: ``forget`` closes the
    child's copy without releasing the parent's lock.
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
        with suppress(OSError):  # on a full disk the lock still holds, but without a pid
            os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        with suppress(OSError):  # on a failing disk the old pid remains, which is harmless
            os.ftruncate(self._file, 0)
        os.close(self._file)

    def forget(self) -> None:
        """Close the inherited file in a forked child, without releasing the lock."""
        os.close(self._file)


def _pid_in(file: int) -> int | None:
    text = os.pread(file, 32, 0).strip()
    return int(text) if text.isdigit() else None

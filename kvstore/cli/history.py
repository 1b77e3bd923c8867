"""The lines typed in earlier sessions, kept in the folder that XDG defines for a program's state.

If the folder cannot be written, or the disk is full, the history ends with the session, and nothing else
fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory


def history_file() -> Path:
    """Return the path of the history. XDG requires that a relative XDG_STATE_HOME is ignored."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "kvstore" / "history"


class ShellHistory(FileHistory):
    """A history that keeps lines in a file until an error occurs, which is then in ``trouble``."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.trouble: OSError | None = None
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
        except OSError as trouble:
            self.trouble = trouble

    def append_string(self, string: str) -> None:
        if not string.startswith(" "):  # a leading blank keeps a line out, as in other shells
            super().append_string(string)

    def load_history_strings(self) -> Iterable[str]:
        try:
            return super().load_history_strings()
        except OSError as trouble:
            self.trouble = trouble
            return ()

    def store_string(self, string: str) -> None:
        if self.trouble is not None:
            return
        try:
            super().store_string(string)
        except OSError as trouble:
            self.trouble = trouble

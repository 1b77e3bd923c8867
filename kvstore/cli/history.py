"""Lines that were typed in earlier sessions, kept where the XDG rules keep a program's state.

A courtesy: a folder that cannot be written, or a disk that is full, makes the history end with the session,
and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory


def history_file() -> Path:
    """Where the history is kept. A relative path in XDG_STATE_HOME is to be ignored, the rules say."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "kvstore" / "history"


class ShellHistory(FileHistory):
    """Keeps lines in a file for as long as that works; ``trouble`` says why it did not."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.trouble: OSError | None = None
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
        except OSError as trouble:
            self.trouble = trouble

    def append_string(self, string: str) -> None:
        if not string.startswith(" "):  # how a line is kept out of the history, as in other shells
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

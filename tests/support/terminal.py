"""A user at a terminal: a test presses keys, and waits for what the program's screen shows.

The terminal is a real pseudo-terminal. The screen interprets what prompt_toolkit sends: text, cursor
movements, erasing, and the request for the cursor's position.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

PATIENCE_S = 60
"""Seconds after which an awaited text is considered missing."""
_SEQUENCE = re.compile(r"\x1b\[([?>=]?)([0-9;]*)([A-Za-z@])|\x1b[=>78]|\x1b\][^\x07]*\x07|[^\x1b]")
_MAY_GO_ON = re.compile(r"\x1b(\[[?>=0-9;]*|\][^\x07]*)?")


class Screen:
    """Lines of text and a cursor; lines that scroll out at the top stay in ``lines``."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.lines: list[str] = [""]
        self.row = self.column = 0
        self.asked_where = 0
        """Number of unanswered requests for the cursor's position."""

    @property
    def top(self) -> int:
        """Return the index of the first line that is still on the screen."""
        return max(0, len(self.lines) - self.rows)

    def show(self, text: str) -> str:
        """Show the program's output; return an incomplete escape sequence at its end."""
        at = 0
        while at < len(text):
            found = _SEQUENCE.match(text, at)
            if found is None:
                assert _MAY_GO_ON.fullmatch(text, at), f"unknown sequence {text[at : at + 10]!r}"
                return text[at:]
            if found[3] is not None:
                self._obey(found[1], found[2], found[3])
            elif len(found[0]) == 1:
                self._write(found[0])
            at = found.end()
        return ""

    def _write(self, letter: str) -> None:
        match letter:
            case "\r":
                self.column = 0
            case "\n":
                self._down(1)
            case "\b":
                self.column = max(0, self.column - 1)
            case "\x07":
                pass
            case _:
                if self.column >= self.columns:
                    self._down(1)
                    self.column = 0
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
                self.column += 1

    def _down(self, count: int) -> None:
        self.row += count
        while len(self.lines) <= self.row:
            self.lines.append("")

    def _obey(self, private: str, numbers: str, command: str) -> None:
        count = int(numbers.partition(";")[0] or 1) if not private else 0
        match command:
            case "A":
                self.row = max(self.top, self.row - count)
            case "B":
                self._down(count)
            case "C":
                self.column = min(self.columns - 1, self.column + count)
            case "D":
                self.column = max(0, self.column - count)
            case "H":
                self.row, self.column = self.top, 0
            case "K":
                self.lines[self.row] = self.lines[self.row][: self.column]
            case "J":
                self.lines[self.row] = self.lines[self.row][: self.column]
                del self.lines[self.row + 1 :]
            case "n":
                self.asked_where += 1
            case _:
                assert command in "hlm", f"unknown command {command}"


class Terminal:
    """A program that was started on a new terminal."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        rows: int = 24,
        columns: int = 80,
    ) -> None:
        self._fd, end = pty.openpty()
        self.screen = Screen(rows, columns)
        self.written = ""
        """All output of the program, with its escape sequences."""
        self._unread = ""
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=end, stdout=end, stderr=end,
            start_new_session=True, preexec_fn=_take_terminal,  # noqa: PLW1509 - no threads are running
        )  # fmt: skip
        os.close(end)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.rows, self.screen.columns = rows, columns

    def press(self, text: str) -> None:
        """Press these keys, reading output meanwhile: a program that is writing may not be reading."""
        data = text.encode()
        while data:
            _, writable, _ = select.select([], [self._fd], [], 0.01)
            if writable:
                data = data[os.write(self._fd, data[:512]) :]
            self._read(0)

    def interrupt(self) -> None:
        self.press("\x03")

    def wait_for(self, sign: str | Callable[[str], bool]) -> str:
        """Wait until the screen shows this; return the screen's text."""
        deadline = time.monotonic() + PATIENCE_S
        while not (sign in self.text if isinstance(sign, str) else sign(self.text)):
            ended = not self._read(0.1) and self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"waited for {sign!r}, but the screen shows:\n{self.text}")
        return self.text

    def wait_for_end(self) -> int:
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.1)
        while self._read(0):
            pass
        return self.process.wait(timeout=1)

    @property
    def text(self) -> str:
        """Return all lines that were shown and not erased, from the beginning."""
        return "\n".join(line.rstrip() for line in self.screen.lines)

    def _read(self, seconds: float) -> bool:
        readable, _, _ = select.select([self._fd], [], [], seconds)
        if not readable:
            return False
        try:
            data = os.read(self._fd, 65536).decode(errors="replace")
        except OSError:  # the other end of the terminal is closed
            return False
        self.written += data
        self._unread = self.screen.show(self._unread + data)
        for _ in range(self.screen.asked_where):
            row = self.screen.row - self.screen.top + 1
            os.write(self._fd, f"\x1b[{row};{self.screen.column + 1}R".encode())
        self.screen.asked_where = 0
        return True

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=PATIENCE_S)
        os.close(self._fd)


def _take_terminal() -> None:
    """Make standard input the controlling terminal of the child, so that Ctrl-C reaches it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

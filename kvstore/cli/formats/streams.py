"""Files and standard streams of commands: digests, files that appear when complete, progress, messages."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final

import click

Progress = Callable[[int], object]
"""A function that is called with the amount of work done since its last call."""


_RED: Final = "\x1b[31m"
_PLAIN: Final = "\x1b[39m"


def say(line: str) -> None:
    """Write a line of the result to standard output."""
    sys.stdout.write(line + "\n")


def say_aside(line: str) -> None:
    """Write a remark to standard error, after the result so far."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


def say_error(message: str, *, color: bool = False) -> None:
    say_aside(f"{_RED}error:{_PLAIN} {message}" if color else f"error: {message}")


@contextmanager
def readable(file: str) -> Iterator[BinaryIO]:
    """Open the file for reading, or standard input for ``-``."""
    if file == "-":
        yield sys.stdin.buffer
        return
    with open(file, "rb") as stream:
        yield stream


@contextmanager
def writable(file: str) -> Iterator[BinaryIO]:
    """Open the file for writing, which appears when it is complete, or standard output for ``-``."""
    if file == "-":
        yield sys.stdout.buffer
        return
    with written_beside(file) as stream:
        yield stream


def name_of(file: str) -> str:
    """Return the name of the file in error messages."""
    return "<stdin>" if file == "-" else file


def length_of(file: str) -> int | None:
    """Return the size of a file in bytes; None if it is unknown before the file is read."""
    return os.path.getsize(file) if os.path.isfile(file) else None


@contextmanager
def written_beside(path: str) -> Iterator[BinaryIO]:
    """Open a file that takes its name only when it is complete; until then an older file keeps the name."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or device cannot be replaced
        with open(path, "wb") as stream:
            yield stream
        return
    target = os.path.realpath(path)
    unfinished = beside(target)
    try:
        with open(unfinished, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise


def beside(target: str) -> str:
    """Return the path of a file or folder that is moved to ``target`` when it is complete."""
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.{os.getpid()}.part")


@contextmanager
def progress_bar(label: str, length: int | None) -> Iterator[Progress]:
    """Show a progress bar on a terminal, and nothing elsewhere."""
    if length is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, update_min_steps=500) as bar:
        yield bar.update


class Measured:
    """A stream that is read by lines; ``position`` is the number of bytes read."""

    def __init__(self, stream: BinaryIO) -> None:
        self.position = 0
        self._stream = stream
        self._last = b""
        self._before = hashlib.sha256()

    def readline(self, limit: int) -> bytes:
        self._before.update(self._last)
        self._last = self._stream.readline(limit)
        self.position += len(self._last)
        return self._last

    def digest(self) -> str:
        """Return the SHA-256 of all bytes read."""
        read = self._before.copy()
        read.update(self._last)
        return read.hexdigest()

    def digest_before(self) -> str:
        """Return the SHA-256 of all bytes read, without the last line."""
        return self._before.hexdigest()

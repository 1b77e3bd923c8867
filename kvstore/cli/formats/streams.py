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
"""Is told how much more has been done."""


_RED: Final = "\x1b[31m"
_PLAIN: Final = "\x1b[39m"


def say(line: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(line + "\n")


def say_aside(line: str) -> None:
    """Write a remark that is not the result, after all of the result so far."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


def say_error(message: str, *, color: bool = False) -> None:
    say_aside(f"{_RED}error:{_PLAIN} {message}" if color else f"error: {message}")


@contextmanager
def readable(file: str) -> Iterator[BinaryIO]:
    """The file, or standard input for ``-``."""
    if file == "-":
        yield sys.stdin.buffer
        return
    with open(file, "rb") as stream:
        yield stream


@contextmanager
def writable(file: str) -> Iterator[BinaryIO]:
    """The file, which appears when it is complete, or standard output for ``-``."""
    if file == "-":
        yield sys.stdout.buffer
        return
    with written_beside(file) as stream:
        yield stream


def name_of(file: str) -> str:
    """The file as errors call it."""
    return "<stdin>" if file == "-" else file


def length_of(file: str) -> int | None:
    """The bytes of a file; None where that cannot be known before it is read."""
    return os.path.getsize(file) if os.path.isfile(file) else None


@contextmanager
def written_beside(path: str) -> Iterator[BinaryIO]:
    """A file that takes its name only when it is complete; until then a file of that name stays as it is."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device has no beside
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
    """Where something is made that is to stand at ``target`` when it is complete."""
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.{os.getpid()}.part")


@contextmanager
def progress_bar(label: str, length: int | None) -> Iterator[Progress]:
    """A progress bar on a terminal; elsewhere nothing."""
    if length is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, update_min_steps=500) as bar:
        yield bar.update


class Measured:
    """A stream that is read by lines, and knows how much of it was read: ``position`` bytes."""

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
        """SHA-256 of all that was read."""
        read = self._before.copy()
        read.update(self._last)
        return read.hexdigest()

    def digest_before(self) -> str:
        """The same without the line that was read last."""
        return self._before.hexdigest()

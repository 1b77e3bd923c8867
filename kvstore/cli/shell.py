"""Lines of the shell, from wherever they come: read a line, run its statements, tell the failures.

A script stops at its first failure; ``prompt.py`` puts a person in the place of the script, and goes on.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

import kvstore
from kvstore.cli.command import Call
from kvstore.cli.commands import command_named
from kvstore.cli.failures import EXPECTED, EndOfSession, exit_code, sentence
from kvstore.cli.formats import Settings
from kvstore.cli.grammar import GrammarError, Reader, Statement
from kvstore.cli.lexer import STATEMENT_CHARS_MAX

_RED: Final = "\x1b[31m"
_PLAIN: Final = "\x1b[39m"


@dataclass(frozen=True, slots=True)
class Script:
    """Lines of the shell, and the name that errors give them."""

    name: str
    stream: BinaryIO


class Failure(NamedTuple):
    """What went wrong, and in which line."""

    line: int
    error: Exception


def run_scripts(db: kvstore.Database, scripts: list[Script], settings: Settings, *, keep_going: bool) -> int:
    """Run the scripts in order; return the exit code, which is that of the first failure."""
    code = 0
    try:
        for script in scripts:
            for failure in failures(db, _lines(script.stream), settings):
                say_error(f"{script.name}:{failure.line}: {sentence(failure.error)}", color=settings.color)
                code = code or exit_code(failure.error)
                if not keep_going:
                    return code
    except EndOfSession:
        pass  # the rest of the scripts is not run: that is what exit says
    return code


def say(line: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(line + "\n")


def say_aside(line: str) -> None:
    """Write a remark that is not the result, after all of the result so far."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


def say_error(message: str, *, color: bool = False) -> None:
    say_aside(f"{_RED}error:{_PLAIN} {message}" if color else f"error: {message}")


def failures(db: kvstore.Database, lines: Iterable[str], settings: Settings) -> Iterator[Failure]:
    """Run lines; yield each failure, and go on behind it if asked for more.

    Raises:
        EndOfSession: one of them was ``exit``.
    """
    reader = Reader()
    for text in lines:
        try:
            statements = reader.feed(text)
        except GrammarError as error:
            yield Failure(error.place.line, error)
            continue
        for statement in statements:
            if (failure := _run(db, statement, settings)) is not None:
                yield failure
    try:
        reader.end()
    except GrammarError as error:
        yield Failure(error.place.line, error)


def _run(db: kvstore.Database, statement: Statement, settings: Settings) -> Failure | None:
    began = time.monotonic()
    try:
        command = command_named(statement.word)
        command.run(Call(db, command.fit(statement), say, say_aside, sys.stdout.flush, settings))
        if settings.timing:
            say_aside(f"{(time.monotonic() - began) * 1000:.1f} ms")
    except BrokenPipeError:
        raise  # nobody reads any more: not an error of this line
    except EXPECTED as error:
        return Failure(statement.place.line, error)
    return None


def _lines(stream: BinaryIO) -> Iterator[str]:
    """The lines of a script. What is not UTF-8 becomes surrogates, which the lexer refuses by line."""
    encoding = "utf-8-sig"  # the first line may begin with a byte order mark
    for raw in iter(functools.partial(stream.readline, STATEMENT_CHARS_MAX + 1), b""):
        yield raw.decode(encoding, "surrogateescape")
        encoding = "utf-8"

"""Scripts of the shell: read a line, run its statements, stop at the first error."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import kvstore
from kvstore.cli.command import Call
from kvstore.cli.commands import command_named
from kvstore.cli.failures import EXPECTED, exit_code, sentence
from kvstore.cli.grammar import GrammarError, Reader, Statement
from kvstore.cli.lexer import STATEMENT_CHARS_MAX


@dataclass(frozen=True, slots=True)
class Script:
    """Lines of the shell, and the name that errors give them."""

    name: str
    stream: BinaryIO


class Failure(NamedTuple):
    """What went wrong, and in which line."""

    line: int
    error: Exception


def run_scripts(db: kvstore.Database, scripts: list[Script], *, keep_going: bool) -> int:
    """Run the scripts in order; return the exit code, which is that of the first failure."""
    code = 0
    for script in scripts:
        for failure in _failures(db, script):
            say_error(f"{script.name}:{failure.line}: {sentence(failure.error)}")
            code = code or exit_code(failure.error)
            if not keep_going:
                return code
    return code


def say(line: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(line + "\n")


def say_aside(line: str) -> None:
    """Write a remark that is not the result, after all of the result so far."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


def say_error(message: str) -> None:
    say_aside(f"error: {message}")


def _failures(db: kvstore.Database, script: Script) -> Iterator[Failure]:
    """Run a script; yield each failure, and go on behind it if asked for more."""
    reader = Reader()
    for text in _lines(script.stream):
        try:
            statements = reader.feed(text)
        except GrammarError as error:
            yield Failure(error.place.line, error)
            continue
        for statement in statements:
            if (failure := _run(db, statement)) is not None:
                yield failure
    try:
        reader.end()
    except GrammarError as error:
        yield Failure(error.place.line, error)


def _run(db: kvstore.Database, statement: Statement) -> Failure | None:
    try:
        command = command_named(statement.word)
        command.run(Call(db, command.fit(statement), say, say_aside))
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

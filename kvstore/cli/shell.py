"""The running of shell lines: read a line, run its statements, report failures.

A script stops at its first failure; ``prompt.py`` reads from the user instead, and continues.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from kvstore.cli.commands.command import Invocation
from kvstore.cli.commands.session import Session
from kvstore.cli.commands.store_commands import execute
from kvstore.cli.failures import EXPECTED, FAILED, EndOfSession, exit_code, sentence
from kvstore.cli.formats.streams import say, say_aside, say_error
from kvstore.cli.language.grammar import GrammarError, Statement, StatementReader
from kvstore.cli.language.lexer import STATEMENT_CHARS_MAX


@dataclass(frozen=True, slots=True)
class Script:
    """Lines of the shell, and their name in error messages."""

    name: str
    stream: BinaryIO


class Failure(NamedTuple):
    """An error, and the number of its line."""

    line: int
    error: Exception
    has_more: bool = False
    """Whether more statements follow the failed statement in its line."""


def run_scripts(session: Session, scripts: list[Script], *, keep_going: bool) -> int:
    """Run the scripts in order; return the exit code, which is that of the first failure.

    A transaction that is open at the end is rolled back, which counts as a failure.
    """
    code = 0
    try:
        code = _run_scripts(session, scripts, keep_going=keep_going)
    finally:
        lost = session.close()
        if lost and code:
            say_aside(lost)
        elif lost:
            say_error(lost, color=session.settings.color)
    return code or (FAILED if lost else 0)


def _run_scripts(session: Session, scripts: list[Script], *, keep_going: bool) -> int:
    """Run the scripts. A failure in a transaction ends them: the lines that follow belong to it."""
    code = 0
    color = session.settings.color
    try:
        for script in scripts:
            for failure in failures(session, _lines(script.stream)):
                say_error(f"{script.name}:{failure.line}: {sentence(failure.error)}", color=color)
                code = code or exit_code(failure.error)
                if not keep_going or session.transaction is not None:
                    return code
    except EndOfSession:
        pass  # exit skips the rest of all scripts
    return code


def failures(session: Session, lines: Iterable[str]) -> Iterator[Failure]:
    """Run lines; yield each failure, and continue after it if the caller does.

    Raises:
        EndOfSession: a command was ``exit``.
    """
    reader = StatementReader()
    for text in lines:
        try:
            statements = reader.feed(text)
        except GrammarError as error:
            yield Failure(error.place.line, error)
            continue
        for number, statement in enumerate(statements, 1):
            if (trouble := _run(session, statement)) is not None:
                yield Failure(statement.place.line, trouble, has_more=number < len(statements))
    try:
        reader.end()
    except GrammarError as error:
        yield Failure(error.place.line, error)


def _run(session: Session, statement: Statement) -> Exception | None:
    try:
        execute(statement, Invocation(session, {}, say, say_aside, sys.stdout.flush))
    except BrokenPipeError:
        raise  # the reader of the output is gone: not an error of this line
    except EXPECTED as error:
        return error
    return None


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Yield the lines of a script. Bytes that are not UTF-8 become surrogates, which the lexer refuses."""
    encoding = "utf-8-sig"  # the first line may begin with a byte order mark
    for raw in iter(functools.partial(stream.readline, STATEMENT_CHARS_MAX + 1), b""):
        yield raw.decode(encoding, "surrogateescape")
        encoding = "utf-8"

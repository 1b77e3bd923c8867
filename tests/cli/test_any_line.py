"""No line makes the shell print a traceback, and every printed value reads back as an equal value.

The lines are drawn from a seed, as Hypothesis would take minutes for so many: made by the grammar, then
mutated, or of random letters. They run on a store in memory, through all of the code behind the prompt.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import random
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

import kvstore
from kvstore.cli.commands.session import Session
from kvstore.cli.commands.store_commands import COMMANDS
from kvstore.cli.completion import ShellCompleter
from kvstore.cli.failures import EndOfSession
from kvstore.cli.formats.tables import FORMATS, Settings
from kvstore.cli.highlighting import Highlighter
from kvstore.cli.language.grammar import parse_argument
from kvstore.cli.language.json_notation import from_json, to_json
from kvstore.cli.language.printing import show
from kvstore.cli.prompt import is_open, run_text
from tests.cli.test_printing import shape

LINES = int(os.environ.get("KVSTORE_SHELL_LINES", "1500"))
VALUES = int(os.environ.get("KVSTORE_SHELL_VALUES", "2500"))
LINES_PER_STORE = 500
LETTERS = "ab01 \t'\"\\()[]{},:;#-.$eExu_žß中😀\x00\x1b\x7f\x85\u2028\u202e\ud800\uffff\n"
WORDS = ["acct", "eu", "--limit", "--format", "--x", "-2", "1e5", "1e999", "01", "nan", "-inf", "true",
         "null", "", "b", "uuid", "9" * 400, '"', "'", "\\", "#", ";", "(", ")", "[1, [2]]", '{"a": 1}',
         '("acct",)', 'b"\\x00"', "x" * 500, *FORMATS]  # fmt: skip


def text_of(dice: random.Random) -> str:
    return "".join(dice.choice(LETTERS[:-4]) for _ in range(dice.randrange(8)))


SCALARS: list[Callable[[random.Random], Any]] = [
    text_of,
    lambda dice: dice.randbytes(dice.randrange(6)),
    lambda dice: dice.randrange(-5, 300),
    lambda dice: dice.choice([-1, 1]) * dice.getrandbits(dice.randrange(1, 2000)),
    lambda dice: dice.choice([0.0, -0.0, 1e16, 5e-324, math.inf, -math.inf, dice.random()]),
    lambda dice: dice.choice([True, False, None]),
]


def scalar(dice: random.Random) -> Any:
    return dice.choice(SCALARS)(dice)


def value_of(dice: random.Random, depth: int = 3) -> Any:
    kind = dice.randrange(6) if depth else 5
    if kind == 0:
        return [value_of(dice, depth - 1) for _ in range(dice.randrange(4))]
    if kind == 1:
        return {scalar(dice): value_of(dice, depth - 1) for _ in range(dice.randrange(4))}
    if kind == 2:
        return {dice.choice(["$map", "$bytes", "$", "a"]): value_of(dice, depth - 1)}
    return scalar(dice)


def key_of(dice: random.Random, depth: int = 2) -> Any:
    kind = dice.randrange(4) if depth else 3
    if kind < 3:
        parts = [key_of(dice, depth - 1) for _ in range(dice.randrange(1, 4))]
        return tuple(parts) if kind else (UUID(int=dice.getrandbits(128)), *parts)
    return scalar(dice)


def grammatical(dice: random.Random) -> str:
    command = dice.choice(COMMANDS)
    words = [command.name]
    for parameter in (*command.terms, *command.options):
        if parameter in command.options and dice.random() < 0.7:
            continue
        words += [f"--{parameter.name}"] if parameter in command.options else []
        make = {"key": key_of, "value": value_of, "number": scalar}.get(parameter.kind)
        words += [show(make(dice))] if make else [dice.choice(WORDS)] if parameter.kind == "text" else []
    return " ".join(words)


def mutated(dice: random.Random) -> str:
    line = list(grammatical(dice))
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(line) + 1)
        line[at : at + dice.randrange(3)] = dice.choice([*WORDS, *LETTERS])
    return "".join(line)


def words(dice: random.Random) -> str:
    return " ".join(dice.choice([*WORDS, *(command.name for command in COMMANDS)]) for _ in range(4))


def noise(dice: random.Random) -> str:
    return "".join(dice.choice(LETTERS) for _ in range(dice.randrange(30)))


def bytes_of_a_terminal(dice: random.Random) -> str:
    return dice.randbytes(dice.randrange(20)).decode(errors="surrogateescape")


MAKERS: list[Callable[[random.Random], str]] = [
    grammatical,
    grammatical,
    mutated,
    words,
    noise,
    bytes_of_a_terminal,
]


def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[kvstore.Database]:
    """A store in memory for each line, replaced now and then, as scans of a full store are slow.

    A backup of the store writes nothing, and a watch of the store ends.
    """
    for first in range(0, LINES, LINES_PER_STORE):
        with kvstore.open(":memory:", shards=2) as db:
            monkeypatch.setattr(db, "backup", lambda folder: None)
            monkeypatch.setattr(db, "watch", functools.partial(watch_a_moment, db.watch))
            yield from [db] * min(LINES_PER_STORE, LINES - first)


def watch_a_moment(watch: Callable[..., Any], *, timeout: Any, **options: Any) -> Any:
    return watch(timeout=0 if timeout is None or timeout > 0 else timeout, **options)


def complaint(message: str, line: str) -> str:
    return f"{message}: {line!a}"


def test_any_line_is_answered_with_a_result_or_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(1)
    understood = 0
    for db in stores(monkeypatch):
        line = dice.choice(MAKERS)(dice)
        width = dice.choice([None, 1, 20, 80])
        out, err = said(db, line, Settings(width=lambda width=width: width))  # type: ignore[misc]
        assert out or err or not line.strip() or is_quiet(line), complaint("no answer", line)
        understood += "error: " not in err

    assert LINES / 10 < understood < LINES


def said(db: kvstore.Database, line: str, settings: Settings) -> tuple[str, str]:
    """Return the output of the shell for a line: standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    session = Session(db, settings)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_text(session, line)
    except EndOfSession:
        pass
    except Exception as error:
        raise AssertionError(complaint("a traceback", line)) from error
    session.close()
    return out.getvalue(), err.getvalue()


def is_quiet(line: str) -> bool:
    """Return whether no output may be right: comments, settings, scans that find nothing."""
    quiet = ("#", ";", "format", "timing", "scan", "watch", "exit", "quit", "begin")
    return any(word in line for word in quiet)


def test_any_half_typed_line_can_be_shown_and_completed() -> None:
    dice = random.Random(2)
    db = kvstore.open(":memory:")
    for _ in range(20):
        key = key_of(dice)
        with contextlib.suppress(kvstore.UsageError):
            db.put(key, 1)
    completer, highlighter = ShellCompleter(Session(db)), Highlighter()
    for _ in range(LINES):
        line = dice.choice(MAKERS)(dice)
        document = Document(line, dice.randrange(len(line) + 1))
        shown = highlighter.lex_document(document)
        for number, text in enumerate(document.lines):
            assert "".join(fragment[1] for fragment in shown(number)) == text, complaint(
                "shown wrongly", line
            )
        list(completer.get_completions(document, CompleteEvent()))
        is_open(line)
    db.close()


def test_any_value_reads_back_from_the_shells_notation_and_from_json() -> None:
    dice = random.Random(3)
    for _ in range(VALUES):
        value = dice.choice([value_of, key_of])(dice)
        assert shape(from_json(to_json(value))) == shape(value)
        assert shape(parse_argument(show(value))) == shape(value)

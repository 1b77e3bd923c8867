"""Completions of a half-typed line: commands, options, regions, and keys of the store.

Keys are looked up by a scan that begins at the typed part and is bounded in rows and in time, so a large
store is as quick as a small one. Inserted text always reads back as the key.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

import kvstore
from kvstore.cli.commands.command import Command, Parameter
from kvstore.cli.commands.session import Session
from kvstore.cli.commands.store_commands import COMMANDS
from kvstore.cli.failures import EXPECTED
from kvstore.cli.language.grammar import (
    GrammarError,
    Option,
    Statement,
    StatementReader,
    Term,
    TextPosition,
    parse_argument,
)
from kvstore.cli.language.lexer import Lexeme, Lexer
from kvstore.cli.language.printing import show

KEYS_MAX: Final = 200
KEYS_SECONDS_MAX: Final = 0.05


class Typed(NamedTuple):
    """The text in front of the cursor, taken apart."""

    statement: Statement | None
    """The complete part of the last statement, or None."""
    tuple_before: str | None
    """The source of an open tuple up to the element being typed; None outside a tuple."""
    part: str
    """The source of the word or string being typed; may be empty."""


class Candidate(NamedTuple):
    """A text that replaces ``Typed.part``, and its description."""

    text: str
    about: str = ""


class ShellCompleter(Completer):
    """The completer that prompt_toolkit calls, on a thread of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        try:
            typed = typed_before(document.text_before_cursor)
            for text, about in candidates(self._session, typed):
                yield Completion(text, start_position=-len(typed.part), display_meta=about)
        except EXPECTED:
            return  # offer nothing; the command itself will report the error


def typed_before(text: str) -> Typed:
    """Take apart the text before a cursor.

    Raises:
        GrammarError: the text has a mistake, or nothing can come next.
    """
    lexer = _lexed_to_the_end(text.split("\n"))
    tokens = lexer.tokens
    begins = max((at + 1 for at, token in enumerate(tokens) if token.kind == ";"), default=0)
    opening = lexer.open_since
    if opening is not None and opening.kind != "open":
        part = _offset(text, opening)
    elif tokens and tokens[-1].kind == "bare" and text.endswith(tokens[-1].text):
        part = _offset(text, tokens.pop())
    elif tokens and tokens[-1].kind not in ("open", ",", ":", ";") and not text[-1:].isspace():
        raise GrammarError("a term is whole already", tokens[-1].place)
    else:
        part = len(text)
    bracket = _open_tuple(tokens)
    whole = part if bracket is None else _offset(text, bracket)
    statement = StatementReader().feed(text[_offset(text, tokens[begins]) : whole]) if tokens[begins:] else []
    before = None if bracket is None else text[whole:part]
    return Typed(statement[0] if statement else None, before, text[part:])


def _lexed_to_the_end(lines: list[str]) -> Lexer:
    lexer = Lexer()
    for number, line in enumerate(lines):
        if lexer.open_since is None:
            lexer = Lexer(line=number)
        lexer.feed(line if number + 1 == len(lines) else f"{line}\n")
    if lexer.comment is not None and lexer.comment.line == len(lines):
        raise GrammarError("nothing comes next in a comment", lexer.comment)
    return lexer


def _offset(text: str, token: Lexeme) -> int:
    lines = text.split("\n")[: token.place.line - 1]
    return sum(map(len, lines)) + len(lines) + token.place.column - 1


def _open_tuple(tokens: list[Lexeme]) -> Lexeme | None:
    """Return the bracket of the open tuple, or None.

    Raises:
        GrammarError: a bracket is open inside the tuple, or the bracket is of another kind.
    """
    still_open: list[Lexeme] = []
    for token in tokens:
        if token.kind == "open":
            still_open.append(token)
        elif token.kind == "close":
            still_open.pop()
    if len(still_open) > 1 or (still_open and still_open[0].text != "("):
        raise GrammarError("only tuples that are keys are known", still_open[-1].place)
    return still_open[0] if still_open else None


def candidates(session: Session, typed: Typed) -> Iterable[Candidate]:
    """Return the completions of the part that is being typed."""
    statement, before, part = typed
    if statement is None:
        return _commands(session, part) if before is None else ()
    command = next((command for command in COMMANDS if command.name == statement.word), None)
    if command is None:
        return ()
    parameter, is_free = _next_parameter(command, statement.items)
    if before is None and is_free and (part.startswith("-") or parameter is None):
        return _options(command, statement.items, part)
    if parameter is None:
        return ()
    if parameter.kind == "key":
        db = session.db
        return _keys(db, part) if before is None else _tuple_keys(db, before, part)
    if parameter.name == "COMMAND":
        return _commands(session, part)
    choices = parameter.choices
    if parameter.kind == "region" and session.world is not None:
        choices = tuple(session.world.regions())
    return [Candidate(choice) for choice in choices if choice.startswith(part)]


def _next_parameter(command: Command, items: Sequence[Term | Option]) -> tuple[Parameter | None, bool]:
    """Return the parameter of the next term, and whether an option may come instead."""
    terms = iter(command.terms)
    due: Parameter | None = None
    for item in items:
        if isinstance(item, Option):
            option = command.option(item.name)
            due = option if option.kind != "flag" else None
        elif due is not None:
            due = None
        else:
            next(terms, None)
    return (due, False) if due is not None else (next(terms, None), True)


def _commands(session: Session, part: str) -> list[Candidate]:
    """Return the matching commands that can run in this session."""
    return [
        Candidate(command.name, command.about)
        for command in COMMANDS
        if command.name.startswith(part) and (session.world is not None or not command.of_regions)
    ]


def _options(command: Command, items: Sequence[Term | Option], part: str) -> list[Candidate]:
    given = {item.name for item in items if isinstance(item, Option)}
    return [
        Candidate(f"--{option.name}", option.about)
        for option in command.options
        if option.name not in given and f"--{option.name}".startswith(part)
    ]


def _keys(db: kvstore.Database, part: str) -> Iterator[Candidate]:
    """Yield keys that begin with the part; for an empty part, the first keys of the store."""
    begins = _text_of(part)
    prefix = None if not part else part if begins is None else begins
    for key in _found(db, prefix=prefix):
        yield Candidate(show(key) if part[:1] in ('"', "'") else _as_typed(key))


def _tuple_keys(db: kvstore.Database, before: str, part: str) -> Iterator[Candidate]:
    """Yield tuples that continue ``before`` with an element that begins with the part."""
    prefix = parse_argument(f"{before})")
    if not isinstance(prefix, tuple):
        return
    begins = _text_of(part)
    keys = _found(db, prefix=prefix, start=(*prefix, begins) if begins else None)
    for key in keys:
        rest = key[len(prefix) :]
        if not rest and not part:
            yield Candidate(")")
        elif rest and _goes_on(rest[0], begins, part):
            yield Candidate(show((*rest, None)).removeprefix("(").removesuffix(", null)") + _end_of(key))
        elif begins:
            return  # the scan began at the part, and is past it now


def _goes_on(element: Any, begins: str | bytes | None, part: str) -> bool:
    if isinstance(begins, str) and begins:
        return isinstance(element, str) and element.startswith(begins)
    if isinstance(begins, bytes) and begins:
        return isinstance(element, bytes) and element.startswith(begins)
    return show(element).startswith(part)


def _end_of(key: tuple[Any, ...]) -> str:
    return ",)" if len(key) == 1 else ")"


def _found(db: kvstore.Database, **bounds: Any) -> Iterator[Any]:
    deadline = time.monotonic() + KEYS_SECONDS_MAX
    for key, _ in db.scan(limit=KEYS_MAX, **bounds):
        yield key
        if time.monotonic() > deadline:
            return


def _text_of(part: str) -> str | bytes | None:
    """Return the str or bytes typed so far; None if the part begins a term of another type."""
    lexer = Lexer()
    lexer.feed(part)
    opening = lexer.open_since
    if opening is not None and opening.kind == "uuid":
        return None
    if opening is not None:
        lexer.feed(opening.text)
    value = lexer.tokens[0].value if lexer.tokens else ""
    return value if isinstance(value, str | bytes) else None


def _as_typed(key: Any) -> str:
    """Return the text of a key, without quotes if it reads back as the key without them."""
    if isinstance(key, str) and key.isprintable():
        try:
            statements = StatementReader().feed(f"get {key}")
        except GrammarError:
            return show(key)
        if [statement.items for statement in statements] == [(Term(key, key, TextPosition(1, 5)),)]:
            return key
    return show(key)

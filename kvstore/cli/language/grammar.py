"""The shell's grammar: lines are parsed into statements. Every line gives a result or a GrammarError.

    line    = [ cmd { ";" cmd } ] [ comment ]            ; an open bracket or quote continues on the next line
    cmd     = word { term | option }
    option  = "--" name [ term ]                         ; only when unquoted; ``command.py`` knows the flags
    term    = tuple | list | map | string | bytes | uuid | bare
    tuple   = "(" ")" | "(" term "," [ term { "," term } [ "," ] ] ")"
    list    = "[" [ term { "," term } [ "," ] ] "]"
    map     = "{" [ pair { "," pair } [ "," ] ] "}"      ; pair = (string | bytes | bare) ":" term

``lexer.py`` reads strings and bare words. Terms are built on an explicit stack, so ``NESTING_MAX`` bounds
their depth, and not Python's recursion limit.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from kvstore.cli.language.lexer import GrammarError, Lexeme, Lexer, TextPosition

__all__ = ["GrammarError", "Option", "TextPosition", "StatementReader", "Statement", "Term", "parse_argument"]

_OPTION: Final = re.compile(r"--[a-zA-Z]")
_OPTION_NAME: Final = re.compile(r"--[a-zA-Z][a-zA-Z0-9-]*")


class Term(NamedTuple):
    """A parsed value; ``text`` is its source if that is one bare word, else None."""

    value: Any
    text: str | None
    place: TextPosition = TextPosition(1, 1)


class Option(NamedTuple):
    """An unquoted ``--name``. If the option takes a term, that is the next item of the statement."""

    name: str
    place: TextPosition


class Statement(NamedTuple):
    """A command's word, and the terms and options after it in the order they were typed."""

    word: str
    items: tuple[Term | Option, ...]
    place: TextPosition


class StatementReader:
    """Reads a script line by line and returns each statement as soon as it is complete."""

    def __init__(self) -> None:
        self._lexer = Lexer()

    def feed(self, line: str) -> list[Statement]:
        """Return the statements that this line completes; none while a bracket or quote is open.

        A line is accepted or refused as a whole. After an error the next line begins a new statement.
        """
        try:
            self._lexer.feed(line)
        except GrammarError:
            self._begin_afresh()
            raise
        if self._lexer.open_since is not None:
            return []
        tokens = self._lexer.tokens
        self._begin_afresh()
        return _statements(tokens)

    def end(self) -> None:
        """Raise GrammarError if a bracket or quote is open at the end of the text."""
        if (opening := self._lexer.open_since) is not None:
            raise GrammarError(f"this {opening.text} is never closed", opening.place)

    def _begin_afresh(self) -> None:
        self._lexer = Lexer(line=self._lexer.line)


def parse_argument(text: str, force_text: bool = False) -> Any:
    """Return the value of one argument of the command line.

    An argument that is exactly one term has that term's value; any other is a str. The system's shell has
    removed its own quotes already, so ``Ada Lovelace`` and ``don't`` are taken literally.

    Raises:
        GrammarError: the argument is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GrammarError("this is not UTF-8 text", TextPosition(1, error.start + 1)) from None
    if force_text:
        return text
    try:
        return _only_term(text)
    except GrammarError:
        return text


def _only_term(text: str) -> Any:
    lexer = Lexer()
    for line in text.splitlines(keepends=True):
        lexer.feed(line)
    if not lexer.tokens or lexer.open_since is not None or lexer.comment is not None:
        raise GrammarError("not one term", TextPosition(1, 1))
    term, end = _term(lexer.tokens, 0)
    if end != len(lexer.tokens):
        raise GrammarError("more than one term", term.place)
    return term.value


def _statements(tokens: list[Lexeme]) -> list[Statement]:
    statements = []
    at = 0
    while at < len(tokens):
        if tokens[at].kind == ";":
            at += 1
            continue
        statement, at = _statement(tokens, at)
        statements.append(statement)
    return statements


def _statement(tokens: list[Lexeme], at: int) -> tuple[Statement, int]:
    word = tokens[at]
    if word.kind != "bare":
        raise GrammarError("a command begins with a word, such as get or put", word.place)
    at += 1
    items: list[Term | Option] = []
    while at < len(tokens) and tokens[at].kind != ";":
        item, at = _item(tokens, at)
        items.append(item)
    return Statement(word.text, tuple(items), word.place), at


def _item(tokens: list[Lexeme], at: int) -> tuple[Term | Option, int]:
    token = tokens[at]
    if token.kind == ",":
        raise GrammarError('"," outside brackets: quote the whole word', token.place)
    if token.glued:
        raise GrammarError("leave a blank before this, or quote the whole word", token.place)
    if token.kind == "bare" and _OPTION.match(token.text):
        return _option(token), at + 1
    return _term(tokens, at)


def _option(token: Lexeme) -> Option:
    if not _OPTION_NAME.fullmatch(token.text):
        raise GrammarError("an option is --name VALUE; to make it text, quote the whole word", token.place)
    return Option(token.text[2:], token.place)


def _term(tokens: list[Lexeme], at: int) -> tuple[Term, int]:
    """Return the term that begins at ``at``, and the index after it."""
    token = tokens[at]
    if token.kind == "open":
        value, at = _bracketed(tokens, at)
        return Term(value, None, token.place), at
    if token.kind in ("bare", "string", "bytes", "uuid"):
        text = token.text if token.kind == "bare" else None
        return Term(token.value, text, token.place), at + 1
    raise GrammarError(f'"{token.text}" cannot begin a term: quote the whole word', token.place)


def _bracketed(tokens: list[Lexeme], at: int) -> tuple[Any, int]:
    """Return the value of the bracket at ``at``, which is closed (LEXER-1), and the index after it."""
    stack = [_start(tokens[at])]
    while True:
        at += 1
        token = tokens[at]
        match token.kind:
            case "open":
                stack[-1].check_term(token)
                stack.append(_start(token))
            case "close":
                value = stack.pop().close(token)
                if not stack:
                    return value, at + 1
                stack[-1].take(value, token)
            case ",":
                stack[-1].comma(token)
            case ":":
                stack[-1].colon(token)
            case _:
                stack[-1].check_term(token)
                stack[-1].take(token.value, token)


def _start(opening: Lexeme) -> _Frame:
    match opening.text:
        case "{":
            return _MapFrame()
        case "[":
            return _ListFrame()
        case _:
            return _TupleFrame(opening)


_Expected: TypeAlias = Literal["term", "comma", "key", "colon"]


class _Frame:
    """A bracket being read, and which token it expects next. A closing bracket may replace a term."""

    expected: _Expected = "term"

    def check_term(self, token: Lexeme) -> None:
        """Raise GrammarError if ``token`` cannot begin a term here."""
        if self.expected == "comma":
            glued = token.glued and token.kind != "open"
            says = "quote the whole word" if glued else 'a "," is missing before this'
            raise GrammarError(says, token.place)
        if self.expected == "colon":
            raise GrammarError('a map is {key: value}: a ":" is missing before this', token.place)
        if self.expected == "key" and token.kind in ("open", "uuid"):
            raise GrammarError('a map\'s key is a string, b"..", number, true, false or null', token.place)

    def take(self, value: Any, token: Lexeme) -> None:
        raise NotImplementedError

    def comma(self, token: Lexeme) -> None:
        if self.expected != "comma":
            raise GrammarError('a term is missing before this ","', token.place)
        self.expected = "term"

    def colon(self, token: Lexeme) -> None:
        raise GrammarError('":" inside brackets: quote the whole word', token.place)

    def close(self, token: Lexeme) -> Any:
        raise NotImplementedError


class _ListFrame(_Frame):
    def __init__(self) -> None:
        self.items: list[Any] = []

    def take(self, value: Any, token: Lexeme) -> None:
        self.items.append(value)
        self.expected = "comma"

    def close(self, token: Lexeme) -> Any:
        return self.items


class _TupleFrame(_ListFrame):
    def __init__(self, opening: Lexeme) -> None:
        super().__init__()
        self.opening = opening

    def close(self, token: Lexeme) -> tuple[Any, ...]:
        if len(self.items) == 1 and self.expected == "comma":
            raise GrammarError("a one-element tuple needs a comma", self.opening.place)
        return tuple(self.items)


class _MapFrame(_Frame):
    expected: _Expected = "key"

    def __init__(self) -> None:
        self.pairs: dict[Any, Any] = {}
        self.key: Any = None

    def take(self, value: Any, token: Lexeme) -> None:
        if self.expected == "key":
            if value in self.pairs:  # true and 1 are one key of a dict: the first would be lost
                raise GrammarError("the map has this key already", token.place)
            self.key = value
            self.expected = "colon"
        else:
            self.pairs[self.key] = value
            self.expected = "comma"

    def comma(self, token: Lexeme) -> None:
        if self.expected == "colon":
            raise GrammarError('a map is {key: value}: a ":" is missing before this', token.place)
        super().comma(token)
        self.expected = "key"

    def colon(self, token: Lexeme) -> None:
        if self.expected != "colon":
            super().colon(token)
        self.expected = "term"

    def close(self, token: Lexeme) -> dict[Any, Any]:
        if self.expected in ("colon", "term"):
            raise GrammarError("a map is {key: value}: the value is missing", token.place)
        return self.pairs

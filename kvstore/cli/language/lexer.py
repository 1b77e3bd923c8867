"""The shell's words, strings and brackets: lines are split into tokens, which ``grammar.py`` parses.

Lines arrive one at a time, as an open bracket or quote continues on the next line. Every character is read
once, however many lines a term spans.

INVARIANTS
    LEXER-1  Brackets in ``tokens`` are balanced whenever ``open_since`` is None, and never closed by
        a bracket of another kind.
    LEXER-2  At most NESTING_MAX brackets are open at once, so no reader of ``tokens`` meets a deeper term.
    LEXER-3  Whatever the text, ``feed`` returns or raises GrammarError.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from uuid import UUID

from kvstore.cli.language.integers import int_of_text

NESTING_MAX: Final = 1024
"""The most brackets open at once: the nesting limit of a value."""
STATEMENT_CHARS_MAX: Final = 80 << 20
"""The most characters of a statement: room for the largest value, 16 MiB, printed as ``\\xHH``."""
SNIPPET_CHARS_MAX: Final = 40

TokenKind: TypeAlias = Literal["bare", "string", "bytes", "uuid", "open", "close", ",", ":", ";"]


class TextPosition(NamedTuple):
    """The position of a token; line and column count from 1."""

    line: int
    column: int


class Lexeme(NamedTuple):
    """A token. ``text`` is the source of a bare word or sign; ``glued`` means that no blank precedes it."""

    kind: TokenKind
    value: Any
    text: str
    place: TextPosition
    glued: bool


class GrammarError(Exception):
    """The text is not in the shell's grammar; the message is one sentence, ``place`` says where."""

    def __init__(self, message: str, place: TextPosition) -> None:
        super().__init__(message)
        self.place = place


_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_BLANKS: Final = re.compile(r"\s+")
_BARE_OUTSIDE: Final = re.compile(r"""[^\s"'()\[\]{},;]+""")
_BARE_INSIDE: Final = re.compile(r"""[^\s"'()\[\]{},;:]+""")
_AFTER_STRING_OUTSIDE: Final = re.compile(r"[\s,;)\]}]|$")
_AFTER_STRING_INSIDE: Final = re.compile(r"[\s,;:)\]}]|$")
_REST_OF_WORD: Final = re.compile(r"[^\s,;)\]}]*")
_STRING_STOP: Final = {'"': re.compile(r'["\\]'), "'": re.compile(r"['\\]")}
_HEX_ESCAPES: Final = {"x": re.compile("[0-9a-fA-F]{2}"), "u": re.compile("[0-9a-fA-F]{4}")}
_ESCAPES: Final = {
    "\\": "\\", '"': '"', "'": "'", "/": "/",
    "n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "0": "\0",
}  # fmt: skip
_CLOSER: Final = {"(": ")", "[": "]", "{": "}"}
_WORDS: Final = {
    "true": True, "True": True, "false": False, "False": False, "null": None, "None": None,
    "inf": math.inf, "-inf": -math.inf, "nan": math.nan,
}  # fmt: skip
_SIGNS: Final[dict[str, TokenKind]] = {",": ",", ":": ":", ";": ";"}
_STRING_KINDS: Final[dict[str, TokenKind]] = {"": "string", "b": "bytes", "uuid": "uuid"}


class Lexer:
    """Collects the tokens of one statement line, which may span several lines of text."""

    def __init__(self, *, line: int = 0) -> None:
        self.tokens: list[Lexeme] = []
        self.line = line
        """The number of the line fed last."""
        self.comment: TextPosition | None = None
        """The position of the last comment; comments are not tokens."""
        self._brackets: list[Lexeme] = []
        self._string: _String | None = None
        self._chars = 0
        self._glued = False

    @property
    def open_since(self) -> Lexeme | None:
        """The innermost bracket or quote that is still open, if any."""
        if self._string is not None:
            return self._string.opening
        return self._brackets[-1] if self._brackets else None

    def feed(self, line: str) -> None:
        """Take the next line, with its line end if it has one."""
        self.line += 1
        self._chars += len(line)
        if self._chars > STATEMENT_CHARS_MAX:
            raise self._error(0, f"a statement has at most {STATEMENT_CHARS_MAX} characters")
        if found := _SURROGATE.search(line):
            raise self._error(found.start(), "this is not UTF-8 text")

        at = self._string_rest(self._string, line, 0) if self._string is not None else 0
        while at < len(line):
            at = self._token(line, at)
        self._glued = False
        kinds = [] if self._brackets else [token.kind for token in self.tokens]
        opened, closed = kinds.count("open"), kinds.count("close")
        assert opened == closed, f"LEXER-1: {opened} brackets were opened, {closed} closed, and none is open"

    def _token(self, line: str, at: int) -> int:
        """Read the token or blanks at ``at``; return the index after them."""
        first = line[at]
        if blanks := _BLANKS.match(line, at):
            self._glued = False
            return blanks.end()
        if first == "#":
            self.comment = TextPosition(self.line, at + 1)
            return len(line)
        if first in "\"'":
            return self._string_start(line, at, at)
        if first in "()[]{}":
            return self._bracket(line, at)
        if first in ",;" or (first == ":" and self._brackets):
            return self._sign(line, at)
        return self._bare(line, at)

    def _bare(self, line: str, at: int) -> int:
        word = (_BARE_INSIDE if self._brackets else _BARE_OUTSIDE).match(line, at)
        assert word is not None, f"LEXER-3: nothing reads {line[at]!r}"
        if line[word.end() : word.end() + 1] in ('"', "'"):
            return self._string_start(line, at, word.end())
        try:
            value = bare_value(word.group())
        except ValueError as error:
            raise self._error(at, str(error)) from None
        self._add("bare", value, word.group(), at)
        return word.end()

    def _sign(self, line: str, at: int) -> int:
        sign = line[at]
        if sign == ";" and self._brackets:
            opening = self._brackets[-1].text
            raise self._error(at, f'";" inside "{opening}": close the bracket or quote the word')
        self._add(_SIGNS[sign], None, sign, at)
        return at + 1

    def _bracket(self, line: str, at: int) -> int:
        sign = line[at]
        if sign in _CLOSER:
            if len(self._brackets) == NESTING_MAX:
                raise self._error(at, f"brackets nest at most {NESTING_MAX} deep")
            self._brackets.append(self._add("open", None, sign, at))
            depth = len(self._brackets)
            assert depth <= NESTING_MAX, f"LEXER-2: {depth} brackets are open, at most {NESTING_MAX} may be"
            return at + 1
        if not self._brackets:
            raise self._error(at, f'"{sign}" closes nothing: quote the whole word')
        opening = self._brackets[-1].text
        if sign != _CLOSER[opening]:
            raise self._error(at, f'"{sign}" cannot close "{opening}"')
        self._brackets.pop()
        self._add("close", None, sign, at)
        return at + 1

    def _string_start(self, line: str, start: int, quote: int) -> int:
        """Read a string whose prefix is at ``start`` and quote at ``quote``; return the index after it."""
        kind = _STRING_KINDS.get(line[start:quote])
        if kind is None:
            raise self._word_error(line, start, quote)
        place = TextPosition(self.line, start + 1)
        self._string = _String(Lexeme(kind, None, line[quote], place, self._glued))
        return self._string_rest(self._string, line, quote + 1)

    def _string_rest(self, string: _String, line: str, at: int) -> int:
        """Continue an open string; return the index after it, or the end of the line."""
        stop = _STRING_STOP[string.opening.text]
        while found := stop.search(line, at):
            self._chunk(string, line, at, found.start())
            if found.group() != "\\":
                return self._string_end(string, line, found.end())
            at = self._escape(string, line, found.start())
        self._chunk(string, line, at, len(line))
        return len(line)

    def _chunk(self, string: _String, line: str, start: int, end: int) -> None:
        chunk = line[start:end]
        if string.opening.kind == "bytes" and not chunk.isascii():
            raise self._error(start, r'b"..." holds ASCII and \xHH only')
        string.chunks.append(chunk)

    def _escape(self, string: _String, line: str, at: int) -> int:
        """Read the escape whose backslash is at ``at``; return the index after it."""
        sign = line[at + 1 : at + 2]
        if sign in _ESCAPES:
            string.chunks.append(_ESCAPES[sign])
            return at + 2
        digits = _HEX_ESCAPES[sign].match(line, at + 2) if sign in _HEX_ESCAPES else None
        if digits is None:
            raise self._error(at, rf"unknown escape \{sign.strip()}: write \\ for a backslash")
        if sign == "u" and string.opening.kind == "bytes":
            raise self._error(at, r'b"..." holds ASCII and \xHH only')
        string.chunks.append(chr(int(digits.group(), 16)))
        return digits.end()

    def _string_end(self, string: _String, line: str, at: int) -> int:
        opening = string.opening
        if not (_AFTER_STRING_INSIDE if self._brackets else _AFTER_STRING_OUTSIDE).match(line, at):
            start = opening.place.column - 1 if opening.place.line == self.line else 0
            raise self._word_error(line, start, at)
        try:
            value = string.value()
        except ValueError as error:
            raise GrammarError(str(error), opening.place) from None
        self.tokens.append(opening._replace(value=value))
        self._string = None
        self._glued = True
        return at

    def _add(self, kind: TokenKind, value: Any, text: str, at: int) -> Lexeme:
        token = Lexeme(kind, value, text, TextPosition(self.line, at + 1), self._glued)
        self.tokens.append(token)
        self._glued = True
        return token

    def _error(self, at: int, message: str) -> GrammarError:
        return GrammarError(message, TextPosition(self.line, at + 1))

    def _word_error(self, line: str, start: int, at: int) -> GrammarError:
        rest = _REST_OF_WORD.match(line, at)
        word = line[start : rest.end() if rest else at]
        return self._error(start, f"quote the whole word{_as_example(word)}")


class _String:
    """A string being read; its opening token holds its kind."""

    __slots__ = ("chunks", "opening")

    def __init__(self, opening: Lexeme) -> None:
        self.opening = opening
        self.chunks: list[str] = []

    def value(self) -> str | bytes | UUID:
        text = "".join(self.chunks)
        if self.opening.kind == "bytes":
            return text.encode("latin-1")
        if _SURROGATE.search(text):
            text = _joined_surrogates(text)
        if self.opening.kind == "string":
            return text
        if not _UUID.fullmatch(text):
            raise ValueError('a uuid is written uuid"01234567-89ab-cdef-0123-456789abcdef"')
        return UUID(text)


def bare_value(word: str) -> str | int | float | bool | None:
    """Return the value of an unquoted word, which is a number only if all of it is one.

    Raises:
        ValueError: the number is too large; the message is for the user.
    """
    if word in _WORDS:
        return _WORDS[word]
    number = _NUMBER.fullmatch(word)
    if number is None:
        return word
    if number.group(1):
        value = float(word)
        if math.isinf(value):
            raise ValueError("this number is too large for a float: write inf, or quote it")
        return value
    return int_of_text(word)


def _joined_surrogates(text: str) -> str:
    """Join each pair of ``\\uHHHH`` escapes that is one character, as JSON writes those beyond U+FFFF."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError(r"half of a pair of \uHHHH escapes: both are needed to make a character") from None


def _as_example(word: str) -> str:
    word = word.strip()
    return f": {json.dumps(word, ensure_ascii=False)}" if word and len(word) <= SNIPPET_CHARS_MAX else ""

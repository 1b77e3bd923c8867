"""EDN, the data notation of Clojure, as far as histories are written in it: a reader and a printer.

Vectors and lists become tuples, sets become frozensets, keywords and symbols are strings of their own
types. A tag (``#inst``) is passed over, and what it tags is read as it stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

_TOKEN = re.compile(
    r"""
    [\s,]+ | ;[^\n]*                    # nothing
    | (?P<open> \#\{ | [\[({] )
    | (?P<close> [\])}] )
    | (?P<string> "(?:\\.|[^"\\])*" )
    | (?P<discard> \#_ )
    | (?P<tag> \#[^\s,;\[\](){}"\#]+ )
    | (?P<character> \\(?:u[0-9a-fA-F]{4}|[a-z]+|.) )
    | (?P<atom> [^\s,;\[\](){}"]+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_INTEGER = re.compile(r"[+-]?\d+N?$")
_CLOSES = {"[": "]", "(": ")", "{": "}", "#{": "}"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_CHARACTERS = {"newline": "\n", "tab": "\t", "return": "\r", "space": " "}
_CONSTANTS = {"nil": None, "true": True, "false": False}
_END = object()


class EDNError(ValueError):
    """The text is no EDN. The message says at which character."""


class Keyword(str):
    """``:name``, without its colon. It equals the string, so that a map answers to plain names."""

    __slots__ = ()


class Symbol(str):
    __slots__ = ()


def parse(text: str) -> Iterator[Any]:
    """Every form of the text, one after another.

    Raises:
        EDNError: a form is not closed, or closed twice, or no form at all.
    """
    tokens = _tokens(text)
    while True:
        form = _form(tokens, "")
        if form is _END:
            return
        yield form


_Token = tuple[str, str, int]


def _tokens(text: str) -> Iterator[_Token]:
    """Kind, text and place of each token, and at last an empty one."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise EDNError(f"no form begins at character {at}: {text[at : at + 20]!r}")
        if found.lastgroup is not None:
            yield found.lastgroup, found[0], at
        at = found.end()
    yield "end", "", at


def _form(tokens: Iterator[_Token], closing: str) -> Any:
    """The next form; the marker ``_END`` when ``closing`` comes instead."""
    kind, token, at = next(tokens)
    match kind:
        case "open":
            return _collection(token, at, list(iter(lambda: _form(tokens, _CLOSES[token]), _END)))
        case "close" | "end":
            if token != closing:
                found = token or "the end"
                raise EDNError(f"at character {at}: {found!r} where {closing or 'a form'!r} was due")
            return _END
        case "discard":
            _needed(tokens, at)
            return _form(tokens, closing)
        case "tag":
            return _needed(tokens, at)
        case _:
            return _atom(kind, token, at)


def _needed(tokens: Iterator[_Token], at: int) -> Any:
    form = _form(tokens, "")
    if form is _END:
        raise EDNError(f"nothing follows the tag at character {at}")
    return form


def _collection(opening: str, at: int, forms: list[Any]) -> Any:
    if opening == "#{":
        return frozenset(forms)
    if opening != "{":
        return tuple(forms)
    if len(forms) % 2:
        raise EDNError(f"the map at character {at} has a key without a value")
    return dict(zip(forms[::2], forms[1::2], strict=True))


def _atom(kind: str, token: str, at: int) -> Any:
    if kind == "string":
        return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _unescaped, token[1:-1], flags=re.DOTALL)
    if kind == "character":
        name = token[1:]
        return chr(int(name[1:], 16)) if re.fullmatch("u.{4}", name) else _CHARACTERS.get(name, name)
    if token in _CONSTANTS:
        return _CONSTANTS[token]
    if token[0] == ":":
        return Keyword(token[1:])
    return _number(token, at) if token.lstrip("+-")[:1].isdigit() else Symbol(token)


def _unescaped(escape: re.Match[str]) -> str:
    name = escape[1]
    return chr(int(name[1:], 16)) if len(name) == 5 else _ESCAPES.get(name, name)


def _number(token: str, at: int) -> int | float:
    if _INTEGER.match(token):
        return int(token.rstrip("N"))
    try:
        return float(token.removesuffix("M"))
    except ValueError:
        raise EDNError(f"at character {at}: {token!r} is no number") from None


def printed(value: Any) -> str:
    """A value as EDN, on one line.

    Raises:
        TypeError: EDN has no such type.
    """
    match value:
        case None:
            return "nil"
        case bool():
            return str(value).lower()
        case int():
            return repr(value)
        case float() if math.isfinite(value):
            return repr(value)
        case Keyword():
            return f":{value}"
        case Symbol():
            return str(value)
        case str():
            return _quoted(value)
        case tuple() | list():
            return f"[{' '.join(map(printed, value))}]"
        case frozenset() | set():
            return f"#{{{' '.join(sorted(map(printed, value)))}}}"
        case dict():
            return f"{{{', '.join(f'{printed(key)} {printed(item)}' for key, item in value.items())}}}"
    raise TypeError(f"EDN has nothing for {type(value).__name__}")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'

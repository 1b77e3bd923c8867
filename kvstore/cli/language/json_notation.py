"""Keys and values as JSON on one line, which reads back as an equal value of an equal type.

A value that JSON cannot express is an object with one reserved member:

    {"$bytes": "AAE="}           bytes, in base64
    {"$uuid": "0123..."}         a UUID
    {"$tuple": ["acct", 1]}      a tuple
    {"$float": "nan"}            nan, inf or -inf
    {"$int": "-0x1f"}            an int too long to write in decimal
    {"$map": [[1, "a"], ...]}    a map with a key that is not a str, or whose only key begins with "$"

Every other value is plain JSON. The code does not recurse: a value may be nested more deeply than Python's
stack, where ``json`` neither writes nor reads it.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, Literal
from uuid import UUID

from kvstore.cli.language.integers import DIGITS_MAX, int_of_text
from kvstore.cli.language.printing import show

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HEXADECIMAL: Final = re.compile(r"-?0x[0-9a-f]+")
_BITS_IN_DECIMAL: Final = 3 * DIGITS_MAX
"""The most bits of an int that is written in decimal: it has at most DIGITS_MAX digits."""
_FLOATS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_MAP_KEYS: Final = (str, bytes, int, float, type(None))


def to_json(value: Any) -> str:
    """Return a key or value as JSON text on one line."""
    pieces: list[str] = []
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is _Rendered:
            pieces.append(item)
        elif isinstance(item, dict | list | tuple):
            waiting.extend(_parts(item))
        else:
            pieces.append(_scalar(item))
    return "".join(pieces)


def from_json(text: str) -> Any:
    """Return the value of a JSON text, written by ``to_json`` or by any other program.

    Raises:
        ValueError: the text is not JSON, or misuses the notation; the message is for the user.
    """
    try:
        return _load(text)
    except RecursionError:
        return _load_deep(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at character {error.pos + 1}: {error.msg}") from None


class _Rendered(str):
    """Finished text, on a stack with values that are still to be rendered."""

    __slots__ = ()


_COMMA: Final = _Rendered(", ")
_COLON: Final = _Rendered(": ")


def _parts(container: Any) -> list[Any]:
    """Return a container's pieces and items in reverse order, to be pushed on the stack."""
    if isinstance(container, tuple):
        return [_Rendered("}"), list(container), _Rendered('{"$tuple": ')]
    if isinstance(container, list):
        flat = [part for item in container for part in (_COMMA, item)][1:]
        return [_Rendered("]"), *reversed(flat), _Rendered("[")]
    if not _is_plain(container):
        return [_Rendered("}"), [list(pair) for pair in container.items()], _Rendered('{"$map": ')]
    flat = [part for pair in container.items() for part in (_COMMA, pair[0], _COLON, pair[1])][1:]
    return [_Rendered("}"), *reversed(flat), _Rendered("{")]


def _is_plain(mapping: dict[Any, Any]) -> bool:
    """Return whether a map is a JSON object and cannot be mistaken for the notation."""
    if not all(type(key) is str for key in mapping):
        return False
    return len(mapping) != 1 or not next(iter(mapping)).startswith("$")


def _scalar(value: Any) -> str:
    match value:
        case bytes():
            return f'{{"$bytes": "{base64.b64encode(value).decode()}"}}'
        case UUID():
            return f'{{"$uuid": "{value}"}}'
        case float() if not math.isfinite(value):
            return f'{{"$float": "{value}"}}'
        case int() if value.bit_length() > _BITS_IN_DECIMAL:
            return f'{{"$int": "{value:#x}"}}'
        case _:
            return show(value)  # prints text, numbers, true, false and null as JSON does


def _object(members: list[tuple[str, Any]]) -> Any:
    """Return the value of a JSON object, whose members have been converted already."""
    if len(members) == 1 and members[0][0].startswith("$"):
        name, content = members[0]
        if name not in _NOTATION:
            raise ValueError(f"unknown notation {show(name)}; as a map: {_as_map(name)}")
        return _NOTATION[name](content)
    mapping = dict(members)
    if len(mapping) < len(members):
        raise ValueError("an object has a member twice")
    return mapping


def _as_map(name: str) -> str:
    return f'{{"$map": [[{show(name)}, ...]]}}'


def _bytes(content: Any) -> bytes:
    text = _text("$bytes", content)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("$bytes must be base64") from None


def _uuid(content: Any) -> UUID:
    if not _UUID.fullmatch(_text("$uuid", content)):
        raise ValueError("$uuid must be written 01234567-89ab-cdef-0123-456789abcdef")
    return UUID(content)


def _float(content: Any) -> float:
    if _text("$float", content) not in _FLOATS:
        raise ValueError("$float must be nan, inf or -inf")
    return _FLOATS[content]


def _int(content: Any) -> int:
    if not _HEXADECIMAL.fullmatch(_text("$int", content)):
        raise ValueError("$int must be written 0x1f or -0x1f")
    return int(content, 16)


def _tuple(content: Any) -> tuple[Any, ...]:
    if not isinstance(content, list):
        raise ValueError("$tuple must be a list")
    return tuple(content)


def _map(content: Any) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for pair in content if isinstance(content, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("$map must be a list of [key, value]")
        if not isinstance(pair[0], _MAP_KEYS):
            raise ValueError("a key of $map must be a string, bytes, number, true, false or null")
        if pair[0] in mapping:  # true and 1 are one key of a dict: the first would be lost
            raise ValueError("$map has a key twice")
        mapping[pair[0]] = pair[1]
    return mapping


def _text(name: str, content: Any) -> str:
    if not isinstance(content, str):
        raise ValueError(f"{name} must be a string")
    return content


_NOTATION: Final[dict[str, Callable[[Any], Any]]] = {
    "$bytes": _bytes,
    "$uuid": _uuid,
    "$float": _float,
    "$int": _int,
    "$tuple": _tuple,
    "$map": _map,
}


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError('a number is too large for a float: write {"$float": "inf"}')
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f'{name} is not JSON: write {{"$float": "nan"}}, "inf" or "-inf"')


_load: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=int_of_text, parse_float=_finite, parse_constant=_refuse_constant
).decode


_TOKEN: Final = re.compile(r'[ \t\r\n]*([\[\]{},:]|"(?:[^"\\]|\\.)*"|[^\s\[\]{},:"]+)[ \t\r\n]*', re.DOTALL)
_CLOSER: Final = {"[": "]", "{": "}", "": ""}


def _load_deep(text: str) -> Any:
    """Parse text nested too deeply for ``json``: ``_load`` without recursion, ten times as slow."""
    at = 0
    brackets = [_Bracket("")]
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or not _take(brackets, token.group(1)):
            raise ValueError(f"not JSON at character {at + 1}")
        at = token.end()
    if len(brackets) > 1:
        raise ValueError(f"not JSON at character {at + 1}: a bracket is never closed")
    return brackets[0].items[0]


class _Bracket:
    """A bracket being read, and the token due next in it; the outermost bracket is the whole text."""

    __slots__ = ("due", "items", "opening")

    def __init__(self, opening: str) -> None:
        self.opening = opening
        self.items: list[Any] = []
        """The items of a list, or the alternating names and values of an object."""
        self.due: Literal["first", "item", "name", "colon", "comma"] = "first"

    def add(self, item: Any) -> None:
        self.items.append(item)
        self.due = "colon" if self.opening == "{" and len(self.items) % 2 else "comma"

    def value(self) -> Any:
        if self.opening == "[":
            return self.items
        return _object(list(zip(self.items[::2], self.items[1::2], strict=True)))


def _take(brackets: list[_Bracket], token: str) -> bool:
    """Take the next token; return whether it is allowed here."""
    bracket = brackets[-1]
    inside_object = bracket.opening == "{"
    match token:
        case "]" | "}":
            if token != _CLOSER[bracket.opening] or bracket.due not in ("first", "comma"):
                return False
            brackets.pop()
            brackets[-1].add(bracket.value())
        case "," | ":":
            if bracket.due != ("comma" if token == "," else "colon") or not bracket.opening:
                return False
            bracket.due = "name" if inside_object and token == "," else "item"
        case _:
            names = inside_object and bracket.due in ("first", "name")
            if bracket.due in ("comma", "colon") or (names and token[0] != '"'):
                return False
            if token in ("[", "{"):
                brackets.append(_Bracket(token))
                return True
            try:
                bracket.add(_load(token))
            except json.JSONDecodeError:
                return False
    return True

"""Keys and values as text on one line, which the shell reads back as an equal value.

A str is always quoted as JSON, bytes are ``b".."``, a UUID is ``uuid".."``; a float is its ``repr``,
``inf -inf nan`` included; ``null true false`` are the constants; ``("a",)`` is a tuple, ``[1, 2]`` a list,
``{"a": 1}`` a map. The code does not recurse: a value may be nested more deeply than Python's stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from kvstore.cli.language.integers import text_of_int

_NOT_ON_ONE_LINE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that JSON leaves but a terminal or ``splitlines`` acts on; surrogates no file can hold."""
_NOT_IN_BYTES: Final = re.compile(r"[^ !#-\[\]-~]")


def show(value: Any, *, as_stored: bool = False) -> str:
    """Return the text of a key or value; ``as_stored`` prints a value as it reads back: tuples are lists.

    Raises:
        Unprintable: the value holds an integer too long to print.
    """
    scalar = _SCALARS.get(type(value))
    if scalar is not None:
        return scalar(value)
    pieces: list[str] = []
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is _Piece:
            pieces.append(item)
        elif (scalar := _SCALARS.get(type(item))) is not None:
            pieces.append(scalar(item))
        else:
            waiting.extend(_parts(item, as_stored))
    return "".join(pieces)


def show_raw(value: Any) -> str:
    """Return the text of a key or value for other programs: a str has no quotes."""
    return value if type(value) is str else show(value)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 write``, ``2 writes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def type_name(value: Any) -> str:
    """Return the shell's name for the type that a value reads back as."""
    return _TYPE_NAMES.get(type(value), type(value).__name__)


class _Piece(str):
    """Finished text, on a stack with values that are still to be rendered."""

    __slots__ = ()


_COMMA: Final = _Piece(", ")
_COLON: Final = _Piece(": ")


def _parts(container: Any, as_stored: bool) -> list[Any]:
    """Return a container's pieces and items in reverse order, to be pushed on the stack."""
    if isinstance(container, dict):
        flat = [part for pair in container.items() for part in (_COMMA, pair[0], _COLON, pair[1])][1:]
        return [_Piece("}"), *reversed(flat), _Piece("{")]
    assert isinstance(container, list | tuple), type(container)
    flat = [part for item in container for part in (_COMMA, item)][1:]
    if as_stored or isinstance(container, list):
        return [_Piece("]"), *reversed(flat), _Piece("[")]
    return [_Piece(",)" if len(container) == 1 else ")"), *reversed(flat), _Piece("(")]


def _show_str(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return _NOT_ON_ONE_LINE.sub(lambda found: f"\\u{ord(found.group()):04x}", quoted)


def _show_bytes(data: bytes) -> str:
    escaped = _NOT_IN_BYTES.sub(lambda found: f"\\x{ord(found.group()):02x}", data.decode("latin-1"))
    return f'b"{escaped}"'


_SCALARS: Final[dict[type, Callable[[Any], str]]] = {
    str: _show_str,
    bytes: _show_bytes,
    int: text_of_int,
    float: repr,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
    UUID: lambda value: f'uuid"{value}"',
}

_TYPE_NAMES: Final[dict[type, str]] = {dict: "map", tuple: "list", type(None): "null"}

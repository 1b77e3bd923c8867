"""Values and their encoding: msgpack, limited to values that can be read back.

A decoded value equals the encoded value, except that tuples come back as lists, and bytearray and
memoryview as bytes. Map keys are str, bytes, int, float, bool and None. An int beyond 64 bits is
stored as the msgpack extension INT_EXTENSION: two's complement, big-endian, of any length.

Subclasses of these types are accepted and come back as the base class: an IntEnum as its int, an
OrderedDict as a dict, a namedtuple as a list. All other types are refused, with the place named, and
so are msgpack's own ExtType and Timestamp, strs with lone surrogates (which have no UTF-8 form), and
containers nested more than VALUE_DEPTH_MAX deep, which includes a container that holds itself.

Scalars are encoded by msgspec, which writes msgpack's bytes in a third of the time. But msgspec also
accepts types that would not come back (sets, dates, dataclasses), and msgpack two types of its own. A
container is therefore encoded by both: bytes on which the two libraries agree are msgpack's data
model and nothing else, at half the cost of reading the value back. Only where the bytes differ is the
value examined part by part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgpack
import msgspec

from kvstore.errors import LimitExceeded, ValueNotSupported

VALUE_BYTES_MAX = 16 * 1024 * 1024
"""Upper bound on the size of an encoded value, in bytes."""
VALUE_DEPTH_MAX = 1024
"""Upper bound on the nesting of containers: msgpack (from 1.2 on) reads no deeper, whatever the stack."""
INT_EXTENSION = 1
"""The msgpack extension type of ints beyond 64 bits."""

_SCALARS = frozenset({str, bytes, bytearray, int, float, bool, type(None)})
_CONTAINERS = (dict, list, tuple)
_KEYS_CARRIED = (str, bytes, memoryview, int, float, type(None))
_CARRIED = (*_KEYS_CARRIED, bytearray, *_CONTAINERS)
_SHOWN_CHARS_MAX = 40
_BUFFER_BYTES = 512
"""Size of a packer's first buffer. Allocating the default of 1 MiB takes longer than packing most values."""


def encode(value: Any) -> bytes:
    """Return the bytes of ``value``.

    Raises:
        ValueNotSupported: the value would not be read back unchanged.
        LimitExceeded: the bytes are longer than ``VALUE_BYTES_MAX``.
    """
    try:
        payload = _write(value) if type(value) in _SCALARS else _encode_container(value)
    except (UnicodeEncodeError, OverflowError):
        payload = _encode_after_look(value)
    if len(payload) > VALUE_BYTES_MAX:
        message = f"a value of {len(payload)} bytes is over the limit of {VALUE_BYTES_MAX}"
        raise LimitExceeded(message, size=len(payload), limit=VALUE_BYTES_MAX)
    return payload


def decode(payload: bytes) -> Any:
    """Return a new copy of the value with these bytes. Raises ``ValueError`` if they are not msgpack."""
    try:
        try:
            return _read(payload)
        except RecursionError:
            # msgpack has its own stack, so it reads a deep value even when the caller's stack is deep.
            return msgpack.unpackb(payload, strict_map_key=False, ext_hook=_from_extension)
    except (msgspec.DecodeError, ValueError, TypeError) as damage:
        raise ValueError(f"not an encoded value: {damage!r}") from damage


def _int_from(data: bytes | memoryview) -> int:
    return int.from_bytes(data, "big", signed=True)


EXTENSIONS: dict[int, Callable[[bytes | memoryview], Any]] = {INT_EXTENSION: _int_from}
"""Decoder of each msgpack extension; ``execution/crdt/cells.py`` adds the decoder of a key's cells."""


def _from_extension(code: int, data: bytes | memoryview) -> Any:
    read = EXTENSIONS.get(code)
    if read is None:
        raise ValueError(f"unknown msgpack extension {code}")
    return read(data)


def _extension_from_int(part: Any) -> msgpack.ExtType:
    if not isinstance(part, int):
        raise _not_supported("value", type(part).__name__)
    size = (part if part >= 0 else ~part).bit_length() // 8 + 1
    return msgpack.ExtType(INT_EXTENSION, part.to_bytes(size, "big", signed=True))


_write = msgspec.msgpack.Encoder().encode
_read = msgspec.msgpack.Decoder(ext_hook=_from_extension).decode
_FOREIGN = msgpack.ExtType(127, b"not msgpack's")


def _unlike_anything(part: Any) -> msgpack.ExtType:
    """Return what a packer writes for a part that it does not support: bytes that msgspec never writes."""
    return _FOREIGN


_exact_packer = partial(msgpack.Packer, default=_unlike_anything, strict_types=True, buf_size=_BUFFER_BYTES)
_packer = partial(msgpack.Packer, default=_unlike_anything, buf_size=_BUFFER_BYTES)


def _encode_container(value: Any) -> bytes:
    """Return the bytes that both libraries write for ``value``; if they differ, examine it part by part.

    The first comparison adds an enclosing list, because msgpack writes one level more than it reads.
    """
    try:
        payload = _write(value)
        if _exact_packer().pack([value])[1:] == payload:
            return payload
        if _packer().pack(value) == payload:
            # The value holds tuples or subclasses. A tuple as a map key can be written, but not read.
            msgpack.unpackb(payload, strict_map_key=False)
            return payload
    except Exception:
        # The examination finds the cause, whatever it is, and names its place.
        return _encode_after_look(value)
    return _encode_after_look(value)


def _encode_after_look(value: Any) -> bytes:
    _refuse_unreadable(value)
    payload: bytes = msgpack.packb(value, default=_extension_from_int, buf_size=_BUFFER_BYTES)
    return payload


def _refuse_unreadable(value: Any) -> None:
    """Raise ``ValueNotSupported`` for the first part that could not be read back. No recursion."""
    path: list[str] = []
    enclosing: list[Any] = []
    unfinished: list[Iterator[tuple[str, Any]]] = [iter([("value", value)])]
    while unfinished:
        for step, part in unfinished[-1]:
            if objection := _objection(part, enclosing):
                raise _not_supported("".join([*path, step]), objection)
            if issubclass(type(part), _CONTAINERS):
                path.append(step)
                enclosing.append(part)
                unfinished.append(_steps_into(part))
                break
        else:
            unfinished.pop()
            del path[-1:], enclosing[-1:]


def _steps_into(container: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(container, dict):
        return ((f"[{_shown(key)}]", part) for key, part in container.items())
    return ((f"[{index}]", part) for index, part in enumerate(container))


def _not_supported(place: str, objection: str) -> ValueNotSupported:
    return ValueNotSupported(f"{place}: {objection}", place=place)


def _objection(part: Any, enclosing: list[Any]) -> str:
    """Return why ``part``, apart from its contents, could not be read back; empty if it could."""
    kind = type(part)  # Not isinstance, which a mock can deceive.
    if not issubclass(kind, _CARRIED) or issubclass(kind, msgpack.ExtType):
        return kind.__name__
    if issubclass(kind, _CONTAINERS):
        return _container_objection(part, enclosing)
    return _scalar_objection(part)


def _container_objection(container: Any, enclosing: list[Any]) -> str:
    if any(container is outer for outer in enclosing):
        return "holds itself"
    if len(enclosing) >= VALUE_DEPTH_MAX:
        return f"nested too deeply, over {VALUE_DEPTH_MAX} levels"
    if isinstance(container, dict):
        return next(filter(None, map(_key_objection, container)), "")
    return ""


def _scalar_objection(part: Any) -> str:
    if isinstance(part, str) and not _has_utf8(part):
        return "str with a lone surrogate"
    if isinstance(part, memoryview) and not part.c_contiguous:
        return "memoryview with gaps"
    return ""


def _key_objection(key: Any) -> str:
    carried = issubclass(type(key), _KEYS_CARRIED)
    objection = _scalar_objection(key) if carried else type(key).__name__
    return f"key {_shown(key)} is a {objection}" if objection else ""


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(key: Any) -> str:
    """Return a map key as shown between the brackets of a place, shortened to fit in a message."""
    try:
        text = json.dumps(key, ensure_ascii=False) if isinstance(key, str) else repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[: _SHOWN_CHARS_MAX - 3]}..."

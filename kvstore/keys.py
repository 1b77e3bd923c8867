"""Keys and their encoding: the bytes of keys sort in the order of the keys.

A key is a non-empty ``str``, ``bytes`` or ``tuple``; a tuple holds str, bytes, int, float, bool,
None, UUID and tuples. Exact types only: a subclass would come back as its base class.

FORMAT, version 1
    shape     1 byte    0x00 a bare str or bytes, 0x01 a tuple
    parts     n bytes   one FoundationDB tuple-layer element for a bare key, else one per element

    code      element       bytes after the code
    00        None          none; inside a nested tuple FF follows
    01, 02    bytes, str    the bytes, or UTF-8, with every 00 written 00 FF; then 00
    05        tuple         its elements; then 00
    0C .. 13  int below 0   8 .. 1 bytes, the complement of the magnitude, big-endian
    14        int 0         none
    15 .. 1C  int above 0   1 .. 8 bytes, big-endian
    0B, 1D    longer int    the number of bytes (complemented for 0B), then the bytes
    21        float         8 bytes: IEEE 754, sign bit inverted, or all bits if it was set
    26, 27    False, True   none
    30        UUID          16 bytes

INVARIANTS
    KEYS-1  encode(a) < encode(b) exactly when a sorts before b: bare keys before tuples, then by the
        type of the first element that differs (in the order of the table), then by its value.
        Strs sort by code points. -0.0 sorts before 0.0: they are two keys, though equal in Python.
    KEYS-2  decode(encode(key)) == key, with equal types throughout; decode rejects all other bytes.
    KEYS-3  An encoded key has at most KEY_BYTES_MAX bytes, in every mode.
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Callable
from math import isnan
from typing import Any, TypeAlias, cast
from uuid import UUID

from kvstore.errors import KeyInvalid, LimitExceeded

KeyPart: TypeAlias = "str | bytes | int | float | bool | UUID | tuple[KeyPart, ...] | None"
Key: TypeAlias = str | bytes | tuple[KeyPart, ...]

KEY_BYTES_MAX = 480
"""Upper bound on the size of an encoded key, shape byte included. LMDB allows 511, prefixes included."""
INT_BYTES_MAX = 255
"""Upper bound on the magnitude of an int in a key, in bytes: its length is stored in one byte."""

_TUPLE_SHAPE = b"\x01"
_FIRST, _END = b"\x00", b"\x02"
_ESCAPED_NUL = b"\x00\xff"
_ABOVE_ALL_CODES = b"\xff"
_SHOWN_CHARS_MAX = 80

_WORD_MAX = 2**64 - 1
"""Least magnitude of an int that is written with a length byte, although it would fit in 8 bytes."""
_SIZES = range(9)
_POSITIVE_CODES = [bytes([0x14 + size]) for size in _SIZES]
_NEGATIVE_CODES = [bytes([0x14 - size]) for size in _SIZES]
_SIGN_BIT = 1 << 63
_DOUBLE = struct.Struct(">d")


def encode(key: Key) -> bytes:
    """Return the bytes of ``key``. Raises ``KeyInvalid`` or ``LimitExceeded`` if it is not a valid key."""
    encoded = _encode_bound(key)
    if not key:
        raise KeyInvalid(f"{_shown(key)} is empty", key=key)
    return encoded


def decode(encoded: bytes) -> Key:
    """Return the key that ``encode`` made these bytes from. Raises ``ValueError`` if there is none."""
    if encoded[:2] == b"\x00\x02":
        try:
            text = encoded[2:-1].decode()
        except UnicodeDecodeError:
            text = ""  # An escaped NUL, or damage: _decode_thoroughly finds out which.
        if text and "\x00" not in text and encoded[-1] == 0 and len(encoded) <= KEY_BYTES_MAX:
            return text
    try:
        return _decode_thoroughly(encoded)
    except (ValueError, IndexError) as cause:
        raise ValueError(f"not an encoded key: {encoded[:_SHOWN_CHARS_MAX].hex()}") from cause


def decode_sorted(batch: list[bytes]) -> list[Key]:
    """Return the decoded keys of a batch in ascending or descending order, as a scan reads it.

    All keys of such a batch share the common prefix of the first and the last key, so these two show
    whether all are bare strs.
    """
    bare_strs = batch and batch[0][:2] == batch[-1][:2] == b"\x00\x02"
    if bare_strs and _ESCAPED_NUL not in b"".join(batch):
        return [encoded[2:-1].decode() for encoded in batch]
    return [decode(encoded) for encoded in batch]


def prefix_range(prefix: Key) -> tuple[bytes, bytes]:
    """Return the range of the encoded keys that begin with ``prefix``: its start, and its excluded end.

    A tuple covers all tuples that begin with these whole elements, itself included; a str or bytes
    covers all bare keys of its type that begin with it. An empty prefix covers all keys of its type.
    """
    encoded = _encode_bound(prefix)
    if type(prefix) is tuple:
        # A further element begins with a code below FF; FF here would escape a NUL inside a longer element.
        return encoded, encoded + _ABOVE_ALL_CODES
    start = encoded[:-1]
    return start, _successor(start)


def key_range(
    *, prefix: Key | None = None, start: Key | None = None, stop: Key | None = None
) -> tuple[bytes, bytes]:
    """Return the range of the encoded keys within all given bounds: its start, and its excluded end.

    Unlike a key, a bound may be empty: ``start=""`` is the lower bound of all str keys.
    """
    low, high = (_FIRST, _END) if prefix is None else prefix_range(prefix)
    if start is not None:
        low = max(low, _encode_bound(start))
    if stop is not None:
        high = min(high, _encode_bound(stop))
    return low, max(low, high)


def placement(key: Key, encoded: bytes, elements: int | None) -> bytes:
    """Return the part of ``encoded``, the bytes of ``key``, that decides the shard.

    That is all of ``encoded`` if ``elements`` is None or ``key`` has at most ``elements`` elements.
    """
    if elements is None or type(key) is not tuple or len(key) <= elements:
        return encoded
    assert elements > 0, elements
    first = _encode_bound(key[:elements])
    assert len(first) <= len(encoded) <= KEY_BYTES_MAX, (
        f"KEYS-3: {len(first)} of {len(encoded)} bytes decide the shard, of at most {KEY_BYTES_MAX}"
    )
    return first


def _encode_bound(key: Key) -> bytes:
    """Return the bytes of a key that may be empty. Raises ``KeyInvalid`` or ``LimitExceeded``."""
    try:
        if type(key) is str:
            encoded = f"\x00\x02{key}\x00".encode() if "\x00" not in key else b"\x00" + _encode_str(key)
        elif type(key) is tuple:
            encoded = _encode_tuple(key)
        elif type(key) is bytes:
            encoded = b"\x00" + _encode_bytes(key)
        else:
            raise _bare_refusal(key)
    except UnicodeEncodeError:
        raise KeyInvalid(f"{_shown(key)} has a lone surrogate", key=key) from None
    except (KeyInvalid, LimitExceeded) as refusal:
        refusal.key = key
        raise
    if len(encoded) > KEY_BYTES_MAX:
        raise _too_long(key, len(encoded))
    return encoded


def _encode_tuple(key: tuple[KeyPart, ...]) -> bytes:
    encoded = [_TUPLE_SHAPE]
    for part in key:
        if type(part) is str and "\x00" not in part:
            encoded.append(f"\x02{part}\x00".encode())
        elif type(part) is int and 0 <= part < 256:
            encoded.append(_BYTE_INTS[part])
        elif type(part) is tuple:
            encoded.append(_encode_nested(part))
        else:
            encoded.append(_encode_part(part))
    return b"".join(encoded)


def _encode_nested(part: tuple[KeyPart, ...]) -> bytes:
    """Return the bytes of a tuple inside a tuple. No recursion: the nesting is unbounded.

    Once the bytes are too long for a key the rest is left out; the caller refuses the key by its length.
    """
    encoded = [b"\x05"]
    unfinished = [iter(part)]
    while unfinished:
        for inner in unfinished[-1]:
            if len(encoded) > KEY_BYTES_MAX:
                return b"".join(encoded)
            if type(inner) is tuple:
                encoded.append(b"\x05")
                unfinished.append(iter(inner))
                break
            encoded.append(_ESCAPED_NUL if inner is None else _encode_part(inner))
        else:
            encoded.append(b"\x00")
            unfinished.pop()
    return b"".join(encoded)


def _encode_part(part: KeyPart) -> bytes:
    encoder = _ENCODERS.get(type(part))
    if encoder is None:
        raise KeyInvalid(f"a key cannot hold {_shown(part)}, of type {type(part).__name__}")
    return encoder(part)


def _encode_none(part: None) -> bytes:
    return b"\x00"


def _encode_bool(part: bool) -> bytes:
    return b"\x27" if part else b"\x26"


def _encode_bytes(part: bytes) -> bytes:
    return b"\x01%b\x00" % part.replace(b"\x00", _ESCAPED_NUL)


def _encode_str(part: str) -> bytes:
    return b"\x02%b\x00" % part.encode().replace(b"\x00", _ESCAPED_NUL)


def _encode_int(part: int) -> bytes:
    size = (part.bit_length() + 7) >> 3
    if not -_WORD_MAX < part < _WORD_MAX:
        return _encode_long_int(part, size)
    if part >= 0:
        return _POSITIVE_CODES[size] + part.to_bytes(size, "big")
    return _NEGATIVE_CODES[size] + _complement(part, size)


def _encode_long_int(part: int, size: int) -> bytes:
    if size > INT_BYTES_MAX:
        raise LimitExceeded(
            f"an int of {size} bytes is over the limit of {INT_BYTES_MAX} in a key",
            size=size,
            limit=INT_BYTES_MAX,
        )
    if part > 0:
        return bytes([0x1D, size]) + part.to_bytes(size, "big")
    return bytes([0x0B, size ^ 0xFF]) + _complement(part, size)


def _complement(negative: int, size: int) -> bytes:
    """Return the magnitude with every bit inverted, so that a smaller number has smaller bytes."""
    return (negative + (1 << 8 * size) - 1).to_bytes(size, "big")


def _encode_float(part: float) -> bytes:
    if isnan(part):
        raise KeyInvalid("nan cannot be part of a key: it has no place in the order of keys")
    bits = int.from_bytes(_DOUBLE.pack(part), "big")
    ordered = bits ^ (_WORD_MAX if bits & _SIGN_BIT else _SIGN_BIT)
    return b"\x21" + ordered.to_bytes(8, "big")


def _encode_uuid(part: UUID) -> bytes:
    return b"\x30" + part.bytes


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    str: _encode_str,
    int: _encode_int,
    bytes: _encode_bytes,
    bool: _encode_bool,
    float: _encode_float,
    UUID: _encode_uuid,
    type(None): _encode_none,
}
_BYTE_INTS = [_encode_int(number) for number in range(256)]


def _decode_thoroughly(encoded: bytes) -> Key:
    if len(encoded) > KEY_BYTES_MAX:
        raise ValueError("too long")
    parts = _decode_parts(encoded)
    if encoded[0] == 1 and parts:
        return parts
    (bare,) = parts
    if encoded[0] == 0 and type(bare) in (str, bytes) and bare:
        return cast("str | bytes", bare)
    raise ValueError("neither a tuple nor a bare str or bytes")


def _decode_parts(encoded: bytes, *, escapes: bool = False) -> tuple[KeyPart, ...]:
    """Return the elements after the shape byte. Raises ``ValueError`` or ``IndexError`` for other bytes.

    Escaped NULs are rare: without ``escapes`` a str ends at its first 00, and an FF in the place of the
    next code restarts the decoding with ``escapes``.
    """
    parts: list[KeyPart] = []
    enclosing: list[list[KeyPart]] = []
    position, end = 1, len(encoded)
    while position < end:
        code = encoded[position]
        if code == 0x02 and not escapes:
            close = encoded.index(b"\x00", position)
            parts.append(encoded[position + 1 : close].decode())
            position = close + 1
        elif code == 0x15 and encoded[position + 1]:
            parts.append(encoded[position + 1])
            position += 2
        elif 0x15 < code < 0x1C and encoded[position + 1]:
            close = position + code - 0x13
            parts.append(int.from_bytes(encoded[position + 1 : close], "big"))
            position = close
        elif code == 0x05:
            enclosing.append(parts)
            parts = []
            position += 1
        elif code == 0x00 and enclosing and encoded[position + 1 : position + 2] != b"\xff":
            enclosing[-1].append(tuple(parts))
            parts = enclosing.pop()
            position += 1
        elif code == 0xFF and not escapes:
            return _decode_parts(encoded, escapes=True)
        else:
            part, position = _DECODERS[code](encoded, position + 1)
            parts.append(part)
            if code == 0x00 and enclosing:
                position += 1  # Skip the FF that distinguishes a None from the end of its tuple.
    if position != end or enclosing:
        raise ValueError("cut off")
    return tuple(parts)


def _decode_none(encoded: bytes, position: int) -> tuple[None, int]:
    return None, position


def _decode_false(encoded: bytes, position: int) -> tuple[bool, int]:
    return False, position


def _decode_true(encoded: bytes, position: int) -> tuple[bool, int]:
    return True, position


def _decode_bytes(encoded: bytes, position: int) -> tuple[bytes, int]:
    close = encoded.index(b"\x00", position)
    while encoded[close + 1 : close + 2] == b"\xff":
        close = encoded.index(b"\x00", close + 2)
    return encoded[position:close].replace(_ESCAPED_NUL, b"\x00"), close + 1


def _decode_str(encoded: bytes, position: int) -> tuple[str, int]:
    raw, position = _decode_bytes(encoded, position)
    return raw.decode(), position


def _decode_int(encoded: bytes, position: int) -> tuple[int, int]:
    size = encoded[position - 1] - 0x14
    close = position + abs(size)
    raw = encoded[position:close]
    part = int.from_bytes(raw, "big")
    if size < 0:
        part -= (1 << 8 * -size) - 1
    _demand(_encode_int(part)[1:] == raw)
    return part, close


def _decode_long_int(encoded: bytes, position: int) -> tuple[int, int]:
    negative = encoded[position - 1] == 0x0B
    size = encoded[position] ^ (0xFF if negative else 0)
    close = position + 1 + size
    part = int.from_bytes(encoded[position + 1 : close], "big")
    if negative:
        part -= (1 << 8 * size) - 1
    _demand(_encode_int(part) == encoded[position - 1 : close])
    return part, close


def _decode_float(encoded: bytes, position: int) -> tuple[float, int]:
    ordered = int.from_bytes(encoded[position : position + 8], "big")
    bits = ordered ^ (_SIGN_BIT if ordered & _SIGN_BIT else _WORD_MAX)
    (part,) = _DOUBLE.unpack(bits.to_bytes(8, "big"))
    _demand(not isnan(part))
    return part, position + 8


def _decode_uuid(encoded: bytes, position: int) -> tuple[UUID, int]:
    return UUID(bytes=encoded[position : position + 16]), position + 16


def _decode_nothing(encoded: bytes, position: int) -> tuple[None, int]:
    raise ValueError(f"no element begins with {encoded[position - 1]:#04x}")


_DECODERS: list[Callable[[bytes, int], tuple[KeyPart, int]]] = [_decode_nothing] * 256
_DECODERS[0x0C:0x1D] = [_decode_int] * 17
_DECODERS[0x00], _DECODERS[0x26], _DECODERS[0x27] = _decode_none, _decode_false, _decode_true
_DECODERS[0x01], _DECODERS[0x02] = _decode_bytes, _decode_str
_DECODERS[0x0B] = _DECODERS[0x1D] = _decode_long_int
_DECODERS[0x21], _DECODERS[0x30] = _decode_float, _decode_uuid


def _demand(holds: bool) -> None:
    if not holds:
        raise ValueError("encode does not write this")


def _successor(start: bytes) -> bytes:
    """Return the least bytes above everything that begins with ``start``."""
    trimmed = start.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1])


def _bare_refusal(key: Any) -> KeyInvalid:
    shown = _shown(key)
    tuple_would_do = type(key) in (int, float, bool) and shown != "nan" and "<" not in shown
    way_out = f"write ({shown},) or '{shown}'" if tuple_would_do else ""
    return KeyInvalid(f"{shown}, of type {type(key).__name__}, is not a key", hint=way_out, key=key)


def _too_long(key: Key, size: int) -> LimitExceeded:
    """Return the error for a key of ``size`` bytes; a very deep key is counted only in part."""
    return LimitExceeded(
        f"key {_shown(key)} takes {size} bytes, over the limit of {KEY_BYTES_MAX}",
        key=key,
        size=size,
        limit=KEY_BYTES_MAX,
    )


_brief = reprlib.Repr()
_brief.maxlevel = 3  # Even a short key's repr can be huge, if the key holds a few tuples many times over.
_brief.maxstring = _brief.maxother = _brief.maxlong = _SHOWN_CHARS_MAX // 2


def _shown(key: Any) -> str:
    """Return ``key`` as text for a message, or the name of its type if its ``repr`` raises."""
    try:
        text = _brief.repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[: _SHOWN_CHARS_MAX - 3]}..."


def check_limit(limit: int | None) -> int | None:
    """Return ``limit``. Raises ``LimitExceeded`` if it is neither None nor an int of at least 0."""
    if limit is None:
        return None
    if type(limit) is not int:
        raise LimitExceeded(f"limit must be an int, a number of rows, not {type(limit).__name__}", limit=0)
    if limit < 0:
        raise LimitExceeded(f"limit is {limit}; it cannot be negative", size=limit, limit=0)
    return limit

"""The bytes of a stored value: the version, which is the slot that wrote it, then the encoded value."""

from __future__ import annotations

from typing import Any

from kvstore import values

VERSION_BYTES = 8
"""Length of a version, which is a big-endian integer."""


def stored_version(stored: bytes | None) -> int | None:
    """Return the version of a stored value; None for a missing value."""
    return None if stored is None else int.from_bytes(stored[:VERSION_BYTES], "big")


def value_of(stored: bytes | None) -> bytes | None:
    """Return the encoded value without its version; None for a missing value."""
    return None if stored is None else stored[VERSION_BYTES:]


def decoded_value(stored: bytes) -> Any:
    """Return the decoded value, without its version."""
    return values.decode(stored[VERSION_BYTES:])

"""The numbers that ``add`` accepts, and the checks that keep a counter usable."""

from __future__ import annotations

import math
from typing import Any

from kvstore import values
from kvstore.errors import LimitExceeded, TypeClash, ValueNotSupported
from kvstore.keys import Key


def is_number(value: object) -> bool:
    """Return whether ``add`` accepts the value: an int or a float; a bool is not a number here."""
    return type(value) in (int, float)


def check_amount(amount: int | float) -> bytes:
    """Return the encoded amount of an ``add``.

    Raises:
        ValueNotSupported: the amount is neither an int nor a float.
        LimitExceeded: the amount is infinite or nan, which would make every later sum useless.
    """
    if not is_number(amount):
        message = f"add takes an int or a float, not {type(amount).__name__}"
        raise ValueNotSupported(message, place="n")
    if type(amount) is float and not math.isfinite(amount):
        raise LimitExceeded(f"add takes a finite number, not {amount!r}")
    return values.encode(amount)


def check_number(key: Key, payload: bytes | None, amount: int | float) -> bytes:
    """Return the encoded sum of a stored value and an amount.

    ``payload``: the encoded value; None counts as 0 (contracts C1).

    Raises:
        TypeClash: the stored value is not a number.
        LimitExceeded: the sum is infinite, or too large to be a value.
    """
    value = 0 if payload is None else values.decode(payload)
    if not is_number(value):
        found = type(value).__name__
        raise TypeClash(f"add to {key!r}, which holds a {found}", key=key, found=found)
    total = values.encode(amount) if payload is None else add_numbers(value, amount)
    if total is None:
        raise LimitExceeded(f"the sum at {key!r} would be infinite, or too large to be stored", key=key)
    return total


def add_numbers(value: Any, amount: Any) -> bytes | None:
    """Return the encoded sum of two numbers, or None if the sum is infinite or too large to be a value."""
    try:
        total = value + amount
        return None if type(total) is float and not math.isfinite(total) else values.encode(total)
    except (OverflowError, LimitExceeded):
        return None

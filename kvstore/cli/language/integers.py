"""Integers of any length as decimal text and back.

Python refuses more than 4300 digits, as its own conversion takes time quadratic in them; a value may hold
more. Halving makes that bearable, and DIGITS_MAX bounds it.
"""

from __future__ import annotations

from typing import Final

DIGITS_MAX: Final = 100_000
"""Read and written within a tenth of a second. The longest integer of a key has 614."""
_AT_ONCE: Final = 600
"""Digits left to Python: it never refuses so few, whatever limit is set."""
_BITS_PER_DIGIT: Final = 3.3219280948873626


class Unprintable(Exception):
    """A value that has no text of bearable length."""


def text_of_int(number: int) -> str:
    """The digits of an int.

    Raises:
        Unprintable: more than DIGITS_MAX.
    """
    digits = _digits_at_most(number)
    if digits <= _AT_ONCE:
        return str(number)
    if digits > DIGITS_MAX:
        raise Unprintable(f"an integer of more than {DIGITS_MAX} digits is too long to print")
    sign = "-" if number < 0 else ""
    return sign + _digits(abs(number), digits).lstrip("0")


def int_of_text(text: str) -> int:
    """The int of these digits, which may follow a minus sign.

    Raises:
        ValueError: more than DIGITS_MAX.
    """
    if len(text) > DIGITS_MAX + 1:
        raise ValueError(f"a number has at most {DIGITS_MAX} digits: quote it to make it text")
    return -_number(text[1:]) if text[:1] == "-" else _number(text)


def _digits_at_most(number: int) -> int:
    """The number of decimal digits, or one more."""
    return int(number.bit_length() / _BITS_PER_DIGIT) + 1


def _digits(number: int, width: int) -> str:
    """At least ``width`` digits, with zeros in front."""
    if width <= _AT_ONCE:
        return str(number).zfill(width)
    low = width // 2
    left, right = divmod(number, 10**low)
    return _digits(left, width - low) + _digits(right, low)


def _number(digits: str) -> int:
    if len(digits) <= _AT_ONCE:
        return int(digits)
    low = len(digits) // 2
    power: int = 10**low
    return _number(digits[:-low]) * power + _number(digits[-low:])

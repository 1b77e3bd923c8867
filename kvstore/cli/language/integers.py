"""Conversion between integers of any length and decimal text.

Python refuses more than 4300 digits because its conversion takes quadratic time, but a value may hold more.
Here numbers are halved recursively, and DIGITS_MAX bounds the time.
"""

from __future__ import annotations

from typing import Final

DIGITS_MAX: Final = 100_000
"""The most digits read or printed, within a tenth of a second. The longest integer of a key has 614."""
_AT_ONCE: Final = 600
"""The most digits that Python converts whatever limit is set."""
_BITS_PER_DIGIT: Final = 3.3219280948873626


class Unprintable(Exception):
    """A value whose text is too long to print."""


def text_of_int(number: int) -> str:
    """Return the decimal digits of an int.

    Raises:
        Unprintable: there are more than DIGITS_MAX.
    """
    digits = _digits_at_most(number)
    if digits <= _AT_ONCE:
        return str(number)
    if digits > DIGITS_MAX:
        raise Unprintable(f"an integer of more than {DIGITS_MAX} digits is too long to print")
    sign = "-" if number < 0 else ""
    return sign + _digits(abs(number), digits).lstrip("0")


def int_of_text(text: str) -> int:
    """Return the int of these digits, which may follow a minus sign.

    Raises:
        ValueError: there are more than DIGITS_MAX.
    """
    if len(text) > DIGITS_MAX + 1:
        raise ValueError(f"a number has at most {DIGITS_MAX} digits: quote it to make it text")
    return -_number(text[1:]) if text[:1] == "-" else _number(text)


def _digits_at_most(number: int) -> int:
    """Return the number of decimal digits, or one more."""
    return int(number.bit_length() / _BITS_PER_DIGIT) + 1


def _digits(number: int, width: int) -> str:
    """Return at least ``width`` digits, padded with leading zeros."""
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

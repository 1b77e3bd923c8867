"""A printed value reads back as an equal value of an equal type."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.cli.language.grammar import StatementReader, Term, parse_argument
from kvstore.cli.language.integers import DIGITS_MAX, Unprintable
from kvstore.cli.language.printing import show, show_raw, type_name

LONG = st.integers(500, 6000).map(lambda digits: 10**digits - 7)
INTS = st.one_of(st.integers(), st.integers(-(2**2040), 2**2040), LONG, LONG.map(lambda number: -number))
FLOATS = st.floats(allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PARTS = st.recursive(
    st.one_of(TEXTS, st.binary(), INTS, FLOATS, st.booleans(), st.none(), st.uuids()),
    lambda parts: st.lists(parts, max_size=4).map(tuple),
    max_leaves=12,
)
KEYS = st.one_of(TEXTS, st.binary(), st.lists(PARTS, min_size=1, max_size=5).map(tuple))
MAP_KEYS = st.one_of(TEXTS, st.binary(), INTS, FLOATS, st.booleans(), st.none())
VALUES = st.recursive(
    st.one_of(TEXTS, st.binary(), INTS, FLOATS, st.booleans(), st.none()),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(MAP_KEYS, values, max_size=4),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """Return the value with the type of each part, so that 1, 1.0 and True differ, and 0.0 and -0.0 too."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(part)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(part) for part in value]
    if isinstance(value, float):
        return float, math.copysign(1, value), value
    return type(value), value


def read_in_the_shell(text: str) -> Any:
    (statement,) = StatementReader().feed(f"put {text}")
    (item,) = statement.items
    assert isinstance(item, Term)
    return item.value


@given(st.one_of(KEYS, VALUES))
def test_what_is_printed_reads_back_as_the_same(value: Any) -> None:
    text = show(value)

    assert shape(read_in_the_shell(text)) == shape(value)
    assert shape(parse_argument(text)) == shape(value)


@given(st.one_of(KEYS, VALUES))
def test_what_is_printed_is_one_line_of_utf8(value: Any) -> None:
    text = show(value)

    assert len(text.splitlines()) == 1
    assert text.encode().decode() == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", '"a"'),
        ("", '""'),
        ('say "x"\n', r'"say \"x\"\n"'),
        ("žluť 😀", '"žluť 😀"'),
        ("\x1b\x7f\x9b\u2028\u0085", r'"\u001b\u007f\u009b\u2028\u0085"'),
        (b'a"\\\n\xff', r'b"a\x22\x5c\x0a\xff"'),
        (UUID(int=5), 'uuid"00000000-0000-0000-0000-000000000005"'),
        (None, "null"),
        (True, "true"),
        (1.0, "1.0"),
        (1e16, "1e+16"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        ((), "()"),
        (("a",), '("a",)'),
        (("a", (1, (b"x",))), '("a", (1, (b"x",)))'),
        ([], "[]"),
        ([1, [2.5]], "[1, [2.5]]"),
        ({}, "{}"),
        ({"a": 1, b"b": [], 3: {}}, '{"a": 1, b"b": [], 3: {}}'),
    ],
)
def test_values_as_text(value: Any, text: str) -> None:
    assert show(value) == text


def test_raw_leaves_only_text_bare() -> None:
    assert show_raw("a\tb") == "a\tb"
    assert show_raw(("a",)) == '("a",)'


def test_an_echo_shows_tuples_in_a_value_as_the_lists_they_become() -> None:
    assert show({"a": (1, (2,))}, as_stored=True) == '{"a": [1, [2]]}'


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ((1,), "list"),
        (None, "null"),
        ({}, "map"),
        (1, "int"),
        (1.5, "float"),
        (b"a", "bytes"),
        (True, "bool"),
    ],
)
def test_an_echo_names_the_type(value: Any, name: str) -> None:
    assert type_name(value) == name


def test_the_deepest_value_prints_and_reads_back() -> None:
    deep: Any = 1
    for _ in range(1024):
        deep = [deep]

    assert show(read_in_the_shell(show(deep))) == show(deep)


def test_an_integer_too_long_to_print_is_told() -> None:
    longest = 10 ** (DIGITS_MAX - 1) - 1

    assert parse_argument(show(longest)) == longest
    with pytest.raises(Unprintable, match="100000 digits"):
        show([10**DIGITS_MAX])

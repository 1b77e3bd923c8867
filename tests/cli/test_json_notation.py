"""Keys and values as JSON read back as equal values, including values that JSON cannot express."""

from __future__ import annotations

import json
import math
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.cli.language.integers import DIGITS_MAX
from kvstore.cli.language.json_notation import from_json, to_json
from tests.cli.test_printing import KEYS, MAP_KEYS, TEXTS, VALUES, shape

DOLLARS = st.dictionaries(st.sampled_from(["$", "$bytes", "$map", "a", "$tuple"]), VALUES, max_size=2)


@given(st.one_of(KEYS, VALUES, DOLLARS, st.dictionaries(MAP_KEYS, DOLLARS, max_size=3)))
def test_what_is_written_reads_back_as_the_same(value: Any) -> None:
    text = to_json(value)

    assert shape(from_json(text)) == shape(value)
    assert len(text.splitlines()) == 1
    assert text.encode().decode() == text


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS, st.lists, max_leaves=9))
def test_what_json_can_say_is_plain_json(value: Any) -> None:
    assert to_json(value) == json.dumps(value, ensure_ascii=False) or "\\u" in to_json(value)
    assert json.loads(to_json(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True], "b": "ž"}, '{"a": [1, 2.5, null, true], "b": "ž"}'),
        (b"\x00\x01", '{"$bytes": "AAE="}'),
        (UUID(int=5), '{"$uuid": "00000000-0000-0000-0000-000000000005"}'),
        (("acct", ("eu", 1)), '{"$tuple": ["acct", {"$tuple": ["eu", 1]}]}'),
        ((), '{"$tuple": []}'),
        (-math.inf, '{"$float": "-inf"}'),
        (math.nan, '{"$float": "nan"}'),
        (-0.0, "-0.0"),
        (1e300, "1e+300"),
        (2**80, "1208925819614629174706176"),
        ({1: "a", "b": {}}, '{"$map": [[1, "a"], ["b", {}]]}'),
        ({b"a": None}, '{"$map": [[{"$bytes": "YQ=="}, null]]}'),
        ({"$x": 1}, '{"$map": [["$x", 1]]}'),
        ({"$x": 1, "y": 2}, '{"$x": 1, "y": 2}'),
        ({}, "{}"),
        ("\x9b\u2028", r'"\u009b\u2028"'),
    ],
)
def test_the_notation(value: Any, text: str) -> None:
    assert to_json(value) == text
    assert shape(from_json(text)) == shape(value) or text == '{"$float": "nan"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON at character 1"),
        ("[1, 2", "not JSON at character 6"),
        ("1 2", "not JSON at character 3"),
        ("NaN", 'write {"$float": "nan"}'),
        ("[-Infinity]", 'write {"$float": "nan"}'),
        ("1e999", 'write {"$float": "inf"}'),
        ('{"$float": "infinity"}', "$float must be nan, inf or -inf"),
        ('{"$float": 1}', "$float must be a string"),
        ('{"$bytes": "AAE"}', "$bytes must be base64"),
        ('{"$bytes": "é"}', "$bytes must be base64"),
        ('{"$bytes": []}', "$bytes must be a string"),
        ('{"$uuid": "5"}', "$uuid must be written"),
        ('{"$tuple": "a"}', "$tuple must be a list"),
        ('{"$map": {}}', "$map must be a list of [key, value]"),
        ('{"$map": [[1]]}', "$map must be a list of [key, value]"),
        ('{"$map": [[[], 1]]}', "a key of $map must be"),
        ('{"$map": [[true, 1], [1, 2]]}', "$map has a key twice"),
        ('{"a": 1, "a": 2}', "an object has a member twice"),
        ('{"$x": 1}', 'unknown notation "$x"; as a map: {"$map": [["$x", ...]]}'),
        ("9" * (DIGITS_MAX + 2), "a number has at most 100000 digits"),
    ],
)
def test_what_it_is_not_is_told(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        from_json(text)

    assert message in str(error.value)


def nested(levels: int, wrap: str) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"list": [value], "map": {1: value}, "tuple": (value,), "object": {"a": value}}[wrap]
    return value


@pytest.mark.parametrize("wrap", ["list", "map", "tuple", "object"])
def test_values_deeper_than_the_stack_are_written_and_read(wrap: str) -> None:
    text = to_json(nested(5000, wrap))

    assert to_json(from_json(text)) == text


@pytest.mark.parametrize(
    "tail", ["", "]" * 4999, "]" * 5001, ",1", "1", ":", "}", '"', "1]", ",]", "{1", ",x", '{"a",']
)
def test_mistakes_are_told_however_deep_they_are(tail: str) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        from_json("[" * 5000 + "1" + tail)


@given(st.text('[]{},:"a1 \\', max_size=12))
def test_deep_text_is_read_by_the_rules_of_json(inner: str) -> None:
    """The reader without recursion accepts exactly the texts that json accepts."""
    deep = "[" * 3000 + inner + "]" * 3000
    try:
        expected = json.loads("[" * 50 + inner + "]" * 50)  # text that closes more than it opens is included
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - any message is accepted
            from_json(deep)
    else:
        found = from_json(deep)
        for _ in range(2950):
            (found,) = found
        assert found == expected


def test_an_integer_of_any_length_is_read_back_soon() -> None:
    for number in (10 ** (DIGITS_MAX - 1) - 1, 10**DIGITS_MAX, -(10**DIGITS_MAX), 1 << (8 * 16_000_000)):
        assert from_json(to_json({number: number})) == {number: number}
    assert to_json(-(1 << 400_000)) == f'{{"$int": "-0x1{"0" * 100_000}"}}'
    assert to_json({"$int": 1}) == '{"$map": [["$int", 1]]}'
    with pytest.raises(ValueError, match="written 0x1f or -0x1f"):
        from_json('{"$int": "12"}')

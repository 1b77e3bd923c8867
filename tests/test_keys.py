"""Keys: the bytes of the FoundationDB tuple layer, their order, what a range holds, what is refused."""

from __future__ import annotations

import enum
import itertools
import math
import re
import struct
import sys
from collections import namedtuple
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvstore.keys
from kvstore.errors import KeyInvalid, LimitExceeded
from kvstore.keys import INT_BYTES_MAX, KEY_BYTES_MAX, Key, decode, encode, key_range, placement, prefix_range


class Color(enum.IntEnum):
    RED = 1


class Name(str):
    pass


Point = namedtuple("Point", "x y")

EDGE_INTS = [sign * (2**bits + off) for bits in range(0, 97, 8) for off in (-1, 0, 1) for sign in (1, -1)]
AWKWARD = "ab\x00\x01\x7fé\u20ac\uffff\U0010ffff"
AWKWARD_BYTES = b"ab\x00\x01\xfe\xff"

texts = st.text(max_size=12) | st.text(st.sampled_from(AWKWARD), max_size=5)
blobs = st.binary(max_size=12) | st.lists(st.sampled_from(AWKWARD_BYTES), max_size=5).map(bytes)
numbers = st.integers() | st.integers(-300, 300) | st.sampled_from(EDGE_INTS)
floats = st.floats(allow_nan=False)
scalars = st.none() | st.booleans() | numbers | floats | texts | blobs | st.uuids()
parts = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
tuples = st.lists(parts, max_size=5).map(tuple)
bounds = texts | blobs | tuples
keys = bounds.filter(bool)

few = st.sampled_from(
    ["", "a", "b", "a\x00", "\x00", b"", b"a", b"\xff", b"\xff\xff", None, 0, 1, True, 1.0, -1]
)
few_parts = st.recursive(few, lambda inner: st.lists(inner, max_size=2).map(tuple), max_leaves=3)
similar_bounds = (
    st.lists(few_parts, max_size=3).map(tuple)
    | st.text(st.sampled_from("ab\x00\U0010ffff"), max_size=3)
    | st.lists(st.sampled_from(b"a\x00\xfe\xff"), max_size=3).map(bytes)
)
similar_keys = similar_bounds.filter(bool)
"""Keys built from so few parts that one key is often the prefix of another."""


def a_deep_tuple(levels: int) -> tuple[Any, ...]:
    nested: tuple[Any, ...] = ()
    for _ in range(levels - 1):
        nested = (nested,)
    return nested


def identity(part: Any) -> Any:
    """Return a value that is equal for two parts only if they are one key, in type and sign of zero too."""
    if type(part) is tuple:
        return (tuple, *map(identity, part))
    return type(part), struct.pack(">d", part) if type(part) is float else part


def place(part: Any) -> Any:
    """Return the place of a part in the order, independent of its bytes: first the type, then the value."""
    match part:
        case None:
            return (0,)
        case bytes():
            return 1, part
        case str():
            return 2, [ord(char) for char in part]
        case tuple():
            return 3, [place(inner) for inner in part]
        case bool():
            return 6, part
        case int():
            return 4, part
        case float():
            return 5, part, math.copysign(1, part)
    assert type(part) is UUID
    return 7, part.int


def key_place(key: Key) -> Any:
    return (1, place(key)) if type(key) is tuple else (0, place(key))


def begins(key: Any, prefix: Any) -> bool:
    if type(key) is not type(prefix):
        return False
    if type(key) is tuple:
        return bool(identity(key[: len(prefix)]) == identity(prefix))
    return bool(key.startswith(prefix))


def within(encoded: bytes, bounds: tuple[bytes, bytes]) -> bool:
    return bounds[0] <= encoded < bounds[1]


# --- bytes


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    return pytest.importorskip("fdb.tuple", reason="the foundationdb package is the oracle")  # type: ignore[no-any-return]


@given(key=keys)
def test_bytes_are_those_of_the_tuple_layer_behind_a_shape_byte(oracle: ModuleType, key: Key) -> None:
    expected = b"\x01" + oracle.pack(key) if type(key) is tuple else b"\x00" + oracle.pack((key,))

    assert encode(key) == expected


@pytest.mark.parametrize("bits", [0, 7, 8, 16, 31, 32, 56, 63, 64, 65, 72, 1000, 255 * 8])
@pytest.mark.parametrize("off", [-2, -1, 0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_ints_of_every_length(oracle: ModuleType, bits: int, off: int, sign: int) -> None:
    key = (sign * (2**bits + off),) if bits < 255 * 8 else (sign * (2**bits - 1),)

    assert encode(key) == b"\x01" + oracle.pack(key)
    assert decode(encode(key)) == key


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        ("us", "00 02 75 73 00"),
        (b"us", "00 01 75 73 00"),
        ("a\x00b", "00 02 61 00 ff 62 00"),
        (("a", 5), "01 02 61 00 15 05"),
        ((None, (None, ()), b"\x00"), "01 00 05 00 ff 05 00 00 01 00 ff 00"),
        ((0, -1, 256, False, True), "01 14 13 fe 16 01 00 26 27"),
        ((1.0, -1.0), "01 21 bf f0 00 00 00 00 00 00 21 40 0f ff ff ff ff ff ff"),
        ((2**64 - 1,), "01 1d 08 ff ff ff ff ff ff ff ff"),
        ((UUID(int=1),), "01 30 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01"),
    ],
)
def test_bytes_of_format_1(key: Key, encoded: str) -> None:
    """Data on disk must stay readable: a change here needs a new format number."""
    assert encode(key) == bytes.fromhex(encoded)
    assert identity(decode(bytes.fromhex(encoded))) == identity(key)


@given(key=keys)
def test_a_key_comes_back_with_its_types(key: Key) -> None:
    assert identity(decode(encode(key))) == identity(key)


@given(some=st.lists(keys, max_size=12) | st.lists(texts.filter(bool), max_size=12), reverse=st.booleans())
def test_keys_in_order_come_back_together_as_one_by_one(some: list[Key], reverse: bool) -> None:
    encoded = sorted(map(encode, some), reverse=reverse)
    together = kvstore.keys.decode_sorted(encoded)
    assert [*map(identity, together)] == [identity(decode(one)) for one in encoded]


def test_numbers_that_python_calls_equal_are_different_keys() -> None:
    encoded = {encode((number,)) for number in (1, 1.0, True, 0, 0.0, -0.0, False)}

    assert len(encoded) == 7


# --- order


@given(some=st.lists(keys | similar_keys, max_size=12))
def test_bytes_sort_as_the_keys_do(some: list[Key]) -> None:
    by_bytes = sorted(some, key=encode)

    assert [key_place(key) for key in by_bytes] == sorted(map(key_place, some))


def test_order_is_by_type_first_and_bare_keys_before_tuples() -> None:
    in_order: tuple[Key, ...] = (
        b"z",
        "a",
        (None,),
        (b"z",),
        ("a",),
        ((),),
        (-(10**30),),
        (2,),
        (10,),
        (-math.inf,),
        (-0.0,),
        (0.0,),
        (1.5,),
        (False,),
        (True,),
        (UUID(int=0),),
    )
    shuffled = [in_order[i * 7 % 16] for i in range(16)]

    assert tuple(sorted(shuffled, key=encode)) == in_order


# --- ranges


@given(prefix=similar_bounds, some=st.lists(similar_keys, max_size=12))
@settings(max_examples=300)
def test_a_prefix_range_holds_what_begins_so_and_nothing_else(prefix: Key, some: list[Key]) -> None:
    bounds = prefix_range(prefix)

    for key in some:
        assert within(encode(key), bounds) == begins(key, prefix), key


@given(prefix=bounds, key=keys)
def test_a_prefix_range_of_any_key(prefix: Key, key: Key) -> None:
    assert within(encode(key), prefix_range(prefix)) == begins(key, prefix)


@given(key=keys, cut=st.integers(0, 12))
def test_every_prefix_of_a_key_finds_it(key: Any, cut: int) -> None:
    assert within(encode(key), prefix_range(key[:cut]))


@pytest.mark.parametrize(
    ("prefix", "key", "found"),
    [
        (("a",), ("a",), True),
        (("a",), ("a", None), True),
        (("a",), ("a\x00b",), False),
        (("a",), ("ab",), False),
        (((1,),), ((1, None),), False),
        ((1,), (1.0,), False),
        ((None,), (None, UUID(int=2**128 - 1)), True),
        ((), (UUID(int=2**128 - 1),), True),
        ((), "a", False),
        ("", "\U0010ffff", True),
        ("", b"a", False),
        ("a", "a\x00b", True),
        ("a\x00", "a", False),
        ("a\x00", "a\x00", True),
        ("us", ("us", 1), False),
        (b"", b"\xff\xff", True),
        (b"\xff", b"\xff\xff", True),
        (b"\xff", b"\xfe", False),
    ],
)
def test_what_a_prefix_finds(prefix: Key, key: Key, found: bool) -> None:
    assert within(encode(key), prefix_range(prefix)) is found


@given(
    prefix=st.none() | similar_bounds,
    start=st.none() | similar_bounds,
    stop=st.none() | similar_bounds,
    some=st.lists(similar_keys, max_size=12),
)
@settings(max_examples=300)
def test_a_key_range_holds_what_satisfies_all_that_is_given(
    prefix: Key | None, start: Key | None, stop: Key | None, some: list[Key]
) -> None:
    low, high = key_range(prefix=prefix, start=start, stop=stop)

    assert low <= high
    for key in some:
        expected = (
            (prefix is None or begins(key, prefix))
            and (start is None or key_place(start) <= key_place(key))
            and (stop is None or key_place(key) < key_place(stop))
        )
        assert within(encode(key), (low, high)) == expected, key


def test_no_argument_is_everything() -> None:
    assert key_range() == (b"\x00", b"\x02")


def test_a_range_whose_start_is_above_its_stop_is_empty() -> None:
    low, high = key_range(start="b", stop="a")

    assert low == high


@pytest.mark.parametrize("refused", [5, None, ["a"], Name("a"), (math.nan,), ("\ud800",), "\ud800"])
def test_bounds_are_checked_like_keys(refused: Any) -> None:
    with pytest.raises(KeyInvalid):
        prefix_range(refused)
    if refused is not None:
        with pytest.raises(KeyInvalid):
            key_range(start=refused)
        with pytest.raises(KeyInvalid):
            key_range(stop=refused)


def test_the_longest_prefix_finds_the_longest_key() -> None:
    longest = "x" * (KEY_BYTES_MAX - 3)

    assert within(encode(longest), prefix_range(longest))
    with pytest.raises(LimitExceeded):
        prefix_range(longest + "x")


# --- placement


def test_the_first_elements_of_a_tuple_place_it() -> None:
    key = ("acct", "eu", 5)

    assert placement(key, encode(key), 1) == encode(("acct",))
    assert placement(key, encode(key), 2) == encode(("acct", "eu"))


@pytest.mark.parametrize("elements", [None, 3, 4])
def test_a_short_tuple_is_placed_by_all_of_it(elements: int | None) -> None:
    key = ("acct", "eu", 5)

    assert placement(key, encode(key), elements) == encode(key)


@pytest.mark.parametrize("key", ["acct", b"acct"])
def test_a_bare_key_is_placed_by_all_of_it(key: Key) -> None:
    assert placement(key, encode(key), 1) == encode(key)


@given(key=tuples.filter(bool), elements=st.integers(1, 6))
def test_keys_with_the_same_first_elements_share_a_place(key: Any, elements: int) -> None:
    longer = (*key, "more")
    own, others = (placement(one, encode(one), elements) for one in (key, longer))

    assert (own == others) == (len(key) >= elements)
    assert encode(key).startswith(own)


# --- refusals


@pytest.mark.parametrize(
    "key",
    [
        None,
        ["a"],
        {"a"},
        bytearray(b"a"),
        memoryview(b"a"),
        1j,
        object(),
        UUID(int=1),
        Color.RED,
        Name("a"),
        Point(1, 2),
    ],
    ids=lambda key: type(key).__name__,
)
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(KeyInvalid, match=f"of type {type(key).__name__}, is not a key") as refusal:
        encode(key)

    assert refusal.value.key is key


@pytest.mark.parametrize(
    "part",
    [["a"], {"a"}, bytearray(b"a"), 1j, object(), Color.RED, Name("a"), Point(1, 2)],
    ids=lambda part: type(part).__name__,
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_no_key_holds(part: Any, nested: bool) -> None:
    key = ("a", (1, part)) if nested else ("a", part)

    with pytest.raises(KeyInvalid, match=f"cannot hold .*, of type {type(part).__name__}") as refusal:
        encode(key)

    assert refusal.value.key is key


@pytest.mark.parametrize(("key", "shown"), [(5, "5"), (-1.5, "-1.5"), (True, "True")])
def test_a_bare_number_is_told_how_to_be_a_key(key: Any, shown: str) -> None:
    with pytest.raises(KeyInvalid, match=re.escape(f"write ({shown},) or '{shown}'")) as refusal:
        encode(key)

    assert refusal.value.key is key


@pytest.mark.parametrize("key", [math.nan, 10**5000], ids=["nan", "huge"])
def test_a_number_that_would_be_no_key_in_a_tuple_either_is_not_told_to(key: Any) -> None:
    with pytest.raises(KeyInvalid) as refusal:
        encode(key)

    assert "write (" not in str(refusal.value)


@pytest.mark.parametrize("key", ["", b"", ()])
def test_an_empty_key(key: Key) -> None:
    with pytest.raises(KeyInvalid, match="is empty") as refusal:
        encode(key)

    assert refusal.value.key == key


@pytest.mark.parametrize("key", [(math.nan,), ("a", (-math.nan, 1))])
def test_nan_has_no_place(key: Key) -> None:
    with pytest.raises(KeyInvalid, match="nan") as refusal:
        encode(key)

    assert refusal.value.key is key


@pytest.mark.parametrize("key", ["\ud800", "a\x00\udfff", ("a\ud800",), ("a", ("\ud800",)), ("\x00\ud800",)])
def test_a_lone_surrogate_has_no_utf8(key: Key) -> None:
    with pytest.raises(KeyInvalid, match="lone surrogate") as refusal:
        encode(key)

    assert refusal.value.key is key
    str(refusal.value).encode()


@pytest.mark.parametrize(
    "longest",
    [
        "x" * 477,
        b"x" * 477,
        "\x00" * 238 + "x",
        ("x" * 477,),
        ("x" * 300, b"y" * 175),
        (True,) * 479,
        ("é" * 238, 0),
    ],
)
def test_a_key_of_480_bytes_is_the_longest(longest: Any) -> None:
    too_long = longest + type(longest)(longest[-1:])

    assert len(encode(longest)) == KEY_BYTES_MAX == 480
    assert decode(encode(longest)) == longest
    with pytest.raises(LimitExceeded) as refusal:
        encode(too_long)
    assert refusal.value.key is too_long
    assert refusal.value.limit == 480
    assert refusal.value.size > 480


def test_a_key_of_481_bytes_is_refused_with_its_facts() -> None:
    with pytest.raises(LimitExceeded) as refusal:
        encode("x" * 478)

    assert refusal.value.size == 481
    message = str(refusal.value)
    assert "'xxx" in message
    assert "480" in message
    assert len(message) < 150


@pytest.mark.parametrize("sign", [1, -1])
def test_an_int_has_at_most_255_bytes(sign: int) -> None:
    key = (sign * 2 ** (8 * INT_BYTES_MAX),)

    with pytest.raises(LimitExceeded, match="255") as refusal:
        encode(key)

    assert (refusal.value.key, refusal.value.size, refusal.value.limit) == (key, 256, 255)


@pytest.mark.parametrize("key", [a_deep_tuple(100_000), (a_deep_tuple(482),), ("a", (None,) * 10_000)])
def test_endless_nesting_is_too_long_and_no_more(key: Key) -> None:
    with pytest.raises(LimitExceeded) as refusal:
        encode(key)

    assert refusal.value.key is key
    assert refusal.value.size > refusal.value.limit == 480


def test_a_tuple_of_few_objects_and_endless_length_is_refused_at_once() -> None:
    key: tuple[Any, ...] = ()
    for _ in range(200):
        key = (key, key)

    with pytest.raises(LimitExceeded, match=r"key \(.*\.\.\..*\) takes") as refusal:
        encode(key)

    assert len(str(refusal.value)) < 150


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    "key", [Unprintable(), (1, Unprintable()), [Unprintable()]], ids=["bare", "in", "list"]
)
def test_what_cannot_be_shown_is_refused_all_the_same(key: Any) -> None:
    with pytest.raises(KeyInvalid, match=r"Unprintable|list"):
        encode(key)


def test_the_deepest_key_goes_and_comes_without_recursion() -> None:
    key = a_deep_tuple(240)

    def at_depth(frames: int) -> Key:
        return at_depth(frames - 1) if frames else decode(encode(key))

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        assert len(encode(key)) == 1 + 2 * 239
        assert encode(at_depth(100)) == encode(key)
    finally:
        sys.setrecursionlimit(limit)


# --- damage


@given(encoded=st.binary(max_size=20) | st.binary(max_size=20).map(b"\x01".__add__))
@settings(max_examples=500)
def test_decode_takes_what_encode_writes_and_nothing_else(encoded: bytes) -> None:
    assert_decoded_or_refused(encoded)


@given(key=keys, data=st.data())
@settings(max_examples=300)
def test_a_damaged_key_is_another_key_or_refused(key: Key, data: st.DataObject) -> None:
    encoded = encode(key)
    at = data.draw(st.integers(0, len(encoded)))
    until = data.draw(st.integers(at, len(encoded)))

    assert_decoded_or_refused(encoded[:at] + data.draw(st.binary(max_size=3)) + encoded[until:])


def assert_decoded_or_refused(encoded: bytes) -> None:
    try:
        key = decode(encoded)
    except ValueError:
        return
    assert encode(key) == encoded


def test_every_short_encoding() -> None:
    """Every code is followed by each of the bytes that are special after some code."""
    special = [0x00, 0x01, 0x02, 0x05, 0x14, 0x15, 0x61, 0xF7, 0xFF]
    for shape, code in itertools.product(range(3), range(256)):
        for tail in itertools.chain.from_iterable(itertools.product(special, repeat=n) for n in range(3)):
            assert_decoded_or_refused(bytes([shape, code, *tail]))


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "00",
        "01",
        "02",
        "00 02 00",
        "00 01 00",
        "00 02 61",
        "00 02 61 00 00",
        "00 02 61 00 02 62 00",
        "00 02 80 00",
        "00 15 05",
        "00 05 02 61 00 00",
        "02 02 61 00",
        "01 02 61",
        "01 02 ed a0 80 00",
        "01 05 15 05",
        "01 00 ff",
        "01 15 00",
        "01 15",
        "01 16 00 01",
        "01 16 05",
        "01 16",
        "01 12 ff fe",
        "01 1c ff ff ff ff ff ff ff ff",
        "01 0c 00 00 00 00 00 00 00 00",
        "01 1d 08 00 00 00 00 00 00 00 01",
        "01 1d 09 01",
        "01 1d",
        "01 21 ff f8 00 00 00 00 00 00",
        "01 21 bf f0",
        "01 30 00",
        "01 20 00 00 00 00",
        "01 33",
    ],
)
def test_malformed_bytes(malformed: str) -> None:
    with pytest.raises(ValueError, match="not an encoded key"):
        decode(bytes.fromhex(malformed))


@pytest.mark.parametrize(
    "too_long", [b"\x00\x02" + b"x" * 478 + b"\x00", b"\x01" + b"\x14" * 480, b"\x01" + b"\x05" * 10**6]
)
def test_bytes_over_the_limit(too_long: bytes) -> None:
    with pytest.raises(ValueError, match="not an encoded key"):
        decode(too_long)

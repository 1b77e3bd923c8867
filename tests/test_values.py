"""Values: a supported value is read back equal, and an unsupported value is refused with its place."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import inspect
import itertools
import math
import struct
import sys
import threading
import uuid
from collections.abc import Callable
from types import MappingProxyType
from typing import Any
from unittest import mock

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import LimitExceeded, ValueNotSupported
from kvstore.values import INT_EXTENSION, VALUE_BYTES_MAX, VALUE_DEPTH_MAX, decode, encode


class Color(enum.IntEnum):
    RED = 1


class Hue(enum.StrEnum):
    RED = "red"


class Plain(enum.Enum):
    RED = 1


class Text(str):
    pass


class Number(int):
    pass


class Rows(list[Any]):
    pass


@dataclasses.dataclass
class Account:
    name: str


class Record(msgspec.Struct):
    name: str


Point = collections.namedtuple("Point", "x y")

EDGE_INTS = [
    sign * (2**bits + off)
    for bits in (7, 8, 15, 16, 31, 32, 63, 64, 65)
    for off in (-1, 0, 1)
    for sign in (1, -1)
]

small_ints = st.integers(-(2**63), 2**64 - 1)
ints = st.integers() | st.integers(-200, 200) | st.sampled_from([*EDGE_INTS, 10**400, -(10**400)])
map_keys = st.none() | st.booleans() | ints | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
scalars = map_keys


def values_of(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=15,
    )


values = values_of(scalars, map_keys)
plain_scalars = (
    st.none() | st.booleans() | small_ints | st.floats() | st.text(max_size=40) | st.binary(max_size=40)
)
plain_values = values_of(plain_scalars, plain_scalars)
loose_values = st.recursive(
    scalars | st.binary(max_size=8).map(bytearray) | st.just(Color.RED),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(map_keys, inner, max_size=4).map(collections.OrderedDict)
    ),
    max_leaves=12,
)


def identity(value: Any) -> Any:
    """Return a value that is equal for two values only if their types, order and bits are equal."""
    match value:
        case dict():
            return type(value), [(identity(key), identity(part)) for key, part in value.items()]
        case list():
            return type(value), [identity(part) for part in value]
        case float():
            return type(value), struct.pack(">d", value)
    return type(value), value


def as_it_comes_back(value: Any) -> Any:
    match value:
        case dict():
            return {as_it_comes_back(key): as_it_comes_back(part) for key, part in value.items()}
        case list() | tuple():
            return [as_it_comes_back(part) for part in value]
        case bytearray():
            return bytes(value)
        case Color():
            return int(value)
    return value


def nested(levels: int, wrap: Callable[[Any], Any], innermost: Any) -> Any:
    value = innermost
    for _ in range(levels):
        value = wrap(value)
    return value


def refused(value: Any) -> ValueNotSupported:
    with pytest.raises(ValueNotSupported) as refusal:
        encode(value)
    return refusal.value


def read_by_msgpack(payload: bytes) -> Any:
    def int_from_extension(code: int, data: bytes) -> int:
        assert code == INT_EXTENSION
        return int.from_bytes(data, "big", signed=True)

    return msgpack.unpackb(payload, strict_map_key=False, ext_hook=int_from_extension)


# --- round trip


@given(value=values)
@settings(max_examples=300)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert identity(decode(encode(value))) == identity(value)


@given(value=loose_values)
def test_tuples_come_back_as_lists_and_subclasses_as_their_base(value: Any) -> None:
    assert identity(decode(encode(value))) == identity(as_it_comes_back(value))


@given(value=plain_values)
def test_bytes_are_those_of_msgpack(value: Any) -> None:
    assert encode(value) == msgpack.packb(value)


@given(value=values | loose_values)
def test_msgpack_alone_reads_the_bytes(value: Any) -> None:
    payload = encode(value)

    assert identity(read_by_msgpack(payload)) == identity(decode(payload))


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (None, "c0"),
        (2**64 - 1, "cf ffffffffffffffff"),
        (2**64, "c7 09 01 010000000000000000"),
        (-(2**63), "d3 8000000000000000"),
        (-(2**63) - 1, "c7 09 01 ff7fffffffffffffff"),
        ([2**64], "91 c7 09 01 010000000000000000"),
        ({2**64: -1}, "81 c7 09 01 010000000000000000 ff"),
        ({"a": (1, b"b")}, "81 a1 61 92 01 c4 01 62"),
    ],
)
def test_bytes_of_format_1(value: Any, payload: str) -> None:
    """Data on disk must stay readable: a change here needs a new format number."""
    assert encode(value) == bytes.fromhex(payload)
    assert decode(bytes.fromhex(payload)) == as_it_comes_back(value)


@pytest.mark.parametrize(
    "number", [*EDGE_INTS, 10**400, -(10**400)], ids=lambda number: f"{number.bit_length()}-bit"
)
def test_ints_of_any_size_anywhere(number: int) -> None:
    for value in (number, [number], {"n": number}, {number: [number]}):
        assert identity(decode(encode(value))) == identity(value)


@pytest.mark.parametrize("number", [math.nan, -math.nan, -0.0, 0.0, math.inf, -math.inf, 5e-324])
def test_floats_keep_every_bit(number: float) -> None:
    for value in (number, [number], {"n": (number,)}, {number: 2**64}):
        assert identity(decode(encode(value))) == identity(as_it_comes_back(value))


def test_nan_with_a_payload_keeps_it() -> None:
    (odd_nan,) = struct.unpack(">d", bytes.fromhex("7ff80000deadbeef"))

    assert identity(decode(encode([odd_nan]))) == identity([odd_nan])


def test_bytes_and_str_are_two_types() -> None:
    assert decode(encode({"a": b"a", b"a": "a"})) == {"a": b"a", b"a": "a"}
    assert encode("a") != encode(b"a")


def test_true_and_one_are_two_values() -> None:
    assert identity(decode(encode([True, 1, 1.0]))) == identity([True, 1, 1.0])


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, (2, ())), [1, [2, []]]),
        (Point(1, 2), [1, 2]),
        (bytearray(b"ab"), b"ab"),
        ([bytearray(b"ab")], [b"ab"]),
        (memoryview(b"ab"), b"ab"),
        ([memoryview(b"ab"), 2**64], [b"ab", 2**64]),
        (Color.RED, 1),
        ({Color.RED: Color.RED}, {1: 1}),
        (Hue.RED, "red"),
        ([Text("a"), Number(5), Number(2**70)], ["a", 5, 2**70]),
        (Rows([1]), [1]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
    ],
)
def test_what_comes_back_as_something_else(value: Any, back: Any) -> None:
    assert identity(decode(encode(value))) == identity(back)


def test_each_read_is_a_fresh_copy() -> None:
    original: dict[str, Any] = {"lines": [1, {"a": []}]}
    payload = encode(original)

    first = decode(payload)
    first["lines"][1]["a"].append("changed")
    original["lines"].append("changed")

    assert decode(payload) == {"lines": [1, {"a": []}]}


# --- refusals

NOT_CARRIED = [
    {1, 2},
    frozenset({1}),
    datetime.datetime(2026, 1, 1),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    datetime.date(2026, 1, 1),
    datetime.timedelta(1),
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 2),
    uuid.UUID(int=1),
    1j,
    object(),
    range(3),
    int,
    len,
    collections.deque([1]),
    MappingProxyType({"a": 1}),
    Plain.RED,
    Account("ada"),
    Record("ada"),
    msgspec.Raw(b"\x01"),
    msgspec.msgpack.Ext(INT_EXTENSION, b"\x05"),
    msgpack.ExtType(INT_EXTENSION, b"\x05"),
    msgpack.ExtType(5, b"abcd"),
    msgpack.Timestamp(5),
    msgpack.Timestamp(2**40, 5),
]


@pytest.mark.parametrize("part", NOT_CARRIED, ids=lambda part: type(part).__name__)
def test_what_is_not_carried_is_named(part: Any) -> None:
    name = type(part).__name__
    for value, place in (
        (part, "value"),
        ([part], "value[0]"),
        ({"lines": [1, 2, 3, part]}, 'value["lines"][3]'),
        ((1, {b"k": (2**64, part)}), 'value[1][b"k"][1]'.replace('"', "'")),
        ({None: {True: {1.5: part}}}, "value[None][True][1.5]"),
    ):
        refusal = refused(value)
        assert refusal.place == place
        assert str(refusal).startswith(f"{place}: {name} (")


@pytest.mark.parametrize(
    "key",
    [
        (1, 2),
        (),
        frozenset({1}),
        uuid.UUID(int=1),
        decimal.Decimal(1),
        datetime.date(2026, 1, 1),
        Plain.RED,
        Point(1, 2),
        msgpack.ExtType(INT_EXTENSION, b"\x05"),
        msgpack.Timestamp(5),
    ],
    ids=lambda key: type(key).__name__,
)
def test_a_map_key_that_is_not_carried_is_named(key: Any) -> None:
    for map_, place in (({key: 1}, "value"), ({"a": ({"b": 1, key: 1},)}, 'value["a"][0]')):
        refusal = refused(map_)
        assert refusal.place == place
        assert f" is a {type(key).__name__}" in str(refusal)


def test_the_message_shows_the_map_key() -> None:
    assert "value: key (1, 2) is a tuple" in str(refused({(1, 2): 3}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("\ud800", "value: str with a lone surrogate"),
        (["a", "b\udfff"], "value[1]: str with a lone surrogate"),
        ({"a": {"b": ("\ud800",)}}, 'value["a"]["b"][0]: str with a lone surrogate'),
        ({"\ud800": 1}, 'value: key "\\ud800" is a str with a lone surrogate'),
        (Text("\ud800"), "value: str with a lone surrogate"),
    ],
)
def test_a_lone_surrogate_has_no_utf8(value: Any, message: str) -> None:
    refusal = refused(value)

    assert message in str(refusal)
    str(refusal).encode()


def test_the_first_of_several_places_is_named() -> None:
    assert refused([1, [{}, ()], {"b": [0], "a": {2}}, {3}]).place == 'value[2]["a"]'


def test_a_long_map_key_is_cut_in_the_message() -> None:
    refusal = refused({"k" * 10_000: {1}})

    assert refusal.place.startswith('value["kkkk')
    assert len(str(refusal)) < 200


def test_a_map_key_that_cannot_be_shown_is_refused_all_the_same() -> None:
    assert "key <Fraction> is a Fraction" in str(refused({fractions.Fraction(10**5000): 1}))


def test_a_mock_of_a_dict_is_no_dict() -> None:
    assert "value[0]: MagicMock" in str(refused([mock.MagicMock(spec=dict)]))


def test_a_memoryview_with_gaps() -> None:
    assert "value[0]: memoryview with gaps" in str(refused([memoryview(b"abcdef")[::2]]))


def test_a_dict_that_changes_under_our_eyes() -> None:
    class Fickle(dict[str, Any]):
        reads = itertools.count()

        def items(self) -> Any:
            return [("a", 1 if next(self.reads) < 2 else {1})]

    assert "set" in str(refused(Fickle(b=2)))


def test_an_object_that_fails_on_being_read() -> None:
    account = Account("ada")
    del account.name

    assert "value[0]: Account" in str(refused([account]))


# --- depth and cycles

WRAPPERS: list[Callable[[Any], Any]] = [
    lambda inner: [inner],
    lambda inner: {"a": inner},
    lambda inner: (inner,),
    lambda inner: [1, {"a": inner}],
]


@pytest.mark.parametrize("wrap", WRAPPERS[:3], ids=["list", "dict", "tuple"])
@pytest.mark.parametrize("innermost", [1, 2**64, math.nan, "é"], ids=["int", "long", "nan", "str"])
def test_1024_levels_are_the_deepest(wrap: Callable[[Any], Any], innermost: Any) -> None:
    deepest = nested(VALUE_DEPTH_MAX, wrap, innermost)

    payload = encode(deepest)
    back = read_by_msgpack(payload)
    assert encode(back) == encode(decode(payload)) == payload
    for _ in range(VALUE_DEPTH_MAX):
        back = back["a"] if isinstance(back, dict) else back[0]
    assert identity(back) == identity(innermost)
    assert "nested too deeply, over 1024 levels" in str(refused(wrap(deepest)))


@pytest.mark.parametrize("recursion_limit", [400, 20_000])
def test_the_depth_is_the_same_whatever_the_stack(recursion_limit: int) -> None:
    """Replicas would diverge if an execution were refused by one replica and accepted by another."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(recursion_limit)
    try:
        payload = encode(nested(1024, WRAPPERS[0], 1))
        assert encode(decode(payload)) == payload
        assert encode(nested(1023, WRAPPERS[0], [])) == b"\x91" * 1023 + b"\x90"
        refused(nested(1025, WRAPPERS[0], 1))
        refused(nested(1025, WRAPPERS[2], 1))
        refused(nested(1024, WRAPPERS[0], []))
        refused(nested(1024, WRAPPERS[2], ()))
    finally:
        sys.setrecursionlimit(usual)


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["list", "dict", "tuple", "both"])
def test_endless_nesting(wrap: Callable[[Any], Any]) -> None:
    assert "nested too deeply" in str(refused(nested(20_000, wrap, 1)))


def test_a_container_that_holds_itself() -> None:
    rows: list[Any] = [1]
    rows.append(rows)
    assert "value[1]: holds itself" in str(refused(rows))

    parent: dict[str, Any] = {"name": "parent"}
    parent["children"] = [{"name": "child", "parent": parent}]
    assert 'value["children"][0]["parent"]: holds itself' in str(refused(parent))


def test_the_same_container_twice_is_no_cycle() -> None:
    shared = [2**64, (1,)]

    assert decode(encode([shared, {"a": shared}, shared])) == [
        [2**64, [1]],
        {"a": [2**64, [1]]},
        [2**64, [1]],
    ]


def test_a_deep_value_goes_and_comes_at_the_end_of_the_stack() -> None:
    value = nested(1000, WRAPPERS[1], "end")
    payload = encode(value)

    def at_the_end(frames: int) -> tuple[bytes, Any]:
        return at_the_end(frames - 1) if frames else (encode(value), decode(payload))

    encoded, decoded = at_the_end(sys.getrecursionlimit() - len(inspect.stack(0)) - 60)
    assert encoded == payload
    assert encode(decoded) == payload


# --- limits


@pytest.mark.parametrize("make", [lambda size: "x" * size, lambda size: b"x" * size], ids=["str", "bytes"])
def test_16_mib_are_the_longest(make: Callable[[int], Any]) -> None:
    longest = make(VALUE_BYTES_MAX - 5)

    assert len(encode(longest)) == VALUE_BYTES_MAX == 16 * 2**20
    assert decode(encode(longest)) == longest
    with pytest.raises(LimitExceeded, match=str(VALUE_BYTES_MAX)) as refusal:
        encode(make(VALUE_BYTES_MAX - 4))
    assert (refusal.value.size, refusal.value.limit) == (VALUE_BYTES_MAX + 1, VALUE_BYTES_MAX)


@pytest.mark.parametrize("filler", [b"x" * 2**20, ("x" * 2**20,)], ids=["exact", "tuple"])
def test_the_limit_holds_for_containers(filler: Any) -> None:
    assert len(encode([filler] * 15)) < VALUE_BYTES_MAX
    with pytest.raises(LimitExceeded) as refusal:
        encode([filler] * 16)
    assert refusal.value.size > refusal.value.limit == VALUE_BYTES_MAX


# --- damage and threads


@pytest.mark.parametrize(
    "damaged", ["", "c1", "92 01", "01 01", "81 80 01", "a1 ff", "d4 05 61", "dd ffffffff", "91" * 3000]
)
def test_what_is_no_msgpack(damaged: str) -> None:
    with pytest.raises(ValueError, match="not an encoded value"):
        decode(bytes.fromhex(damaged))


def test_many_threads_at_once() -> None:
    values_: list[Any] = [{"n": 2**70 + number, "rows": [(number, "é" * number)] * 20} for number in range(8)]
    wrong: list[Any] = []

    def go_and_come(value: Any) -> None:
        expected = as_it_comes_back(value)
        wrong.extend(value for _ in range(100) if decode(encode(value)) != expected)

    threads = [threading.Thread(target=go_and_come, args=(value,)) for value in values_]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong

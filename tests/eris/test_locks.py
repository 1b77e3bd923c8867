"""Claims: who is in whose way, in the order of the log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.eris.locks import Footprint, Locks, footprint
from kvstore.eris.messages import Conclusory, Request
from kvstore.execution.operations import Call, CheckRange, Operation
from kvstore.types import ClientId, RequestId, ShardId
from tests.support.cluster import add, check, delete, put, reserve

S0 = ShardId(0)


def of(*operations: Operation, call: Call | None = None, half: Conclusory | None = None) -> Footprint:
    parts = {S0: operations, ShardId(1): (put("elsewhere", 1),)}
    request = Request(ClientId(1), RequestId(1), RequestId(0), parts, call=call, half=half)
    return footprint(request, S0)


def encoded(key: str) -> bytes:
    return put(key, 0).key


def test_a_footprint_is_what_is_read_and_written_on_that_shard() -> None:
    range_a_to_c = CheckRange(encoded("a"), encoded("c"), b"")

    touched = of(put("p", 1), add("n"), delete("d"), check("r", 1), reserve("w"), range_a_to_c)

    assert dict(touched.keys) == {
        encoded("p"): True,
        encoded("n"): True,
        encoded("d"): True,
        encoded("r"): False,
        encoded("w"): True,
    }
    assert touched.ranges == [(encoded("a"), encoded("c"), False)]


def test_a_procedure_may_write_all_that_it_declared() -> None:
    call = Call("p", b"", {S0: (encoded("k"),)}, ((encoded("a"), encoded("b")),))

    touched = of(call=call)

    assert touched.keys == [(encoded("k"), True)]
    assert touched.ranges == [(encoded("a"), encoded("b"), True)]


def test_a_conclusory_claims_nothing() -> None:
    touched = of(put("k", 1), half=Conclusory(ClientId(1), RequestId(1), commit=True))

    assert touched.is_empty()


def test_readers_share_and_a_writer_waits_for_all_of_them() -> None:
    locks: Locks[str] = Locks()
    reads, writes = of(check("k", 1)), of(put("k", 1))
    locks.claim(reads, "first")
    assert locks.in_the_way_of(reads) == []
    locks.claim(reads, "second")

    assert sorted(locks.in_the_way_of(writes)) == ["first", "second"]
    locks.claim(writes, "writer")
    assert locks.in_the_way_of(reads) == ["writer"]
    assert locks.in_the_way_of(of(put("other", 1))) == []

    for holder, touched in (("first", reads), ("second", reads), ("writer", writes)):
        locks.release(touched, holder)
    assert locks.is_empty()


def test_a_range_that_was_read_keeps_out_what_would_appear_in_it() -> None:
    locks: Locks[str] = Locks()
    locks.claim(of(CheckRange(encoded("b"), encoded("d"), b"")), "scan")

    assert locks.in_the_way_of(of(put("c", 1))) == ["scan"]
    assert locks.in_the_way_of(of(put("b", 1))) == ["scan"]
    assert locks.in_the_way_of(of(put("d", 1))) == []
    assert locks.in_the_way_of(of(check("c", None))) == []
    assert locks.in_the_way_of(of(CheckRange(encoded("a"), encoded("z"), b""))) == []


def test_a_range_waits_for_the_writers_in_it() -> None:
    locks: Locks[str] = Locks()
    locks.claim(of(put("c", 1)), "writer")

    assert locks.in_the_way_of(of(CheckRange(encoded("b"), encoded("d"), b""))) == ["writer"]
    assert locks.in_the_way_of(of(CheckRange(encoded("d"), encoded("e"), b""))) == []


def footprints() -> st.SearchStrategy[Footprint]:
    key = st.sampled_from([b"a", b"b", b"c", b"d"])
    keys = st.lists(st.tuples(key, st.booleans()), max_size=3)
    ranges = st.lists(st.tuples(key, key, st.booleans()), max_size=2)
    return st.builds(Footprint, keys, ranges)


def conflict(one: Footprint, other: Footprint) -> bool:
    """By the book, over single letters."""

    def touched(what: Footprint, letter: bytes, *, writing: bool) -> bool:
        in_keys = any(key == letter and (writes or not writing) for key, writes in what.keys)
        in_ranges = any(
            start <= letter < stop and (writes or not writing) for start, stop, writes in what.ranges
        )
        return in_keys or in_ranges

    letters = [bytes([code]) for code in range(ord("a"), ord("e"))]
    return any(
        (touched(one, letter, writing=True) and touched(other, letter, writing=False))
        or (touched(one, letter, writing=False) and touched(other, letter, writing=True))
        for letter in letters
    )


@given(st.lists(footprints(), max_size=8), footprints(), st.sets(st.integers(0, 7)))
def test_nobody_passes_one_that_he_conflicts_with(
    claims: list[Footprint], newcomer: Footprint, released: set[int]
) -> None:
    """Whoever is in the way is found, directly or by way of one that waits for him."""
    locks: Locks[int] = Locks()
    waits_for: dict[int, set[int]] = {}
    for number, claimed in enumerate(claims):
        waits_for[number] = set(locks.in_the_way_of(claimed))
        locks.claim(claimed, number)
    for number in sorted(released & set(range(len(claims)))):
        if not any(number in later for later in waits_for.values()) or not waits_for[number]:
            locks.release(claims[number], number)
            waits_for.pop(number)
            for later in waits_for.values():
                later.discard(number)

    reached: set[int] = set()
    found = set(locks.in_the_way_of(newcomer))
    while found:
        reached |= found
        found = set().union(*(waits_for[number] for number in found)) - reached

    for number in waits_for:
        assert number in reached or not conflict(claims[number], newcomer)

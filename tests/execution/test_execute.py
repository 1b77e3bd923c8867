"""Execution of operations: EXECUTE-1 (a function), EXECUTE-2 (no half effects), EXECUTE-3 (versions are
slots)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore import values
from kvstore.execution.execute import apply, execute
from kvstore.execution.numbers import is_number
from kvstore.execution.operations import DONE, REFUSED, Add, Delete, Expire, Operation, Outcome, Put, PutIf
from kvstore.execution.stored_value import VERSION_BYTES, decoded_value, stored_version
from kvstore.storage import MemoryDisk
from kvstore.types import Slot, Timestamp
from tests.support.power import open_on

K = b"k"


class Cells(dict[bytes, bytes]):
    """A table in memory."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False, limit: int
    ) -> list[tuple[bytes, bytes]]:
        raise AssertionError("plain operations do not scan")


def holding(value: Any, *, version: int = 1, key: bytes = K) -> Cells:
    return Cells({key: cell(value, version)})


def cell(value: Any, version: int) -> bytes:
    return version.to_bytes(VERSION_BYTES, "big") + values.encode(value)


def run(table: Cells, *operations: Operation, slot: int = 9) -> Outcome:
    """Execute the operations, write the staged writes and return the outcome."""
    effects, outcome, _ = execute(operations, table, Slot(slot))
    apply(effects, table)
    return outcome


def shown(table: Cells) -> dict[bytes, tuple[Any, int | None]]:
    return {key: (decoded_value(stored), stored_version(stored)) for key, stored in table.items()}


def put(value: Any, key: bytes = K) -> Put:
    return Put(key, values.encode(value))


def put_if(value: Any, version: int | None, key: bytes = K) -> PutIf:
    return PutIf(key, values.encode(value), version)


def add(amount: float, key: bytes = K) -> Add:
    return Add(key, values.encode(amount))


def results(*found: Any) -> Outcome:
    return Outcome(results=tuple(what if type(what) is bool else values.encode(what) for what in found))


class TestPut:
    def test_sets_the_value_and_the_version(self) -> None:
        """EXECUTE-3"""
        table = holding("old", version=3)

        assert run(table, put("new"), slot=9) == DONE

        assert shown(table) == {K: ("new", 9)}

    def test_is_overwritten_by_the_next_in_the_same_transaction(self) -> None:
        table = Cells()

        run(table, put(1), put(2))

        assert shown(table) == {K: (2, 9)}


class TestDelete:
    def test_removes_the_key_and_says_nothing(self) -> None:
        table = holding(1)

        assert run(table, Delete(K)) == DONE

        assert table == {}

    @pytest.mark.parametrize("there", [True, False])
    def test_reports_whether_the_key_was_there_if_it_is_asked_to(self, *, there: bool) -> None:
        table = holding(1) if there else Cells()

        assert run(table, Delete(K, report=True)) == results(there)

        assert table == {}

    def test_sees_what_the_transaction_did_before(self) -> None:
        table = holding(1)

        outcome = run(
            table,
            Delete(K, report=True),
            Delete(K, report=True),
            put(5),
            Delete(K, report=True),
            put(6, b"other"),
        )

        assert outcome == results(True, False, True)
        assert shown(table) == {b"other": (6, 9)}


class TestAdd:
    @pytest.mark.parametrize(
        ("before", "amount", "after"),
        [
            (5, 3, 8),
            (5, -8, -3),
            (0.5, 0.25, 0.75),
            (1, 0.5, 1.5),
            (1.5, 1, 2.5),
            (2**63 - 1, 1, 2**63),
            (2**64 - 1, 1, 2**64),
            (-(2**63), -1, -(2**63) - 1),
            (10**300, 10**300, 2 * 10**300),
            (2**100, -(2**100), 0),
        ],
    )
    def test_adds_to_a_number(self, before: Any, amount: Any, after: Any) -> None:
        table = holding(before, version=3)

        assert run(table, add(amount)) == results(after)

        assert shown(table) == {K: (after, 9)}
        assert type(decoded_value(table[K])) is type(after)

    def test_counts_from_nothing(self) -> None:
        table = Cells()

        assert run(table, add(7)) == results(7)

        assert shown(table) == {K: (7, 9)}

    @pytest.mark.parametrize("before", ["text", "7", b"7", None, True, False, [1], {"n": 1}])
    def test_takes_what_is_no_number_for_nothing(self, before: Any) -> None:
        """Contracts C1: an independent operation is total."""
        table = holding(before)

        assert run(table, add(7)) == results(7)

        assert shown(table) == {K: (7, 9)}

    def test_sees_what_the_transaction_did_before(self) -> None:
        table = holding(100)

        outcome = run(table, add(1), Delete(K), add(2), put(10), add(3), put("x"), add(4))

        assert outcome == results(101, 2, 13, 4)
        assert shown(table) == {K: (4, 9)}

    @given(st.lists(st.integers(-(2**80), 2**80), max_size=8))
    def test_of_integers_is_exact_and_in_any_order_the_same(self, amounts: list[int]) -> None:
        table, reverse = holding(0), holding(0)

        for amount in amounts:
            run(table, add(amount))
        run(reverse, *map(add, reversed(amounts)))

        assert decoded_value(table[K]) == decoded_value(reverse[K]) == sum(amounts)

    @pytest.mark.parametrize(
        ("before", "amount"),
        [(10**400, 0.5), (0.5, 10**400), (-(10**400), -1e308), (1e308, 10**309)],
        ids=["int + float", "float + int", "both negative", "almost"],
    )
    def test_is_total_for_numbers_that_have_no_common_type(self, before: Any, amount: Any) -> None:
        """Contracts C1"""
        table = holding(before)

        run(table, add(amount))

        assert is_number(decoded_value(table[K]))

    def test_is_total_for_numbers_that_grow_out_of_their_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Contracts C1"""
        largest = 2 ** (8 * 60 - 1) - 1
        monkeypatch.setattr(values, "VALUE_BYTES_MAX", len(values.encode(largest)))
        table = holding(largest)

        run(table, add(1))

        assert is_number(decoded_value(table[K]))

    def test_never_makes_an_infinity(self) -> None:
        """A counter could not leave infinity again: the value stays, and the outcome says so."""
        table = holding(1e308)

        assert run(table, add(1e308)) == results(1e308)
        assert run(table, add(-1e308)) == results(0.0)


class TestPutIf:
    def test_writes_if_the_version_is_the_expected_one(self) -> None:
        table = holding("old", version=4)

        assert run(table, put_if("new", 4)) == DONE

        assert shown(table) == {K: ("new", 9)}

    @pytest.mark.parametrize("expected", [None, 3, 5, 9])
    def test_refuses_any_other_version(self, expected: int | None) -> None:
        table = holding("old", version=4)

        assert run(table, put_if("new", expected)) == REFUSED

        assert shown(table) == {K: ("old", 4)}

    def test_writes_if_the_key_is_absent_and_that_was_expected(self) -> None:
        table = Cells()

        assert run(table, put_if("new", None)) == DONE
        assert run(table, put_if("newer", None), slot=10) == REFUSED

        assert shown(table) == {K: ("new", 9)}

    def test_refuses_a_version_of_an_absent_key(self) -> None:
        assert run(Cells(), put_if("new", 4)) == REFUSED

    def test_that_refuses_undoes_the_whole_part(self) -> None:
        """EXECUTE-2"""
        table = holding("old", version=4)
        table[b"other"] = cell(1, 2)
        before = dict(table)

        outcome = run(table, add(5, b"other"), put(1, b"new"), Delete(K, report=True), put_if("x", 4))

        assert outcome == REFUSED
        assert table == before

    def test_sees_what_the_transaction_did_before(self) -> None:
        table = holding("old", version=4)

        assert run(table, put("mine"), put_if("again", 9)) == DONE
        assert run(table, Delete(K), put_if("new", None), slot=10) == DONE

        assert shown(table) == {K: ("new", 10)}


class TestAnyPart:
    def test_without_operations_is_done(self) -> None:
        """The part of a shard that only keeps an idempotency key."""
        assert execute((), Cells(), Slot(1)) == ({}, DONE, True)

    def test_that_expires_outcomes_changes_no_data(self) -> None:
        table = holding(1)

        assert run(table, Expire(Timestamp(5))) == DONE

        assert shown(table) == {K: (1, 1)}

    def test_that_raises_has_no_effect(self) -> None:
        """EXECUTE-2"""
        table = holding(1)
        table[b"bad"] = bytes(VERSION_BYTES) + b"\xc1"  # never written by msgpack
        before = dict(table)

        with pytest.raises(ValueError, match="not an encoded value"):
            execute((put(2), add(1, b"bad")), table, Slot(9))

        assert table == before

    def test_only_reads_the_table(self) -> None:
        table = holding(1)
        before = dict(table)

        execute((put(2), add(3), Delete(b"x"), put_if(1, None, b"y")), table, Slot(9))

        assert table == before

    keys = st.sampled_from([b"a", b"b", b"c"])
    numbers = st.integers(-5, 5)
    operations = st.lists(
        st.one_of(
            st.builds(put, numbers | st.text(max_size=2), keys),
            st.builds(add, numbers, keys),
            st.builds(Delete, keys, st.booleans()),
            st.builds(put_if, numbers, st.none() | st.integers(1, 4), keys),
        ),
        max_size=5,
    )

    @given(st.lists(operations, max_size=6))
    def test_is_a_function_of_table_operations_and_slot(self, parts: list[list[Operation]]) -> None:
        """EXECUTE-1, EXECUTE-2 and EXECUTE-3 against the plainest model there is."""
        first, second, model = Cells(), Cells(), dict[bytes, tuple[Any, int]]()
        for slot, part in enumerate(parts, 1):
            outcomes = {run(table, *part, slot=slot).refused for table in (first, second)}
            expected = model_of(model, part, slot)

            assert outcomes == {expected is None}
            model = model if expected is None else expected
            assert first == second
            assert shown(first) == model
            assert all(version <= slot for _, version in model.values()), "EXECUTE-3"


def model_of(
    before: dict[bytes, tuple[Any, int]], part: list[Operation], slot: int
) -> dict[bytes, tuple[Any, int]] | None:
    """Return the values after the part; None if the part refuses."""
    cells = dict(before)
    for operation in part:
        match operation:
            case Put(key, value):
                cells[key] = (values.decode(value), slot)
            case Delete(key):
                cells.pop(key, None)
            case Add(key, amount):
                found, _ = cells.get(key, (0, 0))
                base = found if isinstance(found, int) else 0
                cells[key] = (base + values.decode(amount), slot)
            case PutIf(key, value, version):
                if cells.get(key, (None, None))[1] != version:
                    return None
                cells[key] = (values.decode(value), slot)
    return cells


@pytest.mark.parametrize("replicas", [1, 3])
def test_what_cannot_be_executed_does_not_end_the_store(replicas: int) -> None:
    disk = MemoryDisk()
    db = open_on(disk, shards=2, replicas=replicas)
    batch = db.batch()
    batch.add("k", 0.5)  # accepted, because the key has no value yet
    db.put("k", 10**400)

    db.submit(batch).result()

    assert db["k"] == 10**400
    db.put("other", 1)
    db.close()
    with open_on(disk) as db:
        assert db["k"] == 10**400
        assert db["other"] == 1


@pytest.mark.parametrize(("value", "expected"), [(0, True), (-1.5, True), (10**30, True), (True, False)])
def test_a_bool_is_no_number(value: object, *, expected: bool) -> None:
    assert is_number(value) is expected
    assert not is_number("1")


def test_a_missing_cell_has_no_version() -> None:
    assert stored_version(None) is None
    assert stored_version(cell("x", 2**40)) == 2**40

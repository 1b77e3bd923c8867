"""Sealed records: what a checksum and a chain detect, and what proves a key missing (contracts B4)."""

from __future__ import annotations

from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import Corrupt
from kvstore.storage.records import (
    COUNT_KEY,
    LOG,
    RESIDUE,
    TABLE,
    Beside,
    Row,
    StoredLog,
    StoredTable,
    problems,
    seal,
)
from kvstore.storage.sorted_map import SortedMap

T = b"tab"


class Shelf:
    """The owner of a sorted map in memory, which can simulate damaged pages."""

    location = "shelf"
    damage: tuple[type[Exception], ...] = (ZeroDivisionError,)

    def __init__(self) -> None:
        self.map = SortedMap()
        self.hidden: set[bytes] = set()
        """Keys that a walk finds and ``get`` does not, as with a damaged branch page."""
        self.order: list[bytes] | None = None
        """Keys in the order in which a walk finds them; None for ascending order."""
        self.broken: set[bytes] = set()
        """Keys at which the pages cannot be read at all."""

    def distrust(self) -> None:
        """Do nothing: there is no next opening."""

    @property
    def raw(self) -> Shelf:
        return self

    def get(self, key: bytes) -> bytes | None:
        if key in self.broken:
            raise ZeroDivisionError("page not found")
        return None if key in self.hidden else self.map.get(key)

    def put(self, key: bytes, value: bytes) -> object:
        return self.map.put(key, value)

    def delete(self, key: bytes) -> object:
        return self.map.delete(key)

    def rows(self, position: bytes, *, reverse: bool, limit: int) -> list[Row]:
        if self.order is None:
            return self.map.rows(position, reverse=reverse, limit=limit)
        rows = [(key, self.map.get(key) or b"") for key in self.order]
        at = next((at for at, (key, _) in enumerate(rows) if key >= position), len(rows))
        return (rows[:at][::-1] if reverse else rows[at:])[:limit]

    def beside(self, key: bytes) -> Beside:
        return self.rows(key, reverse=True, limit=1), self.rows(key, reverse=False, limit=1)

    def flip(self, key: bytes, bit: int) -> None:
        """Flip one bit of the stored value."""
        value = bytearray(self.map.get(key) or b"")
        value[bit // 8] ^= 1 << bit % 8
        self.map.put(key, bytes(value))


def a_table(*keys: bytes) -> tuple[Shelf, StoredTable]:
    shelf = Shelf()
    table = StoredTable(shelf, T)
    for key in keys:
        table.put(key, b"value of " + key)
    return shelf, table


def a_log(*records: bytes) -> tuple[Shelf, StoredLog]:
    shelf = Shelf()
    log = StoredLog(shelf, T, (1, 0, 0))
    for index, record in enumerate(records, 1):
        log.append(index, record)
    return shelf, log


def index_key(index: int) -> bytes:
    return LOG + T + index.to_bytes(8, "big")


class TestTheChecksum:
    @given(st.binary(max_size=600), st.binary(max_size=600))
    def test_over_key_and_sealed_value_is_one_constant(self, key: bytes, payload: bytes) -> None:
        sealed = seal(key, payload)

        assert sealed[:-4] == payload
        assert crc32(sealed, crc32(key)) == RESIDUE

    @pytest.mark.parametrize("payload", [b"", b"\x00", b"\xff" * 7, bytes(range(200))])
    def test_finds_every_flip_of_a_single_bit_of_a_value(self, payload: bytes) -> None:
        shelf, table = a_table()
        table.put(b"key", payload)
        full = TABLE + T + b"key"

        for bit in range(8 * (len(payload) + 4)):
            shelf.flip(full, bit)
            with pytest.raises(Corrupt):
                table.get(b"key")
            with pytest.raises(Corrupt):
                table.scan(b"", b"\xff", limit=9)
            shelf.flip(full, bit)
        assert table.get(b"key") == payload

    def test_finds_every_flip_of_a_single_bit_of_a_key(self) -> None:
        shelf, table = a_table(b"key")
        full = TABLE + T + b"key"
        value = shelf.map.get(full) or b""
        shelf.map.delete(full)

        for bit in range(8 * len(full)):
            flipped = (int.from_bytes(full, "big") ^ 1 << bit).to_bytes(len(full), "big")
            shelf.map.put(flipped, value)
            assert crc32(value, crc32(flipped)) != RESIDUE
            with pytest.raises(Corrupt):  # the flipped record is a neighbour of the gap that it left
                table.get(b"key")
            shelf.map.delete(flipped)

    def test_does_not_let_a_record_pass_under_another_key(self) -> None:
        shelf, table = a_table(b"a", b"b")

        shelf.map.put(TABLE + T + b"b", shelf.map.get(TABLE + T + b"a") or b"")

        with pytest.raises(Corrupt):
            table.get(b"b")
        assert table.get(b"a") == b"value of a"

    def test_does_not_let_a_record_pass_in_another_table(self) -> None:
        shelf, _ = a_table(b"a")
        other = StoredTable(shelf, b"ta2")

        shelf.map.put(TABLE + b"ta2" + b"a", shelf.map.get(TABLE + T + b"a") or b"")

        with pytest.raises(Corrupt):
            other.get(b"a")

    @pytest.mark.parametrize("length", range(12))
    def test_finds_that_a_value_is_cut_short(self, length: int) -> None:
        shelf, table = a_table(b"keys")
        full = TABLE + T + b"keys"
        assert len(shelf.map.get(full) or b"") > length

        shelf.map.put(full, (shelf.map.get(full) or b"")[:length])

        with pytest.raises(Corrupt):
            table.get(b"keys")

    def test_that_does_not_match_names_room_table_and_key(self) -> None:
        shelf, table = a_table(b"a")
        shelf.flip(TABLE + T + b"a", 0)

        with pytest.raises(Corrupt, match=f"shelf: table {T.hex()} key {b'a'.hex()}: checksum") as caught:
            table.get(b"a")

        assert caught.value.record == f"shelf: table {T.hex()} key {b'a'.hex()}"


class TestAMiss:
    def test_is_an_answer_when_both_neighbours_are_sound(self) -> None:
        _, table = a_table(b"a", b"c")

        assert table.get(b"b") is None
        assert table.get(b"") is None
        assert table.get(b"d") is None

    def test_of_a_key_that_a_damaged_page_hides_is_damage(self) -> None:
        shelf, table = a_table(b"a", b"b", b"c")
        shelf.hidden = {TABLE + T + b"b"}

        with pytest.raises(Corrupt, match="out of order"):
            table.get(b"b")

    @pytest.mark.parametrize("neighbour", [b"a", b"c"])
    def test_beside_a_damaged_record_is_damage(self, neighbour: bytes) -> None:
        shelf, table = a_table(b"a", b"c")
        shelf.flip(TABLE + T + neighbour, 3)

        with pytest.raises(Corrupt, match=neighbour.hex()):
            table.get(b"b")

    @pytest.mark.parametrize("order", [(b"c", b"a"), (b"b", b"a"), (b"c", b"b")])
    def test_between_records_that_are_out_of_order_is_damage(self, order: tuple[bytes, bytes]) -> None:
        shelf, table = a_table(b"a", b"b", b"c")
        below, above = (TABLE + T + key for key in order)
        shelf.hidden = {TABLE + T + b"b"}
        rows = [(key, shelf.map.get(key) or b"") for key in (below, above)]
        shelf.beside = lambda key: ([rows[0]], [rows[1]])  # type: ignore[method-assign]

        with pytest.raises(Corrupt):
            table.get(b"b")

    def test_in_pages_that_cannot_be_read_is_damage(self) -> None:
        shelf, table = a_table(b"a")
        shelf.broken = {TABLE + T + b"a"}

        with pytest.raises(Corrupt, match="page not found"):
            table.get(b"a")


class TestAScan:
    def test_in_another_order_than_that_of_the_keys_is_damage(self) -> None:
        keys = [b"a", b"b", b"c", b"d"]
        full = [TABLE + T + key for key in keys]
        shelf, table = a_table(*keys)
        for swapped in (1, 2):
            order = full.copy()
            order[swapped : swapped + 2] = order[swapped + 1], order[swapped]
            shelf.order = order
            for reverse in (False, True):
                with pytest.raises(Corrupt):
                    table.scan(b"", b"\xff", reverse=reverse, limit=9)

    def test_that_meets_a_record_twice_is_damage(self) -> None:
        shelf, table = a_table(b"a", b"b")
        full = [TABLE + T + key for key in (b"a", b"a", b"b")]
        shelf.order = full

        with pytest.raises(Corrupt):
            table.scan(b"", b"\xff", limit=9)

    @given(st.sets(st.binary(min_size=1, max_size=2), min_size=1, max_size=12), st.data())
    def test_over_a_damaged_record_never_answers(self, keys: set[bytes], data: st.DataObject) -> None:
        shelf, table = a_table(*keys)
        bad = data.draw(st.sampled_from(sorted(keys)))
        full = TABLE + T + bad
        shelf.flip(full, data.draw(st.integers(0, 8 * len(shelf.map.get(full) or b"") - 1)))
        limit = data.draw(st.integers(1, 12))
        reverse = data.draw(st.booleans())
        before = [key for key in sorted(keys, reverse=reverse) if (key > bad if reverse else key < bad)]

        if limit > len(before):
            with pytest.raises(Corrupt):
                table.scan(b"", b"\xff" * 3, reverse=reverse, limit=limit)
        else:
            rows = table.scan(b"", b"\xff" * 3, reverse=reverse, limit=limit)
            assert [key for key, _ in rows] == before[:limit]


class TestALogsRecords:
    def test_lose_no_single_bit_unnoticed(self) -> None:
        shelf, log = a_log(b"one", b"two", b"three")

        for index in (1, 2, 3):
            for bit in range(8 * len(shelf.map.get(index_key(index)) or b"")):
                shelf.flip(index_key(index), bit)
                with pytest.raises(Corrupt):
                    log.read(1, 9)
                shelf.flip(index_key(index), bit)
        assert len(log.read(1, 9)) == 3

    def test_are_chained_so_that_a_sound_record_of_another_log_does_not_pass(self) -> None:
        shelf, log = a_log(b"one", b"two", b"three")
        other, _ = a_log(b"one", b"another two", b"three")

        shelf.map.put(index_key(2), other.map.get(index_key(2)) or b"")

        with pytest.raises(Corrupt, match="not chained"):
            log.read(2, 2)

    def test_that_were_replaced_by_an_older_version_do_not_pass_at_the_end(self) -> None:
        shelf, log = a_log(b"one", b"two")
        older = shelf.map.get(index_key(2)) or b""
        log.replace(2, b"newer")

        shelf.map.put(index_key(2), older)

        with pytest.raises(Corrupt, match="does not match the head"):
            log.check_end()

    @pytest.mark.parametrize("index", [1, 2, 3])
    def test_are_all_there_or_it_is_damage(self, index: int) -> None:
        shelf, log = a_log(b"one", b"two", b"three")
        shelf.map.delete(index_key(index))

        with pytest.raises(Corrupt, match="missing"):
            log.read(1, 9)

    def test_stay_chained_through_any_replacement(self) -> None:
        shelf, log = a_log(b"one", b"two", b"three", b"four")

        log.replace(2, b"deux")

        stored = [shelf.map.get(index_key(index)) or b"" for index in range(1, 5)]
        assert all(before[-4:] == after[:4] for before, after in pairwise(stored))
        log.check_end()


class TestTheWalkOverEverything:
    def counted(self, shelf: Shelf, count: int) -> None:
        shelf.map.put(COUNT_KEY, seal(COUNT_KEY, count.to_bytes(8, "big") + bytes(8)))

    def test_finds_nothing_wrong_with_what_is_sound(self) -> None:
        shelf, _ = a_table(b"a", b"b")
        self.counted(shelf, 3)

        assert list(problems(shelf)) == []

    def test_names_every_damaged_record(self) -> None:
        shelf, _ = a_table(*(b"%04d" % number for number in range(3000)))
        self.counted(shelf, 3001)
        for number in (0, 1500, 2999):
            shelf.flip(TABLE + T + b"%04d" % number, 0)

        found = list(problems(shelf))

        assert len(found) == 3
        assert all(
            (b"%04d" % number).hex() in text for number, text in zip((0, 1500, 2999), found, strict=True)
        )

    @pytest.mark.parametrize("count", [2, 4])
    def test_counts(self, count: int) -> None:
        shelf, _ = a_table(b"a", b"b")
        self.counted(shelf, count)

        assert list(problems(shelf)) == [f"shelf: {count} records were written, 3 are there"]

    def test_ends_where_the_order_is_broken(self) -> None:
        shelf, _ = a_table(b"a", b"b", b"c")
        self.counted(shelf, 4)
        shelf.order = [COUNT_KEY, *(TABLE + T + key for key in (b"b", b"a", b"c"))]

        found = list(problems(shelf))

        assert "out of order" in found[-1]

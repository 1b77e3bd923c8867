"""Validating a range that was scanned: what is read for it, and what tells that it changed."""

from __future__ import annotations

import pytest

from kvstore.execution.operations import CheckRange
from kvstore.execution.validation import (
    READ_SET_MAX,
    ROWS_FIRST,
    ROWS_MAX,
    digest_of,
    execute_validated,
)
from kvstore.types import Slot

Row = tuple[bytes, bytes]


class CountingTable:
    """A table in memory that notes the limit of each scan."""

    def __init__(self, rows: int) -> None:
        self.rows: list[Row] = [(number.to_bytes(4, "big"), bytes(8) + b"v") for number in range(rows)]
        self.limits: list[int] = []

    def get(self, key: bytes) -> bytes | None:
        return dict(self.rows).get(key)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False, limit: int) -> list[Row]:
        self.limits.append(limit)
        return [row for row in self.rows if start <= row[0] < stop][:limit]


def refuses(table: CountingTable, seen: list[Row]) -> bool:
    check = CheckRange(b"", b"\xff", digest_of([(key, value[:8]) for key, value in seen]))
    return execute_validated((check,), table, Slot(9)).outcome.refused


@pytest.mark.parametrize(
    ("rows", "limits"),
    [(0, [16]), (10, [16]), (15, [16]), (16, [16, 32]), (47, [16, 32]), (48, [16, 32, 64])],
)
def test_a_range_is_validated_by_reading_little_more_than_it_holds(rows: int, limits: list[int]) -> None:
    table = CountingTable(rows)

    assert not refuses(table, table.rows)
    assert table.limits == limits
    assert ROWS_FIRST == 16


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 48, 600])
def test_a_row_that_came_or_went_at_either_end_is_seen(rows: int) -> None:
    table = CountingTable(rows)

    assert refuses(table, [*table.rows, (b"\xfe", bytes(8))])
    if rows:
        assert refuses(table, table.rows[1:])
        assert refuses(table, table.rows[:-1])


def test_a_range_that_grew_beyond_what_a_transaction_may_read_is_not_read_to_its_end() -> None:
    table = CountingTable(3 * READ_SET_MAX)

    assert refuses(table, table.rows[:10])
    assert sum(table.limits) == READ_SET_MAX + 1
    assert max(table.limits) == ROWS_MAX

"""Scans ask only the shards that the prefix can lie on (``placement``)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import kvstore
from kvstore.engine.readers import ReadTransaction

SHARDS = 8


@pytest.fixture
def db() -> Iterator[kvstore.Database]:
    with kvstore.open(":memory:", shards=SHARDS, placement=1) as db:
        with db.batch() as batch:
            for warehouse in range(20):
                for line in range(5):
                    batch.put((warehouse, "line", line), line)
        yield db


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """The tables that scans read."""
    tables: set[bytes] = set()
    scan = ReadTransaction.scan

    def noting(transaction: ReadTransaction, table: bytes, *args: object, **kwargs: object) -> object:
        tables.add(table)
        return scan(transaction, table, *args, **kwargs)  # type: ignore[arg-type]  # as they come

    monkeypatch.setattr(ReadTransaction, "scan", noting)
    return tables


def test_a_scan_of_a_placed_prefix_asks_one_shard(db: kvstore.Database, asked: set[bytes]) -> None:
    assert [value for _, value in db.scan(prefix=(7,))] == [0, 1, 2, 3, 4]
    assert len(asked) == 1


def test_a_count_of_a_placed_prefix_asks_one_shard(db: kvstore.Database, asked: set[bytes]) -> None:
    assert db.count(prefix=(7, "line")) == 5
    assert len(asked) == 1


def test_a_snapshot_and_a_reverse_scan_do_so_too(db: kvstore.Database, asked: set[bytes]) -> None:
    with db.snapshot() as view:
        assert [value for _, value in view.scan(prefix=(7, "line"), reverse=True, limit=2)] == [4, 3]
    assert len(asked) == 1


@pytest.mark.parametrize("bounds", [{}, {"start": (3,)}, {"stop": (4,)}, {"prefix": ()}])
def test_what_may_lie_on_any_shard_is_asked_of_all(
    db: kvstore.Database, asked: set[bytes], bounds: dict[str, kvstore.Key]
) -> None:
    expected = [
        (number, "line", line)
        for number in range(20)
        for line in range(5)
        if (number >= 3 or "start" not in bounds) and (number < 4 or "stop" not in bounds)
    ]
    assert [key for key, _ in db.scan(**bounds)] == expected  # type: ignore[arg-type]  # bounds by name
    assert len(asked) == SHARDS

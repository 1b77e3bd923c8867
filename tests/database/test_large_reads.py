"""Functions that read many records, or from an end of a long range, and have to run again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

import kvstore
from kvstore import Database, Key, Transaction
from tests.support.transactions import Later, run_all

SHARDS, READS_MAX = 3, 10_000
QUEUE: Key = ("queue",)
LENGTH = READS_MAX + 500
"""Number of rows: more than a transaction may read."""


@pytest.fixture
def db() -> Iterator[Database]:
    with kvstore.open(":memory:", shards=SHARDS, durability="none") as opened:
        for first in range(0, LENGTH, 500):
            with opened.batch() as batch:
                for number in range(first, first + 500):
                    batch.put(("queue", number), number)
        yield opened


def pop(transaction: Transaction, reverse: bool) -> int:
    """Move one row from an end of the queue elsewhere."""
    key, number = next(transaction.scan(prefix=QUEUE, reverse=reverse, limit=1))
    transaction.delete(key)
    transaction.put(("popped", number), number)
    assert isinstance(number, int)
    return number


@pytest.mark.parametrize("reverse", [False, True])
class TestALongQueue:
    def test_its_end_is_taken_by_another_meanwhile(self, db: Database, reverse: bool) -> None:
        runs = []

        def body(transaction: Transaction) -> int:
            popped = pop(transaction, reverse)
            runs.append(popped)
            if len(runs) == 1:
                Later(lambda: db.delete(("queue", popped))).result()
            return popped

        first, second = (LENGTH - 1, LENGTH - 2) if reverse else (0, 1)
        assert db.run(body) == second
        assert runs[0] == first
        assert len(runs) < 5

    def test_many_take_from_it_at_once(self, db: Database, reverse: bool) -> None:
        popped: list[int] = []

        def work() -> None:
            take = db.transaction(max_retries=1_000, timeout=None)(pop)
            popped.extend(take(reverse) for _ in range(10))

        run_all([work] * 6)

        expected = range(LENGTH - 60, LENGTH) if reverse else range(60)
        assert sorted(popped) == list(expected)
        assert sorted(value for _, value in db.scan(prefix=("popped",))) == list(expected)
        assert db.count(prefix=QUEUE) == LENGTH - 60


def test_most_of_what_is_allowed_may_be_read_again(db: Database) -> None:
    """The first run conflicts, the second touches a new key, the third reads as much as the first."""
    runs = []

    before = sum(range(6000))

    def body(transaction: Transaction) -> int:
        runs.append(transaction)
        total = sum(int(value) for _, value in transaction.scan(prefix=QUEUE, limit=6000))
        if len(runs) == 1:
            Later(partial(db.add, ("queue", 5))).result()
        if total > before:
            transaction.get("something new")
        transaction.put("total", total)
        return total

    assert db.run(body) == before + 1 == db["total"]
    assert len(runs) == 3


def test_known_keys_are_bounded_too(db: Database) -> None:
    keys: list[Key] = [("queue", number) for number in range(LENGTH)]
    with pytest.raises(kvstore.LimitExceeded, match=str(READS_MAX)) as found:
        db.general(keys, lambda transaction: transaction.get(keys[0]))
    assert found.value.limit == READS_MAX
    assert "k" not in db

    db.general(keys[:READS_MAX], lambda transaction: transaction.put(keys[1], transaction[keys[2]]))
    assert db["queue", 1] == 2

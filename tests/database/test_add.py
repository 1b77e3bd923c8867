"""``add`` is total: for any two numbers it answers or refuses, and the store keeps working (contracts C1)."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvstore
from kvstore import values

HUGE = 10**400
"""Int that no float can hold."""


def the_longest_int() -> int:
    """Return the largest int that can be stored: the next int is one byte longer than a value may be."""
    size = 16 << 20
    while True:
        largest = (1 << (8 * size - 1)) - 1
        try:
            values.encode(largest)
        except kvstore.LimitExceeded:
            size -= 1
        else:
            return largest


@pytest.mark.parametrize("replicas", [1, 3])
class TestNumbersThatDoNotFit:
    def test_adding_a_float_to_an_int_beyond_floats_leaves_the_store_working(self, replicas: int) -> None:
        with kvstore.open(":memory:", replicas=replicas) as db:
            db.put("k", HUGE)

            with pytest.raises((kvstore.UsageError, kvstore.ProcedureFailed, kvstore.OutcomeUnknown)):
                db.add("k", 0.5)

            db.put("other", 1)
            assert db["k"] == HUGE

    def test_an_int_that_grows_beyond_the_value_limit_leaves_the_store_working(self, replicas: int) -> None:
        with kvstore.open(":memory:", replicas=replicas) as db:
            db.put("k", the_longest_int())

            with pytest.raises((kvstore.UsageError, kvstore.ProcedureFailed, kvstore.OutcomeUnknown)):
                db.add("k", 1)

            db.put("other", 1)

    def test_an_amount_beyond_floats_is_added_like_any_other_int(self, replicas: int) -> None:
        with kvstore.open(":memory:", replicas=replicas) as db:
            assert db.add("k", HUGE) == HUGE
            assert db.add("k", 1) == HUGE + 1

    def test_floats_do_not_add_up_to_infinity(self, replicas: int) -> None:
        with kvstore.open(":memory:", replicas=replicas) as db:
            db.put("k", 1e308)

            with pytest.raises((kvstore.UsageError, kvstore.ProcedureFailed)):
                db.add("k", 1e308)

            assert db["k"] == 1e308


def test_a_store_of_three_replicas_in_which_an_add_overflowed_opens_again(tmp_path: Path) -> None:
    db = kvstore.open(tmp_path / "store", replicas=3)
    db.put("k", HUGE)
    with pytest.raises(kvstore.Error):
        db.add("k", 0.5)
    db.close()

    with kvstore.open(tmp_path / "store") as db:
        assert db.verify()["ok"]
        db.put("other", 1)

"""Transaction objects: reads of one moment under their own writes, and savepoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import kvstore
from kvstore import Database, Key

ROWS: Key = ("row",)


def row(number: int) -> tuple[str, int]:
    return ("row", number)


@pytest.fixture
def db() -> Iterator[Database]:
    with kvstore.open(":memory:", shards=3) as opened:
        yield opened


@pytest.fixture
def filled(db: Database) -> Database:
    """Return a store with rows 0, 2, 4, 6 and 8, each with its number as value, and other keys."""
    with db.batch() as batch:
        for number in range(0, 10, 2):
            batch.put(row(number), number)
        batch.put(("rowing",), "not a row")
        batch.put("row", "nor this")
    return db


class TestReading:
    def test_a_value_or_the_default(self, db: Database) -> None:
        db.put("k", None)
        with db.begin() as transaction:
            assert transaction["k"] is None
            assert transaction.get("k", "default") is None
            assert "k" in transaction
            assert transaction.get("missing") is None
            assert transaction.get("missing", 5) == 5
            assert "missing" not in transaction
            with pytest.raises(kvstore.NotFound) as found:
                transaction["missing"]
            assert found.value.key == "missing"
            assert transaction.get_many(["missing", "k"], 0) == [0, None]

    def test_the_moment_is_that_of_the_first_read(self, db: Database) -> None:
        transaction = db.begin()
        transaction.put("mine", 1)
        db.put("k", "before")
        assert transaction["k"] == "before"
        db.put("k", "after")
        db.put("new", 1)
        assert transaction["k"] == "before"
        assert "new" not in transaction

    def test_each_read_is_a_copy(self, db: Database) -> None:
        db.put("k", [1])
        transaction = db.begin()
        transaction.put("own", [2])
        transaction["k"].append("spoilt")
        transaction["own"].append("spoilt")

        assert transaction.get_many(["k", "own"]) == [[1], [2]]

    def test_what_is_put_is_taken_as_it_is_then(self, db: Database) -> None:
        value = [1]
        with db.begin() as transaction:
            transaction.put("k", value)
            value.append(2)

        assert db["k"] == [1]

    def test_it_is_no_mapping(self, db: Database) -> None:
        with db.begin() as transaction:
            assert bool(transaction)
            with pytest.raises(TypeError):
                iter(transaction)  # type: ignore[call-overload]
            with pytest.raises(TypeError):
                len(transaction)  # type: ignore[arg-type]


class TestItsOwnWrites:
    def test_are_read_back(self, db: Database) -> None:
        db.put("there", "old")
        with db.begin() as transaction:
            transaction["new"] = 1
            transaction.put("there", "new")
            assert (transaction["new"], transaction["there"]) == (1, "new")
            del transaction["there"]
            assert "there" not in transaction
            with pytest.raises(kvstore.NotFound):
                transaction["there"]
            with pytest.raises(kvstore.NotFound):
                del transaction["there"]
            transaction.delete("there")
            transaction.put("there", "again")
            assert transaction.get("there") == "again"
            assert db.get_many(["new", "there"]) == [None, "old"]

        assert db.get_many(["new", "there"]) == [1, "again"]

    def test_a_delete_of_something_missing_is_fine_and_a_del_is_not(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.delete("missing")
            with pytest.raises(kvstore.NotFound):
                del transaction["missing"]

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("limit", [None, 0, 1, 2, 3, 5, 100])
    def test_are_in_a_scan(self, filled: Database, reverse: bool, limit: int | None) -> None:
        transaction = filled.begin()
        transaction.delete(row(0))
        transaction.put(row(1), "new")
        transaction.put(row(2), "changed")
        transaction.add(row(4), 100)
        transaction.add(row(5), 7)
        transaction.delete(row(8))
        transaction.put(row(9), "last")
        transaction.put(("rows",), "beside them")
        expected = [
            (row(1), "new"),
            (row(2), "changed"),
            (row(4), 104),
            (row(5), 7),
            (row(6), 6),
            (row(9), "last"),
        ]

        found = list(transaction.scan(prefix=ROWS, reverse=reverse, limit=limit))
        assert found == (expected[::-1] if reverse else expected)[:limit]
        assert transaction.count(prefix=ROWS) == len(expected)
        transaction.commit()
        assert list(filled.scan(prefix=ROWS)) == expected

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize(
        ("start", "stop"), [(None, None), (2, 6), (1, 7), (6, 2), (3, 3), (2, 3), (None, 5), (5, None)]
    )
    def test_are_within_the_bounds(
        self, filled: Database, start: int | None, stop: int | None, reverse: bool
    ) -> None:
        bounds = {"start": start, "stop": stop}
        limits = {name: row(number) for name, number in bounds.items() if number is not None}
        transaction = filled.begin()
        for number in (1, 2, 3, 5, 7):
            transaction.put(row(number), "own")
        transaction.delete(row(6))
        model = dict.fromkeys(range(0, 10, 2), "stored") | dict.fromkeys((1, 2, 3, 5, 7), "own")
        del model[6]
        low, high = start if start is not None else 0, stop if stop is not None else 10
        expected = [row(number) for number in sorted(model, reverse=reverse) if low <= number < high]

        found = list(transaction.scan(prefix=ROWS, reverse=reverse, **limits))  # type: ignore[arg-type]
        assert [key for key, _ in found] == expected
        assert all(value == ("own" if model[key[1]] == "own" else key[1]) for key, value in found)  # type: ignore[index]
        assert transaction.count(prefix=ROWS, **limits) == len(expected)  # type: ignore[arg-type]

    def test_a_scan_has_those_made_before_it(self, filled: Database) -> None:
        transaction = filled.begin()
        found = transaction.scan(prefix=ROWS)
        assert next(found) == (row(0), 0)
        transaction.put(row(1), "late")
        transaction.delete(row(2))

        assert [key for key, _ in found] == [row(2), row(4), row(6), row(8)]
        assert transaction.count(prefix=ROWS) == 5

    def test_a_string_is_no_prefix_of_tuples(self, filled: Database) -> None:
        transaction = filled.begin()
        transaction.put("rowboat", 1)
        transaction.put(("row", "x"), 1)

        assert [key for key, _ in transaction.scan(prefix="row")] == ["row", "rowboat"]

    def test_bad_arguments_are_refused_at_once(self, db: Database) -> None:
        transaction = db.begin()
        calls: list[tuple[type[Exception], Callable[[], object]]] = [
            (kvstore.KeyInvalid, lambda: transaction.get(5)),  # type: ignore[arg-type]
            (kvstore.KeyInvalid, lambda: transaction.put("", 1)),
            (kvstore.ValueNotSupported, lambda: transaction.put("k", {1, 2})),
            (kvstore.LimitExceeded, lambda: transaction.scan(limit=-1)),
            (kvstore.KeyInvalid, lambda: transaction.scan(prefix=5)),  # type: ignore[arg-type]
            (kvstore.ValueNotSupported, lambda: transaction.add("k", "1")),  # type: ignore[arg-type]
            (kvstore.ValueNotSupported, lambda: transaction.add("k", True)),
            (kvstore.LimitExceeded, lambda: transaction.add("k", float("inf"))),
        ]
        for error, call in calls:
            with pytest.raises(error):
                call()
        transaction.commit()
        assert transaction.route.path == "read-only"


class TestAdding:
    def test_is_blind_and_can_be_read(self, db: Database) -> None:
        db.put("n", 5)
        with db.begin() as transaction:
            assert transaction.add("n") is None
            transaction.add("n", 2.5)
            assert transaction["n"] == 8.5
            transaction.add("new", -3)
            assert transaction.get("new") == -3
            assert "new" in transaction

        assert db.get_many(["n", "new"]) == [8.5, -3]

    def test_others_that_add_do_not_conflict(self, db: Database) -> None:
        one, two = db.begin(), db.begin()
        one.add("n", 1)
        two.add("n", 10)
        db.add("n", 100)
        two.commit()
        one.commit()

        assert db["n"] == 111

    def test_one_that_was_read_does(self, db: Database) -> None:
        transaction = db.begin()
        transaction.add("n", 1)
        assert transaction["n"] == 1
        db.add("n", 100)
        with pytest.raises(kvstore.Conflict):
            transaction.commit()

        assert db["n"] == 100

    def test_over_its_own_writes(self, db: Database) -> None:
        db.put("n", "text")
        with db.begin() as transaction:
            transaction.put("n", 1)
            transaction.add("n", 2)
            transaction.delete("m")
            transaction.add("m", 4)
            transaction.add("k", 1)
            transaction.put("k", 7)
            assert transaction.get_many(["n", "m", "k"]) == [3, 4, 7]

        assert db.get_many(["n", "m", "k"]) == [3, 4, 7]

    @pytest.mark.parametrize("amount", [1, 0.5])
    def test_thousands_of_times(self, db: Database, amount: float) -> None:
        db.put("n", 1)
        with db.begin() as transaction:
            for number in range(5000):
                transaction.add("n", amount)
                if number % 2:
                    assert transaction["n"] == 1 + amount * (number + 1)

        assert db["n"] == 1 + amount * 5000

    def test_to_what_is_no_number(self, db: Database) -> None:
        db.put("text", "five")
        with db.begin() as transaction:
            with pytest.raises(kvstore.TypeClash) as found:
                transaction.add("text")
            assert found.value.key == "text"
            transaction.put("own", [])
            with pytest.raises(kvstore.TypeClash):
                transaction.add("own")
            transaction.put("flag", True)
            with pytest.raises(kvstore.TypeClash):
                transaction.add("flag")
            transaction.put("went on", 1)

        assert db.get_many(["text", "own", "went on"]) == ["five", [], 1]

    def test_the_sum_is_bounded(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.put("n", 1e308)
            with pytest.raises(kvstore.LimitExceeded):
                transaction.add("n", 1e308)
            transaction.add("m", 1e308)
            with pytest.raises(kvstore.LimitExceeded):
                transaction.add("m", 1e308)

        assert db.get_many(["n", "m"]) == [1e308, 1e308]


class TestUpdating:
    def test_sets_what_the_function_makes_of_it(self, db: Database) -> None:
        db.put("k", [1])
        with db.begin() as transaction:
            assert transaction.update("k", lambda value: [*value, 2]) == [1, 2]
            assert transaction.update("k", lambda value: [*value, 3]) == [1, 2, 3]
            assert transaction.update("new", lambda value: value + 1, default=0) == 1
            assert transaction.update("none", lambda value: value) is None

        assert db.get_many(["k", "new"]) == [[1, 2, 3], 1]
        assert "none" in db

    def test_is_a_read(self, db: Database) -> None:
        transaction = db.begin()
        transaction.update("k", lambda value: 1)
        db.put("k", 5)
        with pytest.raises(kvstore.Conflict):
            transaction.commit()

    def test_a_function_that_raises_changes_nothing(self, db: Database) -> None:
        db.put("k", 1)
        with db.begin() as transaction:
            with pytest.raises(ZeroDivisionError):
                transaction.update("k", lambda value: value / 0)
            assert transaction["k"] == 1

        assert db["k"] == 1


class TestSavepoints:
    def test_undo_what_was_written_since(self, db: Database) -> None:
        db.put("there", "old")
        with db.begin() as transaction:
            transaction.put("a", 1)
            transaction.add("n", 1)
            savepoint = transaction.savepoint()
            transaction.put("a", 2)
            transaction.put("b", 2)
            transaction.add("n", 10)
            transaction.delete("there")
            savepoint.rollback()
            assert transaction.get_many(["a", "b", "n", "there"]) == [1, None, 1, "old"]
            transaction.put("c", 3)

        assert db.get_many(["a", "b", "c", "n", "there"]) == [1, None, 3, 1, "old"]

    def test_may_be_gone_back_to_again(self, db: Database) -> None:
        with db.begin() as transaction:
            savepoint = transaction.savepoint()
            for attempt in range(3):
                transaction.put(("k", attempt), attempt)
                savepoint.rollback()
            transaction.put("k", 1)

        assert list(db.scan()) == [("k", 1)]

    def test_within_each_other(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.put("a", 1)
            outer = transaction.savepoint()
            transaction.put("b", 1)
            inner = transaction.savepoint()
            transaction.put("c", 1)
            inner.rollback()
            assert transaction.get_many(["a", "b", "c"]) == [1, 1, None]
            transaction.put("d", 1)
            outer.rollback()
            assert transaction.get_many(["a", "b", "c", "d"]) == [1, None, None, None]

        assert list(db.scan()) == [("a", 1)]

    def test_as_a_block_that_raises(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.put("kept", 1)
            with pytest.raises(InterruptedError), transaction.savepoint():
                transaction.put("lost", 1)
                with transaction.savepoint():
                    transaction.put("lost too", 1)
                raise InterruptedError
            with transaction.savepoint():
                transaction.put("after", 1)

        assert dict(db.scan()) == {"kept": 1, "after": 1}

    def test_what_was_read_stays_read(self, db: Database) -> None:
        transaction = db.begin()
        with pytest.raises(InterruptedError), transaction.savepoint():
            assert "k" not in transaction
            raise InterruptedError
        transaction.put("m", 1)
        db.put("k", 1)
        with pytest.raises(kvstore.Conflict):
            transaction.commit()

    def test_after_the_end(self, db: Database) -> None:
        transaction = db.begin()
        savepoint = transaction.savepoint()
        transaction.rollback()
        with pytest.raises(kvstore.Finished):
            savepoint.rollback()
        transaction = db.begin()
        with transaction.savepoint():
            transaction.commit()
        with pytest.raises(InterruptedError), db.begin() as transaction, transaction.savepoint():
            transaction.commit()
            raise InterruptedError

    def test_scanning_goes_back_too(self, filled: Database) -> None:
        transaction = filled.begin()
        savepoint = transaction.savepoint()
        transaction.put(row(1), 1)
        transaction.delete(row(2))
        savepoint.rollback()

        assert [key for key, _ in transaction.scan(prefix=ROWS)] == [
            row(number) for number in range(0, 10, 2)
        ]


def test_changes_are_what_it_would_change(db: Database) -> None:
    db.put("a", 1)
    db.put("n", 1)
    db.put("gone", 1)
    with db.begin() as transaction:
        transaction.put("a", 2)
        transaction.add("n", 5)
        transaction.delete("gone")
        transaction.delete("missing")
        transaction.put("new", [])
        expected: list[object] = [
            ("a", 1, 2),
            ("gone", 1, None),
            ("missing", None, None),
            ("n", 1, 6),
            ("new", None, []),
        ]
        assert transaction.changes() == expected
        assert transaction.route.path == "independent"
        db.put("a", "changed")

    assert db.get_many(["a", "n", "gone", "new"]) == [2, 6, None, []]

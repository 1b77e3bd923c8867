"""The ends of transactions, their routes, their conflicts, and their bounds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial

import pytest

import kvstore
from kvstore import Database, Key, Route, Transaction
from tests.support.transactions import Later, key_on

SHARDS = 3
ROWS: Key = ("row",)


def row(number: int) -> tuple[str, int]:
    return ("row", number)


@pytest.fixture
def db() -> Iterator[Database]:
    with kvstore.open(":memory:", shards=SHARDS) as opened:
        yield opened


@pytest.fixture
def filled(db: Database) -> Database:
    """Return a store with rows 0, 2, 4, 6 and 8, each with its number as value."""
    with db.batch() as batch:
        for number in range(0, 10, 2):
            batch.put(row(number), number)
    return db


USES: dict[str, Callable[[Transaction], object]] = {
    "get": lambda transaction: transaction.get("k"),
    "[]": lambda transaction: transaction["k"],
    "in": lambda transaction: "k" in transaction,
    "get_many": lambda transaction: transaction.get_many(["k"]),
    "scan": lambda transaction: transaction.scan(),
    "count": lambda transaction: transaction.count(),
    "put": lambda transaction: transaction.put("k", 1),
    "[]=": lambda transaction: transaction.__setitem__("k", 1),
    "delete": lambda transaction: transaction.delete("k"),
    "del": lambda transaction: transaction.__delitem__("k"),
    "add": lambda transaction: transaction.add("k"),
    "update": lambda transaction: transaction.update("k", lambda value: value),
    "changes": lambda transaction: transaction.changes(),
    "savepoint": lambda transaction: transaction.savepoint(),
    "commit": lambda transaction: transaction.commit(),
    "rollback": lambda transaction: transaction.rollback(),
}


def leave_by_an_error(transaction: Transaction) -> None:
    with pytest.raises(InterruptedError), transaction:
        raise InterruptedError


def be_refused(transaction: Transaction) -> None:
    with pytest.raises(kvstore.Conflict):
        transaction.commit()


ENDS: dict[str, Callable[[Transaction], None]] = {
    "commit": lambda transaction: transaction.commit(),
    "rollback": lambda transaction: transaction.rollback(),
    "with": lambda transaction: transaction.__exit__(None, None, None),
    "an exception": leave_by_an_error,
    "Conflict": be_refused,
}


class TestTheEnd:
    @pytest.mark.parametrize("end", ENDS)
    def test_nothing_can_be_done_after_it_but_look_at_the_route(self, db: Database, end: str) -> None:
        transaction = db.begin()
        transaction.put(key_on(db, 2, "k"), transaction.get(key_on(db, 1, "k"), 0))
        if end == "Conflict":
            db.put(key_on(db, 1, "k"), 1)
        ENDS[end](transaction)

        for name, use in USES.items():
            with pytest.raises(kvstore.Finished):
                use(transaction)
                pytest.fail(name)
        assert transaction.route == db.explain(transaction) == Route("general", (1, 2), 2)
        assert not transaction.is_open

    @pytest.mark.parametrize("end", ENDS)
    def test_nothing_is_held_after_it(self, filled: Database, end: str) -> None:
        transaction = filled.begin()
        transaction.put("k", transaction.count(prefix=ROWS))
        if end == "Conflict":
            filled.put(row(2), "changed")
        ENDS[end](transaction)

        assert filled.status()["snapshots"]["open"] == 0

    def test_nothing_is_held_by_one_that_was_forgotten(self, filled: Database) -> None:
        transaction = filled.begin()
        found = transaction.scan(prefix=ROWS)
        next(found)
        del transaction, found
        gc.collect()

        assert filled.status()["snapshots"]["open"] == 0

    @pytest.mark.parametrize(("rows", "walked"), [(0, 0), (1, 0), (200, 0), (200, 1), (200, 100)])
    def test_a_scan_ends_with_it(self, db: Database, rows: int, walked: int) -> None:
        with db.batch() as batch:
            for number in range(rows):
                batch.put(row(number), number)
        transaction = db.begin()
        found = transaction.scan(prefix=ROWS)
        assert [next(found)[1] for _ in range(walked)] == list(range(walked))
        transaction.rollback()

        with pytest.raises(kvstore.Finished):
            list(found)
        assert db.status()["snapshots"]["open"] == 0

    @pytest.mark.parametrize("end", ENDS)
    def test_nothing_happened_unless_it_was_committed(self, filled: Database, end: str) -> None:
        transaction = filled.begin()
        transaction.update(row(2), lambda value: value + 1)
        transaction.put("new", 1)
        if end == "Conflict":
            filled.put(row(2), 2)
        ENDS[end](transaction)

        assert filled.get_many([row(2), "new"]) == ([3, 1] if end in {"commit", "with"} else [2, None])

    def test_a_block_that_was_ended_within_is_fine(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.put("a", 1)
            transaction.commit()
        with db.begin() as transaction:
            transaction.put("b", 1)
            transaction.rollback()

        assert list(db.scan()) == [("a", 1)]

    def test_a_block_raises_what_its_commit_does(self, db: Database) -> None:
        with pytest.raises(kvstore.Conflict), db.begin() as transaction:
            transaction.put("a", transaction.get("k"))
            db.put("k", 1)

        assert "a" not in db

    def test_an_exception_of_the_store_itself_is_passed_on_too(self, db: Database) -> None:
        with pytest.raises(kvstore.Conflict) as found, db.begin() as transaction:
            transaction.put("a", 1)
            raise kvstore.Conflict("mine")

        assert str(found.value) == "mine"
        assert "a" not in db

    def test_the_store_is_closed(self, filled: Database) -> None:
        unread, read, written = filled.begin(), filled.begin(), filled.begin()
        read.get("k")
        written.put("k", 1)
        filled.close()
        for transaction, use in ((unread, "get"), (read, "get"), (read, "count"), (written, "commit")):
            with pytest.raises(kvstore.Closed):
                USES[use](transaction)
        with pytest.raises(kvstore.Closed):
            filled.begin()
        read.rollback()


class TestManyAtOnce:
    def test_on_one_thread_with_the_store_beside_them(self, db: Database) -> None:
        transactions = [db.begin() for _ in range(50)]
        for number, transaction in enumerate(transactions):
            assert transaction.get(("n", number)) is None
            transaction.put(("n", number), number)
            db.put("beside", number)
            assert db.count() == 1
        for number, transaction in enumerate(transactions):
            transaction.commit()
            assert db["n", number] == number

        assert db.count() == 51

    def test_each_has_its_own_moment(self, db: Database) -> None:
        transactions = []
        for number in range(20):
            db.put("k", number)
            transactions.append(db.begin())
            assert transactions[-1]["k"] == number
        for number, transaction in enumerate(transactions):
            assert transaction["k"] == number
            transaction.rollback()

    def test_one_may_be_handed_to_another_thread(self, db: Database) -> None:
        transaction = db.begin()
        Later(lambda: transaction.put("k", 1)).result()
        Later(transaction.commit).result()

        assert db["k"] == 1


class TestRoutes:
    """The route of a transaction, by the keys it has read and written so far."""

    def test_of_nothing(self, db: Database) -> None:
        with db.begin() as transaction:
            assert transaction.route == Route("read-only", (), 0)

    def test_of_reads(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.get(key_on(db, 1, "k"))
            assert transaction.route == db.explain(transaction) == Route("read-only", (1,), 0)
            key_on(db, 2, "k") in transaction  # noqa: B015
            assert transaction.route == Route("read-only", (1, 2), 0)
            transaction.count()
            assert transaction.route == Route("read-only", (0, 1, 2), 0)

    def test_of_writes(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.put(key_on(db, 1, "k"), 1)
            assert transaction.route == db.explain(transaction) == Route("independent", (1,), 1)
            transaction.add(key_on(db, 0, "k"), 1)
            transaction.delete(key_on(db, 2, "k"))
            assert transaction.route == Route("independent", (0, 1, 2), 1)

    def test_of_reads_of_its_own_writes(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.put(key_on(db, 1, "k"), 1)
            transaction[key_on(db, 1, "k")]
            assert transaction.route.path == "independent"
            transaction.add(key_on(db, 2, "k"), 1)
            assert transaction.route.path == "independent"
            transaction[key_on(db, 2, "k")]
            assert transaction.route == Route("general", (1, 2), 2)

    def test_of_both_on_one_shard(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.put(key_on(db, 1, "a"), transaction.get(key_on(db, 1, "k")))
            assert transaction.route == db.explain(transaction) == Route("one-shard", (1,), 1)

    def test_of_both_on_several(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.put(key_on(db, 2, "a"), transaction.get(key_on(db, 0, "k")))
            assert transaction.route == db.explain(transaction) == Route("general", (0, 2), 2)

    def test_of_a_range_that_is_placed_together(self) -> None:
        with kvstore.open(":memory:", shards=SHARDS, placement=1) as db, db.begin() as transaction:
            transaction.count(prefix=("bank", "eu"))
            shards = transaction.route.shards
            assert len(shards) == 1
            transaction.put(("bank", "us", 1), 1)
            assert transaction.route == Route("one-shard", shards, 1)
            transaction.count()
            assert transaction.route == Route("general", (0, 1, 2), 2)

    @pytest.mark.parametrize(
        ("reads", "writes", "path", "rounds"),
        [((), (), "read-only", 0), ((0, 1), (), "read-only", 0), ((), (0,), "independent", 1),
         ((), (0, 1, 2), "independent", 1), ((1,), (1,), "one-shard", 1), ((0,), (1,), "general", 2),
         ((0, 1), (0, 1), "general", 2)],
    )  # fmt: skip
    def test_each_path_commits(
        self, db: Database, reads: tuple[int, ...], writes: tuple[int, ...], path: str, rounds: int
    ) -> None:
        for shard in range(SHARDS):
            db.put(key_on(db, shard, "in"), shard)
        rounds_before = committed(db)
        with db.begin() as transaction:
            total = sum(transaction[key_on(db, shard, "in")] for shard in reads)
            for shard in writes:
                transaction.put(key_on(db, shard, "out"), total)
        assert tuple(transaction.route) == (path, tuple(sorted({*reads, *writes})), rounds)
        for shard in range(SHARDS):
            assert db.get(key_on(db, shard, "out")) == (sum(reads) if shard in writes else None)
        slots = [after - before for before, after in zip(rounds_before, committed(db), strict=True)]
        assert slots == [rounds if shard in transaction.route.shards else 0 for shard in range(SHARDS)]


def committed(db: Database) -> list[int]:
    """Return the number of slots in each shard's log."""
    cursor = db.cursor()
    return [int(cursor[shard]) for shard in range(SHARDS)]


class TestConflicts:
    @pytest.mark.parametrize("write_on", [0, 1], ids=["one-shard", "general"])
    def test_name_the_key(self, db: Database, write_on: int) -> None:
        read = [key_on(db, 0, name) for name in "abc"]
        transaction = db.begin()
        transaction.get_many(read)
        transaction.put(key_on(db, write_on, "out"), 1)
        db.put(read[1], "changed")
        with pytest.raises(kvstore.Conflict) as found:
            transaction.commit()

        assert (found.value.key, found.value.attempts) == (read[1], 1)
        assert repr(read[1]) in str(found.value)
        assert db.get(key_on(db, write_on, "out")) is None

    @pytest.mark.parametrize("change", [1, 2, 4, 7])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_name_the_key_in_a_range(self, filled: Database, change: int, reverse: bool) -> None:
        transaction = filled.begin()
        list(transaction.scan(prefix=ROWS, reverse=reverse))
        transaction.put("out", 1)
        filled.put(row(change), "changed")
        with pytest.raises(kvstore.Conflict) as found:
            transaction.commit()

        assert (found.value.key, found.value.attempts) == (row(change), 1)

    def test_name_the_one_in_the_second_of_two_ranges_that_start_alike(self, filled: Database) -> None:
        transaction = filled.begin()
        assert len(list(transaction.scan(prefix=ROWS, limit=2))) == 2
        transaction.put("out", transaction.count(prefix=ROWS))
        filled.put(row(7), "changed")
        with pytest.raises(kvstore.Conflict) as found:
            transaction.commit()

        assert found.value.key == row(7)

    def test_name_the_one_in_the_range_and_not_the_key_it_starts_with(self, filled: Database) -> None:
        transaction = filled.begin()
        transaction.get(row(2))
        transaction.put("out", transaction.count(start=row(2), stop=row(8)))
        filled.put(row(6), "changed")
        with pytest.raises(kvstore.Conflict) as found:
            transaction.commit()

        assert found.value.key == row(6)

    def test_a_transaction_that_reads_only_has_none(self, filled: Database) -> None:
        transaction = filled.begin()
        before = transaction.count(prefix=ROWS)
        filled.put(row(1), 1)
        assert transaction.count(prefix=ROWS) == before
        transaction.commit()

    def test_nor_has_one_that_writes_only(self, db: Database) -> None:
        one, two = db.begin(), db.begin()
        one.put("k", 1)
        two.put("k", 2)
        two.commit()
        one.commit()

        assert db["k"] == 1


READS_MAX = 10_000


@pytest.fixture(scope="module")
def large() -> Iterator[Database]:
    """Yield a store with more rows than a transaction may read. Tests must not change it."""
    with kvstore.open(":memory:", shards=SHARDS) as opened:
        for first in range(0, READS_MAX + 500, 500):
            with opened.batch() as batch:
                for number in range(first, first + 500):
                    batch.put(row(number), number)
        yield opened


class TestLimits:
    def refused(self, call: Callable[[], object]) -> None:
        with pytest.raises(kvstore.LimitExceeded, match=str(READS_MAX)) as found:
            call()
        assert found.value.limit == READS_MAX

    def test_of_a_scan(self, large: Database) -> None:
        transaction = large.begin()
        assert sum(1 for _ in transaction.scan(prefix=ROWS, limit=READS_MAX)) == READS_MAX
        self.refused(lambda: transaction.get("one more"))
        transaction.rollback()
        self.refused(partial(large.run, Transaction.count))
        with large.begin() as transaction:
            found = transaction.scan(prefix=ROWS, reverse=True)
            self.refused(lambda: sum(1 for _ in found))

    def test_of_keys(self, large: Database) -> None:
        with large.begin() as transaction:
            for number in range(READS_MAX):
                transaction.get(("missing", number % 5000, number))
            transaction.get(("missing", 0, 0))  # a repeated read counts once
            self.refused(lambda: transaction.get("one more"))

    def test_all_that_is_allowed_can_be_checked(self, large: Database) -> None:
        with large.begin() as transaction:
            total = sum(value for _, value in transaction.scan(prefix=ROWS, limit=READS_MAX))
            transaction.put("total", total)
        assert transaction.route.path == "general"

        assert large["total"] == sum(range(READS_MAX))

    def test_of_what_is_written(self, db: Database) -> None:
        part = bytes(15 << 20)
        transaction = db.begin()
        savepoint = transaction.savepoint()
        for number in range(4):
            transaction.put(("k", number), part)
        with pytest.raises(kvstore.LimitExceeded) as found:
            transaction.put(("k", 4), part)
        assert (found.value.limit, found.value.key) == (64 << 20, ("k", 4))
        transaction.put(("k", 3), 1)
        transaction.put(("k", 4), part)
        savepoint.rollback()
        for number in range(4):
            transaction.put(("j", number), part)
        transaction.rollback()

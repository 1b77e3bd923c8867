"""How often a function runs: after changes of its read set, under locks, and until its timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kvstore
from kvstore import Database, Key, Route, Transaction
from tests.support.transactions import (
    PATIENCE_S,
    Later,
    Stalled,
    key_on,
    unresolved,
    until_it_waits_or_is_over,
)

SHARDS = 3
X, Y = "left", "right"
Body = Callable[[Transaction], Any]


@pytest.fixture
def db() -> Iterator[Database]:
    with kvstore.open(":memory:", shards=SHARDS) as opened:
        assert opened.explain(X).shards != opened.explain(Y).shards
        opened.put(X, 10)
        opened.put(Y, 20)
        yield opened


@pytest.fixture
def twins(db: Database) -> tuple[Key, Key]:
    """Return two keys on two shards whose values are equal at every moment."""
    return key_on(db, 0, "twin"), key_on(db, 1, "twin")


def move(transaction: Transaction, amount: int = 1) -> int:
    """Move an amount from left to right; a general transaction, because they are on two shards."""
    left: int = transaction[X] - amount
    transaction.put(X, left)
    transaction.put(Y, transaction[Y] + amount)
    return left


class TestChangedSets:
    """Changes between a function's reads and its commit."""

    def interfere(self, db: Database, times: int, path: str) -> tuple[Body, list[Transaction]]:
        """Return a body whose key another caller changes during each of its first runs."""
        runs: list[Transaction] = []
        (shard,) = db.explain(X).shards
        out = key_on(db, shard if path == "one-shard" else (shard + 1) % SHARDS, "out")

        def body(transaction: Transaction) -> int:
            runs.append(transaction)
            value: int = transaction[X]
            if len(runs) <= times and not locked(transaction):
                Later(lambda: db.add(X)).result()
            transaction.put(out, value)
            return value

        return body, runs

    def test_a_changed_value_is_read_again_under_locks(self, db: Database) -> None:
        body, runs = self.interfere(db, 10, "general")

        assert db.transaction(max_retries=0)(body)() == 11
        assert len(runs) == 2
        assert [transaction.route.path for transaction in runs] == ["general", "general"]

    def test_on_one_shard_it_is_tried_three_times_before(self, db: Database) -> None:
        body, runs = self.interfere(db, 10, "one-shard")

        assert db.run(body) == 14
        assert len(runs) == 5

    def test_no_more_often_than_max_retries(self, db: Database) -> None:
        for most in (0, 1, 2):
            body, runs = self.interfere(db, 10, "one-shard")
            with pytest.raises(kvstore.Conflict) as found:
                db.transaction(max_retries=most)(body)()
            assert len(runs) == most + 1
            assert (found.value.key, found.value.attempts) == (X, most + 1)
            assert "body" in str(found.value)

    def test_a_set_that_changes_each_time_is_given_up(self, db: Database) -> None:
        """The function writes another key in each run."""
        runs = []

        def body(transaction: Transaction) -> None:
            runs.append(transaction)
            value = transaction[X]
            if not locked(transaction):
                Later(lambda: db.add(X)).result()
            transaction.put(("out", len(runs)), value)

        with pytest.raises(kvstore.Conflict) as found:
            db.transaction(max_retries=4)(body)()

        assert (found.value.key, found.value.attempts) == (X, 5)
        assert db.count(prefix=("out",)) == 0

    def test_conflict_of_its_own_is_given_up_too(self, db: Database) -> None:
        runs = []

        def body(transaction: Transaction) -> None:
            runs.append(move(transaction))
            raise kvstore.Conflict("mine", key="k")

        with pytest.raises(kvstore.Conflict) as found:
            db.transaction(max_retries=4)(body)()

        assert (found.value.key, found.value.attempts, len(runs)) == ("k", 5, 5)
        assert "mine" in str(found.value.__cause__)
        assert db.get_many([X, Y]) == [10, 20]

    def test_what_follows_from_a_changed_value_is_read_in_the_next_attempt(self, db: Database) -> None:
        """A pointer changes to a key that was not read before, and so is not locked."""
        first, second = key_on(db, 0, "target"), key_on(db, 1, "target")
        db.put(first, "first")
        db.put(second, "second")
        db.put("pointer", first)
        runs: list[str] = []

        def follow(transaction: Transaction) -> str:
            target = transaction["pointer"]
            runs.append(target)
            if len(runs) == 1:
                Later(lambda: db.put("pointer", second)).result()
            found: str = transaction[target]
            transaction.put(X, found)
            transaction.delete(target)
            return found

        assert db.run(follow) == "second"
        assert runs == [first, second, second]
        assert first in db
        assert second not in db

    def test_what_an_earlier_attempt_touched_stays_locked(self, db: Database) -> None:
        """The pointer alternates between two keys, one per run."""
        left, right = key_on(db, 0, "target"), key_on(db, 1, "target")
        db.put("pointer", left)
        runs: list[str] = []

        def follow(transaction: Transaction) -> None:
            target = transaction["pointer"]
            runs.append(target)
            if not locked(transaction):
                Later(lambda: db.put("pointer", right if target == left else left)).result()
            transaction.put(target, transaction.get(target, 0) + 1)

        db.transaction(max_retries=1)(follow)()
        assert runs == [left, right, right, left]
        assert db.get_many([left, right]) == [1, None]

    def test_who_handles_everything_does_not_commit_what_it_did_not_lock(self, db: Database) -> None:
        db.put("pointer", "first")
        runs = []

        def follow(transaction: Transaction) -> str:
            target: str = transaction["pointer"]
            runs.append(target)
            if len(runs) == 1:
                Later(lambda: db.put("pointer", "second")).result()
            try:
                transaction.put(X, transaction.get(target, 0))
                transaction.put(Y, 0)
                return "done"
            except BaseException:
                return "handled"

        assert db.run(follow) == "done"
        assert runs == ["first", "second", "second"]
        assert db.get_many([X, Y]) == [0, 0]

    def test_of_a_known_read_set_it_runs_once(self, db: Database) -> None:
        runs = []

        def known(transaction: Transaction) -> int:
            runs.append(transaction)
            return move(transaction)

        assert db.general([X, Y], known) == 9
        assert len(runs) == 1
        assert runs[0].route == Route(
            "general", tuple(sorted(db.explain(X).shards + db.explain(Y).shards)), 2
        )

    def test_a_known_read_set_may_be_written_and_may_be_missing(self, db: Database) -> None:
        assert db.general(["a", "b"], lambda transaction: transaction.get("a", "missing")) == "missing"
        db.general(["a", "b", "a"], lambda transaction: transaction.put("b", transaction.get("a", 0) + 1))
        assert db["b"] == 1

    def test_a_key_outside_the_known_set_makes_it_run_again(self, db: Database) -> None:
        runs = []

        def body(transaction: Transaction) -> int:
            runs.append(transaction)
            return move(transaction)

        assert db.general([X], body) == 9
        assert len(runs) > 1
        assert db.get_many([X, Y]) == [9, 21]


def locked(transaction: Transaction) -> bool:
    """Return whether the function runs on locked values; another thread would wait for these locks."""
    return type(transaction.reads).__name__ == "LockedReads"


class TestAddingInALockedRun:
    """Whether the value is a number is decided by the locked value, not by that of the first run."""

    def interfered(self, db: Database, body: Body, change: Callable[[], object]) -> Any:
        """Run the body, with a change between its first run and its commit; return its result."""
        runs = []

        def with_a_change(transaction: Transaction) -> Any:
            runs.append(transaction)
            result = body(transaction)
            if len(runs) == 1:
                Later(change).result()
            return result

        return db.run(with_a_change)

    def change(self, db: Database, **values: Any) -> Callable[[], None]:
        def commit() -> None:
            with db.batch() as batch:
                for key, value in values.items():
                    batch.put(key, value)

        return commit

    def test_to_what_was_scanned(self, db: Database) -> None:
        db.put("scores 1", 1)
        db.put("scores 2", "none yet")

        def add_to_all(transaction: Transaction) -> None:
            for key, value in transaction.scan(prefix="scores"):
                if type(value) is int:
                    transaction.add(key)

        self.interfered(db, add_to_all, self.change(db, **{"scores 2": 5}))
        assert db.get_many(["scores 1", "scores 2"]) == [2, 6]

    def test_to_what_was_not_locked(self, db: Database) -> None:
        db.put("target", "a number")
        db.put("a number", 1)
        db.put("another", "none yet")

        def add_to_target(transaction: Transaction) -> None:
            transaction.add(transaction["target"])
            transaction.put(X, 1)
            transaction.put(Y, 1)

        self.interfered(db, add_to_target, self.change(db, target="another", another=5))
        assert db.get_many(["a number", "another"]) == [1, 6]

    @pytest.mark.parametrize("shard", range(SHARDS))
    def test_to_what_was_locked_to_be_overwritten(self, db: Database, shard: int) -> None:
        """The key may be on a shard whose vote contained values, or on another shard."""
        key = key_on(db, shard, "counter")
        db.put("adding", False)
        db.put(key, "none yet")

        def add_or_put(transaction: Transaction) -> None:
            if transaction["adding"]:
                transaction.add(key)
            else:
                transaction.put(key, 0)
            transaction.put(X, 1)
            transaction.put(Y, 1)

        self.interfered(db, add_or_put, self.change(db, **{"adding": True, key: 5}))
        assert db[key] == 6

    def test_to_what_is_no_number_any_more(self, db: Database) -> None:
        def body(transaction: Transaction) -> None:
            transaction.put(Y, transaction[X])
            transaction.add(X)

        with pytest.raises(kvstore.TypeClash):
            self.interfered(db, body, self.change(db, left="text"))
        assert db.get_many([X, Y]) == ["text", 20]


class TestLockedRuns:
    """The second run, under locks. The function sees no difference, but other callers wait for it."""

    def test_others_wait_for_its_end(self, db: Database, twins: tuple[Key, Key]) -> None:
        stalled = Stalled(db, twins)
        writer = Later(lambda: db.put(twins[0], "after"))
        reader = Later(lambda: db.run(lambda transaction: transaction.put("copy", transaction[twins[1]])))
        db.put("elsewhere", 1)
        assert db.get_many(list(twins)) == [1000, 1000]
        assert not writer.is_over

        assert stalled.go_on() == 1001
        writer.result()
        reader.result()
        assert stalled.runs == 2
        assert db.get_many([*twins, "copy"]) == ["after", 1001, 1001]

    @pytest.mark.parametrize(
        "failure", [ZeroDivisionError("x"), kvstore.Abort("x"), KeyboardInterrupt("x")], ids=repr
    )
    def test_an_error_lets_go_of_the_locks_at_once(
        self, db: Database, twins: tuple[Key, Key], failure: BaseException
    ) -> None:
        stalled = Stalled(db, twins)
        stalled.failure = failure
        writer = Later(lambda: db.transaction(move_twins)(twins))
        with pytest.raises(type(failure)):
            stalled.go_on()
        writer.result()

        assert stalled.runs == 2
        assert db.get_many(list(twins)) == [1001, 1001]

    def test_conflict_runs_it_again(self, db: Database, twins: tuple[Key, Key]) -> None:
        stalled = Stalled(db, twins)
        stalled.failure = kvstore.Conflict("again")

        assert stalled.go_on() == 1001
        assert stalled.runs == 3

    def test_the_lease_ends_it_and_it_runs_again(self, db: Database, twins: tuple[Key, Key]) -> None:
        stalled = Stalled(db, twins)
        stalled.set_twins(2000)  # returns when the lease has expired
        assert not stalled.is_over

        assert stalled.go_on() == 2001
        assert stalled.runs > 2
        for transaction in stalled.transactions:
            with pytest.raises(kvstore.Finished):
                transaction.count()
        assert db.get_many(list(twins)) == [2001, 2001]

    def test_or_not_if_there_are_no_more_retries(self, db: Database, twins: tuple[Key, Key]) -> None:
        stalled = Stalled(db, twins, max_retries=0)
        stalled.set_twins(2000)
        with pytest.raises(kvstore.Conflict) as found:
            stalled.go_on()

        assert (found.value.key, found.value.attempts) == (twins[0], 1)
        assert db.get_many(list(twins)) == [2000, 2000]

    def test_or_no_more_time(self, db: Database, twins: tuple[Key, Key]) -> None:
        stalled = Stalled(db, twins, timeout=0.9)  # less than a lease
        stalled.set_twins(2000)
        with pytest.raises(kvstore.TimedOut):
            stalled.go_on()

        assert db.get_many(list(twins)) == [2000, 2000]

    def test_the_store_is_closed_meanwhile(self, db: Database, twins: tuple[Key, Key]) -> None:
        stalled = Stalled(db, twins)
        waiting = [
            Later(lambda: db.put(twins[0], "after")),
            Later(lambda: db.transaction(move_twins)(twins)),
            Later(lambda: db.begin().commit()),
        ]
        Later(db.close).result()
        for later in waiting:
            try:
                later.result()
            except (kvstore.Closed, kvstore.Conflict):
                pass
        with pytest.raises(kvstore.Closed):
            stalled.go_on()


class TestLockedRanges:
    """Ranges that a function read are locked, and locked keys block reads of ranges by other callers."""

    ROWS: Key = ("row",)

    def count(self, transaction: Transaction) -> None:
        transaction.put("rows", transaction.count(prefix=self.ROWS))

    def stand_still(
        self, transaction: Transaction, runs: list[Transaction], events: list[threading.Event]
    ) -> None:
        """Count rows; the read set changes during the first run, and the second run is held up."""
        looked, changed, holds, go_on = events
        transaction.get(X)
        self.count(transaction)
        runs.append(transaction)
        if len(runs) == 1:
            looked.set()
            assert changed.wait(PATIENCE_S)
        elif len(runs) == 2:
            holds.set()
            assert go_on.wait(PATIENCE_S)

    @pytest.mark.parametrize("by", ["function", "put", "batch"])
    def test_nobody_adds_to_it(self, db: Database, by: str) -> None:
        """A reader must not see a new row together with the count from before it."""
        for number in range(5):
            db.put(("row", number), number)
        looked, changed, holds, go_on = events = [threading.Event() for _ in range(4)]
        stands = Later(lambda: db.run(self.stand_still, [], events))
        assert looked.wait(PATIENCE_S)
        db.put(X, 11)
        changed.set()
        assert holds.wait(PATIENCE_S)

        def insert() -> None:
            if by == "function":
                db.run(lambda transaction: transaction.put(("row", "new"), transaction[Y]))
            elif by == "put":
                db.put(("row", "new"), 1)
            else:
                with db.batch() as batch:
                    batch.put(("row", "new"), 1)
                    batch.put(X, 12)

        before = unresolved(db)
        inserts = Later(insert)
        until_it_waits_or_is_over(db, inserts, before)
        assert not inserts.is_over
        assert db.count(prefix=self.ROWS) == 5
        go_on.set()
        stands.result()
        inserts.result()

        assert (db["rows"], db.count(prefix=self.ROWS)) == (5, 6)

    def test_nobody_reads_it_while_a_key_in_it_is_to_be_written(
        self, db: Database, twins: tuple[Key, Key]
    ) -> None:
        """Otherwise its reads would be stale when it has its other locks and runs again."""

        def add_up(transaction: Transaction, runs: list[Transaction]) -> None:
            runs.append(transaction)
            values = [value for _, value in transaction.scan(prefix="twin")]
            if len(runs) == 1:
                Later(lambda: db.put(X, 11)).result()
            elif len(runs) == 2 and not stalled.is_over:
                in_its_second_run.set()
                assert the_other_is_through.wait(PATIENCE_S)
            transaction.put("sum", sum(values) + transaction[X])

        stalled = Stalled(db, twins)
        in_its_second_run, the_other_is_through = threading.Event(), threading.Event()
        before = unresolved(db)
        adds = Later(lambda: db.run(add_up, []))
        until_it_waits_or_is_over(db, adds, before)
        in_its_second_run.wait(0.05)  # must not be reached
        assert stalled.go_on() == 1001
        the_other_is_through.set()
        adds.result()

        assert db["sum"] == 2 * 1001 + 11


def move_twins(transaction: Transaction, twins: tuple[Key, Key]) -> None:
    values = transaction.get_many(twins, 0)
    assert values[0] == values[1]
    for twin in twins:
        transaction.put(twin, values[0] + 1)


class TestTimeouts:
    def test_a_function_that_takes_too_long_has_no_effect(self, db: Database) -> None:
        over = threading.Event()

        def slow(transaction: Transaction) -> None:
            move(transaction)
            over.wait(0.2)

        with pytest.raises(kvstore.TimedOut, match="slow") as found:
            db.transaction(timeout=0.1)(slow)()

        assert isinstance(found.value, TimeoutError)
        assert found.value.waited >= 0.1
        assert db.get_many([X, Y]) == [10, 20]

    def test_all_attempts_count_together(self, db: Database) -> None:
        runs = []

        def again(transaction: Transaction) -> None:
            runs.append(transaction)
            threading.Event().wait(0.05)
            raise kvstore.Conflict("again")

        with pytest.raises(kvstore.TimedOut):
            db.transaction(timeout=0.12, max_retries=1000)(again)()
        assert 1 < len(runs) < 1000

    @pytest.mark.parametrize("known", [False, True])
    def test_who_waits_for_locks_gives_up(self, db: Database, twins: tuple[Key, Key], known: bool) -> None:
        stalled = Stalled(db, twins)

        def body(transaction: Transaction) -> None:
            transaction.put("got it", transaction[twins[0]])
            transaction.put(twins[1], "not this")

        with pytest.raises(kvstore.TimedOut):
            if known:
                db.general(list(twins), body, timeout=0.1)
            else:
                db.transaction(timeout=0.1)(body)()
        assert stalled.go_on() == 1001
        db.put("after", 1)

        assert "got it" not in db
        assert db.get_many(list(twins)) == [1001, 1001]
        assert db.run(move_twins, twins) is None

    def test_not_before_its_time(self, db: Database) -> None:
        assert db.transaction(timeout=PATIENCE_S)(move)() == 9

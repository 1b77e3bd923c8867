"""Functions that run as transactions: which are allowed, what they may call, and how they end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kvstore
from kvstore import Database, Transaction

SHARDS = 3
X, Y = "left", "right"


@pytest.fixture
def db() -> Iterator[Database]:
    with kvstore.open(":memory:", shards=SHARDS) as opened:
        assert opened.explain(X).shards != opened.explain(Y).shards
        opened.put(X, 10)
        opened.put(Y, 20)
        yield opened


Body = Callable[[Transaction], Any]
Runner = Callable[[Database, Body], Any]

RUNNERS: dict[str, Runner] = {
    "run": lambda db, body: db.run(body),
    "transaction": lambda db, body: db.transaction(body)(),
    "transaction()": lambda db, body: db.transaction()(body)(),
    "transactional": lambda db, body: kvstore.transactional(body)(db),
    "transactional()": lambda db, body: kvstore.transactional()(body)(db),
    "general": lambda db, body: db.general([X, Y], body),
    "general of nothing": lambda db, body: db.general([], body),
    "general of something else": lambda db, body: db.general(["else"], body),
}
"""Ways to run a function as a transaction, by name."""

every_runner = pytest.mark.parametrize("run", RUNNERS.values(), ids=list(RUNNERS))


def move(transaction: Transaction, amount: int = 1) -> int:
    """Move an amount from left to right; a general transaction, because they are on two shards."""
    left: int = transaction[X] - amount
    transaction.put(X, left)
    transaction.put(Y, transaction[Y] + amount)
    return left


@every_runner
class TestARun:
    def test_commits_when_the_function_returns(self, db: Database, run: Runner) -> None:
        assert run(db, move) == 9
        assert db.get_many([X, Y]) == [9, 21]

    def test_may_return_anything(self, db: Database, run: Runner) -> None:
        thing = object()

        assert run(db, lambda transaction: thing) is thing
        assert run(db, lambda transaction: None) is None

    def test_that_raises_is_rolled_back_and_not_repeated(self, db: Database, run: Runner) -> None:
        runs: list[BaseException] = []

        def fail(transaction: Transaction) -> None:
            move(transaction)
            runs.append(ZeroDivisionError(str(len(runs))))
            raise runs[-1]

        with pytest.raises(ZeroDivisionError) as found:
            run(db, fail)

        assert [found.value] == runs[-1:]
        assert len(runs) == 1
        assert db.get_many([X, Y]) == [10, 20]
        assert run(db, move) == 9

    @pytest.mark.parametrize("error", [kvstore.Abort, kvstore.TypeClash, kvstore.TimedOut, SystemExit])
    def test_that_raises_one_of_these_too(
        self, db: Database, run: Runner, error: type[BaseException]
    ) -> None:
        def fail(transaction: Transaction) -> None:
            move(transaction)
            raise error("enough")

        with pytest.raises(error, match="enough"):
            run(db, fail)

        assert db.get_many([X, Y]) == [10, 20]
        assert db.status()["snapshots"]["open"] == 0

    def test_that_raises_conflict_is_repeated(self, db: Database, run: Runner) -> None:
        runs = []

        def try_again(transaction: Transaction) -> int:
            runs.append(transaction)
            left = move(transaction)
            if len(runs) < 4:
                raise kvstore.Conflict("not yet")
            return left

        assert run(db, try_again) == 9
        assert len(runs) == 4
        assert db.get_many([X, Y]) == [9, 21]

    def test_may_handle_what_its_own_calls_raise(self, db: Database, run: Runner) -> None:
        def handle(transaction: Transaction) -> str:
            with pytest.raises(kvstore.NotFound):
                transaction["missing"]
            with pytest.raises(kvstore.ValueNotSupported):
                transaction.put(X, object())
            transaction.put(X, 0)
            return "handled"

        assert run(db, handle) == "handled"
        assert db[X] == 0

    def test_ends_its_transaction(self, db: Database, run: Runner) -> None:
        kept: list[Transaction] = []

        def keep(transaction: Transaction) -> None:
            kept.append(transaction)
            move(transaction)

        run(db, keep)

        assert kept[-1].route.shards == tuple(sorted(db.explain(X).shards + db.explain(Y).shards))
        for transaction in kept:
            with pytest.raises(kvstore.Finished):
                transaction.get(X)
            with pytest.raises(kvstore.Finished):
                transaction.put(X, 5)

    def test_is_not_ended_by_hand(self, db: Database, run: Runner) -> None:
        def end(transaction: Transaction) -> None:
            transaction.put(X, 11)
            for call in (transaction.commit, transaction.rollback):
                with pytest.raises(kvstore.UsageError, match="ends when its function returns"):
                    call()

        run(db, end)
        assert db[X] == 11

    def test_is_not_left_by_its_own_block(self, db: Database, run: Runner) -> None:
        def leave(transaction: Transaction) -> None:
            with transaction:
                transaction.put(X, 11)

        with pytest.raises(kvstore.UsageError):
            run(db, leave)
        assert db[X] == 10

    def test_has_savepoints(self, db: Database, run: Runner) -> None:
        def body(transaction: Transaction) -> None:
            transaction.put(X, 11)
            with pytest.raises(ZeroDivisionError), transaction.savepoint():
                transaction.put(X, 12)
                transaction.put(Y, 1 / 0)

        run(db, body)
        assert db.get_many([X, Y]) == [11, 20]

    def test_sees_what_was_committed_before_it(self, db: Database, run: Runner) -> None:
        for number in range(20):
            db.put(X, number)
            assert run(db, lambda transaction: transaction[X]) == number

    def test_returns_a_generator(self, db: Database, run: Runner) -> None:
        def rows(transaction: Transaction) -> object:
            transaction.put(X, 11)
            return (number for number in range(3))

        with pytest.raises(kvstore.BodyRefused, match="rows returned a generator"):
            run(db, rows)
        assert db[X] == 10

    def test_returns_a_coroutine(self, db: Database, run: Runner) -> None:
        async def later() -> None: ...

        def body(transaction: Transaction) -> object:
            transaction.put(X, 11)
            return later()

        with pytest.raises(kvstore.BodyRefused, match="coroutine"):
            run(db, body)
        assert db[X] == 10


async def is_async(transaction: Transaction) -> None: ...
def is_a_generator(transaction: Transaction) -> Iterator[int]:
    yield 1


async def is_both(transaction: Transaction) -> Any:
    yield 1


class TestRefusedBodies:
    @pytest.mark.parametrize("body", [is_async, is_a_generator, is_both, functools.partial(is_async)])
    @pytest.mark.parametrize(
        "decorate",
        [
            lambda db: db.transaction,
            lambda db: db.transaction(),
            lambda db: db.transaction(max_retries=3),
            lambda db: kvstore.transactional,
            lambda db: kvstore.transactional(timeout=1),
            lambda db: db.run,
            lambda db: lambda body: db.general([X], body),
        ],
    )
    def test_are_refused_before_they_run(self, db: Database, body: Body, decorate: Any) -> None:
        with pytest.raises(kvstore.BodyRefused, match="async or a generator"):
            decorate(db)(body)

    def test_update_refuses_what_such_a_function_returns(self, db: Database) -> None:
        with db.begin() as transaction:
            for body in (is_async, is_a_generator):
                with pytest.raises(kvstore.BodyRefused):
                    transaction.update(X, body)
        assert db[X] == 10

    @pytest.mark.parametrize("max_retries", [-1, 1.0, None, "3", True, 1_000_001])
    def test_so_are_bad_numbers_of_retries(self, db: Database, max_retries: Any) -> None:
        for decorate in (db.transaction, kvstore.transactional, functools.partial(db.general, [X], move)):
            with pytest.raises(kvstore.LimitExceeded, match="max_retries"):
                decorate(max_retries=max_retries)

    @pytest.mark.parametrize("timeout", [0, -1, 0.0, float("nan"), "3", True])
    def test_so_are_bad_timeouts(self, db: Database, timeout: Any) -> None:
        for decorate in (db.transaction, kvstore.transactional, functools.partial(db.general, [X], move)):
            with pytest.raises(kvstore.LimitExceeded, match="timeout"):
                decorate(timeout=timeout)

    @pytest.mark.parametrize("timeout", [1, 0.5, None, float("inf")])
    def test_and_good_ones_are_not(self, db: Database, timeout: Any) -> None:
        assert db.transaction(max_retries=0, timeout=timeout)(move)() == 9


CALLS: dict[str, Callable[[Database], object]] = {
    "get": lambda db: db.get(X),
    "[]": lambda db: db[X],
    "in": lambda db: X in db,
    "get_many": lambda db: db.get_many([X]),
    "version": lambda db: db.version(X),
    "scan": lambda db: list(db.scan()),
    "count": lambda db: db.count(),
    "snapshot": lambda db: db.snapshot(),
    "put": lambda db: db.put(X, 0),
    "delete": lambda db: db.delete(X),
    "del": lambda db: db.__delitem__(X),
    "add": lambda db: db.add(X),
    "batch": lambda db: db.batch(),
    "submit": lambda db: db.submit(db.batch()),
    "call": lambda db: db.call("nested"),
    "begin": lambda db: db.begin(),
    "run": lambda db: db.run(move),
    "run with a key": lambda db: db.run(move, idempotency_key="once"),
    "general": lambda db: db.general([X], move),
    "transaction": lambda db: db.transaction(move)(),
    "transactional": lambda db: kvstore.transactional(move)(db),
    "watch": lambda db: db.watch(),
    "cursor": lambda db: db.cursor(),
    "compact": lambda db: db.compact(),
    "backup": lambda db: db.backup("nowhere"),
    "verify": lambda db: db.verify(),
    "status": lambda db: db.status(),
    "close": lambda db: db.close(),
}


class TestNestedCalls:
    """Nested calls are refused only inside a function that the store runs; the message names the function."""

    @pytest.fixture(autouse=True)
    def _a_procedure(self) -> None:
        kvstore.procedure("nested", keys=lambda args: [X])(lambda part, args: part.get(X))

    @pytest.mark.parametrize("name", CALLS)
    @every_runner
    def test_are_refused(self, db: Database, run: Runner, name: str) -> None:
        def outer(transaction: Transaction) -> None:
            transaction.put(X, 11)
            CALLS[name](db)

        with pytest.raises(kvstore.NestedCall, match=r"outer.* called the store"):
            run(db, outer)
        assert db.get_many([X, Y]) == [10, 20]

    @pytest.mark.parametrize("name", CALLS)
    def test_in_the_function_of_an_update_too(self, db: Database, name: str) -> None:
        def change(value: int) -> int:
            CALLS[name](db)
            return value

        with db.begin() as transaction:
            with pytest.raises(kvstore.NestedCall, match=r"change.* called the store"):
                transaction.update(X, change)
            transaction.put(Y, 21)
        assert db.get_many([X, Y]) == [10, 21]

    def test_also_of_a_transaction_that_was_begun_before(self, db: Database) -> None:
        beside, unread = db.begin(), db.begin()
        beside.get(X)

        def outer(transaction: Transaction) -> None:
            for other in (beside, unread):
                for call in (other.commit, other.rollback, other.savepoint, other.count):
                    with pytest.raises(kvstore.NestedCall, match="outer"):
                        call()
                with pytest.raises(kvstore.NestedCall, match="outer"):
                    other.get(X)
                with pytest.raises(kvstore.NestedCall, match="outer"):
                    other.put(X, 1)
            move(transaction)

        db.run(outer)
        assert beside[X] == 10
        beside.rollback()
        assert unread[X] == 9

    def test_of_another_store_as_well(self, db: Database) -> None:
        with kvstore.open(":memory:") as other, pytest.raises(kvstore.NestedCall):
            db.run(lambda transaction: other.get(X))

    def test_its_own_transaction_may_be_used_in_an_update(self, db: Database) -> None:
        def outer(transaction: Transaction) -> None:
            transaction.update(X, lambda value: value + transaction[Y])
            with pytest.raises(kvstore.NestedCall, match="outer"):
                db.get(X)

        db.run(outer)
        assert db[X] == 30

    def test_nothing_is_refused_when_it_is_over(self, db: Database) -> None:
        with pytest.raises(kvstore.NestedCall):
            db.run(lambda transaction: db.get(X))
        for name, call in CALLS.items():
            if name not in {"backup", "close"}:
                db.put(X, 10)
                call(db)

    def test_the_store_may_be_used_beside_one_that_was_begun(self, db: Database) -> None:
        with db.begin() as transaction:
            transaction.get(X)
            for name, call in CALLS.items():
                if name not in {"backup", "close"}:
                    db.put(X, 10)
                    call(db)
            assert transaction[X] == 10


class TestComposition:
    def test_a_function_joins_the_transaction_it_is_given(self, db: Database) -> None:
        step = db.transaction(move)

        @db.transaction
        def twice(transaction: Transaction) -> int:
            assert step(transaction) == 9
            assert transaction[X] == 9
            return step(transaction, amount=4)

        assert twice() == 5
        assert db.get_many([X, Y]) == [5, 25]

    def test_one_of_no_database_too(self, db: Database) -> None:
        @kvstore.transactional
        def step(transaction: Transaction, amount: int) -> int:
            return move(transaction, amount)

        @kvstore.transactional(max_retries=3)
        def twice(transaction: Transaction, *, first: int) -> int:
            step(transaction, first)
            return step(transaction, amount=1)

        assert twice(db, first=2) == 7
        with db.begin() as transaction:
            assert twice(transaction, first=3) == 3
            transaction.rollback()
        assert db.get_many([X, Y]) == [7, 23]

    def test_or_one_that_was_begun(self, db: Database) -> None:
        step = db.transaction(move)
        with db.begin() as transaction:
            step(transaction)
            step(transaction)
            assert db[X] == 10
        assert db[X] == 8

    def test_a_function_may_call_itself(self, db: Database) -> None:
        @db.transaction
        def sum_below(transaction: Transaction, number: int) -> int:
            transaction.add("steps")
            return 0 if number == 0 else number + sum_below(transaction, number - 1)

        assert sum_below(10) == 55
        assert db["steps"] == 11

    def test_not_without_its_transaction(self, db: Database) -> None:
        @db.transaction
        def again(transaction: Transaction) -> int:
            return again()

        with pytest.raises(kvstore.NestedCall, match="again"):
            again()

    def test_an_error_in_the_joined_function_ends_all(self, db: Database) -> None:
        @db.transaction
        def fail(transaction: Transaction) -> None:
            move(transaction)
            raise ZeroDivisionError

        def outer(transaction: Transaction) -> None:
            move(transaction)
            fail(transaction)

        with pytest.raises(ZeroDivisionError):
            db.run(outer)
        assert db.get_many([X, Y]) == [10, 20]

    def test_unless_it_is_handled_with_a_savepoint(self, db: Database) -> None:
        @db.transaction
        def fail(transaction: Transaction) -> None:
            move(transaction, 5)
            raise kvstore.Abort

        def outer(transaction: Transaction) -> None:
            move(transaction)
            with pytest.raises(kvstore.Abort), transaction.savepoint():
                fail(transaction)

        db.run(outer)
        assert db.get_many([X, Y]) == [9, 21]

    def test_conflict_in_the_joined_function_repeats_all(self, db: Database) -> None:
        runs = []

        @kvstore.transactional
        def conflict_once(transaction: Transaction) -> None:
            runs.append(1)
            if len(runs) == 1:
                raise kvstore.Conflict("once")

        def outer(transaction: Transaction) -> int:
            left = move(transaction)
            conflict_once(transaction)
            return left

        assert db.run(outer) == 9
        assert len(runs) == 2

    def test_neither_a_database_nor_a_transaction(self, db: Database) -> None:
        nothing: Any
        for step in (kvstore.transactional(move), kvstore.transactional(functools.partial(move))):
            for nothing in (5, None, "db", {}):
                with pytest.raises(kvstore.UsageError, match=r"move.* takes a database or a transaction"):
                    step(nothing)

    def test_what_is_decorated_keeps_its_name(self, db: Database) -> None:
        decorated: Any
        for decorated in (db.transaction(move), kvstore.transactional(move)):
            assert decorated.__name__ == "move"
            assert "from left to right" in str(decorated.__doc__)

    def test_arguments_are_passed_on(self, db: Database) -> None:
        def body(transaction: Transaction, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

        assert db.transaction(body)(1, two=2) == ((1,), {"two": 2})
        assert kvstore.transactional(body)(db, 1, two=2) == ((1,), {"two": 2})
        assert db.run(body, 1, [2]) == ((1, [2]), {})


@pytest.mark.parametrize("body", [5, None, "name"])
def test_what_is_no_function_is_refused(body: Any) -> None:
    with kvstore.open(":memory:") as db:
        for decorate in (db.transaction, kvstore.transactional, db.run, lambda it: db.general(["k"], it)):
            if body is None and decorate in (db.transaction, kvstore.transactional):
                continue  # None is what stands there for parentheses
            with pytest.raises(kvstore.UsageError, match="must be a function, not"):
                decorate(body)


@pytest.mark.parametrize("reads", ["key", b"key", 5])
def test_known_reads_are_a_list_of_keys(reads: Any) -> None:
    with kvstore.open(":memory:") as db, pytest.raises(kvstore.UsageError, match="a list of keys"):
        db.general(reads, lambda tx: None)

"""Idempotency keys of functions: each call returns the first result, whatever the path (contracts C4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Database, Transaction
from tests.support.transactions import PATIENCE_S, Later, key_on, run_all

SHARDS = 3
A, B = "left", "right"
KEY = ("payment", 17)

runs: list[Transaction] = []
"""Transactions of all runs of the functions below since the test began."""


@pytest.fixture(autouse=True)
def _no_runs_yet() -> None:
    runs.clear()


def a_store(path: Path | str, replicas: int) -> Database:
    db = kvstore.open(path, shards=SHARDS, replicas=replicas, durability="none")
    assert db.explain(A).shards != db.explain(B).shards
    db.put(A, 10)
    db.put(B, 20)
    return db


@pytest.fixture(params=[1, 3], ids=["1 replica", "3 replicas"])
def db(request: pytest.FixtureRequest) -> Iterator[Database]:
    with a_store(":memory:", request.param) as opened:
        yield opened


def independent(transaction: Transaction, amount: int) -> list[Any]:
    runs.append(transaction)
    transaction.add(A, -amount)
    transaction.add(B, amount)
    return ["sent", amount]


def read_only(transaction: Transaction, amount: int) -> list[Any]:
    runs.append(transaction)
    return [transaction[A], transaction[B], amount]


def one_shard(transaction: Transaction, amount: int) -> list[Any]:
    runs.append(transaction)
    transaction.put(A, transaction[A] - amount)
    return [transaction[A]]


def general(transaction: Transaction, amount: int) -> list[Any]:
    runs.append(transaction)
    transaction.put(A, transaction[A] - amount)
    transaction.put(B, transaction[B] + amount)
    return [transaction[A], transaction[B]]


def nothing(transaction: Transaction, amount: int) -> None:
    runs.append(transaction)


FUNCTIONS = [independent, read_only, one_shard, general, nothing]
Function = Callable[[Transaction, int], Any]


def change_everything(db: Database) -> None:
    """Change the values, as other callers might between a call and its retry."""
    with db.batch() as batch:
        batch.put(A, 1000)
        batch.put(B, "text")


@pytest.mark.parametrize("function", FUNCTIONS)
class TestEveryPath:
    def test_the_second_call_has_the_first_result_and_does_nothing(
        self, db: Database, function: Function
    ) -> None:
        first = db.run(function, 3, idempotency_key=KEY)
        change_everything(db)
        count = len(runs)

        assert db.run(function, 3, idempotency_key=KEY) == first
        assert len(runs) == count == 1
        assert db.get_many([A, B]) == [1000, "text"]

    def test_wherever_the_key_lives(self, db: Database, function: Function) -> None:
        """The key adds the shard that owns it, so one shard may become two, and one round two."""
        before = db.get_many([A, B])
        results = [db.run(function, 1, idempotency_key=key_on(db, shard, "key")) for shard in range(SHARDS)]
        repeated = [db.run(function, 1, idempotency_key=key_on(db, shard, "key")) for shard in range(SHARDS)]

        assert repeated == results
        assert len(runs) == SHARDS
        moved = SHARDS if function in {independent, one_shard, general} else 0
        received = SHARDS if function in {independent, general} else 0
        assert db.get_many([A, B]) == [before[0] - moved, before[1] + received]

    def test_another_call_with_the_key_is_refused(self, db: Database, function: Function) -> None:
        db.run(function, 3, idempotency_key=KEY)
        before = db.get_many([A, B])
        others: list[Callable[[], object]] = [
            lambda: db.run(function, 4, idempotency_key=KEY),
            lambda: db.run(function, 3.0, idempotency_key=KEY),
            lambda: db.run(other, 3, idempotency_key=KEY),
            lambda: db.general([A, B], lambda transaction: 3, idempotency_key=KEY),
            lambda: db.put(A, 3, idempotency_key=KEY),
        ]
        for call in others:
            with pytest.raises(kvstore.KeyReused) as found:
                call()
            assert found.value.idempotency_key == KEY

        assert db.get_many([A, B]) == before

    def test_in_many_threads_at_once_it_happens_once(self, db: Database, function: Function) -> None:
        start, results = threading.Barrier(8), []

        def work() -> None:
            start.wait(PATIENCE_S)
            results.append(db.run(function, 3, idempotency_key=KEY))

        run_all([work] * 8)

        assert results == [results[0]] * 8
        assert len(runs) == 1


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("replicas", [1, 3])
def test_it_is_kept_when_the_store_is_opened_again(tmp_path: Path, function: Function, replicas: int) -> None:
    with a_store(tmp_path / "store", replicas) as db:
        first = db.run(function, 3, idempotency_key=KEY)
        change_everything(db)
    with kvstore.open(tmp_path / "store") as db:
        assert db.run(function, 3, idempotency_key=KEY) == first
        assert len(runs) == 1
        assert db.get_many([A, B]) == [1000, "text"]
        with pytest.raises(kvstore.KeyReused):
            db.run(function, 4, idempotency_key=KEY)


def other(transaction: Transaction, amount: int) -> None:
    raise AssertionError("never runs")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("error", [kvstore.Abort, ZeroDivisionError, kvstore.TimedOut, kvstore.Conflict])
def test_what_was_rolled_back_is_not_kept(db: Database, function: Function, error: type[Exception]) -> None:
    """After a rollback the next call with the key counts as the first."""
    fails = True

    def body(transaction: Transaction, amount: int) -> Any:
        result = function(transaction, amount)
        if fails:
            raise error
        return result

    with pytest.raises(error):
        db.run(body, 3, idempotency_key=KEY)
    assert db.get_many([A, B]) == [10, 20]
    fails = False
    first = db.run(body, 3, idempotency_key=KEY)
    runs.clear()

    assert db.run(body, 3, idempotency_key=KEY) == first
    assert not runs


class TestGeneral:
    def test_of_known_keys(self, db: Database) -> None:
        def body(transaction: Transaction) -> Any:
            return general(transaction, 3)

        assert db.general([A, B], body, idempotency_key=KEY) == [7, 23]
        change_everything(db)
        assert db.general([A, B], body, idempotency_key=KEY) == [7, 23]
        assert db.general((key for key in (A, B)), body, idempotency_key=KEY) == [7, 23]
        with pytest.raises(kvstore.KeyReused):
            db.general([A], body, idempotency_key=KEY)
        assert len(runs) == 1

    def test_the_result_is_that_of_the_run_that_counted(self, db: Database) -> None:
        """The result of the reconnaissance was never committed, so it must not be returned."""

        def body(transaction: Transaction, amount: int) -> Any:
            left = transaction[A]
            if not runs:
                Later(lambda: db.put(A, 50)).result()
            runs.append(transaction)
            transaction.put(B, left)
            return left

        assert db.run(body, 1, idempotency_key=KEY) == 50
        assert len(runs) == 2
        assert db.run(body, 1, idempotency_key=KEY) == 50
        assert len(runs) == 2

    def test_so_it_is_on_one_shard(self, db: Database) -> None:
        def body(transaction: Transaction, amount: int) -> Any:
            left = transaction[A]
            if len(runs) < 3:
                Later(lambda: db.put(A, 50 + len(runs))).result()
            runs.append(transaction)
            transaction.put(A, left + amount)
            return left

        key = key_on(db, db.explain(A).shards[0], "key")
        assert db.run(body, 1, idempotency_key=key) == 52
        assert db.run(body, 1, idempotency_key=key) == 52
        assert len(runs) == 4
        assert db[A] == 53

    def test_after_its_lease_was_over(self, db: Database) -> None:
        """The first conclusion came after the lease had expired, so its result is not kept."""
        waited = threading.Event()

        def body(transaction: Transaction, amount: int) -> Any:
            left = transaction[A]
            runs.append(transaction)
            if len(runs) == 1:
                Later(lambda: db.put(A, 50)).result()
            elif len(runs) == 2:
                db_put = Later(lambda: (db.put(A, 60), waited.set()))
                assert waited.wait(PATIENCE_S)
                db_put.result()
            transaction.put(B, left)
            return left

        assert db.run(body, 1, idempotency_key=KEY) == 60
        assert db.run(body, 1, idempotency_key=KEY) == 60
        assert len(runs) > 2
        assert db[B] == 60


class TestValues:
    @pytest.mark.parametrize("result", [None, 0, "", b"", [], {"a": [1, None]}, 1 << 80, 1.5, False])
    def test_any_that_can_be_stored_comes_back(self, db: Database, result: Any) -> None:
        def body(transaction: Transaction) -> Any:
            transaction.add(A)
            return result

        assert db.run(body, idempotency_key=KEY) == result
        again = db.run(body, idempotency_key=KEY)
        assert (again, type(again)) == (result, type(result))
        assert db[A] == 11

    def test_a_result_that_cannot_is_refused(self, db: Database) -> None:
        def body(transaction: Transaction) -> object:
            transaction.add(A)
            return object()

        with pytest.raises(kvstore.ValueNotSupported):
            db.run(body, idempotency_key=KEY)
        assert db[A] == 10
        assert db.run(body) is not None

    def test_arguments_that_cannot_are_refused(self, db: Database) -> None:
        with pytest.raises(kvstore.ValueNotSupported):
            db.run(lambda transaction, thing: 1, object(), idempotency_key=KEY)
        with pytest.raises(kvstore.KeyInvalid):
            db.run(independent, 1, idempotency_key=5)  # type: ignore[arg-type]
        assert db.get_many([A, B]) == [10, 20]

    def test_a_decorated_function_is_run_too(self, db: Database) -> None:
        for decorated in (db.transaction(general), kvstore.transactional(general)):
            key = ("decorated", type(decorated).__name__, len(runs))
            first = db.run(decorated, 1, idempotency_key=key)
            assert db.run(decorated, 1, idempotency_key=key) == first
        assert len(runs) == 2
        assert db[A] == 8


def test_nobody_watches_a_key(db: Database) -> None:
    since = db.cursor()
    db.run(general, 3, idempotency_key=KEY)
    db.run(read_only, 3, idempotency_key="another")
    db.run(general, 3, idempotency_key=KEY)

    assert sorted(change.value for change in db.watch(since=since, timeout=0)) == [7, 23]

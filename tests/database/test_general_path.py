"""The general path (contracts C2): reconnaissance, locks, and the second run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kvstore
from kvstore.engine.store import WritingStore
from tests.support.inside import store_of


@pytest.fixture(params=[1, 3])
def db(request: pytest.FixtureRequest) -> Iterator[kvstore.Database]:
    with kvstore.open(":memory:", shards=4, replicas=request.param) as db:
        yield db


def on_shards(db: kvstore.Database, *shards: int) -> list[str]:
    """Return one key on each of these shards."""
    found: list[str] = []
    for shard in shards:
        names = (f"k{number}" for number in range(1000))
        found.append(next(k for k in names if db.explain(k).shards == (shard,) and k not in found))
    return found


def meanwhile(work: Callable[[], Any]) -> None:
    """Run ``work`` on another thread, and wait for its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def writing_store(db: kvstore.Database) -> WritingStore:
    store = store_of(db)
    assert isinstance(store, WritingStore)
    return store


def test_an_uncontended_general_transaction_is_one_commit(db: kvstore.Database) -> None:
    x, y = on_shards(db, 0, 1)
    db.put(x, 1)
    environment = writing_store(db).cluster.learner.environment
    commits = 0
    begin = environment.begin

    def counted() -> Any:
        nonlocal commits
        commits += 1
        return begin()

    environment.begin = counted  # type: ignore[method-assign]
    with db.begin() as tx:
        tx[y] = tx[x] + 1

    assert tx.route == ("general", (0, 1), 2)
    assert commits == 1
    assert db[y] == 2


def test_a_value_that_changed_is_read_again_under_locks(db: kvstore.Database) -> None:
    x, y = on_shards(db, 0, 1)
    db.put(x, 1)
    seen = []

    def body(tx: kvstore.Transaction) -> int:
        seen.append(tx[x])
        if len(seen) == 1:
            meanwhile(lambda: db.put(x, 10))
        tx[y] = tx[x] + 1
        return int(tx[x])

    assert db.run(body) == 10
    assert seen == [1, 10]
    assert db[y] == 11


def test_nobody_comes_between_the_second_run_and_its_commit(db: kvstore.Database) -> None:
    x, y = on_shards(db, 0, 1)
    db.put(x, 1)
    writers = []
    runs = 0

    @db.transaction(max_retries=0)
    def body(tx: kvstore.Transaction) -> None:
        nonlocal runs
        runs += 1
        found = tx[x]
        if runs == 1:
            meanwhile(lambda: db.put(x, 10))
        else:
            writers.append(threading.Thread(target=db.put, args=(x, 99)))
            writers[0].start()
            time.sleep(0.05)
        tx[y] = found

    body()
    writers[0].join()

    assert runs == 2
    assert db[y] == 10
    assert db[x] == 99


@pytest.mark.parametrize("kind", ["read", "write", "scan"])
def test_a_second_run_never_touches_what_is_not_locked(db: kvstore.Database, kind: str) -> None:
    """A pointer moved. The run ends before it reads a value, and the next attempt locks that key as well."""
    pointer, first, second = on_shards(db, 0, 1, 2)
    db.put(pointer, first)
    db.put(first, 1)
    db.put(second, 2)
    runs: list[str] = []
    passed: list[str] = []

    def body(tx: kvstore.Transaction) -> None:
        target = tx[pointer]
        runs.append(target)
        if len(runs) == 1:
            meanwhile(lambda: db.put(pointer, second))
        if kind == "read":
            found = tx[target]
            tx["result"] = found
        elif kind == "scan":
            found = next(tx.scan(start=target))
            tx["result"] = found
        else:
            tx[target] = 100
        passed.append(target)

    db.run(body)

    assert runs == [first, second, second]
    assert passed == [first, second], "the second run was stopped where it touched what was not locked"
    if kind == "write":
        assert (db[first], db[second]) == (1, 100)
    if kind == "read":
        assert db["result"] == 2


def test_only_changes_of_sets_are_counted(db: kvstore.Database) -> None:
    pointer, first, second = on_shards(db, 0, 1, 2)
    db.put(pointer, first)
    runs = 0

    @db.transaction(max_retries=0)
    def body(tx: kvstore.Transaction) -> None:
        nonlocal runs
        runs += 1
        target = tx[pointer]
        if runs == 1:
            meanwhile(lambda: db.put(pointer, second))
        tx[target] = 1

    with pytest.raises(kvstore.Conflict) as caught:
        body()
    assert caught.value.key == pointer
    assert caught.value.attempts == 1
    db.put(pointer, second)  # the locks are released
    db.put(second, 3)


def test_code_that_swallows_everything_does_not_get_around_the_locks(db: kvstore.Database) -> None:
    pointer, first, second = on_shards(db, 0, 1, 2)
    db.put(pointer, first)
    runs = 0

    def body(tx: kvstore.Transaction) -> None:
        nonlocal runs
        runs += 1
        target = tx[pointer]
        if runs == 1:
            meanwhile(lambda: db.put(pointer, second))
        try:
            tx[target] = runs
        except BaseException:  # a body might do that
            tx[pointer] = "broken"

    db.run(body)

    assert runs == 3
    assert db[pointer] == second
    assert db[second] == 3


@pytest.mark.parametrize("how", ["raises", "aborts", "calls the store"])
def test_a_second_run_that_fails_lets_go_at_once(db: kvstore.Database, how: str) -> None:
    x, y = on_shards(db, 0, 1)
    db.put(x, 1)
    runs = 0
    errors = {"raises": ZeroDivisionError, "aborts": kvstore.Abort, "calls the store": kvstore.NestedCall}

    def body(tx: kvstore.Transaction) -> None:
        nonlocal runs
        runs += 1
        tx[y] = tx[x]
        if runs == 1:
            meanwhile(lambda: db.put(x, 2))
        elif how == "raises":
            raise ZeroDivisionError
        elif how == "aborts":
            raise kvstore.Abort("enough")
        else:
            db.put(x, 3)

    with pytest.raises(errors[how]):
        db.run(body)
    with db.batch() as batch:
        batch.put(x, 5)
        batch.put(y, 5)
    assert runs == 2
    assert (db[x], db[y]) == (5, 5)


def test_a_run_that_outlasts_its_lease_is_ended_and_tried_again(db: kvstore.Database) -> None:
    x, y = on_shards(db, 0, 1)
    db.put(x, 1)
    order: list[str] = []
    runs = 0

    def body(tx: kvstore.Transaction) -> None:
        nonlocal runs
        runs += 1
        found = tx[x]
        if runs == 1:
            meanwhile(lambda: db.put(x, 2))
        if runs == 2:
            other = threading.Thread(target=lambda: (db.put(x, 3), order.append("other")))
            other.start()
            other.join(20)  # the put waits for the locks, which the lease ends
            order.append("run")
        tx[y] = found

    db.run(body)

    assert order == ["other", "run"]
    assert runs == 3
    assert (db[x], db[y]) == (3, 3)


def test_known_read_sets_run_once_however_contended(db: kvstore.Database) -> None:
    x, y, z = on_shards(db, 0, 1, 2)
    db.put(x, 0)
    db.put(y, 0)
    runs = 0

    def body(tx: kvstore.Transaction) -> int:
        nonlocal runs
        runs += 1
        tx[x] += 1
        tx[y] += 1
        return int(tx[x])

    threads = [
        threading.Thread(target=lambda: [db.general(reads=[x, y], body=body) for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (db[x], db[y]) == (80, 80)
    assert runs == 80
    assert db.general([x], lambda tx: tx.get(z, "none")) == "none", "what is not among them is locked later"
    assert db.general([], lambda tx: tx[x]) == 80


def test_writers_of_all_kinds_wait_for_locks(db: kvstore.Database) -> None:
    x, y = on_shards(db, 0, 1)
    db.put(x, 1)
    done: list[str] = []

    @kvstore.procedure("tests.bump", keys=lambda args: [x])
    def bump(part: kvstore.Part, args: Any) -> None:
        part.add(x, 1)

    def submitted() -> None:
        with db.batch() as batch:
            batch.add(x, 1)
            batch.add(y, 1)

    writes: dict[str, Callable[[], Any]] = {
        "put": lambda: db.put(y, 5),
        "add": lambda: db.add(x, 1),
        "batch": submitted,
        "call": lambda: db.call("tests.bump"),
        "transaction": lambda: db.run(lambda tx: tx.update(x, lambda value: value + 1)),
    }
    threads = [threading.Thread(target=lambda n=n, w=w: (w(), done.append(n))) for n, w in writes.items()]
    runs = 0

    def body(tx: kvstore.Transaction) -> None:
        nonlocal runs
        runs += 1
        tx[y] = tx[x]
        if runs == 1:
            meanwhile(lambda: db.put(x, 2))
        else:
            for thread in threads:
                thread.start()
            time.sleep(0.2)
            assert not done

    db.run(body)
    for thread in threads:
        thread.join()

    assert sorted(done) == sorted(writes)
    assert db[x] == 2 + 4
    assert db[y] in (5, 6)


def test_overtakers_are_not_kept_waiting(db: kvstore.Database) -> None:
    x, y, other = on_shards(db, 0, 1, 1)
    db.put(x, 1)
    runs = 0

    def body(tx: kvstore.Transaction) -> None:
        nonlocal runs
        runs += 1
        tx[y] = tx[x]
        if runs == 1:
            meanwhile(lambda: db.put(x, 2))
        else:
            for number in range(50):
                meanwhile(lambda number=number: db.put(other, number))  # type: ignore[misc]

    db.run(body)

    assert runs == 2
    assert db[other] == 49


def test_a_watch_shows_a_general_transaction_once_and_whole_at_its_place(db: kvstore.Database) -> None:
    x, y, other = on_shards(db, 0, 1, 1)
    db.put(x, 1)
    watch = db.watch(timeout=0)
    runs = 0

    def body(tx: kvstore.Transaction) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            found = tx[x]
            meanwhile(lambda: db.put(x, 2))
        else:
            found = tx[x]
            meanwhile(lambda: db.put(other, "overtook"))
            assert [change.key for change in db_watch()] == []
        tx[y] = found
        tx[x] = found + 1

    def db_watch() -> list[kvstore.Change]:
        found: list[kvstore.Change] = []
        meanwhile(lambda: found.extend(c for c in db.watch(since=start, timeout=0) if c.key == other))
        return found

    start = db.cursor()
    db.run(body)

    changes = [(change.key, change.value) for change in watch]
    assert changes == [(x, 2), (x, 3), (y, 2), (other, "overtook")]
    assert db.version(y) == next(c.version for c in db.watch(since=start, timeout=0) if c.key == y)


def test_closing_ends_what_is_under_way(db: kvstore.Database) -> None:
    x, y = on_shards(db, 0, 1)
    db.put(x, 1)
    runs = 0
    waiting: list[Any] = []

    def body(tx: kvstore.Transaction) -> None:
        nonlocal runs
        runs += 1
        tx[y] = tx[x]
        if runs == 1:
            meanwhile(lambda: db.put(x, 2))
        else:
            thread = threading.Thread(target=lambda: waiting.append(db.put(x, 3)))
            thread.start()
            time.sleep(0.1)
            meanwhile(db.close)
            thread.join()

    with pytest.raises(kvstore.Closed):
        db.run(body)
    assert waiting == [None], "what waited for the locks was committed"

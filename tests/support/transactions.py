"""Tools for tests of transactions: keys on chosen shards, threads, a function held up with its locks."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from kvstore import Database, Key, Transaction
from tests.support.inside import store_of

PATIENCE_S = 60.0
"""Seconds after which a thread that has not ended is considered to hang."""


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until a condition holds that another thread brings about."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.002)


def key_on(db: Database, shard: int, name: str) -> str:
    """Return the first of the keys "name 0", "name 1", ... that this shard owns."""
    names = (f"{name} {number}" for number in itertools.count())
    return next(key for key in names if db.explain(key).shards == (shard,))


def unresolved(db: Database) -> int:
    """Return how many slots hold or wait for locks, over all shards; counted between two groups."""
    store: Any = store_of(db)
    executor = store.cluster.learner.executor
    found: list[tuple[int, ...]] = []
    store.commits.exclusively(lambda: found.extend(map(executor.waiting, executor.replicas)))
    return sum(map(len, found))


def run_all(works: Sequence[Callable[[], object]], patience: float = PATIENCE_S) -> None:
    """Run each function on a thread of its own; raise the first failure. A thread that hangs is a failure."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "deadlock"


class Later:
    """A call on a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        """Wait for the end of the call; return its result, or raise its exception."""
        self._thread.join(PATIENCE_S)
        assert self.is_over, "it hangs"
        if self._error is not None:
            raise self._error
        return self._result


def until_it_waits_or_is_over(db: Database, later: Later, unresolved_before: int) -> None:
    """Return when the call waits for locks, or has ended without waiting."""
    deadline = time.monotonic() + PATIENCE_S
    while not later.is_over and unresolved(db) <= unresolved_before:
        assert time.monotonic() < deadline, "it does neither"
        db.put("elsewhere", 1)  # so that a group is led


class Stalled:
    """A function that is held up in its second run, where it holds the locks of two twin keys.

    The function adds 1 to both keys, which are on two shards. Its first run was not committed because the
    twins changed meanwhile. ``go_on`` lets it end; until then its lease runs.
    """

    def __init__(self, db: Database, twins: tuple[Key, Key], **limits: Any) -> None:
        self._db, self._twins = db, twins
        self._read, self._changed = threading.Event(), threading.Event()
        self._holds, self._go_on = threading.Event(), threading.Event()
        self.runs = 0
        self.transactions: list[Transaction] = []
        """Transaction of each run."""
        self.failure: BaseException | None = None
        """Exception that the second run raises, or None."""
        self._later = Later(db.transaction(**limits)(self._body))
        assert self._read.wait(PATIENCE_S)
        self.set_twins(1000)
        self._changed.set()
        assert self._holds.wait(PATIENCE_S)

    def set_twins(self, value: int) -> None:
        with self._db.batch() as batch:
            for twin in self._twins:
                batch.put(twin, value)

    def _body(self, transaction: Transaction) -> int:
        self.runs += 1
        self.transactions.append(transaction)
        value: int = transaction.get(self._twins[0], 0)
        if self.runs == 1:
            self._read.set()
            assert self._changed.wait(PATIENCE_S)
        elif self.runs == 2:
            self._holds.set()
            assert self._go_on.wait(PATIENCE_S)
            if self.failure is not None:
                raise self.failure
        for twin in self._twins:
            transaction.put(twin, value + 1)
        return value + 1

    @property
    def is_over(self) -> bool:
        return self._later.is_over

    def go_on(self) -> int:
        """Let the function end; return its result, or raise its exception."""
        self._go_on.set()
        result: int = self._later.result()
        return result

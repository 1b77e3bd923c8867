"""Situations in which a thread could wait forever: ``waiting SCENARIO PATH``. Ends, or is killed.

Each scenario runs in a child process, so that one that hangs does not stop the tests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import kvstore
from kvstore.engine import readers
from kvstore.ports import Environment
from tests.support.inside import commits_of
from tests.support.programs.remote import Remote


def a_batch(db: kvstore.Database, key: kvstore.Key, value: object = 1) -> kvstore.Batch:
    batch = db.batch()
    batch.put(key, value)
    return batch


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def callbacks_submit(path: str) -> None:
    """Each callback submits one more batch, while so many are outstanding that submit waits."""
    db = kvstore.open(path, durability="none")
    done: list[Future[Any]] = []

    def again(future: Future[Any]) -> None:
        done.append(db.submit(a_batch(db, ("second", len(done)))))

    for number in range(15_000):
        db.submit(a_batch(db, ("first", number))).add_done_callback(again)
    while len(done) < 15_000:
        time.sleep(0.01)
    for future in done:
        future.result()
    print(db.count())
    db.close()


def callback_closes(path: str) -> None:
    """A callback and the main thread close the store concurrently."""
    for turn in range(20):
        db = kvstore.open(f"{path}-{turn}", durability="none")
        db.submit(a_batch(db, "k")).add_done_callback(lambda _, db=db: db.close())
        db.close()
    print("closed")


def another_process_reads_too(path: str) -> None:
    """Another process has filled LMDB's reader table: reads raise an error, and nothing is lost."""
    with kvstore.open(path) as db:
        db.put("k", 1)
    db = kvstore.open(path)
    others = [Remote(path, readonly=True) for _ in range(2)]
    for other in others:
        print(other.call("hold", 500))
    held = []
    try:
        while True:
            held.append(db.snapshot())
    except kvstore.LimitExceeded:
        print("full", 0 < len(held) < 100)
    for _ in range(1100):
        for call in (
            db.status,
            lambda: db.get("k"),
            db.snapshot,
            db.count,
            lambda: list(db.scan()),
            db.verify,
        ):
            try:
                call()
            except kvstore.LimitExceeded:
                continue
    for view in held:
        view.close()
    for other in others:
        other.kill()
    print(db.status()["snapshots"]["open"], db["k"])
    db.close()
    print("closed")


def snapshot_during_close(path: str) -> None:
    """A thread takes a snapshot while the store is being closed, and keeps it."""
    db = kvstore.open(path)
    taking, go_on = threading.Event(), threading.Event()
    make = readers.ReadTransaction.__init__

    def slowly(cut: Any, owner: Any, environment: Environment, lifetime: float) -> None:
        taking.set()
        go_on.wait()
        make(cut, owner, environment, lifetime)

    readers.ReadTransaction.__init__ = slowly  # type: ignore[assignment, method-assign]
    kept: list[Any] = []
    thread = in_thread(lambda: kept.append(outcome(db.snapshot)))
    taking.wait()
    closer = in_thread(db.close)
    time.sleep(0.1)
    go_on.set()
    thread.join()
    closer.join()
    print("closed")


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except kvstore.Error as error:
        return error


def submit_during_close(path: str) -> None:
    """A thread submits a batch while the store is being closed: its future must complete."""
    db = kvstore.open(path)
    db.submit(a_batch(db, "first")).result()
    commits = commits_of(db)
    queueing, go_on = threading.Event(), threading.Event()

    class SlowQueue(type(commits._queue)):  # type: ignore[misc]
        def append(self, pending: Any) -> None:
            queueing.set()
            go_on.wait()
            super().append(pending)

    commits._queue = SlowQueue(commits._queue)
    futures: list[Any] = []
    thread = in_thread(lambda: futures.append(outcome(lambda: db.submit(a_batch(db, "late")))))
    queueing.wait()
    closer = in_thread(db.close)
    time.sleep(0.2)
    go_on.set()
    thread.join()
    closer.join()
    found = futures[0]
    if isinstance(found, Future):
        print(type(found.exception()).__name__)
    else:
        print(type(found).__name__)


def interrupted_twice(path: str) -> None:
    """A keyed add waits in another thread's group and is interrupted twice; the caller retries."""
    db = kvstore.open(path)
    db.put("n", 0)
    commits = commits_of(db)
    process, go_on, full = commits._cluster.process, threading.Event(), threading.Event()
    main = threading.get_ident()

    def slowly(group: list[Any]) -> Any:
        if any(pending.request.token for pending in group):
            full.set()
            go_on.wait()
        return process(group)

    def lead() -> None:
        """Hold the lead until the main thread has queued its request, and take the request into a group."""
        with commits._leading:
            while not commits._queue:
                time.sleep(0.001)
        db.put("other", 1)

    def interrupt() -> None:
        full.wait()
        for _ in range(2):
            time.sleep(0.1)
            signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.1)
        in_thread(lambda: (time.sleep(0.2), go_on.set()))

    commits._cluster.process = slowly
    leader = in_thread(lead)
    while not commits._leading.locked():
        time.sleep(0.001)
    in_thread(interrupt)
    interrupts = 0
    while True:
        try:
            db.add("n", 1, idempotency_key="once")
            break
        except KeyboardInterrupt:
            interrupts += 1
    leader.join()
    print(interrupts, db["n"])
    db.close()


def add_until_done(db: kvstore.Database) -> int:
    """Retry after each interrupt, as a user would; return the number of interrupts."""
    interrupts = 0
    while True:
        try:
            db.add("n", 1, idempotency_key="once")
        except KeyboardInterrupt:
            interrupts += 1
        else:
            return interrupts


def interrupted_queueing(path: str) -> None:
    """The main thread is interrupted just after its request was queued."""
    db = kvstore.open(path)
    db.put("n", 0)
    commits = commits_of(db)

    class InterruptedQueue(type(commits._queue)):  # type: ignore[misc]
        def append(self, pending: Any) -> None:
            super().append(pending)
            if pending.request.token is not None and len(sent) < 1:
                sent.append(pending)
                signal.raise_signal(signal.SIGINT)

    sent: list[Any] = []
    commits._queue = InterruptedQueue(commits._queue)
    go_on = threading.Event()
    holder = in_thread(lambda: commits.exclusively(go_on.wait))
    while not commits._leading.locked():
        time.sleep(0.001)
    in_thread(lambda: (time.sleep(0.3), go_on.set()))
    interrupts = add_until_done(db)
    holder.join()
    print(interrupts, db["n"])
    db.close()


def interrupted_leading(path: str) -> None:
    """The main thread leads a group that is full without its own request, and is interrupted then."""
    db = kvstore.open(path, durability="none")
    db.put("n", 0)
    commits = commits_of(db)
    process, groups = commits._cluster.process, []

    def interrupt_the_first(group: list[Any]) -> Any:
        done = process(group)
        groups.append(len(group))
        if len(groups) == 1:
            signal.raise_signal(signal.SIGINT)
        return done

    commits._start_threads = lambda: None  # as if the writer had not woken up yet
    for number in range(3000):
        db.submit(a_batch(db, (number,)))
    commits._cluster.process = interrupt_the_first
    interrupts = add_until_done(db)
    print(interrupts, db["n"])
    db.close()


def interrupted_start(path: str) -> None:
    """The first submit is interrupted while it starts the store's threads; the next one must work."""
    db = kvstore.open(path)
    start = threading.Thread.start

    def interrupt(thread: threading.Thread) -> None:
        start(thread)
        threading.Thread.start = start  # type: ignore[method-assign]
        raise KeyboardInterrupt

    threading.Thread.start = interrupt  # type: ignore[method-assign]
    try:
        db.submit(a_batch(db, "interrupted"))
    except KeyboardInterrupt:
        print("interrupted")
    print(sorted(db.submit(a_batch(db, "second")).result().route.shards) != [])
    db.close()


def interrupted_reading(path: str) -> None:
    """An interrupt arrives just before the block of a ``with reading()``, and its traceback is kept."""

    def read() -> None:
        enter = contextlib._GeneratorContextManager.__enter__

        def entered(manager: contextlib._GeneratorContextManager[Any]) -> Any:
            enter(manager)
            contextlib._GeneratorContextManager.__enter__ = enter  # type: ignore[method-assign]
            raise KeyboardInterrupt

        contextlib._GeneratorContextManager.__enter__ = entered  # type: ignore[method-assign]
        db.snapshot()

    try:
        with kvstore.open(path) as db:
            read()
    except KeyboardInterrupt:
        print("closed")


def main() -> None:
    globals()[sys.argv[1]](sys.argv[2])
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

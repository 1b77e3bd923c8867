"""Forks with a store open: ``forked SCENARIO PATH REPLICAS DURABILITY``. Prints what the child found.

A scenario is a function of this module. The child prints before the parent, which waits for it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import kvstore

CHILD_SECONDS_MAX = 20


def in_child(work: Callable[[], None], leave: Callable[[], object], seconds: int = CHILD_SECONDS_MAX) -> None:
    """Fork, let the child work and leave, wait for it and print how it ended."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(seconds)
        work()
        sys.stdout.flush()
        leave()
    _, status = os.waitpid(pid, 0)
    print("child ended with", os.waitstatus_to_exitcode(status), flush=True)


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__} {getattr(error, 'pid', '')}".strip()
    return "returned"


def every_call(db: kvstore.Database, batch: kvstore.Batch, path: str) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: db.get("k"),
        "[]": lambda: db["k"],
        "in": lambda: "k" in db,
        "version": lambda: db.version("k"),
        "get_many": lambda: db.get_many(["k"]),
        "scan": lambda: list(db.scan()),
        "count": lambda: db.count(),
        "snapshot": lambda: db.snapshot(),
        "put": lambda: db.put("k", 2),
        "put with a key": lambda: db.put("k", 2, idempotency_key="x"),
        "delete": lambda: db.delete("k"),
        "del": lambda: db.__delitem__("k"),
        "add": lambda: db.add("n", 1),
        "batch": lambda: batch.__exit__(None, None, None),
        "submit": lambda: db.submit(batch),
        "status": lambda: db.status(),
        "verify": lambda: db.verify(),
        "backup": lambda: db.backup(path + ".backup"),
    }


def calls(path: str, replicas: int, durability: Any) -> None:
    """The child makes every call on the handles it inherited."""
    db = kvstore.open(path, replicas=replicas, durability=durability)
    db.put("k", 1)
    batch, other = db.batch(), db.batch()
    batch.put("b", 1)
    other.put("b", 1)
    db.submit(db.batch()).result()
    submitted = db.batch()
    submitted.put("s", 1)
    db.submit(submitted).result()
    view = db.snapshot()
    scan = view.scan()

    def work() -> None:
        for name, call in every_call(db, batch, path).items():
            if name == "submit":
                print(name, "->", outcome(lambda: db.submit(other)))
            else:
                print(name, "->", outcome(call))
        print("view ->", outcome(lambda: view.get("k")))
        print("view.scan ->", outcome(lambda: list(scan)))
        view.close()
        db.close()

    in_child(work, lambda: sys.exit(0))
    print("parent", db["k"], view["k"], os.getpid())
    db.put("k", 3)
    view.close()
    db.close()


def views(path: str, replicas: int, durability: Any) -> None:
    """Children end by exit and by _exit, while the parent reads an old view and overwrites."""
    db = kvstore.open(path, replicas=replicas, durability=durability)
    for number in range(500):
        db.put((number,), "old" * 50)
    view, suspended = db.snapshot(), db.scan()
    next(suspended)
    rows = list(view.scan())
    for leave in (lambda: sys.exit(0), lambda: os._exit(0)) * 2:
        in_child(lambda: None, leave)
        for _ in range(20):
            with db.batch() as batch:
                for number in range(500):
                    batch.put((number,), "new" * 50)
        assert list(view.scan()) == rows
    assert [*rows[:1], *suspended] == rows
    del suspended
    print("readers", db.status()["snapshots"]["open"])
    view.close()
    print("readers", db.status()["snapshots"]["open"], db.verify()["ok"])
    db.close()


def own(path: str, replicas: int, durability: Any) -> None:
    """The child opens a new store, and tries the parent's store before and after it was closed."""
    db = kvstore.open(path, replicas=replicas, durability=durability)
    db.put("k", 1)
    to_child, told = os.pipe()
    heard, to_parent = os.pipe()

    def work() -> None:
        with kvstore.open(path + ".own", replicas=replicas, durability=durability) as mine:
            mine.put("k", "mine")
            print("own ->", mine["k"])
        print("while the parent has it ->", outcome(lambda: kvstore.open(path)))
        os.write(to_parent, b"x")
        os.read(to_child, 1)
        print("when the parent closed it ->", outcome(lambda: kvstore.open(path)))

    def close_when_told() -> None:
        os.read(heard, 1)
        db.put("k", 2)
        db.close()
        os.write(told, b"x")

    closer = threading.Thread(target=close_when_told)
    closer.start()
    in_child(work, lambda: sys.exit(0))
    closer.join()
    with kvstore.open(path) as again:
        print("parent", again["k"])


def memory(path: str, replicas: int, durability: Any) -> None:
    """A memory store is not shared: the child may use its copy or be refused, but never waits."""
    db = kvstore.open(":memory:", replicas=replicas, durability=durability)
    db.put("k", 1)
    batch = db.batch()
    batch.put("s", 1)
    db.submit(batch).result()

    late = db.batch()
    late.put("s", 2)

    def work() -> None:
        print("put ->", outcome(lambda: db.put("k", 2)))
        print("get ->", outcome(lambda: db.get("k")))
        print("submit ->", outcome(lambda: db.submit(late).result(timeout=1)), flush=True)

    in_child(work, lambda: sys.exit(0), seconds=3)
    print("parent", db["k"])


def opening(path: str, replicas: int, durability: Any) -> None:
    """A thread is opening a store during the fork; the child opens another store."""
    begun, go_on = threading.Event(), threading.Event()
    mkdir = os.mkdir

    def slow(*arguments: Any, **options: Any) -> None:
        if str(arguments[0]) == path:
            begun.set()
            go_on.wait()
        mkdir(*arguments, **options)

    os.mkdir = slow
    thread = threading.Thread(target=lambda: kvstore.open(path, replicas=replicas).close())
    thread.start()
    begun.wait()

    def work() -> None:
        with kvstore.open(path + ".own") as mine:
            mine.put("k", 1)
            print("own ->", mine["k"])

    in_child(work, lambda: os._exit(0))
    go_on.set()
    thread.join()


def threads(path: str, replicas: int, durability: Any) -> None:
    """Other threads write, submit and read while children are forked, one after the other."""
    db = kvstore.open(path, replicas=replicas, durability=durability)
    stop = threading.Event()

    def write(number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            with db.batch() as batch:
                batch.put(("a", number), count)
                batch.put(("b", number), count)
            with db.snapshot() as view:
                assert view[("a", number)] == view[("b", number)]

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for turn in range(10):
        leave = (lambda: sys.exit(0)) if turn % 2 else (lambda: os._exit(0))
        in_child(lambda: print("put ->", outcome(lambda: db.put("k", 1))), leave)
    stop.set()
    for writer in writers:
        writer.join()
    print("parent", db.verify()["ok"], db.status()["snapshots"]["open"])
    db.close()


def main() -> None:
    scenario, path, replicas, durability = sys.argv[1:]
    globals()[scenario](path, int(replicas), durability)


if __name__ == "__main__":
    main()

"""Interrupts a working main thread repeatedly: ``interrupted WORK PATH REPLICAS SIGNALS THREADS``.

Prints one JSON object: the number of KeyboardInterrupts, the acknowledged work, and the store's content.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import kvstore
from kvstore import Database


class Interrupts:
    """A SIGINT handler that raises KeyboardInterrupt once per arming, so not while one is being handled."""

    def __init__(self) -> None:
        self.received = 0
        self.raised = 0
        self.armed = False
        self.over = threading.Event()
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGUSR1, lambda *_: self.over.set())

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.received += 1
        if self.armed:
            self.armed = False
            self.raised += 1
            raise KeyboardInterrupt


def send_signals(count: int) -> None:
    """Fork a process that interrupts this one; a thread would send signals at a few safe moments only."""
    target = os.getpid()
    if os.fork():
        return
    randomly = random.Random(count)
    try:
        for _ in range(count):
            time.sleep(randomly.uniform(0, 0.002))
            os.kill(target, signal.SIGINT)
        time.sleep(0.01)
        os.kill(target, signal.SIGUSR1)
    finally:
        os._exit(0)


Step = Callable[[Database, int], None]
"""Function that does work number n once; interrupted work is repeated with its number."""


def put(db: Database, number: int) -> None:
    db.put(("p", number), number)


def get(db: Database, number: int) -> None:
    assert db.get("there") == 1
    assert "missing" not in db


def scan(db: Database, number: int) -> None:
    assert len(list(db.scan(prefix=("s",)))) == 50
    with db.snapshot() as view:
        assert view["there"] == 1


def batch(db: Database, number: int) -> None:
    with db.batch() as both:
        for side in range(4):
            both.put(("p" if side == 0 else "q", number, side), number)


def keyed(db: Database, number: int) -> None:
    db.add("n", 1, idempotency_key=("once", number))


def submit(db: Database, number: int) -> None:
    both = db.batch()
    both.put(("p", number), number)
    db.submit(both)  # not waited for: Python's own wait for a future is not safe from interrupts


def work_beside(db: Database, mine: int, over: threading.Event, acknowledged: list[int]) -> None:
    number = 0
    while not over.is_set():
        db.put(("beside", mine, number), number)
        number += 1
    acknowledged.append(number)


def main() -> None:
    name, path, replicas, signals, threads = sys.argv[1:]
    step: Step = globals()[name]
    db = kvstore.open(path, replicas=int(replicas))
    db.put("there", 1)
    with db.batch() as filling:
        for number in range(50):
            filling.put(("s", number), number)
    interrupts = Interrupts()
    beside: list[int] = []
    others = [
        threading.Thread(target=work_beside, args=(db, mine, interrupts.over, beside), daemon=True)
        for mine in range(int(threads))
    ]
    send_signals(int(signals))
    for thread in others:
        thread.start()
    done = 0

    def work() -> None:
        nonlocal done
        while not interrupts.over.is_set():
            interrupts.armed = True  # each time: Python swallows an interrupt during a deallocation
            step(db, done)
            done += 1

    while not interrupts.over.is_set():
        # In a function, because a loop's jump back directly inside ``try`` is not covered by the ``try``.
        try:
            work()
        except KeyboardInterrupt:
            pass
        interrupts.armed = False
    step(db, done)
    db.put("after everything that was submitted", 1)
    for thread in others:
        thread.join()
    found = {
        "received": interrupts.received,
        "raised": interrupts.raised,
        "done": done + 1,
        "there": db.count(prefix=("p",)),
        "halves": db.count(prefix=("q",)) - 3 * db.count(prefix=("p",)) if name == "batch" else 0,
        "total": db.get("n", 0),
        "beside": sum(beside),
        "beside there": db.count(prefix=("beside",)),
        "ok": db.verify()["ok"],
        "open": db.status()["snapshots"]["open"],
    }
    db.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

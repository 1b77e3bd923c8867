"""Writes batches over several shards until it is killed: ``writer PATH REPLICAS DURABILITY``.

There are three threads, one lane each. Batch n of a lane sets the lane's count to n and writes n into four
places of a ring, on several shards; lane 2 submits its batches. Every acknowledged batch is printed as
``LANE NUMBER``. So a lane's state follows from its count alone: see ``expected``.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future
from typing import Any

import kvstore
from kvstore import Batch, Commit, Database, Key

LANES, RING, COPIES, AHEAD_MAX = 3, 8, 4, 16
OPTIONS: dict[str, Any] = {"shards": 5, "watch_retention": 20_000, "sync_interval_ms": 20}


def fill(batch: Batch, lane: int, number: int) -> None:
    batch.add(("count", lane), 1)
    for copy in range(COPIES):
        key = (lane, number % RING, copy)
        if number % 5 == 0 and copy == 3:
            batch.delete(key)
        else:
            batch.put(key, [number, "x" * (number % 50)])


def expected(lane: int, count: int) -> dict[Key, Any]:
    """Return the content of a lane after ``count`` batches."""
    found: dict[Key, Any] = {("count", lane): count} if count else {}
    for number in range(max(1, count - RING + 1), count + 1):
        for copy in range(COPIES):
            if not (number % 5 == 0 and copy == 3):
                found[lane, number % RING, copy] = [number, "x" * (number % 50)]
    return found


def acknowledge(lane: int, number: int) -> None:
    os.write(1, b"%d %d\n" % (lane, number))


def write(db: Database, lane: int) -> None:
    number = db.get(("count", lane), 0)
    while True:
        number += 1
        with db.batch() as batch:
            fill(batch, lane, number)
        acknowledge(lane, number)


def submit(db: Database, lane: int) -> None:
    number = db.get(("count", lane), 0)
    room = threading.Semaphore(AHEAD_MAX)

    def done(future: Future[Commit], number: int) -> None:
        future.result()
        acknowledge(lane, number)
        room.release()

    while True:
        number += 1
        room.acquire()
        batch = db.batch()
        fill(batch, lane, number)
        db.submit(batch).add_done_callback(lambda future, number=number: done(future, number))


def main() -> None:
    path, replicas, durability = sys.argv[1:]
    db = kvstore.open(path, replicas=int(replicas), durability=durability, **OPTIONS)  # type: ignore[arg-type]
    os.write(1, b"open\n")
    works = [(write, 0), (write, 1), (submit, 2)]
    threads = [threading.Thread(target=work, args=(db, lane), daemon=True) for work, lane in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(1)


if __name__ == "__main__":
    main()

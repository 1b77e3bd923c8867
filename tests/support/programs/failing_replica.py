"""One replica's disk fails while writers and readers work: ``failing_replica FOLDER REPLICA POINTS``.

The n-th call that changes anything below the folder of replica REPLICA fails, and so do all later calls, for
n from 1 to POINTS, each time with a new store. Prints how often another replica became the learner.
"""

from __future__ import annotations

import errno
import sys
import threading
from pathlib import Path

import kvstore
from tests.support import disk
from tests.support.disk import Fault
from tests.support.power import assert_replicas_agree

WRITES = 30


class Reader:
    """A thread that reads all the time; any result except acknowledged values is a failure."""

    def __init__(self, db: kvstore.Database) -> None:
        self.acknowledged = 0
        self.failure: BaseException | None = None
        self._db = db
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while not self._stop.is_set():
                least = self.acknowledged
                assert self._db["n"] >= least
                with self._db.snapshot() as now:
                    assert now["n"] == now["m"] >= least
                assert next(self._db.watch(since=0, timeout=0)).key in ("n", "m", ("each", 0))
        except BaseException as failure:
            self.failure = failure

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure


def write(db: kvstore.Database, number: int) -> None:
    with db.batch() as batch:
        batch.put("n", number)
        batch.put("m", number)
        batch.put(("each", number), "x" * 500)


def one_run(folder: Path, replica: int, point: int) -> bool:
    db = kvstore.open(folder, shards=3, replicas=3)
    write(db, 0)
    reader = Reader(db)
    disk.arm(folder / f"replica-{replica}", Fault.FAIL_FROM, point, errno.EIO)
    for number in range(1, WRITES):
        write(db, number)
        reader.acknowledged = number
    reader.end()
    status = db.status()
    assert len(status["problems"]) == 1, status
    db.close()
    disk.disarm()
    with kvstore.open(folder) as db:
        assert (db["n"], db["m"], db.count()) == (WRITES - 1, WRITES - 1, WRITES + 2)
        assert db.status()["healthy"], db.status()
        assert db.verify()["ok"]
        assert_replicas_agree(db)
    learner: int = status["learner"]
    return learner != 0


def main(folder: Path, replica: int, points: int) -> None:
    moved = [one_run(folder / str(point), replica, point) for point in range(1, points + 1)]
    print(sum(moved))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

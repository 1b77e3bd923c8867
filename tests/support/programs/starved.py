"""Runs a store without room: ``starved SCENARIO PATH REPLICAS [DURABILITY]``."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

import kvstore

MIB = 1 << 20


def bound_files(size: int) -> None:
    """Limit the size of files: a write beyond it fails with EFBIG, as on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def limited(path: str, replicas: int, durability: Any) -> None:
    """The store knows the limit, which is lifted later."""
    bound_files(6 * MIB)
    db = kvstore.open(path, replicas=replicas, durability=durability)
    count = 0
    try:
        while True:
            db.put(("k", count), [count, bytes(20_000)])
            count += 1
    except kvstore.DiskFull as full:
        print(type(full).__name__)
        assert 20 < count < 400, count
    assert [value[0] for _, value in db.scan()] == list(range(count))
    assert db.verify()["ok"]
    assert db.status()["healthy"]
    print("reads go on")
    bound_files(64 * MIB)
    db.put("more", bytes(MIB))
    print("room again")
    db.close()
    print("closed")


def falling(path: str, replicas: int, durability: Any) -> None:
    """The limit is lowered after the store has checked that there is room."""
    db = kvstore.open(path, replicas=replicas, durability=durability)
    db.put(("k", 0), 0)
    size = (Path(path) / "replica-0" / "data.mdb").stat().st_size
    bound_files(size)
    count, failed = 1, False
    for number in range(1, 3000):
        try:
            with db.batch() as batch:
                batch.put(("k", number), number)
                batch.put(("filling", number), bytes(5000))
        except (kvstore.OutcomeUnknown, kvstore.Failed, kvstore.DiskFull):
            failed = True
        else:
            assert not failed, "a store that failed takes no writes"
            count += 1
    assert failed
    db.close()
    print(count)


def fill_and_die(path: str, replicas: int, durability: Any) -> None:
    """Fill the store's disk, and end as if killed."""
    db = kvstore.open(path, replicas=replicas, durability=durability)
    count = 0
    try:
        while True:
            db.put(("k", count), [count, bytes(20_000)])
            count += 1
    except kvstore.DiskFull:
        print(db.count(), flush=True)
    os._exit(0)


def main() -> None:
    scenario, path, replicas, *rest = sys.argv[1:]
    globals()[scenario](path, int(replicas), *(rest or ["commit"]))


if __name__ == "__main__":
    main()

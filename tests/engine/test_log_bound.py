"""Endless overwriting: the log, and with it the file, stays bounded (contracts A7).

``KVSTORE_OVERWRITES`` is the number of overwrites; from a million on the retention is the default of
64 MiB, below that it is small, so that the bound is reached soon.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Database

OVERWRITES = int(os.environ.get("KVSTORE_OVERWRITES", "40000"))
LONG = OVERWRITES >= 1_000_000
RETENTION = 64 << 20 if LONG else 512 << 10
KEYS, VALUE_BYTES, BATCH_MAX = 500, 100, 40
ROUNDS = 6
"""Number of rounds, between which the store is reopened."""
FILE_BYTES_MAX = 6 * RETENTION + (8 << 20)
"""Largest allowed file: logs, states, and pages that LMDB reuses only two commits later."""


def open_it(path: Path, **options: Any) -> Database:
    return kvstore.open(path, durability="none", watch_retention=RETENTION, **options)


def overwrites(randomly: random.Random) -> Iterator[dict[kvstore.Key, bytes]]:
    """Yield writes without end: single puts, and batches over several shards."""
    while True:
        count = randomly.choice([1, 1, 2, BATCH_MAX])
        yield {("k", randomly.randrange(KEYS)): randomly.randbytes(VALUE_BYTES) for _ in range(count)}


def overwrite(db: Database, randomly: random.Random, count: int, content: dict[kvstore.Key, bytes]) -> None:
    while count > 0:
        for change in islice(overwrites(randomly), 20):
            batch = db.batch()
            for key, value in change.items():
                batch.put(key, value)
            future = db.submit(batch)
            content.update(change)
            count -= len(change)
        future.result(timeout=60)


@pytest.mark.parametrize("replicas", [1, 3])
def test_overwriting_keeps_the_file_bounded_over_openings(tmp_path: Path, replicas: int) -> None:
    store, randomly = tmp_path / "store", random.Random(9)
    content: dict[kvstore.Key, bytes] = {}
    sizes, kept = [], 0
    begun = time.monotonic()
    open_it(store, replicas=replicas).close()
    for _ in range(ROUNDS):
        with open_it(store) as db:
            assert dict(db.scan()) == content
            overwrite(db, randomly, OVERWRITES // replicas // ROUNDS, content)
            status = db.status()
        kept = sum(log["last"] - log["first"] + 1 for log in status["logs"].values())
        sizes.append(max(status["bytes"].values()))

    written = sum(log["last"] for log in status["logs"].values())
    report = f"{OVERWRITES // replicas} overwrites: {sizes} bytes, {kept} of {written} log records kept"
    print(f"{report}, {time.monotonic() - begun:.1f} s")
    assert max(sizes) < FILE_BYTES_MAX, report
    assert sizes[-1] <= sizes[1] * 1.25 + (1 << 20) or LONG, report
    assert kept < written / 2 or LONG, report
    with open_it(store) as db:
        assert dict(db.scan()) == content
        verified = db.verify()
        assert verified["ok"], verified


def test_without_retention_the_log_holds_next_to_nothing(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "store", durability="none", watch_retention=0) as db:
        for number in range(3000):
            with db.batch() as batch:
                batch.put(("k", number % 10), bytes(200))
                batch.put(("j", number % 7), bytes(200))
        logs = db.status()["logs"].values()

        assert sum(log["last"] for log in logs) > 3000
        assert sum(log["last"] - log["first"] + 1 for log in logs) < 600
        assert db.verify()["ok"]


def test_an_open_snapshot_lets_the_log_be_cut_all_the_same(tmp_path: Path) -> None:
    """A snapshot pins pages, so the file grows; when the snapshot ends, the pages are used again."""
    with kvstore.open(tmp_path / "store", durability="none", watch_retention=0) as db:
        db.put("k", "old")
        view = db.snapshot()
        for number in range(2000):
            db.put("k", [number, bytes(500)])
        assert view["k"] == "old"
        view.close()
        grown = db.status()["bytes"]["0"]
        for number in range(4000):
            db.put("k", [number, bytes(500)])

        assert db.status()["bytes"]["0"] <= grown + (1 << 20)
        assert db.verify()["ok"]

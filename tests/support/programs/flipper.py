"""Flips single bits of a closed store and reads all of it: ``flipper STORE SCRATCH SEED COUNT``.

With ``headers`` as SEED the bits are those that say what kind of page a page is, COUNT of them.

Each flip is tried on a fresh copy by a forked process, so that one that ends the process is survived and
counted. Prints ``OUTCOME OFFSET BIT DETAIL`` for each: ``right``, ``error``, ``wrong`` or ``crash``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb

import kvstore
from kvstore import Database

KEYS = 160
SECONDS_MAX = 20
"""A reader that has not ended by then is counted as a crash: it follows a page pointer in a circle."""

PAGE_BYTES, FLAGS_AT = 4096, 10
"""Where LMDB keeps the kind of a page."""

Content = dict[kvstore.Key, Any]


def content() -> Content:
    """Short keys and long ones, values inside pages and over several pages."""
    randomly = random.Random(11)
    found: Content = {}
    for number in range(KEYS):
        key: kvstore.Key = ("key", number) if number % 2 else f"text {number} " + "k" * (number % 90)
        size = randomly.choice([0, 10, 100, 700, 2100, 5000])
        found[key] = [number, randomly.randbytes(size)]
    return found


def create(path: Path) -> None:
    with kvstore.open(path, shards=2, durability="none", watch_retention=0) as db:
        for round_ in range(2):
            for key, value in content().items():
                db.put(key, value if round_ else "before")
        for number in range(30):
            db.put(("deleted", number), number)
            db.delete(("deleted", number))


class Reading:
    """Reads everything in every way; collects what is wrong, counts what is refused."""

    def __init__(self) -> None:
        self.expected = content()
        self.wrong: list[str] = []
        self.refused = 0

    def check(self, what: str, call: Callable[[], object], expected: object) -> None:
        try:
            found = call()
        except kvstore.Error:
            self.refused += 1
        except Exception as error:
            self.wrong.append(f"{what} raised {error!r}")
        else:
            if found != expected:
                self.wrong.append(f"{what} is {str(found)[:60]}")

    def read(self, db: Database) -> None:
        expected, missing = self.expected, [("deleted", 3), ("key", 0), "text", "zz", ("key",), b"\xff"]
        for key, value in expected.items():
            self.check(f"get {key!r}", lambda key=key: db.get(key, "missing"), value)
        for key in missing:
            self.check(f"missing {key!r}", lambda key=key: db.get(key, "missing"), "missing")
        rows = sorted(expected.items(), key=lambda row: (isinstance(row[0], tuple), row[0]))
        tuples = [row for row in rows if isinstance(row[0], tuple)]
        self.check("scan", lambda: list(db.scan()), rows)
        self.check("scan back", lambda: list(db.scan(reverse=True)), rows[::-1])
        self.check("scan prefix", lambda: list(db.scan(prefix=("key",))), tuples)
        self.check("scan part", lambda: list(db.scan(start=("key", 40), limit=5)), tuples[20:25])
        self.check("count", db.count, len(rows))

    def write(self, db: Database) -> None:
        """Writes beside what is there, and over some of it."""
        for number in range(1, 40, 2):
            try:
                db.put(("key", number), number)
            except kvstore.Error:
                # It may have been written: what the key has now is not known.
                self.expected.pop(("key", number), None)
            else:
                self.expected[("key", number)] = number


def try_store(path: Path) -> Iterator[str]:
    reading = Reading()
    try:
        with kvstore.open(path, readonly=True) as db:
            reading.read(db)
        yield from reading.wrong
        with kvstore.open(path, durability="none", watch_retention=0) as db:
            reading.read(db)
            before = len(reading.expected)
            reading.write(db)
            if len(reading.expected) == before:
                reading.read(db)
            verified = db.verify()
        if not verified["ok"]:
            reading.refused += 1
    except kvstore.Error:
        reading.refused += 1
    except Exception as error:
        yield f"opening or closing raised {error!r}"
    yield from reading.wrong
    if reading.refused:
        yield "error"


def used_bytes(store: Path) -> int:
    """Up to the last page that the newest root counts."""
    folder = str(store / "replica-0")
    with lmdb.open(folder, readonly=True, lock=False, lib_version=0) as environment:
        return int(environment.info()["last_pgno"] + 1) * 4096


def flip_and_try(store: Path, scratch: Path, offset: int, bit: int) -> str:
    copy = scratch / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store, copy)
    data = copy / "replica-0" / "data.mdb"
    raw = bytearray(data.read_bytes())
    raw[offset] ^= 1 << bit
    data.write_bytes(raw)
    report = scratch / "report"
    pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS_MAX)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        report.write_text(json.dumps(list(try_store(copy))))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        return f"crash {offset} {bit} ended with {code}"
    said = json.loads(report.read_text())
    wrong = [line for line in said if line != "error"]
    if wrong:
        return f"wrong {offset} {bit} {wrong[0]}"
    return f"{'error' if said else 'right'} {offset} {bit}"


def main() -> None:
    store, scratch, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    scratch.mkdir()
    randomly, end = random.Random(seed), used_bytes(store)
    for _ in range(count):
        offset = randomly.randrange(end)
        if seed == "headers":
            offset = offset // PAGE_BYTES * PAGE_BYTES + FLAGS_AT
        print(flip_and_try(store, scratch, offset, randomly.randrange(8)), flush=True)


if __name__ == "__main__":
    main()

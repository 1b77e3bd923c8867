"""Flips single bits of a closed store and reads all of it: ``flipper STORE SCRATCH SEED COUNT``.

Half of the bits are anywhere, the other half in turn in a page of each kind (``tests/support/pages.py``).
With ``headers`` as SEED the bits are those that encode the kind of a page. Of several replicas one is hit,
at every second flip after an unclean end.

Each flip is tried on a fresh copy in a forked process, so that a crash is survived and counted. Prints
``OUTCOME KIND OFFSET BIT DETAIL`` for each: ``right``, ``error``, ``wrong`` or ``crash``; with several
replicas also the number of openings until everything was there again, which must happen whatever the flip
did to the process that read it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

import kvstore
from kvstore import Database
from kvstore.engine import store_directory
from kvstore.storage.data_file import META_BYTES
from tests.support.forking import examine_in_fork, forked
from tests.support.pages import KINDS, kinds

KEYS = 160
RETENTION = 40_000
OPENINGS_MAX = 3
"""Most openings until a store with several replicas must have everything again."""
SECONDS_MAX = 20
"""Seconds after which a reader counts as crashed: it follows page pointers in a cycle."""

PAGE_BYTES, FLAGS_AT = 4096, 10
"""Size of an LMDB page, and the offset of its kind."""

Content = dict[kvstore.Key, Any]


def content() -> Content:
    """Return content with short and long keys, and values inside pages and over several pages."""
    randomly = random.Random(11)
    found: Content = {}
    for number in range(KEYS):
        key: kvstore.Key = ("key", number) if number % 2 else f"text {number} " + "k" * (number % 90)
        size = randomly.choice([0, 10, 100, 700, 2100, 5000])
        found[key] = [number, randomly.randbytes(size)]
    return found


def create(path: Path, replicas: int = 1) -> None:
    with kvstore.open(path, shards=4, replicas=replicas, durability="none", watch_retention=RETENTION) as db:
        for round_ in range(2):
            for key, value in content().items():
                db.put(key, value if round_ else "before")
        for number in range(30):
            db.put(("deleted", number), number)
            db.delete(("deleted", number))


class Reading:
    """A reader that reads everything in every way, collects wrong results and counts refusals."""

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
        """Write new keys, and overwrite some."""
        for number in range(1, 40, 2):
            try:
                db.put(("key", number), number)
            except kvstore.Error:
                # The write may have been committed: the key's value is unknown now.
                self.expected.pop(("key", number), None)
            else:
                self.expected[("key", number)] = number


def try_store(path: Path) -> Iterator[str]:
    reading = Reading()
    try:
        with kvstore.open(path, readonly=True) as db:
            reading.read(db)
        yield from reading.wrong
        with kvstore.open(path, durability="none", watch_retention=RETENTION) as db:
            reading.read(db)
            before = len(reading.expected)
            if not reading.refused:  # after an error, writes beside the damage may be lost
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


def used_bytes(store: Path, replica: int = 0) -> int:
    """Return the number of bytes up to the last page that the newest root counts."""
    folder = str(store / f"replica-{replica}")
    with lmdb.open(folder, readonly=True, lock=False, lib_version=0) as environment:
        return int(environment.info()["last_pgno"] + 1) * 4096


class Flip(NamedTuple):
    """One bit of one replica's file."""

    replica: int
    kind: str
    offset: int
    bit: int
    clean: bool
    """Whether the copy looks like a closed store."""

    def __str__(self) -> str:
        return f"{self.kind.replace(' ', '-')} {self.offset} {self.bit} of replica {self.replica}"

    def make(self, store: Path, copy: Path) -> None:
        """Make a copy of the store with this bit flipped."""
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy)
        if not self.clean:
            for mark in copy.glob("replica-*/closed"):
                mark.unlink()
        data = data_of(copy, self.replica)
        raw = bytearray(data.read_bytes())
        raw[self.offset] ^= 1 << self.bit
        data.write_bytes(raw)


def data_of(store: Path, replica: int = 0) -> Path:
    return store / f"replica-{replica}" / "data.mdb"


def replicas_of(store: Path) -> int:
    return len(list(store.glob("replica-*")))


def flips(store: Path, seed: str, count: int) -> Iterator[Flip]:
    randomly, replicas = random.Random(seed), replicas_of(store)
    pages = [kinds(data_of(store, replica)) for replica in range(replicas)]
    for number in range(count):
        replica = randomly.randrange(replicas)
        kind_of = {page: kind for kind, found in pages[replica].items() for page in found}
        page = randomly.randrange(used_bytes(store, replica) // PAGE_BYTES)
        wanted = pages[replica][KINDS[number // 2 % len(KINDS)]]
        if number % 2 and wanted:
            page = randomly.choice(wanted)
        within = FLAGS_AT if seed == "headers" else randomly.randrange(PAGE_BYTES)
        if kind_of[page] == "meta" and number % 2:
            within = randomly.randrange(META_BYTES)  # the rest of the page is empty
        clean = replicas == 1 or number % 4 < 2
        yield Flip(replica, kind_of[page], page * PAGE_BYTES + within, randomly.randrange(8), clean)


def try_flip(store: Path, scratch: Path, flip: Flip) -> str:
    copy = scratch / "copy"
    flip.make(store, copy)
    code, said = forked(lambda say: limited(lambda: [say(line) for line in try_store(copy)]))
    wrong = [line for line in said if line != "error"]
    if code != 0:
        outcome = f"crash {flip} ended with {code}"
    elif wrong:
        outcome = f"wrong {flip} {wrong[0]}"
    else:
        outcome = f"{'error' if said else 'right'} {flip}"
    return outcome if replicas_of(store) == 1 else f"{outcome}, {mended(store, copy, flip)}"


def mended(store: Path, copy: Path, flip: Flip) -> str:
    """Open the store, unchanged since the flip, until everything is there again; return the outcome."""
    flip.make(store, copy)
    for opening in range(1, OPENINGS_MAX + 1):
        code, said = forked(lambda say: limited(lambda: [say(line) for line in is_whole(copy)]))
        if code == 0 and not said:
            return f"whole at opening {opening}"
        if not flip.clean:
            break  # it is examined before it is opened, so no error may reach a caller
    raise AssertionError(f"lost: {flip}, {'clean' if flip.clean else 'unclean'}, {code}: {said}")


def is_whole(path: Path) -> Iterator[str]:
    reading = Reading()
    try:
        with kvstore.open(path, durability="none", watch_retention=RETENTION) as db:
            reading.read(db)
            verified = db.verify()
    except kvstore.Damage as damage:
        yield str(damage)
        return
    yield from (str(problem) for problem in verified["problems"])
    yield from reading.wrong
    if reading.refused:
        yield f"{reading.refused} readings were refused"


def limited(act: Callable[[], object]) -> None:
    """Run ``act`` with a time limit, so that a process that does not end counts as crashed."""
    signal.alarm(SECONDS_MAX)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    act()


def main() -> None:
    store, scratch, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    store_directory._examine_in_child = examine_in_fork
    scratch.mkdir()
    for flip in flips(store, seed, count):
        print(try_flip(store, scratch, flip), flush=True)


if __name__ == "__main__":
    main()

"""Runs eight writers and a watcher in one process, until each writer is done or the process is killed:
``watched PATH SEEN CHANGES REPLICAS``.

Each writer puts the numbers 1, 2, 3, ... in order, some in transactions with other keys, and resumes after
the number that the store shows. The watcher appends a line of JSON for each change, with its cursor, to the
file SEEN, and resumes after the last whole line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import kvstore

WRITERS, KEYS = 8, 5
Seen = list[Any]
"""Key, value (None if deleted), version and cursor of a change."""


def write(db: kvstore.Database, writer: int, last: int) -> None:
    number = db.get(("done", writer), 0)
    while number < last:
        with db.batch() as batch:
            for _ in range(1 + number % 3):
                number += 1
                batch.put((writer, number % KEYS, number), number)
            batch.put(("done", writer), number)
            batch.add("total", 1)
            batch.delete((writer, (number - 7) % KEYS, number - 7))


def seen_in(file: Path) -> list[Seen]:
    """Return the whole lines of the file; an incomplete last line is removed."""
    content = file.read_bytes() if file.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        file.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def watch(db: kvstore.Database, file: Path) -> None:
    lines = seen_in(file)
    with file.open("ab", buffering=0) as out:
        for change in db.watch(since=lines[-1][3] if lines else 0):
            line = [change.key, change.value, change.version, change.cursor]
            out.write(json.dumps(line).encode() + b"\n")


def run(db: kvstore.Database, seen: Path, last: int) -> None:
    watcher = threading.Thread(target=watch, args=(db, seen))
    writers = [threading.Thread(target=write, args=(db, number, last)) for number in range(WRITERS)]
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    end = db.cursor()
    while not _has_reached(seen, end):
        watcher.join(0.05)
    db.close()
    watcher.join()


def _has_reached(seen: Path, end: Any) -> bool:
    with seen.open("rb") as file:
        file.seek(max(0, seen.stat().st_size - 4096))
        lines = file.read().split(b"\n")[:-1]  # the last line is incomplete
    return bool(lines) and json.loads(lines[-1])[3] == {str(shard): slot for shard, slot in end.items()}


def main() -> None:
    path, seen, changes, replicas = sys.argv[1:]
    db = kvstore.open(path, replicas=int(replicas), durability="none", watch_retention=1 << 30)
    os.write(1, b"open\n")
    run(db, Path(seen), int(changes) // WRITERS)


if __name__ == "__main__":
    main()

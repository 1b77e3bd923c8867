"""Causes errors that need a child process: ``troubled SCENARIO PATH``. Prints the errors by name."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import kvstore


def say(call: Callable[[], object]) -> None:
    try:
        call()
    except kvstore.Error as error:
        print(type(error).__name__, str(error), flush=True)
    else:
        print("no error", flush=True)


def bound_files(size: int) -> None:
    """Limit the size of files: a write beyond it fails with EFBIG, as on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def size_of(path: str) -> int:
    return (Path(path) / "replica-0" / "data.mdb").stat().st_size


def limit(path: str) -> None:
    """The limit is there from the beginning, so the store raises before it writes."""
    bound_files(4 << 20)
    with kvstore.open(path) as db:
        db.put("k", 1)
        say(lambda: [db.put((number,), bytes(100_000)) for number in range(1000)])
        assert db["k"] == 1


def failing(path: str) -> None:
    """The limit is lowered after the store has checked for room, so the commit itself fails."""
    with kvstore.open(path) as db:
        db.put("k", 1)
        bound_files(size_of(path))
        say(lambda: [db.put((number,), bytes(100_000)) for number in range(100)])
        say(lambda: db.put("k", 2))


def fork(path: str) -> None:
    with kvstore.open(path) as db:
        if os.fork() == 0:
            say(lambda: db.get("k"))
            os._exit(0)
        os.wait()


def main() -> None:
    globals()[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()

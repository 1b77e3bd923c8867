"""Writes until the file must not grow any more: ``python -m tests.support.programs.fill_a_disk FOLDER``.

The limit is RLIMIT_FSIZE, and the program does not check for room first, so a commit fails half-way. Prints
the number of commits that returned, and the errors of the next commit and of a new batch.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from kvstore.errors import Error
from kvstore.storage import LmdbEnvironment


def main() -> None:
    environment = LmdbEnvironment(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    table = environment.table(b"tab")
    for number in range(10_000):
        batch = environment.begin()
        table.put(b"%05d a" % number, bytes(3000))
        table.put(b"%05d b" % number, bytes(3000))
        try:
            batch.commit()
        except Error as error:
            print(number, type(error).__name__)
            break
    try:
        environment.begin()
    except Error as error:
        print(type(error).__name__, environment.failure is not None)
    environment.close()


if __name__ == "__main__":
    main()

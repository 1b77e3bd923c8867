"""Creates a store and is killed at one step of it: ``creator PATH REPLICAS STEP``.

A step is a call that changes the file system, as Python's audit hooks report it; LMDB's own writes happen
between two steps.
"""

from __future__ import annotations

import os
import signal
import sys

import kvstore

STEPS_MAX = 200
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}


def main() -> None:
    path, replicas, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    left = step

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in CHANGES and str(arguments[0]).startswith(path):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(count)
    kvstore.open(path, shards=2, replicas=replicas)
    os._exit(0)


if __name__ == "__main__":
    main()

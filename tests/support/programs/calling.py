"""Calls a procedure on three replicas and is killed before the followers run it: ``calling PATH MODULES``."""

from __future__ import annotations

import os
import signal
import sys

import kvstore


def main() -> None:
    path, modules = sys.argv[1:]
    sys.path.insert(0, modules)
    db = kvstore.open(path, replicas=3, procedures=["bank"])
    db.call("bank.settle", 7)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

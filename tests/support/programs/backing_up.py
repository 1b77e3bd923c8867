"""Makes a backup and is killed half-way: ``backing_up STORE TARGET``."""

from __future__ import annotations

import sys

import kvstore


def main() -> None:
    db = kvstore.open(sys.argv[1], readonly=True)
    print("go", flush=True)
    db.backup(sys.argv[2])
    sys.stdin.read()


if __name__ == "__main__":
    main()

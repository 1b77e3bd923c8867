"""Opens a store, writes once and closes it, repeatedly: ``reopener PATH``."""

from __future__ import annotations

import sys

import kvstore


def main() -> None:
    while True:
        with kvstore.open(sys.argv[1], durability="none") as db:
            db.add("n")


if __name__ == "__main__":
    main()

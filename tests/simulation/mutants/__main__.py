"""``python -m tests.simulation.mutants --seeds N --jobs J --only NAME``: is every planted bug caught?

Prints a line for each bug: its name, after how many seeds it was caught, and what saw it. If one is not
caught the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context

from tests.simulation.mutants import MUTANTS
from tests.simulation.mutants.hunt import SEEDS, Caught, hunt

LINE_MAX = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description="Hunt bugs.")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many at most, for each bug")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", choices=MUTANTS, action="append", metavar="NAME", help="these bugs only")
    arguments = parser.parse_args()
    survivors = 0
    for caught in _hunts(arguments.only or list(MUTANTS), arguments.seeds, arguments.jobs):
        survivors += caught.seed is None
        print(str(caught)[:LINE_MAX], flush=True)
    return 1 if survivors else 0


def _hunts(names: list[str], seeds: int, jobs: int) -> Iterator[Caught]:
    one = partial(hunt, seeds=seeds)
    if jobs == 1:
        yield from map(one, names)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(one, names)


if __name__ == "__main__":
    sys.exit(main())

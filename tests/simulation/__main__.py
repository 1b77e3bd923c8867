"""``python -m tests.simulation --seeds N --start K --jobs J --profile P``: many seeds, and what came of them.

The profile ``regions`` is of regions that ship to each other (``regions/``); all others are of one store.

Prints a line for each seed, ``SEED <sha256 of its trace>``, in order. A seed that breaks a promise says
which, and the command that plays it again; then the exit code is 1. With ``--summary``, a last line of JSON
counts transactions, faults by kind and seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing import get_context

from tests.simulation.nemesis import PROFILES
from tests.simulation.regions.run import TRANSACTIONS as REGIONS_TRANSACTIONS
from tests.simulation.regions.run import play as play_regions
from tests.simulation.result import Result
from tests.simulation.run import TRANSACTIONS, play

Play = partial[Result]


def main() -> int:
    arguments = _arguments()
    seeds = range(arguments.start, arguments.start + arguments.seeds)
    one = _game(arguments.profile, arguments.transactions)
    began, faults, transactions, broken = time.monotonic(), Counter[str](), 0, 0
    for result in _results(one, seeds, arguments.jobs):
        print(f"{result.seed} {result.trace}", flush=True)
        faults += result.faults
        transactions += result.transactions
        if result.violation:
            broken += 1
            _tell(result, arguments.transactions)
    if arguments.summary:
        seconds = round(time.monotonic() - began, 1)
        summary = {"seeds": len(seeds), "transactions": transactions, "violations": broken}
        print(json.dumps(summary | {"seconds": seconds, "faults": dict(sorted(faults.items()))}))
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Play seeds.")
    parser.add_argument("--seeds", type=_count, default=20, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--jobs", type=_count, default=1, help="processes")
    parser.add_argument(
        "--profile", choices=[*PROFILES, "swarm", "regions"], default="swarm", help="what goes wrong"
    )
    parser.add_argument("--transactions", type=_count, default=None, help="of each seed")
    parser.add_argument("--summary", action="store_true", help="end with a line of JSON")
    return parser.parse_args()


def _game(profile: str, transactions: int | None) -> Play:
    """What plays one seed."""
    if profile == "regions":
        return partial(play_regions, transactions=transactions or REGIONS_TRANSACTIONS)
    return partial(play, profile=profile, transactions=transactions or TRANSACTIONS)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _results(one: Play, seeds: Iterable[int], jobs: int) -> Iterator[Result]:
    if jobs == 1:
        yield from map(one, seeds)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(one, seeds)


def _tell(result: Result, transactions: int | None) -> None:
    again = f"python -m tests.simulation --seeds 1 --start {result.seed} --profile {result.profile}"
    if transactions is not None:
        again += f" --transactions {transactions}"
    print(f"seed {result.seed}, {result.shape}: {result.violation}\n  {again}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

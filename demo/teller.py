"""``python -m demo.teller PATH SEED``: transfers without end, said before and after. Made to be killed."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable

import kvstore
from demo.bank import Bank, Refused

REGIONS = ["north", "south"]
ACCOUNTS = 6
OPENING = 50_000

Asked = tuple[int, int, int, int]
"""Source, target, cents, and how many lines the source's statement had before."""


def parsed(lines: Iterable[str]) -> tuple[dict[int, int], list[Asked]]:
    """The balances by what was acknowledged, and the transfers that were asked for and not answered."""
    told = dict.fromkeys(range(1, ACCOUNTS + 1), OPENING)
    known = dict.fromkeys(told, 1)
    asked: Asked | None = None
    for line in lines:
        what, *numbers = line.split()
        if what == "asks":
            source, target, cents = map(int, numbers)
            asked = source, target, cents, known[source]
        elif asked is not None:
            source, target, cents, _ = asked
            if what == "done":
                told[source] -= cents
                told[target] += cents
                known[source] += 1
                known[target] += 1
            asked = None
    return told, [] if asked is None else [asked]


def work(path: str, seed: int) -> None:
    chance = random.Random(seed)
    with kvstore.Geo(path, regions=REGIONS, shards=2) as geo:
        bank = Bank(geo)
        for number in range(1, ACCOUNTS + 1):
            bank.open_account(number, "somebody", REGIONS[number % 2], OPENING)
        geo.settle()
        while True:
            source, target = chance.sample(range(1, ACCOUNTS + 1), 2)
            cents = chance.randrange(1, OPENING // 4)
            print("asks", source, target, cents, flush=True)
            try:
                bank.transfer(source, target, cents)
            except Refused:
                print("refused", flush=True)
            else:
                print("done", flush=True)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))

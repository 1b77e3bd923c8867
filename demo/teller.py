"""``python -m demo.teller PATH SEED``: endless transfers, each printed before and after, until a kill."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import kvstore
from demo.bank import Bank, Refused


class Asked(NamedTuple):
    """A requested transfer."""

    source: int
    target: int
    cents: int


def parsed(lines: Iterable[str]) -> tuple[list[Asked], Asked | None]:
    """Return the acknowledged transfers, and the requested transfer that was not answered, if any."""
    done: list[Asked] = []
    asked: Asked | None = None
    for line in lines:
        what, *numbers = line.split()
        if what == "asks":
            asked = Asked(*map(int, numbers))
        elif asked is not None:
            done += [asked] if what == "done" else []
            asked = None
    return done, asked


def work(path: str, seed: int) -> None:
    chance = random.Random(seed)
    with kvstore.Geo(path, regions=kvstore.regions_of(path)) as geo:
        bank = Bank(geo)
        customers = geo[geo.regions()[0]].scan(prefix=("customer",))
        accounts: list[Any] = [key[1] for key, _ in customers]
        while True:
            source, target = chance.sample(accounts, 2)
            cents = chance.randrange(1, 10_000)
            print("asks", source, target, cents, flush=True)
            try:
                bank.transfer(source, target, cents)
            except Refused:
                print("refused", flush=True)
            else:
                print("done", flush=True)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))

"""General transactions compared with independent transactions of the store.

Each line is measured once in every round, one after another. Ratios are taken within a round, and the table
shows the median of the rounds.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median

import kvstore

SHARDS = 4
KEYS = 1_000
"""The number of keys on each shard."""
SHARES = (0, 25, 50, 75, 100)
"""Percentages of general transactions, which read what they write."""
ZIPF = (0.0, 0.4, 0.8, 1.0, 1.2)
THREADS = 4
HELD_PUTS = 200
"""The number of puts beside an open transaction; they must end before its lease of a second expires."""


@dataclass(frozen=True)
class Amounts:
    """The number of rounds, and of operations in each round."""

    rounds: int
    durable: int
    relaxed: int


FULL = Amounts(rounds=9, durable=200, relaxed=1_000)
QUICK = Amounts(rounds=3, durable=20, relaxed=100)

Work = Callable[[int], None]
Rates = dict[str, list[float]]


class Bank:
    """A store with numbers on all shards, and the workloads on them."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        folder.mkdir(exist_ok=True)
        self.db = kvstore.open(
            folder / "transactions", shards=SHARDS, durability="commit" if durable else "none"
        )
        self.keys: list[list[str]] = [[] for _ in range(SHARDS)]
        number = 0
        while any(len(keys) < KEYS for keys in self.keys):
            key = f"account-{number:06d}"
            self.keys[self.db.explain(key).shards[0]].append(key)
            number += 1
        with self.db.batch() as batch:
            for keys in self.keys:
                for key in keys:
                    batch.put(key, 1_000_000)

    def two(self) -> tuple[str, str]:
        """Return two random keys that lie on two different shards."""
        first, second = random.sample(range(SHARDS), 2)
        return random.choice(self.keys[first]), random.choice(self.keys[second])

    def independent(self, count: int) -> None:
        for _ in range(count):
            self.write(*self.two())

    def general(self, count: int) -> None:
        for _ in range(count):
            self.transfer(*self.two())

    def write(self, one: str, other: str) -> None:
        with self.db.batch() as batch:
            batch.put(one, 1_000_000)
            batch.put(other, 1_000_000)

    def transfer(self, one: str, other: str) -> None:
        with self.db.begin() as tx:
            tx[one] -= 1
            tx[other] += 1

    def mixed(self, percent: int) -> Work:
        def work(count: int) -> None:
            for number in range(count):
                do = self.transfer if number * percent % 100 < percent else self.write
                do(*self.two())

        return work

    def contended(self, skew: float) -> Work:
        """Return a workload of transfers by ``THREADS`` threads, between keys chosen by Zipf's law."""
        keys = [key for of_shard in zip(*self.keys, strict=False) for key in of_shard]
        weights = list(accumulate(1 / (rank + 1) ** skew for rank in range(len(keys))))

        def body(tx: kvstore.Transaction, one: str, other: str) -> None:
            tx[one] -= 1
            tx[other] += 1

        def one_thread(count: int) -> None:
            for _ in range(count):
                one, other = random.choices(keys, cum_weights=weights, k=2)
                if one != other:
                    self.db.run(body, one, other)

        def work(count: int) -> None:
            threads = [threading.Thread(target=one_thread, args=(count // THREADS,)) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return work

    def puts(self, count: int) -> None:
        for number in range(count):
            self.db.put(f"put-{number}", number)

    @contextmanager
    def held_open(self) -> Iterator[None]:
        """Hold a general transaction between its two halves during the block."""
        one, other = self.two()
        held, release = threading.Event(), threading.Event()
        runs = 0

        def body(tx: kvstore.Transaction) -> None:
            nonlocal runs
            runs += 1
            tx[other] = tx[one]
            if runs == 1:
                change = threading.Thread(target=self.db.put, args=(one, random.random()))
                change.start()
                change.join()
            elif runs == 2:
                held.set()
                release.wait()

        holder = threading.Thread(target=self.db.run, args=(body,))
        holder.start()
        held.wait()
        try:
            yield
        finally:
            release.set()
            holder.join()


def lines(folder: Path, amounts: Amounts, report: Callable[[str], None]) -> list[tuple[str, ...]]:
    """Return the rows of the table: the workload, its rate, the ratio, and the aim."""
    banks = {kind: Bank(folder / kind, durable=kind == "durable") for kind in ("durable", "relaxed")}
    try:
        rates: Rates = {}
        for number in range(amounts.rounds):
            report(f"transactions, round {number + 1} of {amounts.rounds}")
            for name, rate in _round(banks, amounts):
                rates.setdefault(name, []).append(rate)
        return _rows(rates)
    finally:
        for bank in banks.values():
            bank.db.close()


def _round(banks: dict[str, Bank], amounts: Amounts) -> Iterator[tuple[str, float]]:
    for kind, count in (("durable", amounts.durable), ("relaxed", amounts.relaxed)):
        yield f"2 shards, independent, {kind}", _rate(banks[kind].independent, count)
        yield f"2 shards, general, {kind}", _rate(banks[kind].general, count)
    relaxed = banks["relaxed"]
    for percent in SHARES:
        yield f"2 shards, {percent} % general", _rate(relaxed.mixed(percent), amounts.relaxed)
    for skew in ZIPF:
        name = f"transfers by {THREADS} threads, Zipf {skew}"
        yield name, _rate(relaxed.contended(skew), amounts.relaxed)
    yield "put", _rate(relaxed.puts, HELD_PUTS)
    with relaxed.held_open():
        yield "put beside an open general transaction", _rate(relaxed.puts, HELD_PUTS)


def _rate(work: Work, count: int) -> float:
    gc.collect()
    start = time.perf_counter()
    work(count)
    return count / (time.perf_counter() - start)


def _rows(rates: Rates) -> list[tuple[str, ...]]:
    """Return the rows; each line is compared with the first line of its kind."""
    aims = {
        "2 shards, general, durable": ("2 shards, independent, durable", ">= 0.50"),
        "2 shards, general, relaxed": ("2 shards, independent, relaxed", ">= 0.50"),
        "put beside an open general transaction": ("put", ">= 0.95"),
    }
    for percent in SHARES[1:]:
        aims[f"2 shards, {percent} % general"] = f"2 shards, {SHARES[0]} % general", ""
    for skew in ZIPF[1:]:
        transfers = f"transfers by {THREADS} threads, Zipf"
        aims[f"{transfers} {skew}"] = f"{transfers} {ZIPF[0]}", ""
    rows: list[tuple[str, ...]] = [("transactions a second", "kvstore", "ratio", "aim")]
    for name, found in rates.items():
        against, aim = aims.get(name, (name, ""))
        ratio = median(one / other for one, other in zip(found, rates[against], strict=True))
        rows.append((name, f"{median(found):,.0f}", "" if against == name else f"{ratio:.2f}", aim))
    return rows

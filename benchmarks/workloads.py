"""The workloads, how each is run and timed, and what the project aims at.

In every round every workload runs once on every peer, one after another, so whatever else the machine does
meets them all. A ratio is taken within each round, and the median of the rounds is what counts.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import median
from typing import Protocol

from benchmarks.floor import Floor
from benchmarks.peers import SHARDS, Item, Peer, Sqlite, Store
from kvstore import keys, values

VALUE_BYTES = 100
THREADS = 16
BATCH = 100


class Make(Protocol):
    """What makes a peer."""

    def __call__(self, folder: Path, *, durable: bool) -> Peer: ...


MAKERS: dict[str, Make] = {"kvstore": Store, "floor": Floor, "sqlite3": Sqlite}


@dataclass(frozen=True)
class Scale:
    """How much of it is done. Operations are per round, workload and peer."""

    rounds: int
    records: int
    durable: int
    relaxed: int
    quick: int
    """Operations of the workloads that take the least: those of many records, and reads."""


FULL = Scale(rounds=9, records=20_000, durable=400, relaxed=5_000, quick=20_000)
QUICK = Scale(rounds=3, records=2_000, durable=48, relaxed=500, quick=2_000)


Run = Callable[[Peer, Sequence[Item]], None]


@dataclass(frozen=True)
class Workload:
    """One line of the table. ``shards``: how many shards the keys of each batch are spread over."""

    name: str
    run: Run
    operations: int
    durable: bool = False
    peers: tuple[str, ...] = tuple(MAKERS)
    shards: int = SHARDS
    aim: float | None = None
    """The store's speed as a part of the floor's."""


@dataclass(frozen=True)
class Comparison:
    """A workload of the store against another workload of the store."""

    name: str
    of: str
    against: str
    aim: float


def one_thread(peer: Peer, items: Sequence[Item]) -> None:
    for item in items:
        peer.put(item)


def many_threads(peer: Peer, items: Sequence[Item]) -> None:
    threads = [
        threading.Thread(target=one_thread, args=(peer, items[number::THREADS])) for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def pipelined(peer: Peer, items: Sequence[Item]) -> None:
    peer.put_pipelined(items)


def batches_of(size: int) -> Run:
    def run(peer: Peer, items: Sequence[Item]) -> None:
        for first in range(0, len(items), size):
            peer.put_batch(items[first : first + size])

    return run


def gets(peer: Peer, items: Sequence[Item]) -> None:
    for item in items:
        peer.get(item)


def scans(peer: Peer, items: Sequence[Item]) -> None:
    count = peer.scan()
    assert count == len(items), f"{count} records of {len(items)}"


def workloads(scale: Scale) -> list[Workload]:
    """The lines of the table, in its order."""
    store_only = ("kvstore",)
    batch, small = batches_of(BATCH), batches_of(SHARDS)
    return [
        Workload(PUT, one_thread, scale.durable, durable=True, aim=0.75),
        Workload(PUT_BY_MANY, many_threads, 3 * scale.durable, durable=True),
        Workload("put, relaxed", one_thread, scale.relaxed, aim=0.5),
        Workload(f"put, relaxed, {THREADS} threads", many_threads, scale.relaxed),
        Workload("put, submitted, relaxed", pipelined, scale.quick, aim=0.4),
        Workload(f"batch of {BATCH}, relaxed", batch, scale.quick, aim=0.5),
        Workload(f"batch of {BATCH}, on 1 shard", batch, scale.quick, peers=store_only, shards=1),
        Workload(f"batch of {BATCH}, on {SHARDS} shards", batch, scale.quick, peers=store_only),
        Workload(f"batch of {SHARDS}, on 1 shard", small, scale.relaxed, peers=store_only, shards=1),
        Workload(f"batch of {SHARDS}, on {SHARDS} shards", small, scale.relaxed, peers=store_only),
        Workload("get", gets, scale.quick, aim=0.4),
        Workload("scan", scans, scale.records, aim=0.3),
    ]


def across_shards(size: int) -> Comparison:
    """A batch over all shards against one of the same size on one shard."""
    several, one = (f"batch of {size}, on {shards}" for shards in (f"{SHARDS} shards", "1 shard"))
    return Comparison(f"{SHARDS} shards against 1, batch of {size}", several, one, 0.7)


PUT = "put, durable"
PUT_BY_MANY = f"put, durable, {THREADS} threads"
COMPARISONS = [
    Comparison(f"{THREADS} threads against 1, durable", PUT_BY_MANY, PUT, 2.5),
    across_shards(BATCH),
    across_shards(SHARDS),
]


@dataclass
class Results:
    """Operations a second: by workload and peer, one number for each round."""

    rates: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, workload: str, peer: str, rate: float) -> None:
        self.rates.setdefault(workload, {}).setdefault(peer, []).append(rate)

    def rate(self, workload: str, peer: str) -> float | None:
        rates = self.rates[workload].get(peer)
        return median(rates) if rates else None

    def ratio(self, workload: str, peer: str) -> float | None:
        """The store's speed over the peer's."""
        theirs = self.rates[workload].get(peer)
        return median_ratio(self.rates[workload]["kvstore"], theirs) if theirs else None

    def compared(self, comparison: Comparison) -> float:
        return median_ratio(self.rates[comparison.of]["kvstore"], self.rates[comparison.against]["kvstore"])


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    return median(our / their for our, their in zip(ours, theirs, strict=True))


def make_items(count: int) -> list[Item]:
    """The records, in no order."""
    made = [make_item(f"key-{number:08d}") for number in range(count)]
    random.shuffle(made)
    return made


def make_item(key: str) -> Item:
    """An item with a value of its own: sqlite3 writes nothing where a value stays what it was."""
    value = random.randbytes(VALUE_BYTES)
    return Item(key, value, keys.encode(key), values.encode(value))


def measure(folder: Path, scale: Scale, report: Callable[[str], None]) -> Results:
    """Run everything; ``report`` is told what is under way."""
    items = make_items(scale.records)
    report(f"loading {len(items)} records into each store")
    peers = {
        (name, durable): make(folder / ("durable" if durable else "relaxed"), durable=durable)
        for name, make in prepared(folder)
        for durable in (True, False)
    }
    try:
        for peer in peers.values():
            batches_of(1000)(peer, items)
        return _rounds(peers, items, scale, report)
    finally:
        for peer in peers.values():
            peer.close()


def prepared(folder: Path) -> Iterator[tuple[str, Make]]:
    for name in ("durable", "relaxed"):
        (folder / name).mkdir()
    yield from MAKERS.items()


def _rounds(
    peers: dict[tuple[str, bool], Peer], items: list[Item], scale: Scale, report: Callable[[str], None]
) -> Results:
    results = Results()
    store = peers["kvstore", False]
    assert isinstance(store, Store)
    by_shard = grouped(store, items)
    for number in range(scale.rounds):
        for workload in workloads(scale):
            report(f"round {number + 1} of {scale.rounds}: {workload.name}")
            asked = chosen(workload, items, by_shard, offset=number)
            for name in workload.peers:
                seconds = timed(workload.run, peers[name, workload.durable], asked)
                results.add(workload.name, name, len(asked) / seconds)
    return results


def grouped(store: Store, items: list[Item]) -> list[list[Item]]:
    """The items of each shard."""
    by_shard: list[list[Item]] = [[] for _ in range(SHARDS)]
    for item in items:
        (shard,) = store.shards_of(item)
        by_shard[shard].append(item)
    return by_shard


def chosen(workload: Workload, items: list[Item], by_shard: list[list[Item]], offset: int) -> list[Item]:
    """The items of one run, with new values, in order; each round begins at another place."""
    if workload.run is scans:
        return items
    if workload.shards == 1:
        pool = by_shard[offset % SHARDS]
    else:
        pool = list(chain.from_iterable(zip(*by_shard, strict=False)))
    first = offset * workload.operations % len(pool)
    return [make_item(item.key) for item in islice(cycle(pool), first, first + workload.operations)]


def timed(run: Run, peer: Peer, items: Sequence[Item]) -> float:
    gc.collect()
    start = time.perf_counter()
    run(peer, items)
    return time.perf_counter() - start

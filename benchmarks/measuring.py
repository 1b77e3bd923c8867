"""Running the workloads: the records of each run, the timing, and the results.

In every round every workload runs once on every peer, one after another, so other load on the machine affects
all of them. A ratio is taken within each round; the result is the median of the rounds.
"""

from __future__ import annotations

import gc
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median

from benchmarks.peers import Item, Peer, Store
from benchmarks.workloads import (
    LOADED,
    MAKERS,
    NEW,
    VALUE_BYTES,
    Comparison,
    Run,
    Scale,
    Workload,
    batches_of,
    scans,
    workloads,
)
from kvstore import keys, values


@dataclass
class Results:
    """Operations a second, by workload and peer: one number for each round."""

    rates: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, workload: str, peer: str, rate: float) -> None:
        self.rates.setdefault(workload, {}).setdefault(peer, []).append(rate)

    def rate(self, workload: str, peer: str) -> float | None:
        rates = self.rates[workload].get(peer)
        return median(rates) if rates else None

    def ratio(self, workload: str, peer: str) -> float | None:
        """Return the store's speed divided by the peer's, or None if the peer did not run the workload."""
        theirs = self.rates[workload].get(peer)
        return median_ratio(self.rates[workload]["kvstore"], theirs) if theirs else None

    def compared(self, comparison: Comparison) -> float:
        return median_ratio(self.rates[comparison.of]["kvstore"], self.rates[comparison.against]["kvstore"])


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    return median(our / their for our, their in zip(ours, theirs, strict=True))


def make_items(count: int) -> list[Item]:
    """Return the records that are loaded before the first round, in random order."""
    made = [make_item(f"{LOADED}{number:08d}") for number in range(count)]
    random.shuffle(made)
    return made


def make_item(key: str) -> Item:
    """Return an item with a new random value, because sqlite3 does not write an unchanged value."""
    value = random.randbytes(VALUE_BYTES)
    return Item(key, value, keys.encode(key), values.encode(value))


def measure(folder: Path, scale: Scale, report: Callable[[str], None]) -> Results:
    """Run all workloads; ``report`` is called with the description of each step."""
    items = make_items(scale.records)
    report(f"loading {len(items)} records into each store")
    peers = {
        (name, durable): make(folder_of(folder, durable), durable=durable)
        for name, make in MAKERS.items()
        for durable in (True, False)
    }
    try:
        for peer in peers.values():
            batches_of(1000)(peer, items)
        return _rounds(peers, items, scale, report)
    finally:
        for peer in peers.values():
            peer.close()


def folder_of(folder: Path, durable: bool) -> Path:
    made = folder / ("durable" if durable else "relaxed")
    made.mkdir(exist_ok=True)
    return made


def _rounds(
    peers: dict[tuple[str, bool], Peer], items: list[Item], scale: Scale, report: Callable[[str], None]
) -> Results:
    results = Results()
    store = peers["kvstore", False]
    assert isinstance(store, Store)
    for number in range(scale.rounds):
        for workload in workloads(scale):
            report(f"round {number + 1} of {scale.rounds}: {workload.name}")
            asked = chosen(workload, items, store)
            for name in workload.peers:
                seconds = timed(workload.run, peers[name, workload.durable], asked)
                results.add(workload.name, name, len(asked) / seconds)
    return results


def chosen(workload: Workload, items: list[Item], store: Store) -> list[Item]:
    """Return the items of one run: loaded keys in random order with new values, or new keys."""
    if workload.run is scans:
        return items
    if not workload.new:
        return [make_item(item.key) for item in random.choices(items, k=workload.operations)]
    every_shard = evenly(new_items(), workload.shards, store)
    return list(islice(every_shard, workload.operations))


def new_items() -> Iterator[Item]:
    while True:
        yield make_item(f"{NEW}{random.getrandbits(48):012x}")


def evenly(made: Iterator[Item], shards: int, store: Store) -> Iterator[Item]:
    """Yield items of the first ``shards`` shards, taken in turn."""
    waiting: list[deque[Item]] = [deque() for _ in range(shards)]
    for item in made:
        (shard,) = store.shards_of(item)
        if shard < shards:
            waiting[shard].append(item)
        if all(waiting):
            yield from (of_shard.popleft() for of_shard in waiting)


def timed(run: Run, peer: Peer, items: Sequence[Item]) -> float:
    gc.collect()
    start = time.perf_counter()
    run(peer, items)
    return time.perf_counter() - start

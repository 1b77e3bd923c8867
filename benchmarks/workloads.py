"""The workloads: the lines of the table, and the aims of the project."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.floor import Floor
from benchmarks.peers import SHARDS, Item, Peer, Sqlite, Store

VALUE_BYTES = 100
LOADED, NEW = "key-", "new-"
"""Prefixes of loaded and of new keys, so that every round scans only the loaded records."""
THREADS = 16
BATCH = 100
PUT = "put, durable"
PUT_BY_MANY = f"put, durable, {THREADS} threads"


class Make(Protocol):
    """A function that creates a peer."""

    def __call__(self, folder: Path, *, durable: bool) -> Peer: ...


MAKERS: dict[str, Make] = {"kvstore": Store, "floor": Floor, "sqlite3": Sqlite}


@dataclass(frozen=True)
class Scale:
    """The size of a run. Operations are counted per round, workload and peer."""

    rounds: int
    records: int
    durable: int
    relaxed: int
    quick: int
    """Operations of the fastest workloads: batches, submitted puts, and reads."""


FULL = Scale(rounds=9, records=20_000, durable=400, relaxed=5_000, quick=20_000)
QUICK = Scale(rounds=3, records=2_000, durable=48, relaxed=500, quick=2_000)


Run = Callable[[Peer, Sequence[Item]], None]


@dataclass(frozen=True)
class Workload:
    """One line of the table. ``shards``: over how many shards the keys of each batch are spread."""

    name: str
    run: Run
    operations: int
    durable: bool = False
    peers: tuple[str, ...] = tuple(MAKERS)
    shards: int = SHARDS
    new: bool = True
    """Whether the keys are new, in random order, or were loaded before the first round."""
    aim: float | None = None
    """The least acceptable ratio of the store's speed to the floor's."""


@dataclass(frozen=True)
class Comparison:
    """A workload of the store compared with another workload of the store."""

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
    count = peer.scan(LOADED)
    assert count == len(items), f"{count} records of {len(items)}"


def workloads(scale: Scale) -> list[Workload]:
    """Return the lines of the table, in order."""
    store_only = ("kvstore",)
    batch, small = batches_of(BATCH), batches_of(SHARDS)
    return [
        Workload(PUT, one_thread, scale.durable, durable=True, aim=0.75),
        Workload(PUT_BY_MANY, many_threads, 3 * scale.durable, durable=True),
        Workload("put, relaxed", one_thread, scale.relaxed, aim=0.5),
        Workload("put over an old value, relaxed", one_thread, scale.relaxed, new=False),
        Workload(f"put, relaxed, {THREADS} threads", many_threads, scale.relaxed),
        Workload("put, submitted, relaxed", pipelined, scale.quick, aim=0.4),
        Workload(f"batch of {BATCH}, relaxed", batch, scale.quick, aim=0.5),
        Workload(f"batch of {BATCH}, on 1 shard", batch, scale.relaxed, peers=store_only, shards=1),
        Workload(f"batch of {BATCH}, on {SHARDS} shards", batch, scale.relaxed, peers=store_only),
        Workload(f"batch of {SHARDS}, on 1 shard", small, scale.relaxed, peers=store_only, shards=1),
        Workload(f"batch of {SHARDS}, on {SHARDS} shards", small, scale.relaxed, peers=store_only),
        Workload("get", gets, scale.quick, new=False, aim=0.4),
        Workload("scan", scans, scale.records, new=False, aim=0.3),
    ]


def across_shards(size: int) -> Comparison:
    """Compare a batch over all shards with a batch of equal size on one shard."""
    several, one = (f"batch of {size}, on {shards}" for shards in (f"{SHARDS} shards", "1 shard"))
    return Comparison(f"{SHARDS} shards against 1, batch of {size}", several, one, 0.7)


COMPARISONS = [
    Comparison(f"{THREADS} threads against 1, durable", PUT_BY_MANY, PUT, 2.5),
    across_shards(BATCH),
    across_shards(SHARDS),
]

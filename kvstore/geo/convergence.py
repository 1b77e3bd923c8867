"""Waiting for regions: for the first contact, for equal chains, and for a region's own transactions."""

from __future__ import annotations

import time
from collections.abc import Mapping

from kvstore.engine.store import WritingStore
from kvstore.eris.log_tail import executed, shard_record
from kvstore.errors import TimedOut
from kvstore.fuzzylog.importing import dominates, lacking
from kvstore.fuzzylog.messages import Vector
from kvstore.geo.network import Network
from kvstore.geo.replication import ReplicationAgent
from kvstore.types import ShardId

SETTLE_LOOK_S = 0.001


def await_resolved(store: WritingStore, timeout: float) -> None:
    """Wait until every transaction executed before this call is resolved (contracts D8).

    Raises ``TimedOut``.
    """
    deadline = store.commits_seen.deadline(timeout)
    wanted = None
    while True:
        seen = store.commits_seen.count
        with store.readers.viewing() as view:
            records = [shard_record(view, ShardId(shard)) for shard in range(store.manifest.shards)]
            end = executed(view, store.manifest.shards)
        wanted = wanted or [record.executed for record in records]
        if all(have >= want for have, want in zip(end, wanted, strict=True)):
            return
        if not store.commits_seen.wait(seen, deadline) and time.monotonic() >= deadline:
            raise TimedOut(
                f"transactions executed before still wait for locks after {timeout} s", waited=timeout
            )


def refuse_lost_tails(exchanges: Mapping[str, ReplicationAgent]) -> None:
    """Raise ``Corrupt`` if another region holds more of a region's chains than that region, or other nodes.

    Such a region was opened from an old copy of its store, and would reuse slots that have left it, or has
    reused them (contracts D2).
    """
    ends = {exchange.own: exchange.applied() for exchange in exchanges.values()}
    for exchange in exchanges.values():
        own = exchange.own
        for vector in ends.values():
            if any(theirs > mine for theirs, mine in zip(vector[own], ends[own][own], strict=True)):
                raise exchange.old_copy.lost_tail()
        if not all(exchange.old_copy.holds(other.shipping.importer.tails()) for other in exchanges.values()):
            raise exchange.old_copy.other_tail()


def shake_hands(exchange: ReplicationAgent, seconds: float) -> None:
    """Wait until every neighbour has sent a message, at most this long.

    Raises the problem of a neighbour whose identity does not fit, and ``Corrupt`` if a neighbour holds more
    of this region's chains than the region itself (contracts D2).
    """
    deadline = time.monotonic() + seconds
    while not exchange.has_heard_all() and time.monotonic() < deadline:
        if exchange.problems or exchange.failure:
            break
        time.sleep(0.001)
    for problem in exchange.problems.values():
        raise problem
    if exchange.failure is not None:
        raise exchange.failure


def settle(exchanges: Mapping[str, ReplicationAgent], network: Network, timeout: float) -> None:
    """Wait until regions joined by links that are not cut have applied all that any of them has now.

    Raises ``TimedOut``, which names the regions and the slots that they lack.
    """
    deadline = time.monotonic() + timeout
    waiting = [
        (name, wanted)
        for group in network.groups(exchanges)
        if (wanted := _union([exchanges[one].applied() for one in group]))
        for name in group
    ]
    while waiting:
        waiting = [
            (name, wanted) for name, wanted in waiting if not dominates(exchanges[name].applied(), wanted)
        ]
        for name, _ in waiting:
            if (failure := exchanges[name].failure) is not None:
                raise failure
        if waiting and time.monotonic() > deadline:
            message = f"not settled after {timeout} s: {_who_lacks(exchanges, waiting)}"
            raise TimedOut(message, waited=timeout)
        if waiting:
            time.sleep(SETTLE_LOOK_S)


def _union(vectors: list[Vector]) -> Vector:
    union: Vector = {}
    for vector in vectors:
        for region, slots in vector.items():
            union[region] = tuple(map(max, union.get(region, slots), slots))
    return union


def _who_lacks(exchanges: Mapping[str, ReplicationAgent], waiting: list[tuple[str, Vector]]) -> str:
    sentences = []
    for name, wanted in waiting:
        exchange = exchanges[name]
        for region, count in lacking(exchange.applied(), wanted):
            sentences.append(f"{name} lacks {count} slots of {exchange.identity.names[region]}")
    return "; ".join(sentences)

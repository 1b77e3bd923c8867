"""The edges of the graph: what a transaction depends on (contracts D4).

A region is one session: a transaction depends on everything that the region had executed when the transaction
was submitted. Its places in the chains imply most of that, and so do the transactions that precede it there.
The transaction carries an edge only for what is not implied. Nodes of other regions need no edges: the
imports below these slots imply them.

INVARIANTS
    CAUSES-1  An edge leads to a slot that was executed, so that slot is stamped earlier: the graph has no
        cycle. A dependency counts as implied only through a committed transaction, which stays in its chain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import le

from kvstore.types import ShardId, Slot


class Causes:
    """Computes the edges of one region's transactions. After an opening, edges are complete."""

    def __init__(self, shards: int) -> None:
        nothing = (Slot(0),) * shards
        self._executed = nothing
        self._implied = [nothing] * shards
        """Slots of all chains that a chain's last committed transaction depends on, by chain."""
        self._named: set[ShardId] = set()
        """Chains in which a transaction was stamped since ``observe``."""

    def observe(self, executed: Iterable[Slot]) -> None:
        """Note that all transactions stamped so far are committed, and the slots executed, by shard."""
        executed = tuple(executed)
        assert all(map(le, self._executed, executed)), (
            f"CAUSES-1: {self._executed} was executed before, and now {executed} is"
        )
        for shard in self._named:
            self._implied[shard] = self._executed
        self._named.clear()
        self._executed = executed

    def edges(self, colors: Collection[ShardId]) -> dict[ShardId, Slot]:
        """Return the edges of a transaction over these shards stamped now: the last slot, by shard."""
        implied = [self._implied[color] for color in colors]
        assert all(all(map(le, chain, self._executed)) for chain in implied), (
            f"CAUSES-1: chains {list(colors)} are taken to imply {implied}, and {self._executed} is executed"
        )
        self._named.update(colors)
        return {
            ShardId(shard): slot
            for shard, slot in enumerate(self._executed)
            if shard not in colors and all(slot > chain[shard] for chain in implied)
        }

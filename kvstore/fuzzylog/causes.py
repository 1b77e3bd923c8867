"""The edges of the graph: what a transaction comes behind (contracts D4).

A region is one session: its transaction comes behind all that the region had executed when it was submitted.
Most of that the chains say themselves, so it names only what is not implied: neither by its place in its own
chains, nor by what stands there already. What came from other regions is implied by the imports below those
slots.

INVARIANTS
    CAUSES-1  An edge leads to a slot that was executed, so it is stamped earlier: the graph has no circle.
        What is taken as implied stands in the chain for good, because it was committed before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import le

from kvstore.types import ShardId, Slot


class Causes:
    """What the transactions of one region come behind. Memory only: after an opening edges are complete."""

    def __init__(self, shards: int) -> None:
        nothing = (Slot(0),) * shards
        self._executed = nothing
        self._implied = [nothing] * shards
        """By chain, what its last transaction that was committed comes behind, in all chains."""
        self._named: set[ShardId] = set()
        """The chains in which something was stamped since ``observe``."""

    def observe(self, executed: Iterable[Slot]) -> None:
        """All that was stamped so far is committed, and the region has executed this, by shard."""
        executed = tuple(executed)
        assert all(map(le, self._executed, executed)), (
            f"CAUSES-1: {self._executed} was executed before, and now {executed} is"
        )
        for shard in self._named:
            self._implied[shard] = self._executed
        self._named.clear()
        self._executed = executed

    def edges(self, colors: Collection[ShardId]) -> dict[ShardId, Slot]:
        """The edges of a transaction over these shards that is stamped now."""
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

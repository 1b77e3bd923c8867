"""Whether a region's store is older than what has left the region (contracts D2).

A store that was put back from an older state would write other nodes into slots that other regions hold. Two
comparisons find it: the ends of the copies that neighbours hold, with each of their messages; and the last
nodes of these copies, once for each neighbour, because a store that was put back and written to may be as
long as the copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kvstore.errors import Corrupt
from kvstore.execution.crdt.escrow import Funds
from kvstore.fuzzylog.messages import Tails, Vector
from kvstore.types import RegionId, ShardId, Slot, Timestamp


class OwnChains(Protocol):
    """What the exchange with neighbours reads of its region's store; each call shows the last commit."""

    def executed(self) -> tuple[Slot, ...]:
        """Return the ends of the region's own chains, on disk or not."""

    def end(self) -> tuple[Slot, ...]:
        """Return the ends of the region's own chains as far as they may leave it (contracts D2)."""

    def ends(self) -> Vector:
        """Return the ends of all chains, the own ones as far as they may leave the region."""

    def has(self, tails: Mapping[ShardId, tuple[Slot, Timestamp]]) -> bool:
        """Return whether these nodes are in the region's own chains."""

    def funds(self, shard: ShardId, key: bytes, region: RegionId) -> Funds:
        """Return a region's rights to a bounded counter, and its balance, as seen here."""


class OldCopyCheck:
    """Compares a region's own chains with the copies that its neighbours hold of them."""

    def __init__(self, own: RegionId, name: str, chains: OwnChains, location: str) -> None:
        """``location``: of the store, for error messages."""
        self._own = own
        self._name = name
        self._chains = chains
        self._location = location
        self._compared: set[str] = set()
        """Neighbours whose tails were compared since the opening."""

    def check_ends(self, others: Vector) -> Corrupt | None:
        """Return an error if a neighbour holds more of the own chains than this store."""
        theirs = others.get(self._own)
        if theirs is None:
            return None
        own = self._chains.executed()
        is_here = all(mine >= other for mine, other in zip(own, theirs, strict=True))
        return None if is_here else self.lost_tail()

    def check_tails(self, neighbour: str, tails: Tails) -> Corrupt | None:
        """Return an error if the neighbour's copies end with nodes that are not in the own chains."""
        if neighbour in self._compared:
            return None
        self._compared.add(neighbour)
        return None if self.holds(tails) else self.other_tail()

    def holds(self, tails: Tails) -> bool:
        """Return whether the nodes of the own chains among these are here."""
        return self._chains.has(tails.get(self._own, {}))

    def lost_tail(self) -> Corrupt:
        name = self._name
        message = f"other regions hold more of {name} than it does itself: its store is older than it was"
        return Corrupt(message, record=self._location)

    def other_tail(self) -> Corrupt:
        name = self._name
        message = (
            f"other regions hold another {name}: its store was put back and written to, or is not theirs"
        )
        return Corrupt(message, record=self._location)

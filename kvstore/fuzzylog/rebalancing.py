"""Who gives rights to whom, so that money is where it is spent (contracts D5).

A region that ran short says so with its next pulls; a neighbour that has rights to spare grants some, and
passes on what it cannot grant, so that it comes to those who can by whatever way. All of it is hints: nothing
depends on them, and nobody waits. Who gives looks at what the taker has as it is seen here, its own grants
included, and gives at most half of what it has. Of two that both ran short of the same key only the later one
by its number gives. So a right does not go back and forth.

INVARIANTS
    RIGHTS-1  A region gives no more than it has.
    RIGHTS-2  A hint asks for something, and is passed on at most once for each other region.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kvstore.fuzzylog.messages import Want
from kvstore.types import RegionId, ShardId

WANTS_MAX = 64
"""Hints of its own that one pull carries, and of others that it passes on."""


class Rebalancing:
    """What one region wants, and what it was asked to pass on."""

    def __init__(self, own: RegionId, regions: int) -> None:
        self._own = own
        self._hops = regions - 1
        self._wants: dict[tuple[ShardId, bytes], int] = {}
        self._passed_on: dict[tuple[RegionId, bytes], Want] = {}

    def want(self, shard: ShardId, key: bytes, amount: int) -> None:
        """The region is to have so many rights."""
        assert amount > 0, f"RIGHTS-2: {amount} rights to {key!r} of shard {shard} are wanted"
        self._wants[shard, key] = max(amount, self._wants.get((shard, key), 0))

    def wants(self, funds: Callable[[ShardId, bytes], tuple[int, int]]) -> tuple[Want, ...]:
        """What to ask for now; ``funds`` tells the rights of this region, and the balance: more than that
        nobody can give. What is passed on is passed on once."""
        for place, amount in list(self._wants.items()):
            rights, balance = funds(*place)
            if rights >= amount or balance < amount:
                del self._wants[place]
        asked = []
        for place in list(self._wants)[:WANTS_MAX]:
            amount = self._wants[place] = self._wants.pop(place)  # behind those that did not fit
            asked.append(Want(*place, amount, self._own, self._hops))
        passed_on = list(self._passed_on.values())[:WANTS_MAX]
        self._passed_on.clear()
        hops = [want.hops for want in passed_on]
        assert all(0 < left < self._hops for left in hops), (
            f"RIGHTS-2: hints with {hops} hops left are passed on, and a new one has {self._hops}"
        )
        return (*asked, *passed_on)

    def grant(self, want: Want, rights: int, takers: int) -> int:
        """How much to give; ``rights``: what this region has, ``takers``: what the taker has, seen here."""
        if want.taker == self._own:
            return 0
        lacking = want.amount - takers
        keeps = self._own < want.taker and (want.shard, want.key) in self._wants
        given = 0 if keeps else max(0, min(lacking, (rights + 1) // 2))
        assert 0 <= given <= rights, f"RIGHTS-1: {given} rights are given, of {rights}"
        if given < lacking and want.hops > 1:
            self._passed_on[want.taker, want.key] = msgspec.structs.replace(want, hops=want.hops - 1)
        return given

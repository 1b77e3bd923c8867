"""Moves rights to bounded counters to the regions that spend them (contracts D5).

A region that runs short of rights asks for them with its next pulls. A neighbour grants rights that it can
spare, and passes the rest of the request on, so that the request reaches regions that are not neighbours of
the taker. Requests are hints: nothing depends on them, and no call waits for them. The giver compares the
request with the rights that the taker has as far as the giver knows, its own grants included, and grants at
most half of its own rights. If two regions both run short of one key, only the region with the higher number
grants, so rights do not move back and forth.

INVARIANTS
    RIGHTS-1  A region gives no more than it has.
    RIGHTS-2  A request asks for at least one right, and is passed on at most once for each other region.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kvstore.fuzzylog.messages import Want
from kvstore.types import RegionId, ShardId

WANTS_MAX = 64
"""Most requests of the region itself in one pull, and most requests of other regions that it passes on."""


class Rebalancing:
    """The rights that one region wants, and the requests that it passes on."""

    def __init__(self, own: RegionId, regions: int) -> None:
        self._own = own
        self._hops = regions - 1
        self._wants: dict[tuple[ShardId, bytes], int] = {}
        self._passed_on: dict[tuple[RegionId, bytes], Want] = {}

    def want(self, shard: ShardId, key: bytes, amount: int) -> None:
        """Note that the region wants to have this many rights."""
        assert amount > 0, f"RIGHTS-2: {amount} rights to {key!r} of shard {shard} are wanted"
        self._wants[shard, key] = max(amount, self._wants.get((shard, key), 0))

    def wants(self, funds: Callable[[ShardId, bytes], tuple[int, int]]) -> tuple[Want, ...]:
        """Return the requests for the next pull, those to be passed on included; these are returned once.

        ``funds`` returns the rights of this region and the balance. A request for more than the balance is
        dropped, because no region could grant it.
        """
        for place, amount in list(self._wants.items()):
            rights, balance = funds(*place)
            if rights >= amount or balance < amount:
                del self._wants[place]
        asked = []
        for place in list(self._wants)[:WANTS_MAX]:
            amount = self._wants[place] = self._wants.pop(place)  # moved behind the requests that did not fit
            asked.append(Want(*place, amount, self._own, self._hops))
        passed_on = list(self._passed_on.values())[:WANTS_MAX]
        self._passed_on.clear()
        hops = [want.hops for want in passed_on]
        assert all(0 < left < self._hops for left in hops), (
            f"RIGHTS-2: hints with {hops} hops left are passed on, and a new one has {self._hops}"
        )
        return (*asked, *passed_on)

    def grant(self, want: Want, rights: int, takers: int) -> int:
        """Return how many of this region's rights to give; ``takers`` are the taker's, as known here."""
        if want.taker == self._own:
            return 0
        lacking = want.amount - takers
        keeps = self._own < want.taker and (want.shard, want.key) in self._wants
        given = 0 if keeps else max(0, min(lacking, (rights + 1) // 2))
        assert 0 <= given <= rights, f"RIGHTS-1: {given} rights are given, of {rights}"
        if given < lacking and want.hops > 1:
            self._passed_on[want.taker, want.key] = msgspec.structs.replace(want, hops=want.hops - 1)
        return given

"""Durability: a transaction that a client was told of stays where it was told (invariant I6 of the extended
version: what is committed is in every later view and epoch)."""

from __future__ import annotations

from kvstore.eris.messages import Answer
from kvstore.types import ShardId, Slot
from tests.simulation.ledger import Changed, Checker, Ledger, require
from tests.simulation.workload import Asked


class Durability(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._told: dict[tuple[ShardId, Slot], tuple[int, int]] = {}

    def answered(self, asked: Asked, answer: Answer) -> None:
        request = asked.client.role.client, answer.request
        for shard, slot in answer.slots.items():
            self._told[shard, slot] = request
            self._compare(shard, slot)

    def changed(self, change: Changed) -> None:
        for slot in {*change.slots, *map(Slot, range(change.before.stable + 1, change.after.stable + 1))}:
            if slot <= change.after.stable and (change.replica.shard, slot) in self._told:
                self._compare(change.replica.shard, slot)

    def _compare(self, shard: ShardId, slot: Slot) -> None:
        stable = self.ledger.stable[shard]
        if slot not in stable:
            return
        stamped, told = stable[slot], self._told[shard, slot]
        there = None if stamped is None else (stamped.request.client, stamped.request.request)
        require(there == told, f"shard {shard} slot {slot} was acknowledged as {told}, and holds {there}")

    def settled(self) -> None:
        for shard, slot in self._told:
            require(
                slot in self.ledger.stable[shard], f"shard {shard} slot {slot} was acknowledged, and is gone"
            )
            self._compare(shard, slot)

"""Dropped: who knows that any name of a transaction is dropped has nothing of it in its log (LOSS-2). One
that has executed it has diverged, and is made anew."""

from __future__ import annotations

from tests.simulation.ledger import Changed, Checker, require


class Dropped(Checker):
    def changed(self, change: Changed) -> None:
        replica, before, after, slots = change
        if after.diverged or not after.perm_drops:
            return
        shadow = self.ledger.shadows[replica]
        fresh = after.perm_drops - before.perm_drops
        for slot in {*slots, *(shadow.names[name] for name in fresh if name in shadow.names)}:
            stamped = shadow.log.get(slot)
            stays = stamped is not None and stamped.stamp.matches(after.perm_drops)
            require(not stays, f"{replica} knows that {stamped} is dropped, and has it in slot {slot}")

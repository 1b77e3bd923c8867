"""The promise rule: who promised away any name of a transaction works with it only if it was found, or if a
quorum has it, with its learner, which then cannot promise it away any more (sections 6.3 and 6.6)."""

from __future__ import annotations

from collections import defaultdict

from kvstore.drivers.simulated_host import SimulatedHost
from kvstore.eris.effects import Send
from kvstore.eris.messages import TempDroppedTransaction, TransactionFound
from kvstore.types import ShardId, TransactionId
from tests.simulation.ledger import Changed, Checker, Ledger, Replica, require


class Promises(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._promised: defaultdict[Replica, set[TransactionId]] = defaultdict(set)
        self._found: set[TransactionId] = set()

    def sent(self, host: SimulatedHost, sends: list[Send]) -> None:
        for send in sends:
            message = send.message
            if isinstance(message, TempDroppedTransaction):
                self._promised[Replica(host.number, ShardId(message.shard))].add(message.id)

    def spoke(self, sends: list[Send]) -> None:
        for send in sends:
            if isinstance(send.message, TransactionFound):
                self._found.update(send.message.stamped.stamp.ids())

    def changed(self, change: Changed) -> None:
        replica, record = change.replica, change.after
        if record.diverged or record.epoch != record.last_normal_epoch or record.view != record.normal_view:
            return
        shadow = self.ledger.shadows[replica]
        for name in self._promised[replica] - self._found:
            slot = shadow.names.get(name)
            if name.epoch == record.epoch and slot is not None and slot > record.stable:
                stamped = shadow.log.get(slot)
                kept = stamped is None or not stamped.stamp.matches([name])
                require(kept, f"{replica} promised {name} away and has it in slot {slot}")

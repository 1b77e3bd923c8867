"""Kept word: what a replica told others is on its disk, and stays there. It never goes back behind an epoch
or a view for which it has shown its log, and forgets no promise before the next epoch begins; but for one
that has forgotten all, and takes part in nothing until it is made anew."""

from __future__ import annotations

from collections import defaultdict

from kvstore.eris.effects import Send
from kvstore.eris.messages import EpochChangeAck, TempDroppedTransaction, ViewChange
from kvstore.simulation.simulated_host import SimulatedHost
from kvstore.types import Epoch, ShardId, TransactionId, ViewNumber
from tests.simulation.ledger import Changed, Checker, Ledger, Replica, require

NOTHING = Epoch(0), ViewNumber(0)


class KeptWord(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._epochs: dict[Replica, Epoch] = {}
        self._views: dict[Replica, tuple[Epoch, ViewNumber]] = {}
        self._promises: defaultdict[Replica, set[TransactionId]] = defaultdict(set)

    def sent(self, host: SimulatedHost, sends: list[Send]) -> None:
        for send in sends:
            message = send.message
            if isinstance(message, EpochChangeAck):
                self._epochs[Replica(host.number, ShardId(message.shard))] = message.epoch
            elif isinstance(message, ViewChange):
                view = message.epoch, message.view
                self._views[Replica(host.number, ShardId(message.shard))] = view
            elif isinstance(message, TempDroppedTransaction):
                self._promises[Replica(host.number, ShardId(message.shard))].add(message.id)

    def changed(self, change: Changed) -> None:
        replica, record = change.replica, change.after
        if record.rejoin:
            for memory in (self._epochs, self._views, self._promises):
                memory.pop(replica, None)
            return
        epoch, view = self._epochs.get(replica, Epoch(0)), self._views.get(replica, NOTHING)
        require(record.epoch >= epoch, f"{replica} left for epoch {epoch}, and is in {record.epoch}")
        now = record.last_normal_epoch, record.view
        require(now >= view, f"{replica} left for epoch and view {view}, and is in {now}")
        promised = {name for name in self._promises[replica] if name.epoch == record.last_normal_epoch}
        forgotten = promised - record.temp_drops
        require(not forgotten, f"{replica} forgot that it promised {sorted(forgotten)} away")

"""The promise rule: who promised away any name of a transaction works with it only if it was found, or if a
quorum has it, with its learner, which then cannot promise it away any more (sections 6.3 and 6.6). And what
is dropped was promised away by a majority of every shard, each in one view and with its learner. Such
promises are known in every later view of the epoch (invariant I4 of the extended version)."""

from __future__ import annotations

from collections import defaultdict

from kvstore.eris.effects import Send
from kvstore.eris.messages import StartView, TempDroppedTransaction, TransactionDropped, TransactionFound
from kvstore.simulation.simulated_host import SimulatedHost
from kvstore.types import ShardId, TransactionId, ViewNumber
from tests.simulation.ledger import Changed, Checker, Ledger, Replica, require


class Promises(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._promised: defaultdict[Replica, set[TransactionId]] = defaultdict(set)
        self._found: set[TransactionId] = set()
        self._dropped: set[TransactionId] = set()
        self._by_view: defaultdict[tuple[TransactionId, ShardId, ViewNumber], set[int]] = defaultdict(set)

    def sent(self, host: SimulatedHost, sends: list[Send]) -> None:
        for send in sends:
            message = send.message
            if isinstance(message, TempDroppedTransaction):
                shard = ShardId(message.shard)
                self._promised[Replica(host.number, shard)].add(message.id)
                self._by_view[message.id, shard, message.view].add(host.number)
            elif isinstance(message, StartView):
                self._knows_promises(message)

    def _knows_promises(self, start: StartView) -> None:
        replicas = self.ledger.simulator.shape.replicas
        for (name, shard, view), hosts in self._by_view.items():
            if shard == start.shard and name.epoch == start.epoch and view < start.view:
                counted = view % replicas in hosts and 2 * len(hosts) > replicas
                known = not counted or name in start.temp_drops
                require(known, f"view {start.view} of shard {shard} begins without the promises about {name}")

    def spoke(self, sends: list[Send]) -> None:
        for send in sends:
            if isinstance(send.message, TransactionFound):
                self._found.update(send.message.stamped.stamp.ids())
            elif isinstance(send.message, TransactionDropped):
                names = send.message.ids
                rests = not self._dropped.isdisjoint(names) or any(map(self._may_be_dropped, names))
                require(rests, f"dropped without the promises of majorities: {names}")
                self._dropped.update(names)

    def _may_be_dropped(self, name: TransactionId) -> bool:
        replicas, shards = self.ledger.simulator.shape.replicas, self.ledger.simulator.shards()
        enough = {
            shard
            for (named, shard, view), hosts in self._by_view.items()
            if named == name and view % replicas in hosts and 2 * len(hosts) > replicas
        }
        return len(enough) == len(shards)

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

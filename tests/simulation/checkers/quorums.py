"""Quorums: what a client is told, and what counts as stable, stands on the disks of a majority; and what a
coordinator says, its record there says too (MAJORITY-1)."""

from __future__ import annotations

from collections import defaultdict

from kvstore.eris.coordinator_replication import RECORD_KEY
from kvstore.eris.coordinator_state import decode_record
from kvstore.eris.effects import Send
from kvstore.eris.messages import Answer, RecordSaved, StartEpoch, TransactionDropped, TransactionFound
from kvstore.eris.shard_state import HOST_TABLE
from kvstore.simulation.simulated_host import SimulatedHost
from kvstore.storage.memory_environment import MemoryView
from kvstore.types import ShardId, Slot
from tests.simulation.ledger import Changed, Checker, Ledger, Replica, require
from tests.simulation.workload import Asked

Logged = tuple[ShardId, Slot, tuple[int, int]]
"""That this client's request stands in a slot."""


class Quorums(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._logged: defaultdict[Logged, set[int]] = defaultdict(set)
        self._unread: defaultdict[tuple[ShardId, Slot], set[int]] = defaultdict(set)
        """The hosts where a slot was logged and cut by one commit: it was executed, and stable."""
        self._ends: defaultdict[Replica, Slot] = defaultdict(lambda: Slot(0))
        self._begun: defaultdict[ShardId, Slot] = defaultdict(lambda: Slot(0))
        """How far epochs have brought each shard's log: all begin with that, whoever has it already."""
        self._said: defaultdict[object, set[int]] = defaultdict(set)
        """By what a coordinator may say, the hosts that kept a record of it."""

    def _is_majority(self, hosts: int) -> bool:
        return 2 * hosts > self.ledger.simulator.shape.replicas

    def changed(self, change: Changed) -> None:
        replica, before, after, slots = change
        log = self.ledger.shadows[replica].log
        for slot in slots:
            stamped = log[slot]
            if stamped is not None:
                request = stamped.request.client, stamped.request.request
                self._logged[replica.shard, slot, request].add(replica.host)
        for cut in range(before.head[1] + 1, after.head[0]):
            self._unread[replica.shard, Slot(cut)].add(replica.host)
        self._ends[replica] = max(self._ends[replica], after.head[1])
        if after.stable > self._begun[replica.shard]:
            hosts = range(self.ledger.simulator.shape.replicas)
            there = sum(self._ends[Replica(host, replica.shard)] >= after.stable for host in hosts)
            require(self._is_majority(there), f"{replica}: slot {after.stable} is stable on {there} hosts")

    def answered(self, asked: Asked, answer: Answer) -> None:
        request = asked.client.role.client, answer.request
        for shard, slot in answer.slots.items():
            there = self._logged[shard, slot, request] | self._unread[shard, slot]
            told = f"{request} was answered, and stands in slot {slot} of shard {shard} on hosts {there}"
            require(self._is_majority(len(there)), told)

    # -- coordinators ------------------------------------------------------------------------

    def sent(self, host: SimulatedHost, sends: list[Send]) -> None:
        if not any(isinstance(send.message, RecordSaved) for send in sends):
            return
        stored = MemoryView("checker", host.folder.committed).table(HOST_TABLE).get(RECORD_KEY)
        if stored is not None:
            record = decode_record(stored)
            self._said["epoch", record.last_started].add(host.number)
            for stamped in record.found:
                self._said["found", stamped.stamp.clock].add(host.number)
            for name in record.dropped:
                self._said["dropped", name].add(host.number)

    def spoke(self, sends: list[Send]) -> None:
        for send in sends:
            match send.message:
                case StartEpoch() as start:
                    end = start.entries[-1].slot if start.entries else start.stable
                    self._begun[start.shard] = max(self._begun[start.shard], end)
                    self._is_saved("epoch", start.epoch)
                case TransactionFound() as found:
                    self._is_saved("found", found.stamped.stamp.clock)
                case TransactionDropped() as dropped:
                    for name in dropped.ids:
                        self._is_saved("dropped", name)
                case _:
                    pass

    def _is_saved(self, kind: str, what: object) -> None:
        hosts = self._said[kind, what]
        require(self._is_majority(len(hosts)), f"{kind} {what} was said, and is kept by hosts {hosts} only")

"""Prefix agreement: what is stable on one replica of a shard is the same on all, for ever; and replicas that
executed the same slots have the same tables."""

from __future__ import annotations

from kvstore.eris.effects import Send
from kvstore.eris.messages import Stamped, StartEpoch
from kvstore.eris.shard_state import REGISTERS, ShardRecord, table_name
from kvstore.storage.memory_environment import MemoryView
from kvstore.types import ShardId, Slot
from tests.simulation.ledger import Changed, Checker, Ledger, Replica, require

ROWS_MAX = 1 << 16


class PrefixAgreement(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._states: dict[tuple[ShardId, Slot], tuple[Replica, int]] = {}

    def spoke(self, sends: list[Send]) -> None:
        """What an epoch begins with is decided, whoever has it already."""
        for send in sends:
            if isinstance(send.message, StartEpoch):
                for entry in send.message.entries:
                    self._agree(send.message.shard, entry.slot, entry.stamped, "START-EPOCH")

    def _agree(self, shard: ShardId, slot: Slot, stamped: Stamped | None, who: object) -> None:
        agreed = self.ledger.stable[shard].setdefault(slot, stamped)
        require(agreed == stamped, f"{who} slot {slot} of shard {shard}: {stamped}, elsewhere {agreed}")

    def changed(self, change: Changed) -> None:
        replica, before, after, slots = change
        log = self.ledger.shadows[replica].log
        begin = min(before.stable, after.stable) + 1
        for slot in {*map(Slot, range(begin, after.stable + 1)), *(s for s in slots if s <= after.stable)}:
            if slot in log:
                self._agree(replica.shard, slot, log[slot], replica)
        if not after.diverged and after.executed == after.head[1] and not after.waiting:
            self._compare_tables(replica, after)

    def _compare_tables(self, replica: Replica, record: ShardRecord) -> None:
        if record.executed > record.stable:
            return  # a learner that is ahead of its quorum
        folder = self.ledger.simulator.hosts[replica.host].folder
        view = MemoryView("checker", folder.committed)
        rows = view.table(table_name(replica.shard, REGISTERS)).scan(b"", b"\xff", limit=ROWS_MAX)
        state = hash(tuple(rows))
        first, known = self._states.setdefault((replica.shard, record.executed), (replica, state))
        require(known == state, f"{replica} and {first} differ after slot {record.executed}")

    def settled(self) -> None:
        for shard in self.ledger.simulator.shards():
            logs = [self.ledger.shadow(host.number, shard) for host in self.ledger.simulator.hosts]
            ends = {shadow.record.head[1] for shadow in logs}
            require(len(ends) == 1, f"logs of shard {shard} end at {ends}")

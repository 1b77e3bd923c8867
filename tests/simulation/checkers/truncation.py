"""Truncation: what was cut from a log is never needed again. A quorum of the shard has it; every participant
has it, on the host that cut it or at a quorum; and it is never dropped (contracts A7)."""

from __future__ import annotations

from kvstore.eris.effects import Send
from kvstore.eris.messages import Stamped, TransactionDropped
from kvstore.types import ShardId, Slot, TransactionId
from tests.simulation.ledger import Changed, Checker, Ledger, require


class Truncation(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._cut: set[TransactionId] = set()

    def changed(self, change: Changed) -> None:
        replica, before, after, _ = change
        kept_from, stable = after.head[0], after.stable
        require(
            kept_from <= stable + 1, f"{replica} cut its log before {kept_from}, of which {stable} is stable"
        )
        shadow = self.ledger.shadows[replica]
        for slot in map(Slot, range(before.head[0], after.head[0])):
            stamped = shadow.log.pop(slot, None)
            if stamped is not None:
                self._cut.update(stamped.stamp.ids())
                for shard in stamped.stamp.numbers:
                    where = f"{replica} cut slot {slot}, which shard {shard} has nowhere"
                    require(self._is_there(stamped, replica.host, shard), where)

    def _is_there(self, stamped: Stamped, host: int, shard: ShardId) -> bool:
        name = TransactionId(stamped.stamp.epoch, shard, stamped.stamp.numbers[shard])
        shadow = self.ledger.shadow(host, shard)
        return name in self._cut or name in shadow.names or stamped in self.ledger.stable[shard].values()

    def spoke(self, sends: list[Send]) -> None:
        for send in sends:
            if isinstance(send.message, TransactionDropped):
                gone = self._cut.intersection(send.message.ids)
                require(not gone, f"dropped after it was cut: {sorted(gone)}")

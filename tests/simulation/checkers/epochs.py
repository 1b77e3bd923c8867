"""Epoch boundaries: what one shard begins an epoch with, all participants do (section 6.5)."""

from __future__ import annotations

from kvstore.eris.effects import Send
from kvstore.eris.messages import Stamped, StartEpoch
from kvstore.types import Epoch, ShardId, Slot
from tests.simulation.ledger import Changed, Checker, Ledger, require


class EpochBoundaries(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._starts: dict[Epoch, dict[ShardId, StartEpoch]] = {}
        self._begun: dict[tuple[Epoch, ShardId], Slot] = {}

    def spoke(self, sends: list[Send]) -> None:
        for send in sends:
            if isinstance(send.message, StartEpoch):
                starts = self._starts.setdefault(send.message.epoch, {})
                starts[send.message.shard] = send.message
                if len(starts) == self.ledger.simulator.shape.shards:
                    self._compare(starts)

    def _compare(self, starts: dict[ShardId, StartEpoch]) -> None:
        begun = {
            shard: {e.stamped.stamp.clock for e in start.entries if e.stamped is not None}
            for shard, start in starts.items()
        }
        for start in starts.values():
            for entry in start.entries:
                if entry.stamped is not None:
                    for shard in entry.stamped.stamp.numbers:
                        whole = entry.stamped.stamp.clock in begun[shard] or self._is_stable(
                            shard, entry.stamped
                        )
                        epoch = start.epoch
                        require(
                            whole, f"epoch {epoch}: shard {start.shard} has {entry}, shard {shard} has not"
                        )

    def _is_stable(self, shard: ShardId, stamped: Stamped) -> bool:
        return stamped in self.ledger.stable[shard].values()

    def changed(self, change: Changed) -> None:
        """All replicas of a shard begin an epoch at the same slot."""
        after = change.after
        if not after.diverged and after.last_normal_epoch > 0:
            key = after.last_normal_epoch, change.replica.shard
            base = self._begun.setdefault(key, after.base)
            require(
                base == after.base, f"{change.replica} began epoch {key[0]} after {after.base}, not {base}"
            )
        require(after.epoch >= change.before.epoch or after.head[1] == 0, "epochs never go back")

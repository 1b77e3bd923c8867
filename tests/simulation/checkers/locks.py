"""No lock is left behind: in the end nothing stands between its two halves, and nothing waits."""

from __future__ import annotations

from tests.simulation.ledger import Checker, require


class NoLockLeft(Checker):
    def settled(self) -> None:
        for host in self.ledger.simulator.living():
            assert host.host is not None
            left = host.host.executor.outstanding()
            require(not left, f"host {host.number} still holds locks of {left}")
            for shard in self.ledger.simulator.shards():
                waiting = self.ledger.shadow(host.number, shard).record.waiting
                require(not waiting, f"host {host.number}, shard {shard}: slots {waiting} still wait")

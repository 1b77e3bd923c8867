"""Found xor dropped: no name is ever both, over all coordinators there were; and an epoch starts with one
meaning (contracts B1)."""

from __future__ import annotations

from kvstore.eris.effects import Send
from kvstore.eris.messages import StartEpoch, TransactionDropped, TransactionFound
from kvstore.types import Epoch, ShardId, TransactionId
from tests.simulation.ledger import Checker, Ledger, require


class FoundOrDropped(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._found: set[TransactionId] = set()
        self._dropped: set[TransactionId] = set()
        self._started: dict[tuple[Epoch, ShardId], StartEpoch] = {}

    def spoke(self, sends: list[Send]) -> None:
        for send in sends:
            message = send.message
            if isinstance(message, TransactionFound):
                self._found.update(message.stamped.stamp.ids())
            elif isinstance(message, TransactionDropped):
                self._dropped.update(message.ids)
            elif isinstance(message, StartEpoch):
                known = self._started.setdefault((message.epoch, message.shard), message)
                require(known == message, f"epoch {message.epoch} was started twice, with two meanings")
            else:
                continue
            both = self._found & self._dropped
            require(not both, f"found and dropped: {sorted(both)}")

"""Found xor dropped: no name is ever both, over all coordinators there were; an epoch starts with one meaning
(contracts B1), and with all that was found in the one before (section 6.5)."""

from __future__ import annotations

from kvstore.eris.effects import Send
from kvstore.eris.messages import Stamped, StartEpoch, TransactionDropped, TransactionFound
from kvstore.types import Epoch, ShardId, TransactionId
from tests.simulation.ledger import Checker, Ledger, require


class FoundOrDropped(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._found: set[TransactionId] = set()
        self._dropped: set[TransactionId] = set()
        self._happens: dict[TransactionId, Stamped] = {}
        """What was found, by each of its names."""
        self._started: dict[tuple[Epoch, ShardId], StartEpoch] = {}

    def spoke(self, sends: list[Send]) -> None:
        for send in sends:
            message = send.message
            if isinstance(message, TransactionFound):
                self._found.update(message.stamped.stamp.ids())
                self._happens.update(dict.fromkeys(message.stamped.stamp.ids(), message.stamped))
            elif isinstance(message, TransactionDropped):
                self._dropped.update(message.ids)
            elif isinstance(message, StartEpoch):
                if (message.epoch, message.shard) not in self._started:
                    self._has_all_found(message)
                known = self._started.setdefault((message.epoch, message.shard), message)
                require(known == message, f"epoch {message.epoch} was started twice, with two meanings")
            else:
                continue
            both = self._found & self._dropped
            require(not both, f"found and dropped: {sorted(both)}")

    def _has_all_found(self, start: StartEpoch) -> None:
        """Of the epoch before: those older are in the logs that it began with."""
        last = max((epoch for epoch, _ in self._started if epoch < start.epoch), default=Epoch(0))
        entries = [entry.stamped for entry in start.entries]
        stable = self.ledger.stable[start.shard].values()
        for name, stamped in self._happens.items():
            if name.epoch == last and name.shard == start.shard:
                there = stamped in entries or stamped in stable
                require(
                    there, f"epoch {start.epoch} of shard {name.shard} begins without {name}, which was found"
                )

"""What the failure coordinator remembers: its durable record, promises, and who showed which log.

The record is durable before the coordinator sends anything that follows from it (contracts B1).
``failure_coordinator.py`` starts epochs by it, ``drop_decisions.py`` decides about lost messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from kvstore.eris.effects import ReplicaAddress
from kvstore.eris.messages import EpochChangeAck, Stamped, StartEpoch
from kvstore.types import ClientId, Epoch, ShardId, Slot, TransactionId, ViewNumber


class CoordinatorRecord(msgspec.Struct, frozen=True, array_like=True):
    """The coordinator's durable record; the newest one by (epoch, counter) counts (contracts B1)."""

    epoch: Epoch = Epoch(0)
    counter: int = 0
    last_started: Epoch = Epoch(0)
    view: ViewNumber = ViewNumber(0)
    start_epochs: tuple[StartEpoch, ...] = ()
    """The saved START-EPOCH of ``last_started``, one per shard."""
    found: tuple[Stamped, ...] = ()
    """Transactions of this epoch that were lost at a replica, and are kept."""
    dropped: frozenset[TransactionId] = frozenset()
    """Names of the lost transactions that are dropped."""


encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(CoordinatorRecord).decode


@dataclass(slots=True, kw_only=True)
class CoordinatorState:
    """The coordinator's record, and the answers it collects in an epoch change or about lost messages."""

    record: CoordinatorRecord
    shards: int
    replicas: int
    consulted: frozenset[ReplicaAddress] | None = None
    """The replicas whose logs an epoch change waits for; None: the replicas of any majority of hosts."""
    clients_from: ClientId | None = None
    """The first client that may still be alive; None: no client of an earlier epoch is."""
    acks: dict[ReplicaAddress, EpochChangeAck] = field(default_factory=dict)
    since: Mapping[ShardId, Slot] = field(default_factory=dict)
    promises: dict[TransactionId, dict[ReplicaAddress, ViewNumber]] = field(default_factory=dict)
    """Promises to wait, by missing transaction: the replica and the view in which it promised."""

    @property
    def is_normal(self) -> bool:
        """Return whether no epoch change is under way."""
        return self.record.last_started == self.record.epoch

    def addresses(self, shards: Iterable[int]) -> list[ReplicaAddress]:
        """Return the addresses of all replicas of these shards."""
        return [
            ReplicaAddress(ShardId(shard), replica)
            for shard in sorted(shards)
            for replica in range(self.replicas)
        ]

    def decide(
        self,
        *,
        found: tuple[Stamped, ...] | None = None,
        dropped: frozenset[TransactionId] | None = None,
    ) -> None:
        """Put a decision into the record, which is saved before any message announces it."""
        record = self.record
        self.record = after = msgspec.structs.replace(
            record,
            counter=record.counter + 1,
            found=record.found if found is None else found,
            dropped=record.dropped if dropped is None else dropped,
        )
        both = [stamped.stamp.ids() for stamped in after.found if stamped.stamp.matches(after.dropped)]
        assert not both, (
            f"DECISION-1: {both} are found and dropped, in record {after.counter} of epoch {after.epoch}"
        )

"""The failure coordinator's part in an epoch change (Eris, SOSP 2017, section 6.5; contracts B1).

One logical service for all shards. Its record is durable before it speaks: the driver writes
``CoordinatorRecord`` to a majority of environments before it carries out the sends that a step
returned. Its part in single lost messages (section 6.3) is in ``drop_decisions.py``.

INVARIANTS
    F1  An epoch is started at most once, and with one meaning: START-EPOCH is saved first.
    F2  A transaction that any consulted replica of any shard holds is given to all its participants.
    F3  A transaction that a client saw committed is in every epoch that follows: it stood at a
        majority, and a majority of every shard is consulted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from kvstore.eris.effects import Effect, ReplicaAddress, Send
from kvstore.eris.messages import EpochChange, EpochChangeAck, LogEntry, Stamped, StartEpoch
from kvstore.types import (
    Epoch,
    SequenceNumber,
    ShardId,
    Slot,
    Timestamp,
    TransactionId,
    ViewNumber,
)


class CoordinatorRecord(msgspec.Struct, frozen=True, array_like=True):
    """What the coordinator must not forget; the newest by (epoch, counter) counts (contracts B1)."""

    epoch: Epoch = Epoch(0)
    counter: int = 0
    last_started: Epoch = Epoch(0)
    view: ViewNumber = ViewNumber(0)
    start_epochs: tuple[StartEpoch, ...] = ()
    """The saved START-EPOCH of ``last_started``, one per shard."""
    found: tuple[Stamped, ...] = ()
    """Transactions of this epoch that were lost somewhere and happen all the same."""
    dropped: frozenset[TransactionId] = frozenset()
    """Names of those that do not."""


encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(CoordinatorRecord).decode


@dataclass(slots=True, kw_only=True)
class FailureCoordinator:
    """Starts one epoch after another. ``consulted`` are the replicas whose logs it waits for."""

    record: CoordinatorRecord
    shards: int
    replicas: int
    consulted: frozenset[ReplicaAddress]
    acks: dict[ReplicaAddress, EpochChangeAck] = field(default_factory=dict)
    since: Mapping[ShardId, Slot] = field(default_factory=dict)
    promises: dict[TransactionId, dict[ReplicaAddress, ViewNumber]] = field(default_factory=dict)
    """Of the transactions that are asked for, who promised to wait, and in which view."""

    @property
    def is_normal(self) -> bool:
        """Whether no epoch change is under way."""
        return self.record.last_started == self.record.epoch

    def addresses(self, shards: Iterable[int]) -> list[ReplicaAddress]:
        """All replicas of these shards."""
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
        """Put a decision into the record; the driver keeps it before anybody hears of it."""
        record = self.record
        self.record = msgspec.structs.replace(
            record,
            counter=record.counter + 1,
            found=record.found if found is None else found,
            dropped=record.dropped if dropped is None else dropped,
        )

    def begin(self, epoch: Epoch, since: Mapping[ShardId, Slot] | None = None) -> list[Effect]:
        """Ask all consulted replicas to leave the current epoch. ``epoch`` is above all before.

        ``since``: by shard, where the log of a replica that is behind ends, if that is known.
        """
        assert epoch > self.record.epoch, "epochs never go back"
        assert self._has_majorities(self.consulted), "a majority of every shard is needed"
        self.record = msgspec.structs.replace(self.record, epoch=epoch, counter=1)
        self.acks.clear()
        self.promises.clear()
        self.since = since or {}
        return [
            Send(address, EpochChange(epoch, self.since.get(address.shard)))
            for address in sorted(self.consulted)
        ]

    def _has_majorities(self, addresses: Iterable[ReplicaAddress]) -> bool:
        counts = [0] * self.shards
        for address in addresses:
            counts[address.shard] += 1
        return all(2 * count > self.replicas for count in counts)

    def handle(self, ack: EpochChangeAck) -> list[Effect]:
        """Collect; when every consulted replica has shown its log, start the epoch."""
        if ack.epoch == self.record.epoch:
            self.acks[ReplicaAddress(ack.shard, ack.replica)] = ack
        if self.acks.keys() < self.consulted or self.record.last_started == ack.epoch:
            return []
        return self._start()

    def _start(self) -> list[Effect]:
        current = [ack for ack in self.acks.values() if ack.last_normal_epoch == self.record.last_started]
        assert self._has_majorities(ReplicaAddress(ack.shard, ack.replica) for ack in current), (
            "a majority of every shard began the last epoch"
        )
        view = self._next_view(current)
        starts = tuple(self._start_epoch(ShardId(shard), current, view) for shard in range(self.shards))
        epoch = self.record.epoch
        # What was found or dropped stands in the logs now, and is forgotten.
        self.record = CoordinatorRecord(epoch, self.record.counter + 1, epoch, view, starts)
        return [Send(address, starts[address.shard]) for address in sorted(self.consulted)]

    def _next_view(self, acks: list[EpochChangeAck]) -> ViewNumber:
        """The first view, from the greatest seen on, whose learner was consulted for every shard."""
        view = max(ack.view for ack in acks)
        present = set.intersection(
            *({ack.replica for ack in acks if ack.shard == shard} for shard in range(self.shards))
        )
        while view % self.replicas not in present:
            view = ViewNumber(view + 1)
        return view

    def _start_epoch(self, shard: ShardId, acks: list[EpochChangeAck], view: ViewNumber) -> StartEpoch:
        own = [ack for ack in acks if ack.shard == shard]
        stable, base = self._shown_by_all_from(shard, own), own[0].base
        assert all(ack.base == base for ack in own), "all replicas began the epoch with the same log"
        decided = self._combined(acks, shard)
        last = max(decided, default=0)
        entries = tuple(
            LogEntry(slot, decided.get(SequenceNumber(slot - base)))
            for slot in map(Slot, range(stable + 1, base + last + 1))
        )
        clock = Timestamp(max(ack.clock for ack in acks))
        follows = self.record.last_started
        return StartEpoch(self.record.epoch, shard, view, stable, entries, clock, follows)

    def _shown_by_all_from(self, shard: ShardId, own: list[EpochChangeAck]) -> Slot:
        """The slot that the entries of START-EPOCH begin after.

        The greatest stable slot, as every replica that is not behind holds what is below it. To complete
        one that is behind they begin lower, but only where some replica still has all from there on: a
        slot that nobody shows is not a slot that nobody had.
        """
        stable = max(ack.stable for ack in own)
        whole = [ack.entries[0].slot for ack in own if ack.entries and ack.entries[-1].slot >= stable]
        oldest = Slot(min(whole, default=stable + 1) - 1)
        return min(stable, max(oldest, self.since.get(shard, stable)))

    def _combined(self, acks: list[EpochChangeAck], shard: ShardId) -> dict[SequenceNumber, Stamped]:
        """This shard's transactions by number: all that any consulted replica of any shard showed, and all
        that were found, without those that were dropped (F2, F4)."""
        shown = (entry.stamped for ack in acks for entry in ack.entries if entry.stamped is not None)
        return {
            stamped.stamp.numbers[shard]: stamped
            for stamped in (*shown, *self.record.found)
            if shard in stamped.stamp.numbers and not stamped.stamp.matches(self.record.dropped)
        }

"""The failure coordinator's part in an epoch change (Eris, SOSP 2017, section 6.5; contracts B1).

One logical service for all shards. Its ``CoordinatorRecord`` is at a majority of environments before the
messages of a step are sent: the driver ensures this in one process, and ``coordinator_replication.py`` over a
network. Its part in single lost messages (section 6.3) is in ``drop_decisions.py``.

INVARIANTS
    COORDINATOR-1  An epoch is started at most once, with one START-EPOCH, which is saved first.
    COORDINATOR-2  A transaction that any consulted replica of any shard holds is given to all its
        participants.
    COORDINATOR-3  A transaction that a client saw committed is in every later epoch: it was at a majority,
    and
        a majority of every shard is consulted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import msgspec

from kvstore.eris.coordinator_state import CoordinatorRecord, CoordinatorState
from kvstore.eris.drop_decisions import on_decision_message
from kvstore.eris.effects import Dropped, Effect, ReplicaAddress, Send, SetTimer
from kvstore.eris.messages import (
    CoordinatorMessage,
    EpochChange,
    EpochChangeAck,
    EpochChangeRequest,
    LogEntry,
    Stamped,
    StartEpoch,
)
from kvstore.types import (
    Epoch,
    SequenceNumber,
    ShardId,
    Slot,
    Timestamp,
    TransactionId,
    ViewNumber,
)

EPOCH_MS = 50
"""The time after which EPOCH-CHANGE is sent again to replicas that have not acknowledged."""


class Beginning(NamedTuple):
    """The log with which a shard begins an epoch: up to ``stable`` the log of every replica that began the
    epoch ``follows``, then ``entries``, up to ``last``."""

    follows: Epoch
    stable: Slot
    entries: tuple[LogEntry, ...]
    dropped: tuple[TransactionId, ...]
    last: Slot


@dataclass(slots=True, kw_only=True)
class FailureCoordinator(CoordinatorState):
    """Starts one epoch after another, and decides about lost transactions of each."""

    def handle(self, message: CoordinatorMessage) -> list[Effect]:
        """Take one message and return the effects it causes."""
        match message:
            case EpochChangeAck():
                return self._on_ack(message)
            case EpochChangeRequest():
                return self._on_request(message)
            case _:
                return on_decision_message(self, message)

    def on_timer(self, name: str) -> list[Effect]:
        """ "epoch": ask those again who have not acknowledged."""
        assert name == "epoch", name
        return [] if self.is_normal else self._ask_all()

    def begin(self, epoch: Epoch, since: Mapping[ShardId, Slot] | None = None) -> list[Effect]:
        """Ask the replicas to leave the current epoch. ``epoch`` is above all before.

        ``since`` is the end of the log of a replica that is behind, by shard, where that is known.
        """
        before = self.record.epoch
        assert epoch > before, f"COORDINATOR-1: epochs never go back, and {epoch} is to follow {before}"
        consulted = self.consulted
        assert consulted is None or self._has_majorities(consulted), (
            f"COORDINATOR-3: {sorted(consulted)} are no majority of {self.replicas} replicas in each of "
            f"{self.shards} shards"
        )
        self.record = msgspec.structs.replace(self.record, epoch=epoch, counter=1)
        self.acks.clear()
        self.promises.clear()
        self.since = since or {}
        return self._ask_all()

    def _ask_all(self) -> list[Effect]:
        asked = self.addresses(range(self.shards)) if self.consulted is None else sorted(self.consulted)
        effects: list[Effect] = [self._ask(address) for address in asked if address not in self.acks]
        return effects if self.consulted is not None else [*effects, SetTimer("epoch", EPOCH_MS)]

    def _ask(self, address: ReplicaAddress) -> Send:
        return Send(address, EpochChange(self.record.epoch, self.since.get(address.shard)))

    def _on_request(self, request: EpochChangeRequest) -> list[Effect]:
        """Send a replica the epoch that was started, or is about to start; the driver begins later epochs."""
        address = ReplicaAddress(request.shard, request.replica)
        if request.epoch > self.record.epoch:
            return [Dropped(request, f"epoch {self.record.epoch} is the latest")]
        if not self.is_normal:
            return [self._ask(address)]
        if not self.record.start_epochs:
            return [Dropped(request, "no epoch has begun yet")]
        return [Send(address, self.record.start_epochs[request.shard])]

    def _has_majorities(self, addresses: Iterable[ReplicaAddress]) -> bool:
        counts = [0] * self.shards
        for address in addresses:
            counts[address.shard] += 1
        return all(2 * count > self.replicas for count in counts)

    def _on_ack(self, ack: EpochChangeAck) -> list[Effect]:
        """Collect an acknowledgement; start the epoch when enough replicas have shown their logs."""
        if ack.epoch != self.record.epoch or self.is_normal:
            return []
        assert ack.last_normal_epoch < ack.epoch, (
            f"EPOCH-1: the change to epoch {ack.epoch} is acknowledged, and {ack.last_normal_epoch} has begun"
        )
        self.acks[ReplicaAddress(ack.shard, ack.replica)] = ack
        wanted = self.consulted
        is_enough = self._has_hosts() if wanted is None else self.acks.keys() >= wanted
        return self._start() if is_enough else []

    def _has_hosts(self) -> bool:
        """Return whether a majority of hosts has shown the logs of all its shards.

        A transaction that a host has executed may be truncated in the log of one shard, and shown by another.
        """
        shown = Counter(address.replica for address in self.acks)
        return 2 * sum(count == self.shards for count in shown.values()) > self.replicas

    def _start(self) -> list[Effect]:
        """Start the epoch. Logs of replicas that did not begin the last one may hold dropped transactions."""
        current = [ack for ack in self.acks.values() if ack.last_normal_epoch == self.record.last_started]
        view, clock = self._next_view(current), self._latest_clock(current)
        shards = map(ShardId, range(self.shards))
        starts = tuple(self._start_epoch(shard, current, view, clock) for shard in shards)
        epoch = self.record.epoch
        assert self._has_majorities(self.acks), (
            f"COORDINATOR-3: epoch {epoch} is to begin, and only {sorted(self.acks)} have shown their logs"
        )
        late = {address: ack.clock for address, ack in self.acks.items() if ack.clock > clock}
        assert not late, f"SEQUENCER-2: epoch {epoch} is to begin after clock {clock}, and logs have {late}"
        left_out = self._left_out(starts, current)
        assert not left_out, f"COORDINATOR-2: epoch {epoch} is to begin, and {left_out} are left out"
        # The logs contain the decisions now; they are forgotten.
        self.record = CoordinatorRecord(epoch, self.record.counter + 1, epoch, view, starts)
        asked = self.addresses(range(self.shards)) if self.consulted is None else sorted(self.consulted)
        return [Send(address, starts[address.shard]) for address in asked]

    def _left_out(self, starts: tuple[StartEpoch, ...], current: list[EpochChangeAck]) -> list[TransactionId]:
        """Return the names of known transactions that are neither dropped nor in their shard's new log."""
        stable = {ack.shard: starts[ack.shard].stable - ack.base for ack in current}
        given = {
            TransactionId(entry.stamped.stamp.epoch, start.shard, entry.stamped.stamp.numbers[start.shard])
            for start in starts
            for entry in start.entries
            if entry.stamped is not None
        }
        return [
            name
            for stamped in self._known(current)
            if not stamped.stamp.matches(self.record.dropped)
            for name in stamped.stamp.ids()
            if name not in given and name.sequence > stable.get(name.shard, 0)
        ]

    def _next_view(self, current: list[EpochChangeAck]) -> ViewNumber:
        """Return the first view, from the greatest on, whose learner can begin all shards, or else one."""
        view = max(ack.view for ack in current or self.acks.values())
        able = [{ack.replica for ack in current if ack.shard == shard} for shard in range(self.shards)]
        learners = set.intersection(*able) or set.union(*able) or {address.replica for address in self.acks}
        while view % self.replicas not in learners:
            view = ViewNumber(view + 1)
        return view

    def _latest_clock(self, current: list[EpochChangeAck]) -> Timestamp:
        """Return the greatest time in any log, above which the next sequencer begins (contracts D1)."""
        logged = (ack.clock for ack in self.acks.values())
        started = (start.clock for start in self.record.start_epochs)
        return max(chain(logged, started, (stamped.stamp.clock for stamped in self._known(current))))

    def _start_epoch(
        self, shard: ShardId, current: list[EpochChangeAck], view: ViewNumber, clock: Timestamp
    ) -> StartEpoch:
        own = [ack for ack in current if ack.shard == shard]
        before = self._beginning(shard, own)
        base = own[0].base if own else before.last
        assert all(ack.base == base for ack in own), (
            f"EPOCH-2: an epoch begins with the same log, and those of shard {shard} ended at "
            f"{[ack.base for ack in own]}"
        )
        decided = self._decided(current, shard)
        last = max(self._end(own), Slot(base + max(decided, default=0)))
        entries = (
            LogEntry(slot, decided.get(SequenceNumber(slot - base)))
            for slot in map(Slot, range(before.last + 1, last + 1))
        )
        return StartEpoch(
            self.record.epoch,
            shard,
            view,
            before.stable,
            (*before.entries, *entries),
            clock,
            before.follows,
            (*before.dropped, *sorted(self.record.dropped)),
            self.clients_from,
        )

    def _beginning(self, shard: ShardId, own: list[EpochChangeAck]) -> Beginning:
        """Return how the shard's log begins. If no consulted replica began the last epoch, nothing was
        committed in it, and the saved START-EPOCH of that epoch is repeated."""
        if own:
            stable = self._shown_by_all_from(shard, own)
            return Beginning(self.record.last_started, stable, (), (), stable)
        start = self.record.start_epochs[shard]
        last = start.entries[-1].slot if start.entries else start.stable
        return Beginning(start.follows, start.stable, start.entries, start.dropped, last)

    @staticmethod
    def _end(own: list[EpochChangeAck]) -> Slot:
        """Return the last slot of any consulted replica, even if it is a NO-OP."""
        return max((ack.entries[-1].slot for ack in own if ack.entries), default=Slot(0))

    def _shown_by_all_from(self, shard: ShardId, own: list[EpochChangeAck]) -> Slot:
        """Return the slot after which the entries of START-EPOCH begin.

        This is the greatest stable slot, because every replica that is not behind holds the slots below it.
        To complete a replica that is behind, the entries begin lower, but only where some replica still has
        all slots from there on: a slot that no replica shows may have been truncated.
        """
        stable = max(ack.stable for ack in own)
        whole = [ack.entries[0].slot for ack in own if ack.entries and ack.entries[-1].slot >= stable]
        oldest = Slot(min(whole, default=stable + 1) - 1)
        return min(stable, max(oldest, self.since.get(shard, stable)))

    def _decided(self, current: list[EpochChangeAck], shard: ShardId) -> dict[SequenceNumber, Stamped]:
        """Return this shard's transactions by number, without dropped ones (COORDINATOR-2, DECISION-1)."""
        return {
            stamped.stamp.numbers[shard]: stamped
            for stamped in self._known(current)
            if shard in stamped.stamp.numbers and not stamped.stamp.matches(self.record.dropped)
        }

    def _known(self, current: list[EpochChangeAck]) -> Iterator[Stamped]:
        """Yield all transactions that a consulted replica of any shard showed, and all found ones."""
        for ack in current:
            yield from (entry.stamped for entry in ack.entries if entry.stamped is not None)
            yield from ack.unresolved
        yield from self.record.found

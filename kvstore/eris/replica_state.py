"""The state of a replica of one shard, and the steps that its phases share.

The phases of the protocol are functions over this state: lost messages (``dropped_messages.py``), views
(``view_change.py``), epochs (``epoch_change.py``), images (``state_transfer.py``) and synchronization
(``synchronization.py``). Which message leads into which phase is in ``replica.py``.

INVARIANTS
    REPLICA-1  Slot ``base + k`` holds exactly the transaction with number k of the current epoch, or NO-OP.
    REPLICA-2  executed <= last slot; executed <= stable, except on a learner that is ahead of its quorum. At
        most f replicas of a shard may be ahead, so the tables of a majority never have to be undone.
    REPLICA-3  The clock rises with the slots (contracts D1).

Invariants of lost messages, epochs and views that are asserted here are stated in the modules of these
phases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kvstore.eris.effects import ClientAddress, Effect, ReplicaAddress, Send
from kvstore.eris.executor import Executor
from kvstore.eris.messages import Reply, Stamped, ViewChange
from kvstore.eris.shard import Shard
from kvstore.eris.shard_state import Status
from kvstore.types import Epoch, SequenceNumber, Slot, Timestamp

NONE_ANNOUNCED = SequenceNumber(0)
NO_EPOCH = Epoch(0)


@dataclass(slots=True, kw_only=True)
class ReplicaState(Shard):
    """A replica's state in the protocol, on top of the shard that it executes."""

    executor: Executor
    """The executor, which all replicas of the host share."""
    is_ahead: bool = True
    """Whether this replica, as the learner, executes a transaction before a quorum has logged it."""
    sync_replies: dict[int, Slot] = field(default_factory=dict)
    """The last durable slot of each follower's log, by replica; on the learner only."""
    reported: Slot | None = None
    """The end of the log that this follower last reported to the learner."""
    held: dict[SequenceNumber, Stamped] = field(default_factory=dict)
    """Transactions that arrived ahead of a gap, by this shard's number (section 6.3)."""
    announced: SequenceNumber = NONE_ANNOUNCED
    """The last number that the sequencer has announced."""
    missing: SequenceNumber | None = None
    """The number that is asked for, and how often the peers were asked."""
    asked: int = 0
    view_changes: dict[int, ViewChange] = field(default_factory=dict)
    """VIEW-CHANGE messages for a view that has not begun, by replica; on its learner only (section 6.4)."""

    wanted_epoch: Epoch = NO_EPOCH
    """The latest epoch that this replica has asked the coordinator for."""
    needs_image: bool = False
    """Whether peers are asked for one, and how often they were."""
    image_asked: int = 0

    def __post_init__(self) -> None:
        self.last_slot = self.log.last
        self.executor.replicas[self.address.shard] = self
        self.take_status()

    def take_status(self) -> None:
        """Set the status from the durable record, because a crash may have interrupted any change."""
        record = self.record
        assert record.epoch >= record.last_normal_epoch, (
            f"EPOCH-1: epoch {record.last_normal_epoch} began after the change to epoch {record.epoch}"
        )
        assert record.view >= record.normal_view, (
            f"VIEW-1: view {record.normal_view} began after view {record.view} was joined"
        )
        assert record.executed <= self.last_slot, (
            f"REPLICA-2: slot {record.executed} is executed, and the log ends at slot {self.last_slot}"
        )
        began = record.view == record.normal_view
        self.is_learner = began and record.view % self.replicas == self.address.replica
        if record.diverged:
            self.status = Status.DIVERGED
        elif record.epoch != record.last_normal_epoch:
            self.status = Status.EPOCH_CHANGE
        else:
            self.status = Status.NORMAL if began else Status.VIEW_CHANGE

    def diverge(self) -> None:
        """Become inactive: as a learner, this replica executed a transaction that was dropped."""
        record = self.record
        assert record.rejoin or record.executed > record.stable, (
            f"REPLICA-2: what was dropped is executed, up to slot {record.executed}, and stable up to slot "
            f"{record.stable}"
        )
        self.status = Status.DIVERGED
        record.diverged = True

    @property
    def next_number(self) -> SequenceNumber:
        """Return the next number of this shard."""
        return SequenceNumber(self.last_slot - self.record.base + 1)

    def take(self, stamped: Stamped | None) -> list[Effect]:
        """Write the next slot: a transaction, or the NO-OP in place of one that was dropped."""
        slot = self.append(stamped)
        if self.is_learner:
            return self.executor.arrive(self, slot, stamped) if self.is_ahead else []
        return self.acknowledge(slot, stamped)

    def acknowledge(self, slot: Slot, stamped: Stamped | None) -> list[Effect]:
        """Return a follower's reply: the transaction is in this slot of its log."""
        if stamped is None:
            return []
        record, (shard, replica) = self.record, self.address
        client, request = stamped.request.client, stamped.request.request
        reply = Reply(client, request, shard, replica, record.epoch, record.view, slot)
        return [Send(ClientAddress(client), reply)]

    def append(self, stamped: Stamped | None) -> Slot:
        """Write the next slot of the log."""
        self.last_slot = slot = Slot(self.last_slot + 1)
        self.log.append(slot, stamped)
        if stamped is not None:
            record, clock = self.record, stamped.stamp.clock
            assert clock > record.clock, (
                f"REPLICA-3: clock {clock} of slot {slot} is not after {record.clock}"
            )
            assert not record.perm_drops or not stamped.stamp.matches(record.perm_drops), (
                f"LOSS-2: {stamped.stamp.ids()} is dropped, and written into slot {slot}"
            )
            record.clock = clock
        return slot

    def execute_as_learner(self) -> list[Effect]:
        """Execute all slots that the learner may execute."""
        return self.executor.execute_up_to(self, self.last_slot if self.is_ahead else self.record.stable)

    def shorten(self, end: Slot) -> None:
        """Remove the slots after this one, which no replica executed and which never take effect."""
        assert self.record.executed <= end, (
            f"REPLICA-2: slot {self.record.executed} is executed, and the log is to end at slot {end}"
        )
        if self.last_slot > end:
            self.inline_bodies()
            self.log.shorten(end)
            self.last_slot = self.log.last
            self.record.clock = Timestamp(0)  # drops of removed slots; the next epoch has its own

    def inline_bodies(self) -> None:
        """Copy the bodies in this log to the host's other logs that refer to them."""
        for shard, other in self.executor.replicas.items():
            if other is not self and other.log.inline_bodies_from(self.address.shard):
                self.executor.touched.add(shard)

    def waiting(self) -> Iterator[tuple[Slot, Stamped]]:
        """Return the slots that are not resolved, in order."""
        for slot in self.executor.waiting(self.address.shard):
            stamped = self.logged(slot)
            if stamped is not None:
                yield slot, stamped

    def peers(self) -> list[ReplicaAddress]:
        """Return the addresses of the other replicas of this shard."""
        shard, own = self.address
        return [ReplicaAddress(shard, number) for number in range(self.replicas) if number != own]

    def forget_view(self) -> None:
        """Forget the requests and replies of the last view, because another one begins."""
        record = self.record
        assert record.view >= record.normal_view, (
            f"VIEW-1: view {record.normal_view} began after view {record.view} was joined"
        )
        self.missing = self.reported = None
        self.sync_replies.clear()
        self.view_changes.clear()

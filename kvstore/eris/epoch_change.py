"""A replica crosses from one sequencer's epoch to the next (Eris, SOSP 2017, section 6.5).

    1. EPOCH-CHANGE: process nothing older any more, and show the coordinator the unstable log.
    2. START-EPOCH: take over the log that all replicas of the shard begin the epoch with, execute
       it, forget ended clients, and listen to the new sequencer.

What the coordinator makes of the logs is in ``failure_coordinator.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.eris.effects import COORDINATOR, Dropped, Effect, Send
from kvstore.eris.messages import EpochChange, EpochChangeAck, LogEntry, StartEpoch, StartEpochAck
from kvstore.eris.shard_state import Status
from kvstore.types import SequenceNumber, Slot

if TYPE_CHECKING:
    from kvstore.eris.replica import Replica


def on_epoch_change(replica: Replica, message: EpochChange) -> list[Effect]:
    """Step 1: from here on this replica never processes a lower epoch."""
    record = replica.record
    if message.epoch <= record.epoch:
        return [Dropped(message, f"epoch {record.epoch} is known already")]
    record.epoch = message.epoch
    replica.status = Status.EPOCH_CHANGE
    shard, number = replica.address
    ack = EpochChangeAck(
        message.epoch,
        shard,
        number,
        record.last_normal_epoch,
        record.view,
        record.base,
        record.stable,
        record.clock,
        tuple(_shown(replica, message.since)),
    )
    return [Send(COORDINATOR, ack)]


def _shown(replica: Replica, since: Slot | None) -> list[LogEntry]:
    stable = replica.record.stable
    wanted = 1 + (stable if since is None else min(since, stable))
    first = Slot(max(wanted, replica.log.first))  # what was cut off cannot complete anybody
    return list(replica.log.walk(first, replica.last_slot))


def on_start_epoch(replica: Replica, message: StartEpoch) -> list[Effect]:
    """Step 2. A replica whose log misses stable slots cannot begin; it must be rebuilt."""
    record = replica.record
    if message.epoch < record.epoch or message.epoch == record.last_normal_epoch:
        return [Dropped(message, f"epoch {record.epoch} is known already")]
    if record.last_normal_epoch != message.follows:
        return [Dropped(message, f"follows epoch {message.follows}, which this replica did not begin")]
    decided_end = message.entries[-1].slot if message.entries else message.stable
    if replica.last_slot < message.stable or replica.last_slot > decided_end:
        return [Dropped(message, f"log ends at {replica.last_slot}, not at {message.stable} or later")]
    _take_over_log(replica, message)
    record.epoch = record.last_normal_epoch = message.epoch
    record.view = record.normal_view = message.view
    record.clock = max(record.clock, message.clock)
    record.base = record.stable = replica.last_slot
    replica.is_learner = message.view % replica.replicas == replica.address.replica
    replica.execute_up_to(replica.last_slot)
    record.windows.clear()  # every client of an earlier epoch has ended (contracts C4)
    _forget_losses(replica)
    replica.status = Status.NORMAL
    return [Send(COORDINATOR, StartEpochAck(message.epoch, *replica.address))]


def _forget_losses(replica: Replica) -> None:
    """What was lost in the epoch before is in the log that this one begins with, or never happened."""
    record = replica.record
    for names in (record.temp_drops, record.perm_drops, record.un_drops):
        names.clear()
    replica.held.clear()
    replica.announced = SequenceNumber(0)
    replica.forget_view()


def _take_over_log(replica: Replica, message: StartEpoch) -> None:
    own = {entry.slot: entry.stamped for entry in _above(replica, message.stable)}
    for entry in message.entries:
        if entry.slot > replica.last_slot:
            replica.append(entry.stamped)
        elif entry.slot >= replica.log.first and entry.stamped != own[entry.slot]:
            assert entry.slot > replica.record.executed, "an executed slot was decided otherwise"
            replica.log.replace(entry.slot, entry.stamped)


def _above(replica: Replica, stable: Slot) -> list[LogEntry]:
    count = replica.last_slot - stable
    return replica.log.read(Slot(stable + 1), count) if count else []

"""The change from one sequencer's epoch to the next, at a replica (Eris, SOSP 2017, section 6.5).

    1. EPOCH-CHANGE-REQ: a replica asks for an epoch, because it has received a message of a later one, or
       because
       its sequencer has been silent for long.
    2. EPOCH-CHANGE: the replica stops processing lower epochs, and sends the coordinator its unstable log,
       and
       the stable transactions that wait, because another participant may never have received them.
    3. START-EPOCH: the replica takes over the log with which all replicas of the shard begin the epoch,
       executes
       it, forgets ended clients, and accepts messages of the new sequencer.

The coordinator's part is in ``failure_coordinator.py``.

INVARIANTS
    EPOCH-1  After EPOCH-CHANGE a replica processes no message of a lower epoch, also after a crash.
    EPOCH-2  All replicas of a shard begin an epoch with equal logs. A replica that cannot needs an image.
"""

from __future__ import annotations

from kvstore.eris import dropped_messages, image_request
from kvstore.eris.effects import COORDINATOR, CancelTimer, Dropped, Effect, Send, SetTimer
from kvstore.eris.messages import (
    EpochChange,
    EpochChangeAck,
    EpochChangeRequest,
    LogEntry,
    Stamped,
    StartEpoch,
)
from kvstore.eris.replica_state import ReplicaState
from kvstore.eris.shard_state import Status
from kvstore.types import ClientId, Epoch, SequenceNumber, Slot

EPOCH_MS = 50
"""The time after which a replica asks the coordinator again for an epoch that has not begun."""


def ask(replica: ReplicaState, epoch: Epoch) -> list[Effect]:
    """Step 1: ask the coordinator for an epoch, once; the timer repeats it until the epoch has begun here."""
    if epoch <= replica.wanted_epoch:
        return []
    began = replica.record.last_normal_epoch
    assert epoch > began, f"EPOCH-1: epoch {epoch} is asked for, and epoch {began} has begun"
    replica.wanted_epoch = epoch
    return _ask_again(replica)


def on_epoch_timer(replica: ReplicaState) -> list[Effect]:
    """Ask again for the epoch that was asked for or agreed to, unless it has begun here."""
    record = replica.record
    assert record.epoch >= record.last_normal_epoch, (
        f"EPOCH-1: epoch {record.last_normal_epoch} began after the change to epoch {record.epoch}"
    )
    replica.wanted_epoch = max(replica.wanted_epoch, record.epoch)
    has_begun = replica.wanted_epoch <= record.last_normal_epoch
    return [] if has_begun else _ask_again(replica)


def _ask_again(replica: ReplicaState) -> list[Effect]:
    request = EpochChangeRequest(*replica.address, replica.wanted_epoch)
    return [Send(COORDINATOR, request), SetTimer("epoch", EPOCH_MS)]


def on_silence(replica: ReplicaState) -> list[Effect]:
    """Ask for a later epoch, because the sequencer of this one has been silent for long."""
    return ask(replica, Epoch(replica.record.last_normal_epoch + 1))


def on_epoch_change(replica: ReplicaState, message: EpochChange) -> list[Effect]:
    """Step 2: stop processing lower epochs for good (EPOCH-1), and show the log."""
    record = replica.record
    begins_again = message.epoch == record.epoch and replica.status is Status.EPOCH_CHANGE
    if message.epoch <= record.epoch and not begins_again:
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
        tuple(_unresolved(replica)),
    )
    assert record.epoch == ack.epoch > record.last_normal_epoch, (
        f"EPOCH-1: the change to epoch {ack.epoch} is acknowledged in epoch {record.epoch}, which follows "
        f"{record.last_normal_epoch}"
    )
    return [Send(COORDINATOR, ack), SetTimer("epoch", EPOCH_MS)]


def _shown(replica: ReplicaState, since: Slot | None) -> list[LogEntry]:
    stable = replica.record.stable
    wanted = 1 + (stable if since is None else min(since, stable))
    return list(replica.log.walk(Slot(wanted), replica.last_slot))


def _unresolved(replica: ReplicaState) -> list[Stamped]:
    """Return the stable transactions that another participant may never have received."""
    record = replica.record
    unsettled = dropped_messages.unsettled(replica)
    return [stamped for slot, stamped in unsettled if record.base < slot <= record.stable]


def on_start_epoch(replica: ReplicaState, message: StartEpoch) -> list[Effect]:
    """Step 3: begin the epoch. A replica whose log the message cannot complete asks for an image."""
    record = replica.record
    if message.epoch < record.epoch or message.epoch == record.last_normal_epoch:
        return [Dropped(message, f"epoch {record.epoch} is known already")]
    assert message.epoch > record.last_normal_epoch, (
        f"EPOCH-1: epoch {message.epoch} is to begin after epoch {record.last_normal_epoch}"
    )
    record.epoch = message.epoch
    replica.status = Status.EPOCH_CHANGE
    unfit = _unfit(replica, message)
    if unfit:
        return [Dropped(message, unfit), *image_request.ask(replica)]
    dropped_messages.drop(replica, message.dropped)
    _take_over_log(replica, message)
    if replica.has_diverged():
        return []
    return [CancelTimer("epoch"), *_begin(replica, message)]


def _unfit(replica: ReplicaState, message: StartEpoch) -> str | None:
    began, last = replica.record.last_normal_epoch, replica.last_slot
    if began < message.follows:
        return f"follows epoch {message.follows}, which this replica did not begin"
    if last < message.stable:
        return f"log ends at {last}, not at {message.stable} or later"
    return None


def _take_over_log(replica: ReplicaState, message: StartEpoch) -> None:
    decided_end = message.entries[-1].slot if message.entries else message.stable
    if replica.record.executed > decided_end:
        replica.diverge()
        return
    replica.shorten(decided_end)
    own = {entry.slot: entry.stamped for entry in _above(replica, message.stable)}
    for entry in message.entries:
        if entry.slot > replica.last_slot:
            replica.append(entry.stamped)
        elif entry.slot >= replica.log.first and entry.stamped != own[entry.slot]:
            if entry.slot <= replica.record.executed:
                replica.diverge()
                return
            replica.log.replace(entry.slot, entry.stamped)
    assert replica.last_slot == decided_end, (
        f"EPOCH-2: epoch {message.epoch} begins after slot {decided_end}, not after {replica.last_slot}"
    )


def _above(replica: ReplicaState, stable: Slot) -> list[LogEntry]:
    count = replica.last_slot - stable
    return replica.log.read(Slot(stable + 1), count) if count else []


def _begin(replica: ReplicaState, message: StartEpoch) -> list[Effect]:
    record = replica.record
    assert record.executed <= replica.last_slot, (
        f"REPLICA-2: slot {record.executed} is executed, and epoch {message.epoch} begins with slot "
        f"{replica.last_slot}"
    )
    record.last_normal_epoch = message.epoch
    record.view = record.normal_view = message.view
    record.clock = max(record.clock, message.clock)
    record.base = record.stable = replica.last_slot
    replica.is_learner = message.view % replica.replicas == replica.address.replica
    replica.status = Status.NORMAL
    replica.needs_image = False
    replies = replica.executor.execute_up_to(replica, replica.last_slot)
    living = ClientId(message.epoch) if message.clients_from is None else message.clients_from
    record.clients_from = max(record.clients_from, living)
    for client in [client for client in record.windows if client < record.clients_from]:
        del record.windows[client]  # (contracts C4)
    _forget_losses(replica)
    return replies + replica.executor.rebuild()


def _forget_losses(replica: ReplicaState) -> None:
    """Forget the losses of the last epoch: the new log contains them, or they were dropped."""
    record = replica.record
    assert record.base == replica.last_slot, (
        f"EPOCH-2: epoch {record.epoch} begins after slot {record.base}, and the log has {replica.last_slot}"
    )
    for names in (record.temp_drops, record.perm_drops, record.un_drops):
        names.clear()
    replica.held.clear()
    replica.announced = SequenceNumber(0)
    replica.forget_view()

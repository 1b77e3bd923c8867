"""A replica of one shard: the normal case (Eris, SOSP 2017, section 6.2).

A replica appends stamped transactions in the order of their numbers. The designated learner, replica ``view %
n``, has each executed at once (``executor.py``) and replies with the outcome. The followers log, acknowledge,
and execute the slots that a quorum holds, as the learner announces them (section 6.6,
``synchronization.py``). Lost messages are in ``dropped_messages.py`` (section 6.3), failed learners in
``view_change.py`` (6.4), failed sequencers in ``epoch_change.py`` (6.5). A replica that messages cannot
complete gets an image (``state_transfer.py``).

Every message has an epoch. A message of a lower epoch is dropped. A message of a higher epoch shows that an
epoch began without this replica, which asks the coordinator for it.

The replica's state and its invariants are in ``replica_state.py``, the execution in ``shard.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from kvstore.eris import (
    dropped_messages,
    epoch_change,
    image_request,
    state_transfer,
    synchronization,
    view_change,
)
from kvstore.eris.effects import Dropped, Effect
from kvstore.eris.messages import (
    EpochChange,
    Flush,
    Image,
    ImageRequest,
    ReplicaMessage,
    SlotAnswer,
    SlotRequest,
    Stamped,
    StartEpoch,
    StartView,
    SyncCommit,
    SyncReply,
    TransactionDropped,
    TransactionFound,
    TransactionRequest,
    ViewChange,
    ViewChangeRequest,
)
from kvstore.eris.replica_state import ReplicaState
from kvstore.eris.shard_state import Status
from kvstore.types import Epoch, SequenceNumber

NONE_ANNOUNCED = SequenceNumber(0)
NO_EPOCH = Epoch(0)
_OF_ANY_EPOCH = (EpochChange, StartEpoch, ImageRequest, Image)
_AN = {Status.VIEW_CHANGE: "a", Status.EPOCH_CHANGE: "an"}


@dataclass(slots=True, kw_only=True)
class Replica(ReplicaState):
    """One replica of one shard: passes each message and each timer to its phase of the protocol."""

    def handle(self, message: ReplicaMessage) -> list[Effect]:
        """Process one message; return its effects, in order."""
        if type(message) is Stamped and self.status is Status.NORMAL:
            return self._on_stamped(message)
        if self.has_diverged() and type(message) is not Image:
            return [Dropped(message, "this replica has diverged, and must be made anew")]
        effects = self._take(message)
        return [*effects, *image_request.ask(self)] if self.has_diverged() else effects

    def _take(self, message: ReplicaMessage) -> list[Effect]:
        epoch = epoch_of(message)
        if epoch > self.record.epoch and type(message) not in _OF_ANY_EPOCH:
            ignored = Dropped(message, f"of epoch {epoch}, which did not begin here")
            return [ignored, *epoch_change.ask(self, epoch)]
        match message:
            case Stamped():
                return [Dropped(message, f"in {_AN[self.status]} {self.status.value}")]
            case SyncCommit():
                return synchronization.on_sync_commit(self, message)
            case SyncReply():
                return synchronization.on_sync_reply(self, message)
            case EpochChange():
                return epoch_change.on_epoch_change(self, message)
            case StartEpoch():
                return epoch_change.on_start_epoch(self, message)
            case Flush():
                return dropped_messages.on_flush(self, message)
            case SlotRequest():
                return dropped_messages.on_slot_request(self, message)
            case SlotAnswer():
                return dropped_messages.on_slot_answer(self, message)
            case TransactionRequest():
                return dropped_messages.on_transaction_request(self, message)
            case TransactionFound():
                return dropped_messages.on_transaction_found(self, message) + view_change.resume(self)
            case TransactionDropped():
                return dropped_messages.on_transaction_dropped(self, message) + view_change.resume(self)
            case ViewChangeRequest():
                return view_change.on_view_change_request(self, message)
            case ViewChange():
                return view_change.on_view_change(self, message)
            case StartView():
                return view_change.on_start_view(self, message)
            case ImageRequest():
                return state_transfer.on_image_request(self, message)
            case Image():
                return state_transfer.on_image(self, message)
            case _:
                assert_never(message)

    def on_timer(self, name: str) -> list[Effect]:
        """Process a timer that expired, or that the driver fires; return the effects.

        gap         a question about a missing transaction is unanswered
        heartbeat   a learner announces that it is alive
        suspect     the learner has been silent for long
        view        a view that was joined has not begun
        silence     the sequencer has been silent for long
        epoch       an epoch that was asked for has not begun
        image       an image that was asked for has not arrived
        """
        if self.has_diverged() and name != "image":
            return []
        match name:
            case "silence":
                return epoch_change.on_silence(self)
            case "epoch":
                return epoch_change.on_epoch_timer(self)
            case "image":
                return image_request.on_image_timer(self)
            case "gap":
                return dropped_messages.on_gap_timer(self)
            case "heartbeat":
                return synchronization.on_heartbeat(self)
            case "suspect":
                return view_change.on_suspicion(self)
            case "view":
                return view_change.on_view_timer(self)
            case _:
                raise AssertionError(name)

    def end_batch(self) -> list[Effect]:
        """Report the end of the log, and write the durable record; the host calls this before each commit."""
        effects = [] if self.status is Status.DIVERGED else synchronization.on_batch_end(self)
        record = self.record
        record.head = self.log.stored.head
        self.tables.save(record)
        return effects

    def _on_stamped(self, stamped: Stamped) -> list[Effect]:
        record, stamp = self.record, stamped.stamp
        if stamp.epoch != record.epoch:
            return self._of_another_epoch(stamped)
        number, expected = stamp.numbers[self.address.shard], self.last_slot + 1 - record.base
        if number < expected:
            return [Dropped(stamped, "received before")]
        in_order = number == expected and self.missing is None and not self.held
        if in_order and not record.temp_drops and not record.perm_drops:
            assert number == expected, (
                f"REPLICA-1: number {number} is to be written into the slot of number {expected}"
            )
            return self.take(stamped)
        assert record.epoch == record.last_normal_epoch, (
            f"EPOCH-1: a transaction of epoch {record.last_normal_epoch} comes in after the change to epoch "
            f"{record.epoch}"
        )
        self.held[number] = stamped
        return dropped_messages.drain(self)

    def _of_another_epoch(self, stamped: Stamped) -> list[Effect]:
        epoch, own = stamped.stamp.epoch, self.record.epoch
        ignored = Dropped(stamped, f"of epoch {epoch}, this is epoch {own}")
        return [ignored, *epoch_change.ask(self, epoch)] if epoch > own else [ignored]


def epoch_of(message: ReplicaMessage) -> Epoch:
    """Return the epoch of a message."""
    match message:
        case Stamped():
            return message.stamp.epoch
        case TransactionFound():
            return message.stamped.stamp.epoch
        case TransactionRequest():
            return message.id.epoch
        case _:
            return message.epoch

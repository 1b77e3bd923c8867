"""A replica of one shard: the normal case (Eris, SOSP 2017, section 6.2).

It appends stamped transactions in the order of their numbers. The designated learner, replica
``view % n``, has each executed at once (``executor.py``) and answers with the outcome; the others log,
acknowledge, and execute what the learner says a quorum holds (section 6.6, ``synchronization.py``).
What is lost on the way is in ``dropped_messages.py`` (section 6.3), a learner that is lost in
``view_change.py`` (6.4), a sequencer that is in ``epoch_change.py`` (6.5). A replica that none of them can
complete gets an image: ``state_transfer.py``.

Every message has its epoch. One of a lower epoch is dropped; one of a higher says that an epoch began without
this replica, which asks the coordinator for it.

INVARIANTS
    R1  Slot ``base + k`` holds exactly the transaction with number k of the current epoch, or NO-OP.
    R2  executed <= last slot; executed <= stable but on a learner that is ahead of its quorum. At most f
        replicas of a shard may be, so the tables of a majority are never to be taken back.
    R3  The clock rises with the slots (contracts D1).
    R4  A request is executed at most once; its copies get the outcome of the first (contracts C4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import assert_never

from kvstore.eris import dropped_messages, epoch_change, state_transfer, synchronization, view_change
from kvstore.eris.client_window import ANSWERED, Answered, ClientWindow
from kvstore.eris.effects import ClientAddress, Dropped, Effect, ReplicaAddress, Send
from kvstore.eris.executor import Executor
from kvstore.eris.log import TransactionLog, effects_key
from kvstore.eris.messages import (
    EpochChange,
    Flush,
    Image,
    ImageRequest,
    LogEntry,
    ReplicaMessage,
    Reply,
    Request,
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
from kvstore.eris.shard_state import ShardRecord, ShardTables, Status
from kvstore.execution import operations, procedures
from kvstore.execution.execute import Executed, apply, execute
from kvstore.execution.operations import Call, Check, CheckRange, Expire, Operation, Outcome, Token
from kvstore.execution.outcomes import OutcomeRecord, expire, remember
from kvstore.execution.part import Owns
from kvstore.execution.regional import Regional, changes_of, encode_effects
from kvstore.execution.validation import execute_validated
from kvstore.types import ClientId, Epoch, SequenceNumber, Slot, Timestamp

NONE_ANNOUNCED = SequenceNumber(0)
NO_EPOCH = Epoch(0)
_OF_ANY_EPOCH = (EpochChange, StartEpoch, ImageRequest, Image)
_AN = {Status.VIEW_CHANGE: "a", Status.EPOCH_CHANGE: "an"}


@dataclass(slots=True, kw_only=True)
class Replica:
    """One replica of one shard. Storage comes in as tables and a log of its host's open batch."""

    address: ReplicaAddress
    replicas: int
    record: ShardRecord
    """The durable state that is not in log or tables; written by ``save`` once per batch."""
    log: TransactionLog
    tables: ShardTables
    executor: Executor
    """Shared by all replicas of the host."""
    owns: Owns
    """Which keys belong to which shard, for procedures."""
    regional: Regional | None = None
    """In a region, what carries out this shard's parts."""
    is_ahead: bool = True
    """Whether it executes at once as the learner, and does not wait until a quorum has what it executes."""
    status: Status = Status.NORMAL
    last_slot: Slot = field(init=False)
    is_learner: bool = field(init=False)
    sync_replies: dict[int, Slot] = field(default_factory=dict)
    """On the learner: how far each follower's log is durable."""
    reported: Slot | None = None
    """On a follower: how far it last told the learner that its log reaches."""
    held: dict[SequenceNumber, Stamped] = field(default_factory=dict)
    """What came before its turn, by this shard's number (section 6.3)."""
    announced: SequenceNumber = NONE_ANNOUNCED
    """How far the sequencer says it has come."""
    missing: SequenceNumber | None = None
    """The number that is asked for, and how often the peers were asked."""
    asked: int = 0
    view_changes: dict[int, ViewChange] = field(default_factory=dict)
    """On the learner of a view that has not begun: who joined it (section 6.4)."""

    wanted_epoch: Epoch = NO_EPOCH
    """The latest epoch that the coordinator was asked for."""
    needs_image: bool = False
    """Whether peers are asked for one, and how often they were."""
    image_asked: int = 0

    def __post_init__(self) -> None:
        self.last_slot = self.log.last
        self.executor.replicas[self.address.shard] = self
        self.take_status()

    def take_status(self) -> None:
        """Whether transactions are processed, by what is on disk: it may have crashed within any change."""
        record = self.record
        began = record.view == record.normal_view
        self.is_learner = began and record.view % self.replicas == self.address.replica
        if record.diverged:
            self.status = Status.DIVERGED
        elif record.epoch != record.last_normal_epoch:
            self.status = Status.EPOCH_CHANGE
        else:
            self.status = Status.NORMAL if began else Status.VIEW_CHANGE

    def has_diverged(self) -> bool:
        return self.status is Status.DIVERGED

    def diverge(self) -> None:
        """It was a learner, and executed what no quorum had and was dropped."""
        self.status = Status.DIVERGED
        self.record.diverged = True

    def handle(self, message: ReplicaMessage) -> list[Effect]:
        """Take one message and return the effects it causes, in order."""
        if type(message) is Stamped and self.status is Status.NORMAL:
            return self._on_stamped(message)
        if self.has_diverged() and type(message) is not Image:
            return [Dropped(message, "this replica has diverged, and must be made anew")]
        effects = self._take(message)
        return [*effects, *state_transfer.ask(self)] if self.has_diverged() else effects

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
        """What is to be done when a timer runs out, or the driver says so.

        sync        the batch is about to be committed: a follower says how far its log reaches
        gap         nobody answered who was asked for a missing transaction
        heartbeat   a learner says that it is there
        suspect     nothing was heard of the learner for long
        view        a view that was joined has not begun
        silence     nothing was heard of the sequencer for long
        epoch       an epoch that was asked for has not begun
        image       an image that was asked for has not come
        """
        if self.has_diverged() and name != "image":
            return []
        match name:
            case "sync":
                return synchronization.on_batch_end(self)
            case "silence":
                return epoch_change.on_silence(self)
            case "epoch":
                return epoch_change.on_epoch_timer(self)
            case "image":
                return state_transfer.on_image_timer(self)
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

    def save(self) -> None:
        """Write the durable record; the host calls it before each commit."""
        self.record.head = self.log.head
        self.tables.save(self.record)

    def _on_stamped(self, stamped: Stamped) -> list[Effect]:
        record, stamp = self.record, stamped.stamp
        if stamp.epoch != record.epoch:
            return self._of_another_epoch(stamped)
        number, expected = stamp.numbers[self.address.shard], self.last_slot + 1 - record.base
        if number < expected:
            return [Dropped(stamped, "received before")]
        in_order = number == expected and self.missing is None and not self.held
        if in_order and not record.temp_drops and not record.perm_drops:
            return self.take(stamped)
        self.held[number] = stamped
        return dropped_messages.drain(self)

    @property
    def next_number(self) -> SequenceNumber:
        """The number of this shard that is to come next."""
        return SequenceNumber(self.last_slot - self.record.base + 1)

    def take(self, stamped: Stamped | None) -> list[Effect]:
        """Write the next slot: a transaction, or the NO-OP in place of one that was dropped."""
        assert stamped is None or stamped.stamp.clock > self.record.clock, "R3"
        slot = self.append(stamped)
        if self.is_learner:
            return self.executor.arrive(self, slot, stamped) if self.is_ahead else []
        return self.acknowledge(slot, stamped)

    def acknowledge(self, slot: Slot, stamped: Stamped | None) -> list[Effect]:
        """A follower's reply: the transaction stands in this slot of its log."""
        if stamped is None:
            return []
        record, (shard, replica) = self.record, self.address
        client, request = stamped.request.client, stamped.request.request
        reply = Reply(client, request, shard, replica, record.epoch, record.view, slot)
        return [Send(ClientAddress(client), reply)]

    def _of_another_epoch(self, stamped: Stamped) -> list[Effect]:
        epoch, own = stamped.stamp.epoch, self.record.epoch
        ignored = Dropped(stamped, f"of epoch {epoch}, this is epoch {own}")
        return [ignored, *epoch_change.ask(self, epoch)] if epoch > own else [ignored]

    def append(self, stamped: Stamped | None) -> Slot:
        """Write the next slot of the log."""
        self.last_slot = slot = Slot(self.last_slot + 1)
        self.log.append(slot, stamped)
        if stamped is not None:
            self.record.clock = stamped.stamp.clock
        return slot

    def execute_as_learner(self) -> list[Effect]:
        """Execute all that the learner may."""
        return self.execute_up_to(self.last_slot if self.is_ahead else self.record.stable)

    def execute_up_to(self, slot: Slot) -> list[Effect]:
        """Execute the logged slots above ``executed``, up to and including ``slot``; return the replies."""
        replies: list[Effect] = []
        for entry in self.entries_up_to(slot):
            replies += self.executor.arrive(self, entry.slot, entry.stamped)
        return replies

    def entries_up_to(self, last: Slot) -> Iterator[LogEntry]:
        """The logged slots from ``executed`` on."""
        return self.log.walk(Slot(self.record.executed + 1), last)

    def shorten(self, end: Slot) -> None:
        """Forget what stands behind this slot, which nobody executed, and which never happens."""
        if self.last_slot > end:
            self.free_bodies()
            self.log.shorten(end)
            self.last_slot = self.log.last
            self.record.clock = Timestamp(0)  # of what is gone; the epoch brings its own

    def free_bodies(self) -> None:
        """Have the other shards of the host hold what they only refer to in this log."""
        for shard, other in self.executor.replicas.items():
            if other is not self and other.log.take_home(self.address.shard):
                self.executor.touched.add(shard)

    def logged(self, slot: Slot) -> Stamped | None:
        """The transaction in a slot of the log; None for a NO-OP, and where the log was cut."""
        return None if slot < self.log.first else self.log.read(slot, 1)[0].stamped

    def waiting(self) -> Iterator[tuple[Slot, Stamped]]:
        """What came to its slot here and is not resolved, in order."""
        for slot in self.executor.waiting(self.address.shard):
            stamped = self.logged(slot)
            if stamped is not None:
                yield slot, stamped

    def peers(self) -> list[ReplicaAddress]:
        """The other replicas of this shard."""
        shard, own = self.address
        return [ReplicaAddress(shard, number) for number in range(self.replicas) if number != own]

    def has_passed(self, stamped: Stamped, *, is_settled: bool) -> bool:
        """Whether the own part of a transaction, which does not wait, is over: it came with an image.

        ``is_settled``: a later epoch began with it, so it is in the logs of all participants. What a later
        epoch of this shard did not begin with may still be found not to be in the others' logs either.
        """
        record, stamp = self.record, stamped.stamp
        if stamp.epoch != record.last_normal_epoch:
            return is_settled and stamp.epoch < record.last_normal_epoch
        slot = Slot(record.base + stamp.numbers[self.address.shard])
        return slot <= record.executed and slot not in record.waiting

    def forget_view(self) -> None:
        """A view is left, or another begins: what was asked and said in the last one is void."""
        self.missing = self.reported = None
        self.sync_replies.clear()
        self.view_changes.clear()

    def execute(self, stamped: Stamped, slot: Slot) -> Outcome:
        """Carry out this shard's part of an independent transaction."""
        request, state = stamped.request, self.tables.state
        operations = request.operations[self.address.shard]
        if self.regional is not None:
            outcome = self._execute_in_region(self.regional, stamped, slot)
            self.remember(stamped, slot, outcome)
            return outcome
        if request.call is not None and self.address.shard in request.call.keys:
            effects, outcome, plain = self._run_procedure(request.call, stamped, slot)
        elif operations and type(operations[0]) in (Check, CheckRange):
            effects, outcome, plain = execute_validated(operations, state, slot)
        else:
            effects, outcome, plain = execute(operations, state, slot)
        apply(effects, state)
        if not plain:
            self.log.note_effects(slot, effects)
        self._expire(operations)
        self.remember(stamped, slot, outcome)
        return outcome

    def _expire(self, operations: tuple[Operation, ...]) -> None:
        if operations and type(operations[0]) is Expire:
            expire(operations[0].before, outcomes=self.tables.outcomes, expiry=self.tables.expiry)

    def _execute_in_region(self, regional: Regional, stamped: Stamped, slot: Slot) -> Outcome:
        request, shard, time = stamped.request, self.address.shard, stamped.stamp.clock
        operations = request.operations[shard]
        if request.call is not None and shard in request.call.keys:
            asked, outcome = procedures.run_in_region(
                request.call, self.tables.state, shard=shard, time=time, owns=self.owns
            )
            played = regional.execute(asked, slot, time)._replace(outcome=outcome, effects=asked)
            played = played._replace(changes=changes_of(asked, played))
        else:
            played = regional.execute(operations, slot, time)
        if played.changes is not None:
            self.log.note_changes(slot, played.changes)
        if played.effects is not None:
            self.note_shipped(slot, played.effects)
        self._expire(operations)
        return played.outcome

    def note_nothing(self, slot: Slot) -> None:
        """What stands in this slot changes nothing, whatever its operations are."""
        self.log.note_effects(slot, {})
        if self.regional is not None:
            self.note_shipped(slot, ())

    def note_shipped(self, slot: Slot, effects: tuple[operations.Effect, ...]) -> None:
        """Keep what goes to other regions of a slot, because its operations do not tell."""
        self.tables.shipped.put(effects_key(slot), encode_effects(effects))

    def _run_procedure(self, call: Call, stamped: Stamped, slot: Slot) -> Executed:
        shard, time = self.address.shard, stamped.stamp.clock
        return procedures.run(call, self.tables.state, slot, shard=shard, time=time, owns=self.owns)

    def remember(self, stamped: Stamped, slot: Slot, outcome: Outcome) -> None:
        """Keep the outcome for copies of the request, and for its idempotency key (contracts C4)."""
        request = stamped.request
        window = self.record.windows.get(request.client) or self.window_of(request.client)
        window.record(request.request, request.answered, outcome, request.unanswered)
        token = request.token
        if token is not None and not (token.result and outcome.refused):  # then the function runs again
            self._remember_token(token, stamped, slot, outcome)

    def known_outcome(self, stamped: Stamped) -> Outcome | Answered | None:
        """What a request came to that was executed before; None if it is new. What still comes of a client
        that had ended when the epoch began counts as answered."""
        record, request = self.record, stamped.request
        if request.client < record.clients_from and stamped.stamp.epoch == record.last_normal_epoch:
            return ANSWERED
        window = record.windows.get(request.client)
        return None if window is None else window.outcome_of(request.request)

    def window_of(self, client: ClientId) -> ClientWindow:
        """What is remembered of a client's requests."""
        window = self.record.windows.get(client)
        if window is None:
            window = self.record.windows[client] = ClientWindow()
        return window

    def _remember_token(self, token: Token, stamped: Stamped, slot: Slot, outcome: Outcome) -> None:
        at_home = token.home == self.address.shard
        if at_home and token.result:
            outcome = Outcome(results=(token.result,))
        participants = tuple(stamped.request.operations)
        memory = OutcomeRecord(slot, outcome, stamped.stamp.clock, token.digest, participants)
        tables = self.tables
        remember(token, memory, at_home=at_home, outcomes=tables.outcomes, expiry=tables.expiry)

    def reply(self, request: Request, slot: Slot, outcome: Outcome) -> list[Effect]:
        """The learner's reply; a follower replied when it logged the transaction."""
        if not self.is_learner:
            return []
        record, (shard, replica) = self.record, self.address
        client, number = request.client, request.request
        reply = Reply(client, number, shard, replica, record.epoch, record.view, slot, outcome)
        return [Send(ClientAddress(client), reply)]


def epoch_of(message: ReplicaMessage) -> Epoch:
    """The epoch that a message belongs to."""
    match message:
        case Stamped():
            return message.stamp.epoch
        case TransactionFound():
            return message.stamped.stamp.epoch
        case TransactionRequest():
            return message.id.epoch
        case _:
            return message.epoch

"""The messages of Eris, a closed set: who sends each to whom, and why (eris.md, section 12).

Every message is an immutable value. Field order and tags are part of storage format 1, because
``Stamped`` is what the log holds and ``StartEpoch`` is what the coordinator saves. ``gc=False``
where a message is made for every transaction: values of values cannot form cycles.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

import msgspec

from kvstore.eris.client_window import IdRange
from kvstore.execution.operations import Call, IdempotencyToken, Operation, Outcome
from kvstore.types import (
    ClientId,
    Epoch,
    RequestId,
    SequenceNumber,
    ShardId,
    Slot,
    Timestamp,
    TransactionId,
    ViewNumber,
)


class MultiStamp(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One number per participant shard, all assigned at once by one sequencer (section 5).

    ``clock`` is unique and rises with every stamp of an epoch and over epochs: the transaction's
    time on every replica. ``sequencer`` leaves room for more than one (Hydra, NSDI 2023).
    """

    epoch: Epoch
    sequencer: int
    clock: Timestamp
    numbers: dict[ShardId, SequenceNumber]

    def ids(self) -> list[TransactionId]:
        """Every name of the transaction: one per participant."""
        return [TransactionId(self.epoch, shard, number) for shard, number in self.numbers.items()]

    def matches(self, names: Collection[TransactionId]) -> bool:
        """Whether *any* name of the transaction is among these (section 6.3)."""
        return bool(names) and any(name in names for name in self.ids())


class Preliminary(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The first half of a general transaction: lock all that is named, and say whether it is as it was
    read (section 7; contracts C2). Its id is the client's and the request's."""


class Conclusory(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """The second half: write, or do not, and let go of the locks of this preliminary. Anybody may send
    one; the first in the order wins."""

    client: ClientId
    preliminary: RequestId
    commit: bool


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Client -> sequencer: order this transaction at every shard it touches.

    ``answered``: the client has the answers of all its requests up to this one, but for those in the
    ranges ``unanswered`` (contracts C4). ``operations``: each participant's part, by shard. ``after``:
    the greatest time the sender has seen (contracts D1). ``call``: the stored procedure that the shards
    it names run instead. ``half``: of a general transaction; None for an independent one. ``edges``: in a
    region, the slots that it depends on besides those that its own chains imply, by shard (contracts D4).
    """

    client: ClientId
    request: RequestId
    answered: RequestId
    operations: dict[ShardId, tuple[Operation, ...]]
    after: Timestamp = Timestamp(0)
    token: IdempotencyToken | None = None
    call: Call | None = None
    unanswered: tuple[IdRange, ...] = ()
    half: Preliminary | Conclusory | None = None
    edges: dict[ShardId, Slot] = {}


class Stamped(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Sequencer -> every replica of every participant: the whole transaction with its stamp."""

    stamp: MultiStamp
    request: Request


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Replica -> client: the request stands in this slot of my log. The learner adds the outcome."""

    client: ClientId
    request: RequestId
    shard: ShardId
    replica: int
    epoch: Epoch
    view: ViewNumber
    slot: Slot
    outcome: Outcome | None = None


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Client -> the user's thread: every participant has a quorum.

    ``committed``: of a general transaction, whether it was; None while it is not concluded, and then
    ``outcomes`` are the votes. Its slots are those of its preliminary (contracts A1).
    """

    request: RequestId
    slots: dict[ShardId, Slot]
    outcomes: dict[ShardId, Outcome]
    committed: bool | None = None


class SyncReply(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Follower -> learner: my log is durable up to this slot (section 6.6)."""

    shard: ShardId
    replica: int
    epoch: Epoch
    view: ViewNumber
    slot: Slot


class SyncCommit(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Learner -> followers: a quorum holds the log up to this slot; execute it (section 6.6).

    ``dropped``: names in the place of which there are NO-OPs in it.
    """

    shard: ShardId
    epoch: Epoch
    view: ViewNumber
    slot: Slot
    dropped: tuple[TransactionId, ...] = ()


class EpochChange(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Coordinator -> every replica: process nothing of older epochs, and show your log.

    Above your stable slot, that is; above ``since`` where that is lower, because another replica is
    known to lack what you hold from there on.
    """

    epoch: Epoch
    since: Slot | None = None


class LogEntry(msgspec.Struct, frozen=True, array_like=True):
    """One slot of a log; ``stamped`` is None for a NO-OP."""

    slot: Slot
    stamped: Stamped | None


class EpochChangeAck(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Replica -> coordinator: where my log stands, and what is in it above ``stable``.

    ``base``: the last slot before the replica's last normal epoch began. Up to ``stable`` the log is
    known to be at a quorum, so no other replica of the shard needs to see it. ``unresolved``: what stands
    below and waits, perhaps because another participant never got it.
    """

    epoch: Epoch
    shard: ShardId
    replica: int
    last_normal_epoch: Epoch
    view: ViewNumber
    base: Slot
    stable: Slot
    clock: Timestamp
    entries: tuple[LogEntry, ...]
    unresolved: tuple[Stamped, ...] = ()


class StartEpoch(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Coordinator -> every replica of a shard: the log all begin this epoch with.

    The log is what every replica holds up to ``stable``, but for what has a name in ``dropped``; then
    ``entries``. ``clock``: the greatest time in any log; the next sequencer starts above it (contracts D1).
    ``follows``: the epoch whose logs it was made from; a replica that did not begin that one may hold slots
    that were dropped. ``clients_from``: all clients below it have ended (contracts C4); None is the epoch.
    """

    epoch: Epoch
    shard: ShardId
    view: ViewNumber
    stable: Slot
    entries: tuple[LogEntry, ...]
    clock: Timestamp
    follows: Epoch
    dropped: tuple[TransactionId, ...] = ()
    clients_from: ClientId | None = None


class EpochChangeRequest(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Replica -> coordinator: this epoch or a later one has to begin, or began without me (section 6.5)."""

    shard: ShardId
    replica: int
    epoch: Epoch


class Flush(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Sequencer -> every replica of a shard, when it has been idle: so far I have numbered this many.

    Without it the loss of the last message to a shard would go unnoticed (Hydra, NSDI 2023).
    """

    shard: ShardId
    epoch: Epoch
    number: SequenceNumber


class ResendRequest(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Replica -> sequencer: this number of my shard is missing; do you still have it?"""

    shard: ShardId
    replica: int
    epoch: Epoch
    number: SequenceNumber


class SlotRequest(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Replica -> its peers: what stands in this slot of our log? (section 6.3, step 0)"""

    shard: ShardId
    replica: int
    epoch: Epoch
    view: ViewNumber
    slot: Slot


class SlotAnswer(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Peer -> replica: this does. ``stamped`` is None for a NO-OP, which the coordinator decided.

    With ``is_truncated`` it is neither: the slot is resolved, and gone from my log.
    """

    shard: ShardId
    epoch: Epoch
    view: ViewNumber
    slot: Slot
    stamped: Stamped | None
    is_truncated: bool = False


class FindTransaction(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Replica -> coordinator: FIND-TXN. The sequencer and my peers lack this transaction (section 6.3)."""

    shard: ShardId
    replica: int
    id: TransactionId


class TransactionRequest(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """Coordinator -> all replicas of all shards: TXN-REQUEST. Have you a transaction of this id?

    Of all, because who takes part in it is not known.
    """

    shard: ShardId
    id: TransactionId


class HasTransaction(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """Replica -> coordinator: HAS-TXN. Here it is."""

    id: TransactionId
    stamped: Stamped


class TempDroppedTransaction(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """Replica -> coordinator: TEMP-DROPPED-TXN. I have not, and promise to do nothing with it until you
    decide."""

    shard: ShardId
    replica: int
    view: ViewNumber
    id: TransactionId


class TransactionFound(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """Coordinator -> all replicas of its participants: TXN-FOUND. It happens."""

    shard: ShardId
    stamped: Stamped


class TransactionDropped(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Coordinator -> all replicas of all shards: TXN-DROPPED. What has one of these ids never happens."""

    shard: ShardId
    epoch: Epoch
    ids: tuple[TransactionId, ...]


class ViewChangeRequest(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Replica -> its shard: leave your view for this one. From the learner-to-be, ``last`` is the end of its
    log, so that replicas show all that it lacks (section 6.4)."""

    shard: ShardId
    replica: int
    epoch: Epoch
    view: ViewNumber
    last: Slot | None = None


class ViewChange(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """Replica -> learner of a new view: what I hold above ``since``, and what I promised and heard."""

    shard: ShardId
    replica: int
    epoch: Epoch
    view: ViewNumber
    since: Slot
    last: Slot
    entries: tuple[LogEntry, ...]
    temp_drops: frozenset[TransactionId]
    perm_drops: frozenset[TransactionId]
    un_drops: frozenset[TransactionId]


class StartView(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """Learner of a new view -> its shard: it began, with this log above ``since`` (section 6.4)."""

    shard: ShardId
    epoch: Epoch
    view: ViewNumber
    since: Slot
    entries: tuple[LogEntry, ...]
    temp_drops: frozenset[TransactionId]
    perm_drops: frozenset[TransactionId]
    un_drops: frozenset[TransactionId]


class ImageRequest(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """Replica -> a peer: messages cannot complete me any more; give me an image of what you have."""

    shard: ShardId
    replica: int
    epoch: Epoch


class Image(msgspec.Struct, frozen=True, array_like=True, tag=29):
    """Peer -> replica: all that I have of our shard, as of one moment.

    ``epoch``: the last that I began. ``record``: my record of the shard, encoded. ``tables``: the rows of
    each table. ``entries``: my log. ``truncated_clock``: up to this time it may have been cut.
    """

    shard: ShardId
    epoch: Epoch
    record: bytes
    tables: tuple[tuple[tuple[bytes, bytes], ...], ...]
    entries: tuple[LogEntry, ...]
    truncated_clock: Timestamp


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """A coordinator that begins -> every host: take no record of a lower epoch, and show what you have.

    ``life``: a coordinator that begins again is another one, and must not take an epoch for its own that it
    has taken before.
    """

    coordinator: int
    epoch: Epoch
    life: int = 0


class Prepared(msgspec.Struct, frozen=True, array_like=True, tag=26):
    """Host -> coordinator: I promise it; this is what I keep. ``promised`` is above the epoch asked for where
    another coordinator came first."""

    host: int
    epoch: Epoch
    promised: Epoch
    record: bytes


class SaveRecord(msgspec.Struct, frozen=True, array_like=True, tag=27):
    """Coordinator -> every host: keep this record; it counts once a majority does (contracts B1)."""

    coordinator: int
    epoch: Epoch
    counter: int
    record: bytes


class RecordSaved(msgspec.Struct, frozen=True, array_like=True, tag=28):
    """Host -> coordinator: I keep it."""

    host: int
    epoch: Epoch
    counter: int


ReplicaMessage: TypeAlias = (
    Stamped
    | SyncReply
    | SyncCommit
    | EpochChange
    | StartEpoch
    | Flush
    | SlotRequest
    | SlotAnswer
    | TransactionRequest
    | TransactionFound
    | TransactionDropped
    | ViewChangeRequest
    | ViewChange
    | StartView
    | ImageRequest
    | Image
)
DecisionMessage: TypeAlias = FindTransaction | HasTransaction | TempDroppedTransaction
CoordinatorMessage: TypeAlias = EpochChangeRequest | EpochChangeAck | DecisionMessage
HostMessage: TypeAlias = Prepare | SaveRecord
SequencerMessage: TypeAlias = Request | ResendRequest
Message: TypeAlias = (
    ReplicaMessage
    | CoordinatorMessage
    | HostMessage
    | Prepared
    | RecordSaved
    | SequencerMessage
    | Reply
    | Answer
)

encode = msgspec.msgpack.Encoder().encode
decode_stamped = msgspec.msgpack.Decoder(Stamped).decode

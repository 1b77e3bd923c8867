"""The messages of Eris, a closed set, each with its sender and its receiver (eris.md, section 12).

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
        """Return all ids of the transaction: one for each participant."""
        return [TransactionId(self.epoch, shard, number) for shard, number in self.numbers.items()]

    def matches(self, names: Collection[TransactionId]) -> bool:
        """Return whether *any* id of the transaction is among these (section 6.3)."""
        return bool(names) and any(name in names for name in self.ids())


class Preliminary(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The first half of a general transaction: lock its keys, and vote on whether its reads still hold
    (section 7; contracts C2). Its id is that of the client and the request."""


class Conclusory(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """The second half: write or abort, and release the locks of this preliminary. Any client may send one;
    the first in the order of the log decides."""

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
    """Replica -> client: the request is in this slot of my log. The learner adds the outcome."""

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

    ``dropped``: ids of dropped transactions, whose slots hold NO-OPs.
    """

    shard: ShardId
    epoch: Epoch
    view: ViewNumber
    slot: Slot
    dropped: tuple[TransactionId, ...] = ()


class EpochChange(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Coordinator -> every replica: process nothing of older epochs, and show your log.

    The log is shown above the stable slot, or above ``since`` if that is lower, because another replica is
    known to lack the slots from there on.
    """

    epoch: Epoch
    since: Slot | None = None


class LogEntry(msgspec.Struct, frozen=True, array_like=True):
    """One slot of a log; ``stamped`` is None for a NO-OP."""

    slot: Slot
    stamped: Stamped | None


class EpochChangeAck(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Replica -> coordinator: the state of my log, and its entries above ``stable``.

    ``base``: the last slot before the replica's last normal epoch began. Up to ``stable`` the log is known to
    be at a quorum, so no other replica of the shard needs it. ``unresolved``: transactions up to ``stable``
    that wait, perhaps because another participant never received them.
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
    """Coordinator -> every replica of a shard: begin this epoch with this log.

    The log is that of every replica up to ``stable``, without the transactions in ``dropped``; then
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
    """Replica -> coordinator: start this epoch, or send it to me if it has begun (section 6.5)."""

    shard: ShardId
    replica: int
    epoch: Epoch


class Flush(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Sequencer -> every replica of a shard, when it has been idle: this is my last number.

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
    """Replica -> its peers: which transaction is in this slot of our log? (section 6.3, step 0)"""

    shard: ShardId
    replica: int
    epoch: Epoch
    view: ViewNumber
    slot: Slot


class SlotAnswer(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Peer -> replica: this transaction. ``stamped`` is None for a NO-OP, which the coordinator decided.

    With ``is_truncated`` the slot is resolved, and no longer in my log.
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
    """Coordinator -> all replicas of all shards: TXN-REQUEST. Do you have a transaction of this id?

    All replicas are asked, because the participants are not known.
    """

    shard: ShardId
    id: TransactionId


class HasTransaction(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """Replica -> coordinator: HAS-TXN. I have the transaction."""

    id: TransactionId
    stamped: Stamped


class TempDroppedTransaction(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """Replica -> coordinator: TEMP-DROPPED-TXN. I do not have the transaction, and promise not to process it
    before the decision."""

    shard: ShardId
    replica: int
    view: ViewNumber
    id: TransactionId


class TransactionFound(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """Coordinator -> all replicas of its participants: TXN-FOUND. The transaction is kept."""

    shard: ShardId
    stamped: Stamped


class TransactionDropped(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Coordinator -> all replicas of all shards: TXN-DROPPED. The transaction with these ids is dropped."""

    shard: ShardId
    epoch: Epoch
    ids: tuple[TransactionId, ...]


class ViewChangeRequest(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Replica -> its shard: join this view. From the learner of that view, ``last`` is the end of its log, so
    that replicas send all slots that it lacks (section 6.4)."""

    shard: ShardId
    replica: int
    epoch: Epoch
    view: ViewNumber
    last: Slot | None = None


class ViewChange(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """Replica -> learner of a new view: my log above ``since``, my promises, and the decisions I know."""

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
    """Learner of a new view -> its shard: begin the view, with this log above ``since`` (section 6.4)."""

    shard: ShardId
    epoch: Epoch
    view: ViewNumber
    since: Slot
    entries: tuple[LogEntry, ...]
    temp_drops: frozenset[TransactionId]
    perm_drops: frozenset[TransactionId]
    un_drops: frozenset[TransactionId]


class ImageRequest(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """Replica -> a peer: messages can no longer complete my log; send me an image of your state."""

    shard: ShardId
    replica: int
    epoch: Epoch


class Image(msgspec.Struct, frozen=True, array_like=True, tag=29):
    """Peer -> replica: my state of our shard, as of one commit.

    ``epoch``: the last epoch that I began. ``record``: my record of the shard, encoded. ``tables``: the rows
    of each table. ``entries``: my log. ``truncated_clock``: the time up to which the log may have been
    truncated.
    """

    shard: ShardId
    epoch: Epoch
    record: bytes
    tables: tuple[tuple[tuple[bytes, bytes], ...], ...]
    entries: tuple[LogEntry, ...]
    truncated_clock: Timestamp


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """Starting coordinator -> every host: accept no record of a lower epoch, and send me your record.

    ``life`` counts the coordinator's starts: after a start it must not take an epoch for its own that it took
    before.
    """

    coordinator: int
    epoch: Epoch
    life: int = 0


class Prepared(msgspec.Struct, frozen=True, array_like=True, tag=26):
    """Host -> coordinator: my promise, and the record that I keep. ``promised`` is above the requested epoch
    if another coordinator came first."""

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
    """Host -> coordinator: I keep the record of this epoch and counter."""

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

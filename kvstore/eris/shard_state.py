"""The tables and the log of a shard on disk, and their names.

tables of shard s   s as 2 bytes big-endian, then one byte:
    0x00            the shown value of each key; in a region with the record of its cells (contracts D5)
    0x01            in a region, the records of keys that show no value
    0x80            outcomes of idempotency keys
    0x81            when those expire
    0x82            effects of slots that do not follow from their operations (log.py)
    0x83            in a region, effects for other regions that do not follow from operations either
    0x84            in a region, the slot of the import of each segment of the other regions' chains
table of the host   ff ff 80: the record of each shard under the shard's 2 bytes, so that the
                    records of all shards lie on one page
log of shard s      s as 2 bytes, then 0x00
"""

from __future__ import annotations

from enum import Enum

import msgspec

from kvstore import ports
from kvstore.eris.client_window import ClientWindow
from kvstore.execution.applied import RegionExecution
from kvstore.ports import Head
from kvstore.types import ClientId, Epoch, RegionId, ShardId, Slot, Timestamp, TransactionId, ViewNumber

REGISTERS, HIDDEN, OUTCOMES, EXPIRY, EFFECTS, SHIPPED, CHAINS = 0x00, 0x01, 0x80, 0x81, 0x82, 0x83, 0x84
HOST_TABLE = b"\xff\xff\x80"
EMPTY_LOG: Head = (1, 0, 0)


def table_name(shard: ShardId, kind: int) -> bytes:
    """Return the storage name of one of a shard's tables."""
    return shard.to_bytes(2, "big") + kind.to_bytes(1, "big")


def log_name(shard: ShardId) -> bytes:
    """Return the storage name of a shard's log."""
    return shard.to_bytes(2, "big") + b"\x00"


def record_key(shard: ShardId) -> bytes:
    """Return the key of a shard's record in the host's table."""
    return shard.to_bytes(2, "big")


class Status(Enum):
    """Whether a replica processes transactions, and why not."""

    NORMAL = "normal"
    VIEW_CHANGE = "view change"
    EPOCH_CHANGE = "epoch change"
    DIVERGED = "diverged"
    """The replica executed a dropped transaction, or its disk lost state; it is inactive until it has
    installed a peer's image."""


class ShardRecord(msgspec.Struct, array_like=True):
    """A replica's durable state outside log and tables (contracts A6).

    epoch               never process a lower one
    last_normal_epoch   the last epoch this replica began
    view                its learner is replica view % n
    base                last slot before the epoch: slot = base + number
    stable              up to here the log is known to be at a quorum and never changes
    executed            every slot up to here is executed, or waits
    clock               time of the last stamped slot
    head                where the log begins and ends, kept outside the data it covers (B4)
    windows             outcomes of requests not yet known to be answered, by client
    waiting             slots up to ``executed`` that are not resolved, in order: preliminaries without their
                        second half, and transactions that wait for their locks
    temp_drops          ids of transactions that this replica has promised not to process
    perm_drops          ids that the coordinator decided to drop
    un_drops            ids that the coordinator decided to keep
    normal_view         the last view of this epoch that began at this replica; ``view`` may be a later one
                        that it has joined and that has not begun
    diverged            the replica executed a dropped transaction, or its disk has lost state
    rejoin              after a loss: the first epoch of which the replica may install an image
    truncated_clock     after an image: the time up to which the log may have been truncated
    copies              slots of ``waiting`` that have no effect and wait only for their pieces
    clients_from        clients with lower ids have ended; their late requests are void
    """

    epoch: Epoch = Epoch(0)
    last_normal_epoch: Epoch = Epoch(0)
    view: ViewNumber = ViewNumber(0)
    base: Slot = Slot(0)
    stable: Slot = Slot(0)
    executed: Slot = Slot(0)
    clock: Timestamp = Timestamp(0)
    head: Head = EMPTY_LOG
    windows: dict[ClientId, ClientWindow] = msgspec.field(default_factory=dict)
    waiting: tuple[Slot, ...] = ()
    temp_drops: set[TransactionId] = msgspec.field(default_factory=set)
    perm_drops: set[TransactionId] = msgspec.field(default_factory=set)
    un_drops: set[TransactionId] = msgspec.field(default_factory=set)
    normal_view: ViewNumber = ViewNumber(0)
    diverged: bool = False
    clients_from: ClientId = ClientId(0)
    copies: tuple[Slot, ...] = ()
    rejoin: Epoch = Epoch(0)
    truncated_clock: Timestamp = Timestamp(0)

    @property
    def resolved_end(self) -> Slot:
        """The last slot up to which all slots are resolved: the frontier of contracts A1."""
        return Slot(self.waiting[0] - 1) if self.waiting else self.executed


encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(ShardRecord).decode


class ShardTables:
    """A replica's tables, through its host's open batch."""

    __slots__ = ("_key", "_records", "chains", "effects", "expiry", "hidden", "outcomes", "shipped", "state")

    def __init__(self, shard: ShardId, environment: ports.Environment) -> None:
        self.state = environment.table(table_name(shard, REGISTERS))
        self.outcomes = environment.table(table_name(shard, OUTCOMES))
        self.expiry = environment.table(table_name(shard, EXPIRY))
        self.effects = environment.table(table_name(shard, EFFECTS))
        self.hidden = environment.table(table_name(shard, HIDDEN))
        self.shipped = environment.table(table_name(shard, SHIPPED))
        self.chains = environment.table(table_name(shard, CHAINS))
        self._records = environment.table(HOST_TABLE)
        self._key = record_key(shard)

    def all(self) -> list[ports.Table]:
        """Return the tables that an image of the shard contains, in the order of the image."""
        return [
            self.state, self.outcomes, self.expiry, self.effects, self.hidden, self.shipped, self.chains
        ]  # fmt: skip

    def region_execution(self, region: RegionId) -> RegionExecution:
        """Return the execution of this shard in a region."""
        from kvstore.execution.crdt.region_shard import RegionShard  # a plain store does not load this module

        return RegionShard(region, self.state, self.hidden, self.chains)

    def load(self) -> ShardRecord:
        """Return the stored record, or that of an empty shard. Raises ``Corrupt``."""
        stored = self._records.get(self._key)
        return ShardRecord() if stored is None else decode_record(stored)

    def save(self, record: ShardRecord) -> None:
        self._records.put(self._key, encode_record(record))

"""What a transaction may ask of one shard: a closed set of operations, as they stand in the log.

Keys are encoded by ``kvstore.keys`` and values by ``kvstore.values`` before they come here, so an
operation is a few short byte strings. Tags are part of storage format 1; a new operation takes a
new tag.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from kvstore.types import RegionId, ShardId, Slot, Timestamp


class Put(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Set the key to the value."""

    key: bytes
    value: bytes


class PutIf(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Set the key if its version is ``version``; None means: if it is absent. May refuse."""

    key: bytes
    value: bytes
    version: int | None


class Delete(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Remove the key. With ``report`` the outcome says whether it was there."""

    key: bytes
    report: bool = False


class Add(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Add the encoded number; what is missing or not a number counts as 0 (contracts C1)."""

    key: bytes
    amount: bytes


class Expire(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Forget the outcomes of idempotency keys that were stored before this time (contracts C4)."""

    before: Timestamp


class Check(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Refuse unless the key's version is this one: None for an absent key, 0 for one never read."""

    key: bytes
    version: int | None


class CheckRange(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """Refuse unless this shard's records from ``start`` up to, not with, ``stop`` have this digest."""

    start: bytes
    stop: bytes
    digest: bytes


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """In a preliminary: the conclusory may write this key."""

    key: bytes


class SetAdd(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    """Add an encoded member to the set at the key."""

    key: bytes
    member: bytes


class SetRemove(msgspec.Struct, frozen=True, array_like=True, tag=10, gc=False):
    """Take back all adds of this member that are there: others, that are not known yet, stay."""

    key: bytes
    member: bytes


class Credit(msgspec.Struct, frozen=True, array_like=True, tag=11, gc=False):
    """Add to the bounded counter; the right to spend it is this region's."""

    key: bytes
    amount: int
    owner: RegionId


class Spend(msgspec.Struct, frozen=True, array_like=True, tag=12, gc=False):
    """Take from the bounded counter, out of this region's rights. May refuse."""

    key: bytes
    amount: int


class Grant(msgspec.Struct, frozen=True, array_like=True, tag=13, gc=False):
    """Give rights of this region to another one. May refuse."""

    key: bytes
    amount: int
    taker: RegionId


class Append(msgspec.Struct, frozen=True, array_like=True, tag=14, gc=False):
    """Be a node of this color; the payload stands with the lowest one."""

    payload: bytes | None


KeyEffect: TypeAlias = Put | Delete | Add | SetAdd | SetRemove | Credit | Spend | Grant
"""What changes something, wherever it is carried out, once it was decided that it does."""
KEY_EFFECTS = (Put, Delete, Add, SetAdd, SetRemove, Credit, Spend, Grant)
ESCROW = (Credit, Spend, Grant)


class Skip(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Slots of a chain that changed no data, up to this one (contracts A1).

    ``edges``: causes that were to go with transactions which came to nothing; those behind rely on them.
    """

    last: Slot
    edges: dict[ShardId, Slot] = {}


class Marker(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A slot where the region imported: how far the chains of this color had come by it, by region."""

    last: Slot
    chains: dict[RegionId, Slot]


class Piece(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A slot of a node (contracts A1): what it changed on this shard; nothing, perhaps.

    ``places``: its slot on each of its colors, where it has more than one. With the lowest of them stand
    its ``edges``, by shard the last slot of its region that it comes behind besides what its own chains
    imply, and its ``payload``.
    """

    last: Slot
    time: Timestamp
    effects: tuple[KeyEffect, ...] = ()
    places: dict[ShardId, Slot] = {}
    edges: dict[ShardId, Slot] = {}
    payload: bytes | None = None


ChainItem: TypeAlias = Skip | Marker | Piece


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """A part of a region's chain of this shard, from a slot on."""

    region: RegionId
    first: Slot
    items: tuple[ChainItem, ...]

    @property
    def last(self) -> Slot:
        return self.items[-1].last


class Import(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """What came from other regions of the chains of this shard; whole nodes only, with all their causes
    (contracts D3)."""

    segments: tuple[Segment, ...]


Operation: TypeAlias = (
    Put
    | PutIf
    | Delete
    | Add
    | Expire
    | Check
    | CheckRange
    | Reserve
    | SetAdd
    | SetRemove
    | Credit
    | Spend
    | Grant
    | Append
    | Import
)
Operations: TypeAlias = dict[ShardId, tuple[Operation, ...]]
"""Each participant's part of a transaction."""


class IdempotencyToken(msgspec.Struct, frozen=True, array_like=True):
    """An idempotency key: its shard, ``record_shard``, takes part in the transaction and keeps the digest.

    ``result``: what the user's function returned, encoded, where one decided the transaction.
    """

    key: bytes
    digest: bytes
    record_shard: ShardId
    result: bytes = b""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A call of a stored procedure, with the keys it may touch, encoded.

    ``keys``: by each shard that runs it, those it owns. ``prefixes``: ranges, from the first bytes up to,
    not with, the second; each shard that runs it owns a part of them.
    """

    name: str
    arguments: bytes
    keys: dict[ShardId, tuple[bytes, ...]]
    prefixes: tuple[tuple[bytes, bytes], ...] = ()


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one shard's part of a transaction came to.

    ``refused``: a condition did not hold and the part had no effect. ``results``: one entry for
    each ``Add`` (the new value, encoded) and each reporting ``Delete`` (True if it was there); of a
    procedure what it returned; of a refused ``Check`` its key; of a refused preliminary the encoded
    ``Current``. ``failure``: what a procedure raised; its part had no effect. ``unaffordable``: of a refused
    debit, encoded, what there is (``escrow.py``).
    """

    refused: bool = False
    results: tuple[bytes | bool, ...] = ()
    failure: str = ""
    unaffordable: bytes = b""


DONE = Outcome()
REFUSED = Outcome(refused=True)

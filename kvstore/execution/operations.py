"""The operations of transactions on one shard: a closed set, in the form that the log stores.

Keys are already encoded by ``kvstore.keys`` and values by ``kvstore.values``, so an operation is a few
short byte strings. Tags are part of storage format 1; a new operation takes a new tag.
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
    """Set the key if its version is ``version``, or if the key is absent for None. May refuse."""

    key: bytes
    value: bytes
    version: int | None


class Delete(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Remove the key. With ``report`` the outcome says whether the key existed."""

    key: bytes
    report: bool = False


class Add(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Add the encoded number. A missing value, or a value that is no number, counts as 0 (contracts C1)."""

    key: bytes
    amount: bytes


class Expire(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Remove the outcomes of idempotency keys that were stored before this time (contracts C4)."""

    before: Timestamp


class Check(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Refuse unless the key has this version: None for an absent key, 0 for a key that was never read."""

    key: bytes
    version: int | None


class CheckRange(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """Refuse unless this shard's rows with ``start <= key < stop`` have this digest."""

    start: bytes
    stop: bytes
    digest: bytes


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """Reserve a key, in a preliminary, that the conclusory may write."""

    key: bytes


class SetAdd(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    """Add an encoded member to the set at the key."""

    key: bytes
    member: bytes


class SetRemove(msgspec.Struct, frozen=True, array_like=True, tag=10, gc=False):
    """Remove all adds of this member that are known here; adds that are not known yet stay."""

    key: bytes
    member: bytes


class Credit(msgspec.Struct, frozen=True, array_like=True, tag=11, gc=False):
    """Add to the bounded counter; the right to spend the amount goes to the region ``owner``."""

    key: bytes
    amount: int
    owner: RegionId


class Spend(msgspec.Struct, frozen=True, array_like=True, tag=12, gc=False):
    """Spend from the bounded counter, out of this region's rights. May refuse."""

    key: bytes
    amount: int


class Grant(msgspec.Struct, frozen=True, array_like=True, tag=13, gc=False):
    """Transfer rights of this region to the region ``taker``. May refuse."""

    key: bytes
    amount: int
    taker: RegionId


class Append(msgspec.Struct, frozen=True, array_like=True, tag=14, gc=False):
    """Append a node to this color; the lowest color of the node carries the payload."""

    payload: bytes | None


KeyEffect: TypeAlias = Put | Delete | Add | SetAdd | SetRemove | Credit | Spend | Grant
"""An operation that changes a key, in any region, once it has been accepted."""
KEY_EFFECTS = (Put, Delete, Add, SetAdd, SetRemove, Credit, Spend, Grant)
ESCROW = (Credit, Spend, Grant)


class Skip(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Slots of a chain, up to ``last``, that changed no data (contracts A1).

    ``edges``: causes of transactions that had no effect, because later nodes rely on them.
    """

    last: Slot
    edges: dict[ShardId, Slot] = {}


class Marker(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A slot at which the region imported. ``chains``: last imported slot of this color, by region."""

    last: Slot
    chains: dict[RegionId, Slot]


class Piece(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A slot of a node (contracts A1), with the node's effects on this shard, if any.

    ``places``: slot of the node on each of its colors, if there are several. The piece of the lowest color
    carries the ``payload`` and the ``edges``: by shard, the last slot of the node's region that the node
    depends on, unless its own chains imply it.
    """

    last: Slot
    time: Timestamp
    effects: tuple[KeyEffect, ...] = ()
    places: dict[ShardId, Slot] = {}
    edges: dict[ShardId, Slot] = {}
    payload: bytes | None = None


ChainItem: TypeAlias = Skip | Marker | Piece


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """A part of a region's chain of this shard, from slot ``first`` on."""

    region: RegionId
    first: Slot
    items: tuple[ChainItem, ...]

    @property
    def last(self) -> Slot:
        return self.items[-1].last


class Import(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Segments of other regions' chains of this shard: whole nodes only, with all causes (contracts D3)."""

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
"""Each participant's part of a transaction, by shard."""


class IdempotencyToken(msgspec.Struct, frozen=True, array_like=True):
    """An idempotency key. Its shard, ``record_shard``, takes part in the transaction and keeps the digest.

    ``result``: encoded result of the user's function, if a function decided the transaction.
    """

    key: bytes
    digest: bytes
    record_shard: ShardId
    result: bytes = b""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A call of a stored procedure, with the keys it may touch, encoded.

    ``keys``: keys owned by each shard that runs the call, by shard. ``prefixes``: ranges, each as its start
    and its excluded end; each shard that runs the call owns a part of them.
    """

    name: str
    arguments: bytes
    keys: dict[ShardId, tuple[bytes, ...]]
    prefixes: tuple[tuple[bytes, bytes], ...] = ()


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The outcome of one shard's part of a transaction.

    ``refused``: whether a condition did not hold, so that the part had no effect. ``results``: an entry
    for each ``Add`` (the new value, encoded) and each reporting ``Delete`` (True if the key existed); for a
    procedure, its result; for a refused ``Check``, its key; for a refused preliminary, the encoded
    ``Current``. ``failure``: error of a procedure, as text; the part had no effect. ``unaffordable``: for a
    refused debit, the encoded ``Unaffordable`` (``escrow.py``).
    """

    refused: bool = False
    results: tuple[bytes | bool, ...] = ()
    failure: str = ""
    unaffordable: bytes = b""


DONE = Outcome()
REFUSED = Outcome(refused=True)

"""What a transaction may ask of one shard: a closed set of operations, as they stand in the log.

Keys are encoded by ``kvstore.keys`` and values by ``kvstore.values`` before they come here, so an
operation is a few short byte strings. Tags are part of storage format 1; a new operation takes a
new tag.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from kvstore.types import ShardId, Timestamp


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


Operation: TypeAlias = Put | PutIf | Delete | Add | Expire | Check | CheckRange | Reserve
Operations: TypeAlias = dict[ShardId, tuple[Operation, ...]]
"""Each participant's part of a transaction."""


class Token(msgspec.Struct, frozen=True, array_like=True):
    """An idempotency key: its shard, ``home``, takes part in the transaction and keeps the digest.

    ``result``: what the user's function returned, encoded, where one decided the transaction.
    """

    key: bytes
    digest: bytes
    home: ShardId
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
    ``Current``. ``failure``: what a procedure raised; its part had no effect.
    """

    refused: bool = False
    results: tuple[bytes | bool, ...] = ()
    failure: str = ""


DONE = Outcome()
REFUSED = Outcome(refused=True)

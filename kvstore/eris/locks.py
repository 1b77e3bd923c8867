"""Locks: the keys and ranges that unresolved transactions keep others from touching (Eris, section 7).

Claims are made in log order and never refused, so there is no deadlock: a holder waits for earlier claims
only. Two claims conflict if they share a key and one of them writes. Locks are consulted only while a
transaction waits or is between its two halves.

INVARIANT LOCKS-1: a holder claims once, and releases exactly what it claimed.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from kvstore.eris.messages import Conclusory, Request
from kvstore.execution.operations import Append, Check, CheckRange, Expire, Import, Operation, Piece
from kvstore.types import ShardId

LockHolder = TypeVar("LockHolder")


IMPORT_LOCK = b""
"""The key that all imports of a shard lock, so that none overtakes another (contracts D3)."""


class Footprint(NamedTuple):
    """What a transaction touches on one shard: keys, and ranges; with each whether it writes there."""

    keys: list[tuple[bytes, bool]]
    ranges: list[tuple[bytes, bytes, bool]]

    def is_empty(self) -> bool:
        return not self.keys and not self.ranges


def footprint(request: Request, shard: ShardId) -> Footprint:
    """Return the keys and ranges that a request touches on a shard.

    A procedure touches all that it has declared; a conclusory only keys that its preliminary has locked.
    """
    found = Footprint([], [])
    if type(request.half) is Conclusory:
        return found
    for operation in request.operations[shard]:
        _add(operation, found)
    call = request.call
    if call is not None:
        found.keys.extend((key, True) for key in call.keys.get(shard, ()))
        found.ranges.extend((start, stop, True) for start, stop in call.prefixes)
    return found


def _add(operation: Operation, found: Footprint) -> None:
    match operation:
        case CheckRange(start, stop):
            found.ranges.append((start, stop, False))
        case Import(segments):
            found.keys.append((IMPORT_LOCK, True))
            items = (item for segment in segments for item in segment.items)
            effects = (effect for item in items if type(item) is Piece for effect in item.effects)
            found.keys.extend((effect.key, True) for effect in effects)
        case Expire() | Append():
            pass
        case _:
            found.keys.append((operation.key, type(operation) is not Check))


class Locks(Generic[LockHolder]):
    """The claims on one shard, in the order they were made."""

    def __init__(self) -> None:
        self._keys: dict[bytes, list[tuple[LockHolder, bool]]] = {}
        self._ranges: list[tuple[bytes, bytes, bool, LockHolder]] = []

    def is_empty(self) -> bool:
        return not self._keys and not self._ranges

    def in_the_way_of(self, touched: Footprint) -> list[LockHolder]:
        """Return the holders of conflicting claims; on each key the latest, which waits for earlier ones."""
        found: list[LockHolder] = []
        for key, writes in touched.keys:
            if (claims := self._keys.get(key)) is not None:
                found += _latest(claims, writes)
            if self._ranges:
                found += [
                    holder
                    for start, stop, also_writes, holder in self._ranges
                    if (writes or also_writes) and start <= key < stop
                ]
        for start, stop, writes in touched.ranges:
            found += self._in_the_way_of_range(start, stop, writes)
        return found

    def _in_the_way_of_range(self, start: bytes, stop: bytes, writes: bool) -> list[LockHolder]:
        found = [
            holder
            for low, high, also_writes, holder in self._ranges
            if (writes or also_writes) and low < stop and start < high
        ]
        for key, claims in self._keys.items():
            if start <= key < stop:
                found += _latest(claims, writes)
        return found

    def claim(self, touched: Footprint, holder: LockHolder) -> None:
        """Add claims behind all others."""
        assert not touched.ranges or all(claim[3] is not holder for claim in self._ranges), (
            f"LOCKS-1: {holder!r} claims {touched.ranges}, and has claims on ranges already"
        )
        for key, writes in touched.keys:
            self._keys.setdefault(key, []).append((holder, writes))
        self._ranges.extend((start, stop, writes, holder) for start, stop, writes in touched.ranges)

    def release(self, touched: Footprint, holder: LockHolder) -> None:
        """Remove the claims that ``claim`` added."""
        for key, writes in touched.keys:
            claims = self._keys.get(key, [])
            assert (holder, writes) in claims, f"LOCKS-1: {key!r} is released, and not claimed, by {holder!r}"
            claims.remove((holder, writes))
            if not claims:
                del self._keys[key]
        if touched.ranges:
            others = [claim for claim in self._ranges if claim[3] is not holder]
            released, claimed = len(self._ranges) - len(others), len(touched.ranges)
            assert released == claimed, f"LOCKS-1: {released} ranges are released, of {claimed} of {holder!r}"
            self._ranges = others


def _latest(claims: list[tuple[LockHolder, bool]], writes: bool) -> list[LockHolder]:
    """Return the last writer of a key, and for a writer also the readers since."""
    found: list[LockHolder] = []
    for holder, also_writes in reversed(claims):
        if writes or also_writes:
            found.append(holder)
        if also_writes:
            break
    return found

"""Routing: which shard owns a key, and which path a transaction takes.

    key -> its placement part -> CRC-32 -> one of BUCKETS buckets -> shard

A key's bucket never changes, so a shard can later hand over some of its buckets. The hash is part of
storage format 1 and equal in every process, unlike Python's own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple
from zlib import crc32

from kvstore import keys
from kvstore.keys import Key
from kvstore.types import ShardId

BUCKETS = 4096
SHARDS_MAX = 256

Path = Literal["independent", "read-only", "one-shard", "general"]


class Route(NamedTuple):
    """How a transaction runs: its path, its shards and the number of its rounds."""

    path: Path
    shards: tuple[int, ...]
    rounds: int


class Routing:
    """The map from a store's keys to its shards."""

    __slots__ = ("_placement", "_shards", "shards")

    def __init__(self, shards: int, placement: int | None) -> None:
        """``placement``: number of leading elements that place a tuple key; None for the whole key."""
        self.shards = shards
        self._placement = placement
        self._shards = [ShardId(bucket % shards) for bucket in range(BUCKETS)]

    def shard(self, key: Key, encoded: bytes) -> ShardId:
        """Return the shard that owns the key; ``encoded`` is its encoding."""
        if self._placement is not None:
            encoded = keys.placement(key, encoded, self._placement)
        return self._shards[crc32(encoded) % BUCKETS]

    def shard_of_bytes(self, encoded: bytes) -> ShardId:
        """Return the shard of an encoded key that is placed as a whole: of an idempotency key."""
        return self._shards[crc32(encoded) % BUCKETS]

    def shards_of_prefix(self, prefix: Key) -> list[ShardId]:
        """Return the shards that may hold keys with this prefix: one if the prefix places them, or all."""
        if self._placement is not None and type(prefix) is tuple and len(prefix) >= self._placement:
            return [self.shard(prefix, keys.encode(prefix))]
        return [ShardId(shard) for shard in range(self.shards)]

    def shards_of_range(self, prefix: Key | None) -> list[ShardId]:
        """Return the shards that a scan with this prefix must read."""
        return self.shards_of_prefix("" if prefix is None else prefix)

    def shard_of_encoded(self, encoded: bytes) -> ShardId:
        """Return the shard that owns an encoded key."""
        if self._placement is None:
            return self._shards[crc32(encoded) % BUCKETS]
        return self.shard(keys.decode(encoded), encoded)

    def owns(self, shard: ShardId, encoded: bytes) -> bool:
        """Return whether this shard owns the encoded key."""
        return self.shard_of_encoded(encoded) == shard


def route_of(read: set[ShardId], written: set[ShardId]) -> Route:
    """Return the cheapest route that keeps a transaction strictly serializable, by its touched shards.

    Reads at one moment need no round. Writes that depend on no read are independent over any shards.
    One shard validates its reads in the round that writes. Reads that decide writes elsewhere need two.
    """
    shards = tuple(sorted(read | written))
    if not written:
        return Route("read-only", shards, 0)
    if not read:
        return Route("independent", shards, 1)
    return Route("one-shard", shards, 1) if len(shards) == 1 else Route("general", shards, 2)

"""Which shard owns a key, and which path a transaction takes.

    key -> its placement part -> CRC-32 -> one of BUCKETS buckets -> shard

The buckets never change, so a shard can later give some of them away on purpose. The hash is part
of storage format 1 and the same in every process: never Python's own.
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
    """How a transaction runs: by which path, at which shards, in how many rounds."""

    path: Path
    shards: tuple[int, ...]
    rounds: int


class Routing:
    """The buckets of one store."""

    __slots__ = ("_placement", "_shards", "shards")

    def __init__(self, shards: int, placement: int | None) -> None:
        """``placement``: how many elements of a tuple key place it; None for the whole key."""
        self.shards = shards
        self._placement = placement
        self._shards = [ShardId(bucket % shards) for bucket in range(BUCKETS)]

    def shard(self, key: Key, encoded: bytes) -> ShardId:
        """The shard that owns the key; ``encoded`` is its encoding."""
        if self._placement is not None:
            encoded = keys.placement(key, encoded, self._placement)
        return self._shards[crc32(encoded) % BUCKETS]

    def shard_of_bytes(self, encoded: bytes) -> ShardId:
        """The shard of something that is placed as a whole: an idempotency key."""
        return self._shards[crc32(encoded) % BUCKETS]

    def shards_of_prefix(self, prefix: Key) -> list[ShardId]:
        """The shards that may hold keys which begin so: one when the prefix places them, or all."""
        if self._placement is not None and type(prefix) is tuple and len(prefix) >= self._placement:
            return [self.shard(prefix, keys.encode(prefix))]
        return [ShardId(shard) for shard in range(self.shards)]

    def shards_of_range(self, prefix: Key | None) -> list[ShardId]:
        """The shards a scan has to look at, by the prefix it was given."""
        return self.shards_of_prefix("" if prefix is None else prefix)

    def shard_of_encoded(self, encoded: bytes) -> ShardId:
        """The shard that owns an encoded key."""
        if self._placement is None:
            return self._shards[crc32(encoded) % BUCKETS]
        return self.shard(keys.decode(encoded), encoded)

    def owns(self, shard: ShardId, encoded: bytes) -> bool:
        """Whether this shard owns the encoded key."""
        return self.shard_of_encoded(encoded) == shard


def route_of(read: set[ShardId], written: set[ShardId]) -> Route:
    """The cheapest path that keeps a transaction strictly serializable, by the shards it touched.

    Reads at one moment need no round. Writes that depend on no read are independent over any shards. What
    one shard can validate, it does in the round that writes. Reads that decide writes elsewhere need two.
    """
    shards = tuple(sorted(read | written))
    if not written:
        return Route("read-only", shards, 0)
    if not read:
        return Route("independent", shards, 1)
    return Route("one-shard", shards, 1) if len(shards) == 1 else Route("general", shards, 2)

"""Bytes, durably. Knows nothing of shards, transactions or messages (architecture, section 4)."""

from kvstore.storage.lmdb_environment import Durability, LmdbEnvironment
from kvstore.storage.memory_environment import MemoryDisk, MemoryEnvironment

__all__ = ["Durability", "LmdbEnvironment", "MemoryDisk", "MemoryEnvironment"]

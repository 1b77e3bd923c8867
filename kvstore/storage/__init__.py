"""Durable storage of bytes, independent of shards, transactions and messages (architecture, section 4)."""

from kvstore.storage.lmdb_environment import Durability, LmdbEnvironment
from kvstore.storage.memory_environment import MemoryDisk, MemoryEnvironment

__all__ = ["Durability", "LmdbEnvironment", "MemoryDisk", "MemoryEnvironment"]

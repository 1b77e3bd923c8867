"""The memory environment: the contract of ``kvstore/ports.py`` without a disk, with faults on demand.

A ``MemoryDisk`` outlives the environments opened on it, as a real disk outlives processes. For each
folder it keeps the committed and the synced state; ``lose_power`` resets every folder to the synced
state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvstore.errors import DiskFull, Failed, OutcomeUnknown
from kvstore.storage.lmdb_environment import LmdbEnvironment
from kvstore.storage.records import (
    COUNT_KEY,
    ROWS_MAX,
    Beside,
    Head,
    Row,
    StoredLog,
    StoredTable,
    problems,
    seal,
)
from kvstore.storage.sorted_map import SortedMap


@dataclass
class MemoryFolder:
    """The contents of one folder of the disk."""

    committed: SortedMap = field(default_factory=SortedMap)
    synced: SortedMap = field(default_factory=SortedMap)
    manifest: Any = None
    """The manifest of the store, which is a side file in a folder on disk."""


@dataclass
class MemoryDisk:
    """Folders by name, and the faults to inject."""

    folders: dict[str, MemoryFolder] = field(default_factory=dict)
    commits_left: dict[str, int] = field(default_factory=dict)
    """Commits that succeed before a commit fails, by folder; a folder without an entry never fails."""
    full: bool = False

    def copy(self, source: str, target: str) -> None:
        """Make ``target`` a synced copy of the committed state of ``source``."""
        version = self.folders[source].committed
        self.folders[target] = MemoryFolder(committed=version, synced=version)

    def lose_power(self) -> None:
        """Discard all commits that were not synced. Open environments must not be used afterwards."""
        for folder in self.folders.values():
            folder.committed = folder.synced


class MemoryEnvironment:
    """One folder of a memory disk."""

    damage: tuple[type[Exception], ...] = ()

    def __init__(self, disk: MemoryDisk, name: str, *, durability: str = "commit") -> None:
        self.location = f"memory:{name}"
        self.durability = durability
        self.suspicion: str | None = None
        self.failure: BaseException | None = None
        self.raw: Any = None
        self._disk = disk
        self.name = name
        self._folder = disk.folders.setdefault(name, MemoryFolder())
        self._batch = MemoryBatch(self)

    def begin(self) -> MemoryBatch:
        if self.failure is not None:
            raise Failed(f"{self.location} failed earlier: {self.failure}") from self.failure
        assert self.raw is None, f"LMDB-1: {self.location}: a second batch begins while one is open"
        self.raw = self._folder.committed.fork()
        return self._batch

    def expect(self, payload_bytes: int, records: int) -> None:
        if self._disk.full:
            raise DiskFull(f"{self.location}: the disk is full", path=self.location, free=0)

    def rows(self, position: bytes, *, reverse: bool, limit: int) -> list[Row]:
        rows: list[Row] = self.raw.rows(position, reverse=reverse, limit=limit)
        return rows

    def beside(self, key: bytes) -> Beside:
        below = self.rows(key, reverse=True, limit=1)
        return below, self.rows(key, reverse=False, limit=1)

    def log(self, name: bytes, head: Head) -> StoredLog:
        return StoredLog(self, name, head)

    def table(self, name: bytes) -> StoredTable:
        return StoredTable(self, name)

    def read(self, name: bytes, key: bytes) -> bytes | None:
        return self.view().table(name).get(key)

    def distrust(self) -> None:
        """Do nothing: a memory disk is never examined."""

    def view(self) -> MemoryView:
        return MemoryView(self.location, self._folder.committed)

    def sync(self) -> None:
        self._folder.synced = self._folder.committed

    def copy_to(self, folder: str) -> None:
        """Write the last commit as an LMDB file: a backup outlives the memory it was made from."""
        environment = LmdbEnvironment(Path(folder))
        try:
            batch = environment.begin()
            position = b""
            while rows := self._folder.committed.rows(position, reverse=False, limit=ROWS_MAX):
                for key, value in rows:
                    if key != COUNT_KEY:
                        environment.raw.put(key, value)
                position = rows[-1][0] + b"\x00"
            batch.commit()
        finally:
            environment.close()

    def size_bytes(self) -> int:
        return 0

    def close(self) -> None:
        assert self.raw is None, f"LMDB-1: {self.location}: closed while a batch is open"
        if self.failure is None:
            self.sync()

    def fail(self, error: BaseException) -> None:
        self.failure = error

    def retire(self) -> None:
        raise AssertionError("a memory environment is never replaced")

    def publish(self, version: SortedMap) -> None:
        """Make a batch's version the committed version. Raises ``OSError`` if a fault is injected."""
        left = self._disk.commits_left.get(self.name)
        if left == 0:
            raise OSError(5, "injected commit failure")
        if left is not None:
            self._disk.commits_left[self.name] = left - 1
        self._folder.committed = version
        if self.durability == "commit":
            self._folder.synced = version


class MemoryBatch:
    """The one open batch of a memory environment."""

    __slots__ = ("_environment",)

    def __init__(self, environment: MemoryEnvironment) -> None:
        self._environment = environment

    def commit(self) -> None:
        environment = self._environment
        version, environment.raw = environment.raw, None
        entries = len(version) + (version.get(COUNT_KEY) is None)
        version.put(COUNT_KEY, seal(COUNT_KEY, entries.to_bytes(8, "big") + bytes(8)))
        try:
            environment.publish(version)
        except OSError as error:
            environment.failure = error
            message = f"{environment.location}: the commit failed: {error}"
            raise OutcomeUnknown(message) from error

    def abort(self) -> None:
        self._environment.raw = None


class MemoryView:
    """A view of one committed version."""

    __slots__ = ("location", "raw")
    damage: tuple[type[Exception], ...] = ()

    def __init__(self, location: str, version: SortedMap) -> None:
        self.location = location
        self.raw: Any = version

    def distrust(self) -> None:
        """Do nothing: a memory disk is never examined."""

    def rows(self, position: bytes, *, reverse: bool, limit: int) -> list[Row]:
        rows: list[Row] = self.raw.rows(position, reverse=reverse, limit=limit)
        return rows

    def beside(self, key: bytes) -> Beside:
        below = self.rows(key, reverse=True, limit=1)
        return below, self.rows(key, reverse=False, limit=1)

    def table(self, name: bytes) -> StoredTable:
        return StoredTable(self, name)

    def log(self, name: bytes, head: Head) -> StoredLog:
        return StoredLog(self, name, head)

    def problems(self) -> Iterator[str]:
        return problems(self)

    def record_count(self) -> int:
        return int.from_bytes((self.raw.get(COUNT_KEY) or b"")[:8], "big")

    def close(self) -> None:
        self.raw = None

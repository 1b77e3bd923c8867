"""A memory disk that keeps an image of itself before every commit, as power loss at that moment leaves it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from kvstore.database.database import Database
from kvstore.database.open import open_at
from kvstore.database.routing import Routing
from kvstore.engine.options import Options
from kvstore.engine.store_directory import MemoryDirectory
from kvstore.errors import Corrupt
from kvstore.ports import Environment
from kvstore.storage import MemoryDisk
from kvstore.storage.memory_environment import MemoryFolder
from kvstore.types import ShardId
from tests.support.inside import cluster_of, environments_of, store_of

NEVER_MS = 3_600_000
"""Sync interval longer than any test; tests call ``sync`` themselves."""
Dump = dict[bytes, bytes]


@dataclass
class Image:
    """The disk just before one commit, and the test's note at that moment."""

    disk: MemoryDisk
    about_to_commit: str
    note: int


class _Boundaries(dict[str, int]):
    """A substitute for ``commits_left``, which the disk reads before each commit."""

    def __init__(self, before_commit: Callable[[str], None]) -> None:
        super().__init__()
        self._before_commit = before_commit

    def get(self, folder: str, default: int | None = None) -> int | None:  # type: ignore[override]
        self._before_commit(folder)
        return super().get(folder, default)


class WitnessedDisk(MemoryDisk):
    """A memory disk with an image before each of its commits, over all its folders."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Image] = []
        self.note = 0
        """Note of the test that is kept with each image: the number of acknowledged transactions."""
        self._lock = threading.Lock()
        self.commits_left = _Boundaries(self._witness)

    def _witness(self, folder: str) -> None:
        with self._lock:
            self.images.append(Image(image_of(self), folder, self.note))


def image_of(disk: MemoryDisk) -> MemoryDisk:
    """Return the present content as a disk of its own. Committed versions never change, so none is copied."""
    folders = {
        name: MemoryFolder(folder.committed, folder.synced, folder.manifest)
        for name, folder in list(disk.folders.items())
    }
    return MemoryDisk(folders=folders)


class MemoryHomeWithFaults(MemoryDirectory):
    """A memory disk on which some folders can be neither read nor rebuilt."""

    def __init__(self, disk: MemoryDisk, *unreachable: int) -> None:
        super().__init__(disk)
        self._unreachable = unreachable

    def open_environment(self, number: int, **how: object) -> Environment:
        if number in self._unreachable:
            raise Corrupt(f"replica {number} is out of reach", record=f"replica {number}")
        return super().open_environment(number, **how)  # type: ignore[arg-type]  # passed on as it came

    def rebuild(self, number: int, source: Environment, manifest: object) -> None:
        if number in self._unreachable:
            raise OSError(5, "Input/output error")
        super().rebuild(number, source, manifest)  # type: ignore[arg-type]  # passed on as it came


def open_on(disk: MemoryDisk, *unreachable: int, **options: object) -> Database:
    """Open the store on this disk; the store syncs only when the test calls ``sync``."""
    wanted = Options(owner=lambda shards, placement: Routing(shards, placement).owns, **options)  # type: ignore[arg-type]  # a wrong name fails at once
    return open_at(MemoryHomeWithFaults(disk, *unreachable), wanted, sync_interval_ms=NEVER_MS)


def sync(db: Database) -> None:
    """Sync all replicas at one transaction, as the timer of ``durability="interval"`` does."""
    _await_followers(db)
    store_of(db).sync()
    _await_followers(db)


def _await_followers(db: Database) -> None:
    """Wait until the followers have finished all queued batches."""
    for follower in cluster_of(db).followers:
        through = threading.Event()
        follower._work.put(through.set)
        through.wait()


def environments(db: Database) -> dict[int, Environment]:
    """Return the open environments, by replica number."""
    return dict(environments_of(db))


def everything(environment: Environment, shards: int) -> Dump:
    """Return all stored values, outcomes and expiries of all shards, as raw records."""
    view = environment.view()
    try:
        return {
            bytes([kind]) + shard.to_bytes(2, "big") + key: value
            for shard in map(ShardId, range(shards))
            for kind in (0x00, 0x80, 0x81)
            for key, value in view.table(shard.to_bytes(2, "big") + bytes([kind])).scan(
                b"", b"\xff" * 9, limit=1 << 20
            )
        }
    finally:
        view.close()


def assert_replicas_agree(db: Database) -> None:
    """Check that every record of every table is equal on all replicas. Call right after an opening, when
    all followers have executed everything."""
    shards = db.status()["shards"]
    dumps = {number: everything(environment, shards) for number, environment in environments(db).items()}
    first = next(iter(dumps.values()))
    for number, dump in dumps.items():
        differing = sorted(key for key in first.keys() | dump.keys() if first.get(key) != dump.get(key))
        assert not differing, f"replica {number} differs at {differing}"

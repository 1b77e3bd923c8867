"""Stores on a memory disk whose replicas fail on demand, and checks of their state afterwards."""

from __future__ import annotations

from typing import Any

from kvstore import Database, Key
from kvstore.storage import MemoryDisk
from tests.support.inside import store_of
from tests.support.power import assert_replicas_agree, environments, open_on

SHARDS = 3


def a_store(*, replicas: int = 3, **options: Any) -> tuple[MemoryDisk, Database]:
    """Open an empty store; replica 0 is the learner. Returns its disk too."""
    disk = MemoryDisk()
    return disk, open_on(disk, shards=SHARDS, replicas=replicas, **options)


def cluster_of(db: Database) -> Any:
    store: Any = store_of(db)
    return store.cluster


def fail(db: Database, disk: MemoryDisk, commits: int = 0) -> int:
    """Make the learner's disk fail after ``commits`` more commits; return the learner's replica number."""
    learner: int = db.status()["learner"]
    disk.commits_left[str(learner)] = commits
    return learner


def assert_healed(disk: MemoryDisk, content: dict[Key, Any]) -> None:
    disk.commits_left.clear()
    with open_on(disk) as db:
        assert dict(db.scan()) == content
        assert sorted(environments(db)) == list(range(db.status()["replicas"]))
        assert_replicas_agree(db)
        assert db.verify()["ok"]
        assert db.status()["healthy"], db.status()
        db.put("after", 1)

"""What tests reach inside an open store: the one place that knows where things are in it."""

from __future__ import annotations

import time
from typing import Any

from kvstore import Database
from kvstore.engine.cluster import Cluster
from kvstore.engine.group_commit import GroupCommit
from kvstore.engine.manifest import Manifest
from kvstore.engine.readers import Readers
from kvstore.engine.store import WritingStore
from kvstore.ports import Environment


def store_of(db: Database) -> WritingStore:
    """The store of a database that was opened for writing."""
    store = db._store
    assert isinstance(store, WritingStore)
    return store


def cluster_of(db: Database) -> Cluster:
    """The sequencer, the client and the hosts of an open store."""
    return store_of(db).cluster


def commits_of(db: Database) -> GroupCommit:
    """The queue in front of the cluster."""
    return store_of(db).commits


def readers_of(db: Database) -> Readers:
    """The readers of the learner's environment."""
    return db._store.readers


def manifest_of(db: Database) -> Manifest:
    """The identity and shape of the store."""
    return db._store.manifest


def environments_of(db: Database) -> dict[int, Environment]:
    """The open environments, by replica; a store that only reads has some, too."""
    return db._store.environments


def shift_clock(db: Database, nanoseconds: int) -> None:
    """Have the sequencer of this store read a clock that is so far ahead."""
    cluster: Any = cluster_of(db)
    cluster._now = lambda: time.time_ns() + nanoseconds

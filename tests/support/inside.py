"""Access to the inside of an open store: the only test module that knows its structure."""

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
    """Return the store of a database that was opened for writing."""
    store = db._store
    assert isinstance(store, WritingStore)
    return store


def cluster_of(db: Database) -> Cluster:
    """Return the cluster of an open store: its sequencer, client and hosts."""
    return store_of(db).cluster


def commits_of(db: Database) -> GroupCommit:
    """Return the queue in front of the cluster."""
    return store_of(db).commits


def readers_of(db: Database) -> Readers:
    """Return the readers of the learner's environment."""
    return db._store.readers


def manifest_of(db: Database) -> Manifest:
    """Return the identity and shape of the store."""
    return db._store.manifest


def environments_of(db: Database) -> dict[int, Environment]:
    """Return the open environments, by replica; a read-only store has environments too."""
    return db._store.environments


def shift_clock(db: Database, nanoseconds: int) -> None:
    """Let this store's sequencer read a clock that is ``nanoseconds`` ahead."""
    cluster: Any = cluster_of(db)
    cluster._now = lambda: time.time_ns() + nanoseconds

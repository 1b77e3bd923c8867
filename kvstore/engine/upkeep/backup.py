"""Backup: the learner's last commit as a store of its own, with equal shape (architecture, 4)."""

from __future__ import annotations

import os
import uuid

import msgspec

from kvstore.engine.host import MANIFEST_KEY
from kvstore.engine.manifest import Manifest, encode
from kvstore.engine.store import Store
from kvstore.engine.store_directory import FolderDirectory, MemoryDirectory, naming
from kvstore.eris.shard_state import HOST_TABLE
from kvstore.errors import NotAStore, UsageError


def write(store: Store, path: str | os.PathLike[str]) -> None:
    """Copy the store to ``path`` while it is in use.

    The backup gets an identity of its own, so that its replicas are never taken for replicas of the
    original. A failed backup is removed; what a killed backup leaves is not a store.

    Raises:
        UsageError: ``path`` is ``":memory:"``, the store itself, or directly inside it.
        NoParent: the parent folder of ``path`` does not exist.
        NotAStore: something is at ``path`` already; it is never overwritten.
        DiskFull, Failed: the disk is full, or fails.
    """
    target = os.path.abspath(path)
    if os.fspath(path) == MemoryDirectory.path or target == store.directory.path:
        raise UsageError(f"a backup needs a folder of its own, not {os.fspath(path)}")
    if os.path.dirname(target) == store.directory.path:
        raise UsageError(f"{target} is inside the store; a backup there would not outlive it")
    with naming(target, "cannot be written"):
        _write(store, target)


def _write(store: Store, target: str) -> None:
    directory = FolderDirectory(target)
    if directory.prepare(create=True, readonly=False):
        directory.release()
        message = f"{target} holds a store already; a backup never overwrites one"
        raise NotAStore(message, path=target, hint="give the path of a new folder")
    try:
        manifest = msgspec.structs.replace(store.manifest, uuid=str(uuid.uuid4()))
        directory.begin_creation()
        with store.readers.reading() as environment:
            directory.rebuild(0, environment, manifest)
        _make_replicas(directory, manifest)
        directory.end_creation()
    except BaseException:
        directory.abandon_creation()
        raise
    finally:
        directory.release()


def _make_replicas(directory: FolderDirectory, manifest: Manifest) -> None:
    """Give the copy its new identity, and copy it to the other replicas.

    All replicas are of one commit: a later copy of a log may have been truncated beyond an earlier
    copy's end.
    """
    environment = directory.open_environment(0, durability="commit", readonly=False, check=False)
    try:
        batch = environment.begin()
        environment.table(HOST_TABLE).put(MANIFEST_KEY, encode(manifest))
        batch.commit()
        for number in range(1, manifest.replicas):
            directory.rebuild(number, environment, manifest)
    finally:
        environment.close()

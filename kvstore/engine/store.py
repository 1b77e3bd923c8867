"""A store that is open in this process: reading, group commit, syncing, forking, closing."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from kvstore.engine.cluster import Cluster
from kvstore.engine.commit_signal import CommitSignal
from kvstore.engine.group_commit import GroupCommit
from kvstore.engine.idempotency import Idempotency
from kvstore.engine.interrupts import uninterrupted
from kvstore.engine.manifest import Manifest
from kvstore.engine.open_replicas import find_manifest, stored_manifest
from kvstore.engine.options import Options
from kvstore.engine.readers import Readers, keep_for_ever
from kvstore.engine.recovery import open_for_writing
from kvstore.engine.request import PendingRequest
from kvstore.engine.store_directory import FolderDirectory, MemoryDirectory, StoreDirectory
from kvstore.eris.coordinator_replication import RECORD_KEY
from kvstore.eris.coordinator_state import CoordinatorRecord, decode_record
from kvstore.eris.log_tail import executed
from kvstore.eris.shard_state import HOST_TABLE, ShardRecord, record_key
from kvstore.eris.shard_state import decode_record as decode_shard
from kvstore.errors import AlreadyOpen, Corrupt, Damage, Error, Forked, ReadOnly, UsageError
from kvstore.execution.reentrancy import refuse_nested
from kvstore.ports import Environment
from kvstore.types import ShardId, Slot

LOOKS_AT_LEARNER, LOOK_AGAIN_S = 50, 0.02
LOOK_AT_VIEWS_S = 0.05
"""Who only reads looks so often whether another replica is the learner now."""
NO_RECORD = CoordinatorRecord()
AnyPath = str | os.PathLike[str]

_log = logging.getLogger("kvstore")
_open_stores: dict[tuple[int, int], Store] = {}
"""By device and inode of the folder, because LMDB must not open a file twice in one process."""
_living: weakref.WeakSet[Store] = weakref.WeakSet()
"""Those in memory, too."""
_inherited: dict[tuple[int, int], int] = {}
"""In a forked child: the stores its parent had open, and the parent's pid."""
_registering = threading.RLock()


class Store:
    """What all handles of a store share. Made by ``open_writer`` and ``open_reader``."""

    readers: Readers
    manifest: Manifest
    record: CoordinatorRecord
    environments: dict[int, Environment]
    commits_seen: CommitSignal

    def __init__(self, directory: StoreDirectory) -> None:
        self.directory = directory
        self.idempotency: Idempotency
        self.forked = False
        self.repaired: list[str] = []
        self._identity: tuple[int, int] | None = None
        self._closing = threading.Lock()
        self._closed = False

    def register(self) -> None:
        _living.add(self)
        if isinstance(self.directory, FolderDirectory):
            folder = os.stat(self.directory.path)
            self._identity = (folder.st_dev, folder.st_ino)
            _open_stores[self._identity] = self

    def close(self) -> None:
        """Close once; a second time, or in a forked child, does nothing."""
        refuse_nested()
        with uninterrupted():
            with self._closing:
                if self._closed or self.forked:
                    return
                self._closed = True
            try:
                self._close()
            finally:
                if self._identity is not None:
                    _open_stores.pop(self._identity, None)

    def _close(self) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        """In a forked child: everything inherited belongs to the parent."""
        self.forked = True
        path, pid = self.directory.path, os.getppid()

        def forked() -> Error:
            message = f"{path} was opened by process {pid}, before the fork"
            return Forked(message, path=path, pid=pid)

        self._refuse(forked)
        self.readers.forget()
        self.directory.forget()
        keep_for_ever(self)

    def _refuse(self, error: Callable[[], Error]) -> None:
        self.readers.refuse(error)

    def run(self, pending: PendingRequest, deadline: float | None = None) -> bool:
        """Return when the request is done, and raise its error; ``GroupCommit.run`` says more."""
        message = f"{self.directory.path} was opened with readonly=True"
        raise ReadOnly(message, path=self.directory.path)


class ReadingStore(Store):
    """A store opened to be read only: no lock, no epoch, no cluster."""

    def __init__(self, directory: StoreDirectory) -> None:
        super().__init__(directory)
        directory.prepare(create=False, readonly=True)
        self.manifest = find_manifest(directory)
        if self.manifest.region is not None:
            import_module("kvstore.execution.crdt.cells")  # so that records of a region can be decoded
        self.commits_seen = CommitSignal(announced=False)
        self.environments = {}
        self.damage: dict[int, Damage] = {}
        try:
            self._open_environments()
        except BaseException:
            self._close_environments()
            raise
        self._learner = self.record.view % self.manifest.replicas
        self._files = {number: directory.file_identity(number) for number in self.environments}
        """Which file of each replica was looked at last."""
        self._next_look = 0.0
        self._renewing = threading.Lock()
        self.readers = Readers(self.environments[self._learner], self._renew)
        self.idempotency = Idempotency(self.readers)

    def _renew(self) -> None:
        """Open the learner's file again when another was put in its place, by a compaction; and look now
        and then whether the views moved."""
        if self.forked:
            return  # a thread of the parent may have held the lock
        with suppress(OSError):
            looked = time.monotonic() < self._next_look
            if looked and self.directory.file_identity(self._learner) == self._files[self._learner]:
                return
        with uninterrupted(), self._renewing:
            if not self._closed:
                for number in range(self.manifest.replicas):
                    self._open_again(number)
                self._follow_view()
                self._next_look = time.monotonic() + LOOK_AT_VIEWS_S

    def _open_again(self, number: int) -> None:
        old = self.environments.get(number)
        try:
            found = self.directory.file_identity(number)
            if found == self._files.get(number):
                return
            if old is None:
                self._files[number] = found  # one that is damaged is not examined again and again
            environment = self._open(number)
        except (OSError, Damage):
            return  # it is just being replaced: the old one shows what it was until then
        self._files[number] = found
        self.environments[number] = environment
        if number == self._learner:
            self.readers.replace(environment)
        elif old is not None:
            self.readers.retire(old)

    def _follow_view(self) -> None:
        """Read where the learner of the newest record is, as soon as it began that view."""
        newest = self.record
        for environment in self.environments.values():
            with suppress(Damage):
                newest = max(newest, _record_in(environment), key=_age)
        learner = newest.view % self.manifest.replicas
        if learner == self._learner:
            self.record = newest
        elif learner in self.environments and _began(self.environments[learner], newest):
            self.record, self._learner = newest, learner
            self.readers.environment = self.environments[learner]  # it may be the old one again some day

    def _open_environments(self) -> None:
        for number in self.directory.numbers():
            try:
                self.environments[number] = self._open(number)
                self._check_identity(number)
            except Damage as error:
                self.damage[number] = error
        learner = self._find_learner()
        if learner not in self.environments:
            missing = Corrupt(f"{self.directory.path}: replica {learner} is missing")
            why = self.damage.get(learner) or missing
            why.hint = "open the store for writing once: that repairs what can be repaired"
            raise why

    def _check_identity(self, number: int) -> None:
        environment = self.environments[number]
        if stored_manifest(environment) != self.manifest:
            del self.environments[number]
            environment.close()
            message = f"{environment.location} does not hold this store's records"
            raise Corrupt(message, record=environment.location)

    def _open(self, number: int) -> Environment:
        return self.directory.open_environment(number, durability="commit", readonly=True, check=False)

    def _find_learner(self) -> int:
        """The learner of the newest record. One whose own record is older shows an older state.

        A writer that is opening the store passes that moment too, so it is looked at for a while.
        """
        for _ in range(LOOKS_AT_LEARNER):
            records = {number: _record_in(found) for number, found in self.environments.items()}
            self.record = newest = max(records.values(), key=_age, default=NO_RECORD)
            learner = newest.view % self.manifest.replicas
            if records.get(learner, newest).last_started == newest.last_started:
                return learner
            time.sleep(LOOK_AGAIN_S)
        stale = self.environments.pop(learner)
        stale.close()
        self.damage[learner] = Corrupt(f"{stale.location} is older than the others", record=stale.location)
        return learner

    def _close(self) -> None:
        self.readers.close()
        with self._renewing:
            self._close_environments()

    def _close_environments(self) -> None:
        for environment in self.environments.values():
            environment.close()


class WritingStore(Store):
    """A store opened for writing: one epoch, from this opening to the next."""

    def __init__(
        self,
        directory: StoreDirectory,
        options: Options,
        *,
        sync_interval_ms: int,
    ) -> None:
        super().__init__(directory)
        opened = open_for_writing(directory, options)
        self.manifest = opened.found.manifest
        self.options = options
        self.repaired = opened.found.repaired
        for sentence in self.repaired:
            _log.warning("%s: %s", directory.path, sentence)
        self.cluster = Cluster(opened, self._end_leases)
        self.readers = Readers(opened.learner.environment)
        self.commits_seen = CommitSignal(announced=True)
        self.commits = GroupCommit(self.cluster, self.readers, self.commits_seen)
        self.run = self.commits.run  # type: ignore[method-assign]  # a put has one call less to make
        try:
            self.cluster.release_dead()
            self.commits.follow_learner()
        except BaseException:
            self.readers.close()
            self.cluster.close()
            raise
        self.idempotency = Idempotency(self.readers)
        self.procedures_failed = 0
        """Calls of this opening that had a part which raised."""
        self._synced_groups = self.cluster.groups
        self._synced_end = self._end() if options.durability == "interval" else None
        self._stop_syncing = threading.Event()
        self._syncer: threading.Thread | None = None
        if options.durability == "interval":
            self._start_syncer(sync_interval_ms / 1000)

    @property
    def record(self) -> CoordinatorRecord:  # type: ignore[override]  # views move while it is open
        return self.cluster.opened.record

    @property
    def environments(self) -> dict[int, Environment]:  # type: ignore[override]  # a failed host may go
        return {number: host.environment for number, host in self.cluster.opened.hosts.items()}

    def _end_leases(self) -> None:
        self.commits.without_requests(self.cluster.end_leases)

    def _refuse(self, error: Callable[[], Error]) -> None:
        super()._refuse(error)
        self.commits.refuse(error)

    def _start_syncer(self, seconds: float) -> None:
        # Holds the store weakly, so that one that was forgotten can be collected and closed.
        store = weakref.ref(self)
        stop = self._stop_syncing

        def sync_again_and_again() -> None:
            while not stop.wait(seconds):
                living = store()
                if living is None:
                    return
                living.sync()
                del living

        self._syncer = threading.Thread(target=sync_again_and_again, name="kvstore-sync", daemon=True)
        self._syncer.start()

    def sync(self) -> None:
        """Make every commit durable, unless nothing was committed since the last time."""
        if self._synced_groups != self.cluster.groups:
            self.commits.without_requests(self._sync)

    def _sync(self) -> list[PendingRequest]:
        groups, end = self.cluster.groups, self._end()
        done = self.cluster.sync()
        self._synced_groups, self._synced_end = groups, end
        return done

    def _end(self) -> list[Slot]:
        """By shard, the end of what is resolved."""
        with self.readers.viewing() as view:
            return executed(view, self.manifest.shards)

    def synced_end(self) -> list[Slot] | None:
        """The same of what is on disk; None where all that can be seen is (contracts D2)."""
        return self._synced_end

    def _close(self) -> None:
        self._stop_syncing.set()
        if self._syncer is not None:
            self._syncer.join()
        self.commits.close()
        self.readers.close()
        self.commits_seen.announce()
        self.cluster.close()


def _record_in(environment: Environment) -> CoordinatorRecord:
    stored = environment.read(HOST_TABLE, RECORD_KEY)
    return NO_RECORD if stored is None else decode_record(stored)


def _age(record: CoordinatorRecord) -> tuple[int, int]:
    return record.epoch, record.counter


def _began(environment: Environment, record: CoordinatorRecord) -> bool:
    """Whether its replicas are in the view of this record; before that they may show an older state."""
    stored = environment.read(HOST_TABLE, record_key(ShardId(0)))  # all shards of a host begin it at once
    shard = ShardRecord() if stored is None else decode_shard(stored)
    return (shard.last_normal_epoch, shard.normal_view) == (record.last_started, record.view)


def directory_at(path: AnyPath) -> StoreDirectory:
    """Where the store of this path lives."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise UsageError(f"a path is a str or a PathLike of str, not {type(text).__name__}")
    if "\0" in text:
        raise UsageError(f"a path has no NUL in it: {text!r}")
    return MemoryDirectory() if text == MemoryDirectory.path else FolderDirectory(os.path.abspath(text))


def open_store(directory: StoreDirectory, make: Callable[[StoreDirectory], Any]) -> Any:
    """Open by ``make`` and remember it. Raises ``AlreadyOpen`` and whatever ``make`` does."""
    with _registering:
        if isinstance(directory, FolderDirectory) and os.path.isdir(directory.path):
            _refuse_second_opening(directory.path)
        store = make(directory)
        store.register()
        return store


def _refuse_second_opening(path: str) -> None:
    folder = os.stat(path)
    identity = folder.st_dev, folder.st_ino
    if identity in _open_stores:
        raise AlreadyOpen(f"{path} is open in this process already", path=path)
    if identity in _inherited:
        pid = _inherited[identity]
        message = f"{path} was open in process {pid} when this process was forked from it"
        raise Forked(message, hint="use another start method, such as spawn", path=path, pid=pid)


def _close_all() -> None:
    for store in list(_open_stores.values()):
        store.close()


def _forget_all() -> None:
    _registering._at_fork_reinit()  # type: ignore[attr-defined]  # a thread of the parent may have held it
    for store in list(_living):
        store.forget()
    _inherited.update(dict.fromkeys(_open_stores, os.getppid()))
    _open_stores.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)

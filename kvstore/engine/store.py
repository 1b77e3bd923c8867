"""An open store: reading, group commit, syncing, forking, closing."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable

from kvstore.engine.cluster import Cluster
from kvstore.engine.commit_signal import CommitSignal
from kvstore.engine.group_commit import GroupCommit
from kvstore.engine.idempotency import Idempotency
from kvstore.engine.interrupts import uninterrupted
from kvstore.engine.leases import TimedLeases
from kvstore.engine.manifest import Manifest
from kvstore.engine.options import Options
from kvstore.engine.readers import Readers, keep_for_ever
from kvstore.engine.recovery import open_for_writing
from kvstore.engine.request import PendingRequest
from kvstore.engine.store_directory import StoreDirectory
from kvstore.eris.coordinator_state import CoordinatorRecord
from kvstore.eris.log_tail import executed
from kvstore.errors import Error, Forked, ReadOnly
from kvstore.execution.reentrancy import refuse_nested
from kvstore.ports import Environment
from kvstore.types import Slot

_log = logging.getLogger("kvstore")


class Store:
    """An open store, which its database, snapshots and watches share."""

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
        self.on_closed: Callable[[], object] | None = None
        """Callback for the end of the store; afterwards its folder may be opened again in this process."""
        self._closing = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Close the store. Does nothing the second time, or in a forked child."""
        refuse_nested()
        with uninterrupted():
            with self._closing:
                if self._closed or self.forked:
                    return
                self._closed = True
            try:
                self._close()
            finally:
                if self.on_closed is not None:
                    self.on_closed()

    def _close(self) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        """Abandon everything inherited in a forked child, where it belongs to the parent."""
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
        """Raise ``ReadOnly``. A store opened for writing replaces this method by ``GroupCommit.run``."""
        message = f"{self.directory.path} was opened with readonly=True"
        raise ReadOnly(message, path=self.directory.path)


class WritingStore(Store):
    """A store opened for writing: one epoch, which lasts until the next opening."""

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
        self.cluster = Cluster(opened, TimedLeases(self._end_leases))
        self.readers = Readers(opened.learner.environment)
        self.commits_seen = CommitSignal(announced=True)
        self.commits = GroupCommit(self.cluster, self.readers, self.commits_seen)
        self.run = self.commits.run  # type: ignore[method-assign]  # saves each put one call
        try:
            self.cluster.release_dead()
            self.commits.follow_learner()
        except BaseException:
            self.readers.close()
            self.cluster.close()
            raise
        self.idempotency = Idempotency(self.readers)
        self.procedures_failed = 0
        """Number of procedure calls since the opening of which a part raised."""
        self._synced_groups = self.cluster.groups
        self._synced_end = self._end() if options.durability == "interval" else None
        self._stop_syncing = threading.Event()
        self._syncer: threading.Thread | None = None
        if options.durability == "interval":
            self._start_syncer(sync_interval_ms / 1000)

    @property
    def record(self) -> CoordinatorRecord:  # type: ignore[override]  # a failover changes the view
        return self.cluster.opened.record

    @property
    def environments(self) -> dict[int, Environment]:  # type: ignore[override]  # a failed host is removed
        return {number: host.environment for number, host in self.cluster.opened.hosts.items()}

    def _end_leases(self) -> None:
        self.commits.without_requests(self.cluster.end_leases)

    def _refuse(self, error: Callable[[], Error]) -> None:
        super()._refuse(error)
        self.commits.refuse(error)

    def _start_syncer(self, seconds: float) -> None:
        # A weak reference, so that an abandoned store can be collected and closed.
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
        """Make every commit durable, unless nothing was committed since the last sync."""
        if self._synced_groups != self.cluster.groups:
            self.commits.without_requests(self._sync)

    def _sync(self) -> list[PendingRequest]:
        groups, end = self.cluster.groups, self._end()
        done = self.cluster.sync()
        self._synced_groups, self._synced_end = groups, end
        return done

    def _end(self) -> list[Slot]:
        """Return the last resolved slot of each shard."""
        with self.readers.viewing() as view:
            return executed(view, self.manifest.shards)

    def synced_end(self) -> list[Slot] | None:
        """Return each shard's last durable slot; None if every visible commit is durable (contracts D2)."""
        return self._synced_end

    def _close(self) -> None:
        self._stop_syncing.set()
        if self._syncer is not None:
            self._syncer.join()
        self.commits.close()
        self.readers.close()
        self.commits_seen.announce()
        self.cluster.close()

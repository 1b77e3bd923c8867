"""A read-only store, beside a process that may be writing it."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from importlib import import_module

from kvstore.engine.commit_signal import CommitSignal
from kvstore.engine.idempotency import Idempotency
from kvstore.engine.interrupts import uninterrupted
from kvstore.engine.open_replicas import find_manifest, stored_manifest
from kvstore.engine.readers import Readers
from kvstore.engine.store import Store
from kvstore.engine.store_directory import StoreDirectory
from kvstore.eris.coordinator_replication import RECORD_KEY
from kvstore.eris.coordinator_state import CoordinatorRecord, decode_record
from kvstore.eris.shard_state import HOST_TABLE, ShardRecord, record_key
from kvstore.eris.shard_state import decode_record as decode_shard
from kvstore.errors import Corrupt, Damage
from kvstore.ports import Environment
from kvstore.types import ShardId

LOOKS_AT_LEARNER, LOOK_AGAIN_S = 50, 0.02
LOOK_AT_VIEWS_S = 0.05
"""Seconds between two checks of a read-only store for a new learner."""
NO_RECORD = CoordinatorRecord()


class ReadingStore(Store):
    """A store opened read-only: without lock, epoch and cluster."""

    def __init__(self, directory: StoreDirectory) -> None:
        super().__init__(directory)
        directory.prepare(create=False, readonly=True)
        self.manifest = find_manifest(directory)
        if self.manifest.region is not None:
            import_module("kvstore.execution.crdt.cells")  # registers the decoding of a region's cells
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
        """Identity of the file last examined, by replica number."""
        self._next_look = 0.0
        self._renewing = threading.Lock()
        self.readers = Readers(self.environments[self._learner], self._renew)
        self.idempotency = Idempotency(self.readers)

    def _renew(self) -> None:
        """Reopen the learner's file if a compaction has replaced it; check now and then for a new view."""
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
                self._files[number] = found  # a damaged file is not examined again
            environment = self._open(number)
        except (OSError, Damage):
            return  # the file is being replaced; keep reading the old one until the new one can be opened
        self._files[number] = found
        self.environments[number] = environment
        if number == self._learner:
            self.readers.replace(environment)
        elif old is not None:
            self.readers.retire(old)

    def _follow_view(self) -> None:
        """Read from the learner of the newest record, once that learner has begun its view."""
        newest = self.record
        for environment in self.environments.values():
            with suppress(Damage):
                newest = max(newest, _record_in(environment), key=_age)
        learner = newest.view % self.manifest.replicas
        if learner == self._learner:
            self.record = newest
        elif learner in self.environments and _began(self.environments[learner], newest):
            self.record, self._learner = newest, learner
            self.readers.environment = self.environments[learner]  # replace() would close it

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
        """Return the learner of the newest record, if its own record is as new; otherwise its state is older.

        While a writer opens the store the learner's record is older for a moment, so try for a while.
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
        self.damage[learner] = Corrupt(
            f"{stale.location} is older than the other replicas", record=stale.location
        )
        return learner

    def _close(self) -> None:
        self.readers.close()
        with self._renewing:
            self._close_environments()

    def _close_environments(self) -> None:
        for environment in self.environments.values():
            environment.close()


def _record_in(environment: Environment) -> CoordinatorRecord:
    stored = environment.read(HOST_TABLE, RECORD_KEY)
    return NO_RECORD if stored is None else decode_record(stored)


def _age(record: CoordinatorRecord) -> tuple[int, int]:
    return record.epoch, record.counter


def _began(environment: Environment, record: CoordinatorRecord) -> bool:
    """Return whether the environment's replicas are in this record's view; before, their state may be old."""
    stored = environment.read(HOST_TABLE, record_key(ShardId(0)))  # all shards of a host begin a view at once
    shard = ShardRecord() if stored is None else decode_shard(stored)
    return (shard.last_normal_epoch, shard.normal_view) == (record.last_started, record.view)

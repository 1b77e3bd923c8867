"""Opening a store is an epoch change (contracts B1, B2).

    1. Every environment that can be opened is (``open_replicas.py``); a majority must be whole.
    2. The newest coordinator record counts. A START-EPOCH that it saved, but that a crash kept from
       some replicas, is delivered to them first.
    3. A new epoch. Its number is kept by a majority before anything is written under it, or an opening
       that reached one environment only could give the same number another meaning. Then every replica
       shows what is not known to be at a quorum, the coordinator combines it, and every replica begins
       with the same log. So what a crash left on one replica or one shard and not on another is
       completed or dropped, the same everywhere.
    4. Environments without a vote are rebuilt from the learner.

With one environment all of it is one commit. With several, START-EPOCH is saved by a commit of its own
when it completes somebody's log; otherwise there is nothing to save before it is adopted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from kvstore.engine.host import Host
from kvstore.engine.open_replicas import OpenReplicas, create, open_replicas
from kvstore.engine.options import Options
from kvstore.engine.store_directory import StoreDirectory, naming
from kvstore.eris.coordinator_state import CoordinatorRecord
from kvstore.eris.effects import Effect, ReplicaAddress, Send
from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.messages import EpochChange, EpochChangeAck, StartEpoch
from kvstore.errors import Corrupt, Damage, Failed, OutcomeUnknown
from kvstore.types import Epoch, ShardId, Slot

COMPLETED_MAX = 10_000
"""Slots a replica may be behind and still be completed from the others' logs."""


@dataclass
class Opened:
    """A store in a new epoch, all its replicas whole."""

    directory: StoreDirectory
    found: OpenReplicas
    record: CoordinatorRecord

    @property
    def hosts(self) -> dict[int, Host]:
        return self.found.hosts

    @property
    def learner(self) -> Host:
        """The host of the designated learner of every shard (contracts A2)."""
        return self.hosts[self.record.view % self.found.manifest.replicas]


def open_for_writing(directory: StoreDirectory, options: Options) -> Opened:
    """Lock, open, repair, and begin a new epoch. On any error all is closed and unlocked again.

    Raises:
        NoParent, NotAStore, WrongFormat, WrongShape, Locked: nothing was changed. What the system
            itself refuses (a name too long, no permission) is ``NotAStore`` too.
        Corrupt: fewer than a majority of the environments are whole.
        DiskFull: there is no room for the commit of the new epoch.
    """
    with naming(directory.path, "cannot be opened"):
        try:
            if not directory.prepare(create=options.create, readonly=False):
                create(directory, options)
            found = open_replicas(directory, options)
            try:
                return _start(directory, found)
            except BaseException:
                found.close()
                raise
        except BaseException:
            directory.release()
            raise


def _start(directory: StoreDirectory, found: OpenReplicas) -> Opened:
    found.require_majority()
    found.move_foreign_aside()
    for host in found.hosts.values():
        host.environment.expect(0, 4 * found.manifest.shards)
    record = _finish_last_start(found)
    _lose_those_behind(found, record.last_started)
    learner = None
    while learner not in found.hosts:  # again, if the learner chosen could not begin the epoch
        record = _change_epoch(found, record)
        _lose_those_behind(found, record.last_started)
        learner = record.view % found.manifest.replicas
    opened = Opened(directory, found, record)
    _rebuild_lost(opened)
    return opened


def _lose_those_behind(found: OpenReplicas, started: Epoch) -> None:
    """A replica that could not begin the last epoch lacks what a quorum holds: it has no vote."""
    for number, host in list(found.hosts.items()):
        if any(replica.record.last_normal_epoch != started for replica in host.replicas):
            location = host.environment.location
            found.lose(number, Corrupt(f"{location} lacks records that a quorum holds", record=location))
    found.require_majority()


def _finish_last_start(found: OpenReplicas) -> CoordinatorRecord:
    """Deliver a saved START-EPOCH to replicas that a crash kept it from (step 2)."""
    records = []
    for host in found.hosts.values():
        host.begin()
        records.append(host.coordinator_record())
        host.abort()
    # The one that knows of the last start; a higher number that was only promised started nothing.
    newest = max(records, key=lambda record: (record.last_started, record.epoch, record.counter))
    newest = msgspec.structs.replace(newest, epoch=max(record.epoch for record in records))
    _each(found, lambda host: _deliver_saved(host, newest))
    return newest


def _deliver_saved(host: Host, newest: CoordinatorRecord) -> None:
    if any(replica.record.last_normal_epoch < newest.last_started for replica in host.replicas):
        _commit(host, newest, newest.start_epochs)


def _commit(host: Host, record: CoordinatorRecord, messages: Iterable[StartEpoch]) -> None:
    host.begin()
    _finish(host, record, messages)


def _finish(host: Host, record: CoordinatorRecord, messages: Iterable[StartEpoch]) -> None:
    host.handle((message.shard, message) for message in messages)
    host.save_coordinator_record(record)
    host.finish()
    host.commit()
    host.environment.sync()


def _change_epoch(found: OpenReplicas, newest: CoordinatorRecord) -> CoordinatorRecord:
    """Step 3, by the protocol's own roles; returns the record of the epoch that began."""
    hosts = found.hosts
    epoch = Epoch(1 + max(newest.epoch, *_epochs(hosts.values())))
    if found.manifest.replicas > 1:
        promised = msgspec.structs.replace(newest, epoch=epoch, counter=1)
        _each(found, lambda host: _commit(host, promised, ()))
    consulted = frozenset(replica.address for host in hosts.values() for replica in host.replicas)
    coordinator = FailureCoordinator(
        record=newest,
        shards=found.manifest.shards,
        replicas=found.manifest.replicas,
        consulted=consulted,
    )
    asked = coordinator.begin(epoch, _ends_of_those_behind(found))
    starts: list[Effect] = []
    for host in hosts.values():
        host.begin()
        for ack in host.handle(_messages_to(host, asked)):
            assert isinstance(ack.message, EpochChangeAck)
            starts += coordinator.handle(ack.message)
    started = coordinator.record
    assert len(starts) == len(consulted), "every consulted replica begins the epoch"
    adopt_now = len(hosts) == 1 or not any(start.entries for start in started.start_epochs)
    messages = started.start_epochs if adopt_now else ()
    _each(found, lambda host: _finish(host, started, messages))
    if not adopt_now:
        _each(found, lambda host: _commit(host, started, started.start_epochs))
    return started


def _messages_to(host: Host, asked: list[Effect]) -> Iterator[tuple[ShardId, EpochChange]]:
    for send in asked:
        assert isinstance(send, Send)
        assert isinstance(send.to, ReplicaAddress)
        assert isinstance(send.message, EpochChange)
        if send.to.replica == host.number:
            yield send.to.shard, send.message


def _ends_of_those_behind(found: OpenReplicas) -> dict[ShardId, Slot]:
    """Where the shortest log of each shard ends that the longer ones can still complete.

    One that is far behind is cheaper to rebuild, unless there is no majority without it.
    """
    ends: dict[ShardId, Slot] = {}
    majority = found.manifest.replicas // 2 + 1
    for shard in map(ShardId, range(found.manifest.shards)):
        lasts = sorted((host.replicas[shard].last_slot for host in found.hosts.values()), reverse=True)
        near = [last for last in lasts if lasts[0] - last <= COMPLETED_MAX]
        ends[shard] = min(lasts[majority - 1], near[-1])
    return ends


def _each(found: OpenReplicas, commit: Callable[[Host], None]) -> None:
    """Commit on every host; one whose disk refuses loses its vote, as long as a majority is left."""
    for number, host in list(found.hosts.items()):
        try:
            commit(host)
        except (OutcomeUnknown, Failed) as error:
            if found.manifest.replicas == 1:
                raise
            location = host.environment.location
            found.lose(number, Failed(f"{location} failed at the opening: {error.args[0]}"))
    found.require_majority()


def _epochs(hosts: Iterable[Host]) -> list[Epoch]:
    return [replica.record.epoch for host in hosts for replica in host.replicas]


def _rebuild_lost(opened: Opened) -> None:
    """Step 4: a copy of the learner's last commit, put in place by a rename."""
    found, source = opened.found, opened.learner
    for number, why in sorted(found.lost.items()):
        try:
            opened.directory.rebuild(number, source.environment, found.manifest)
            found.hosts[number] = found.open_replica(number)
        except (OSError, Damage) as error:
            # The store has its majority and goes on without this one until the next opening.
            found.repaired.append(f"replica {number}: {why.args[0]}; not rebuilt: {error}")
        else:
            del found.lost[number]
            found.repaired.append(f"replica {number}: {why.args[0]}; rebuilt from replica {source.number}")

"""Recovery: opening a store is an epoch change (contracts B1, B2).

    1. Every environment that can be opened is opened (``open_replicas.py``); a majority must be whole.
    2. The newest coordinator record is chosen. If a crash kept its saved START-EPOCH from some replicas,
        the message is delivered to these replicas first.
    3. A new epoch begins. A majority saves its number before anything is written under it; otherwise an
        opening that reached one environment only could give that number a second meaning. Then every
        replica reports what is not known to be at a quorum, the coordinator combines the reports, and
        all replicas of a shard begin with one log. So a transaction that a crash left on some replicas
        or shards only is completed on all of them, or dropped on all of them.
    4. Environments without a vote are rebuilt from the learner.

With one environment the whole recovery is one commit. With several, START-EPOCH is saved by a commit of
its own if it completes a replica's log; otherwise there is nothing to save before it is adopted.
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
"""Most slots that a replica may be behind and still be completed from the others' logs."""


@dataclass
class Opened:
    """A store in a new epoch, with the hosts that began it."""

    directory: StoreDirectory
    found: OpenReplicas
    record: CoordinatorRecord

    @property
    def hosts(self) -> dict[int, Host]:
        return self.found.hosts

    @property
    def learner(self) -> Host:
        """The host of every shard's designated learner (contracts A2)."""
        return self.hosts[self.record.view % self.found.manifest.replicas]


def open_for_writing(directory: StoreDirectory, options: Options) -> Opened:
    """Lock, open and repair the store, and begin a new epoch. On any error, close and unlock the store.

    Raises:
        NoParent, NotAStore, WrongFormat, WrongShape, Locked: nothing was changed. A path that the system
        refuses (a name too long, no permission) raises ``NotAStore`` too.
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
    while learner not in found.hosts:  # again, if the chosen learner could not begin the epoch
        record = _change_epoch(found, record)
        _lose_those_behind(found, record.last_started)
        learner = record.view % found.manifest.replicas
    opened = Opened(directory, found, record)
    _rebuild_lost(opened)
    return opened


def _lose_those_behind(found: OpenReplicas, started: Epoch) -> None:
    """Remove the vote of replicas that did not begin the last epoch: they lack what a quorum holds."""
    for number, host in list(found.hosts.items()):
        if any(replica.record.last_normal_epoch != started for replica in host.replicas):
            location = host.environment.location
            found.lose(number, Corrupt(f"{location} lacks records that a quorum holds", record=location))
    found.require_majority()


def _finish_last_start(found: OpenReplicas) -> CoordinatorRecord:
    """Deliver a saved START-EPOCH to the replicas that a crash kept it from (step 2); return the record."""
    records = []
    for host in found.hosts.values():
        host.begin()
        records.append(host.coordinator_record())
        host.abort()
    # The record with the last started epoch; a higher number that was only promised started nothing.
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
    """Do step 3 with the protocol's own roles; return the record of the new epoch."""
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
    """Return, by shard, the last slot of the shortest log that the longer logs are to complete.

    A replica that is far behind is cheaper to rebuild, unless there is no majority without it.
    """
    ends: dict[ShardId, Slot] = {}
    majority = found.manifest.replicas // 2 + 1
    for shard in map(ShardId, range(found.manifest.shards)):
        lasts = sorted((host.replicas[shard].last_slot for host in found.hosts.values()), reverse=True)
        near = [last for last in lasts if lasts[0] - last <= COMPLETED_MAX]
        ends[shard] = min(lasts[majority - 1], near[-1])
    return ends


def _each(found: OpenReplicas, commit: Callable[[Host], None]) -> None:
    """Commit on every host; remove the vote of a host whose disk fails, while a majority is left."""
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
    """Do step 4: rename a copy of the learner's last commit into each lost replica's place."""
    found, source = opened.found, opened.learner
    for number, why in sorted(found.lost.items()):
        try:
            opened.directory.rebuild(number, source.environment, found.manifest)
            found.hosts[number] = found.open_replica(number)
        except (OSError, Damage) as error:
            # The store has its majority and continues without this replica until the next opening.
            found.repaired.append(f"replica {number}: {why.args[0]}; not rebuilt: {error}")
        else:
            del found.lost[number]
            found.repaired.append(f"replica {number}: {why.args[0]}; rebuilt from replica {source.number}")

"""Opening a store is an epoch change (contracts B1, B2).

    1. Every environment that can be opened is (``finding.py``); a majority must be whole.
    2. The newest coordinator record counts. A START-EPOCH that it saved, but that a crash kept from
       some replicas, is delivered to them first.
    3. A new epoch: every replica shows what is not yet known to be at a quorum, the coordinator
       combines it, and every replica begins with the same log. So what a crash left on one replica
       or one shard and not on another is completed or dropped, the same everywhere.
    4. Environments without a vote are rebuilt from the learner.

With one environment, or after a clean close, steps 2 and 3 are one commit: no log changes, so there
is nothing to save before it is adopted. Otherwise START-EPOCH is saved by a commit of its own.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kvstore.drivers.finding import Found, Options, create, find
from kvstore.drivers.home import Home
from kvstore.drivers.host import Host
from kvstore.eris.effects import Effect, Send
from kvstore.eris.failure_coordinator import CoordinatorRecord, FailureCoordinator
from kvstore.eris.messages import EpochChange, EpochChangeAck, StartEpoch
from kvstore.errors import Corrupt, Damage, DiskFull, Error, Failed, OutcomeUnknown
from kvstore.types import Epoch, ShardId

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Opened:
    """A store in a new epoch, all its replicas whole."""

    home: Home
    found: Found
    record: CoordinatorRecord

    @property
    def hosts(self) -> dict[int, Host]:
        return self.found.hosts

    @property
    def learner(self) -> Host:
        """The host of the designated learner of every shard (contracts A2)."""
        return self.hosts[self.record.view % self.found.manifest.replicas]


def open_for_writing(home: Home, options: Options) -> Opened:
    """Lock, open, repair, and begin a new epoch. On any error all is closed and unlocked again.

    Raises:
        NoParent, NotAStore, WrongFormat, WrongShape, Locked: nothing was changed.
        Corrupt: fewer than a majority of the environments are whole.
        DiskFull: there is no room for the commit of the new epoch.
    """
    try:
        if not home.prepare(create=options.create, readonly=False):
            create(home, options)
        found = find(home, options)
        try:
            return _start(home, found)
        except BaseException:
            found.close()
            raise
    except BaseException as error:
        home.release()
        if isinstance(error, OSError) and error.errno in NO_ROOM and not isinstance(error, Error):
            raise DiskFull(f"{home.path}: {error}", path=home.path) from error
        raise


def _start(home: Home, found: Found) -> Opened:
    found.require_majority()
    for host in found.hosts.values():
        host.environment.expect(0, 4 * found.manifest.shards)
    record = _finish_last_start(found)
    _lose_those_behind(found, record.last_started)
    learner = None
    while learner not in found.hosts:  # again, if the learner chosen could not begin the epoch
        record = _change_epoch(found, record)
        _lose_those_behind(found, record.last_started)
        learner = record.view % found.manifest.replicas
    opened = Opened(home, found, record)
    _rebuild_lost(opened)
    return opened


def _lose_those_behind(found: Found, started: Epoch) -> None:
    """A replica that could not begin the last epoch lacks what a quorum holds: it has no vote."""
    for number, host in list(found.hosts.items()):
        if any(replica.record.last_normal_epoch != started for replica in host.replicas):
            location = host.environment.location
            found.lose(number, Corrupt(f"{location} lacks records that a quorum holds", record=location))
    found.require_majority()


def _finish_last_start(found: Found) -> CoordinatorRecord:
    """Deliver a saved START-EPOCH to replicas that a crash kept it from (step 2)."""
    newest = CoordinatorRecord()
    for host in found.hosts.values():
        host.begin()
        newest = max(newest, host.coordinator_record(), key=lambda record: (record.epoch, record.counter))
        host.abort()
    _each(found, lambda host: _deliver_saved(host, newest))
    return newest


def _deliver_saved(host: Host, newest: CoordinatorRecord) -> None:
    if any(replica.record.last_normal_epoch < newest.last_started for replica in host.replicas):
        _commit(host, newest, newest.start_epochs)


def _commit(host: Host, record: CoordinatorRecord, messages: Iterable[StartEpoch]) -> None:
    host.begin()
    _finish(host, record, messages)


def _finish(host: Host, record: CoordinatorRecord, messages: Iterable[StartEpoch]) -> None:
    _handle(host, messages)
    host.save_coordinator_record(record)
    host.finish()
    host.commit()
    host.environment.sync()


def _handle(host: Host, messages: Iterable[StartEpoch | EpochChange]) -> list[Send]:
    """Give each message to the replica it is for; EPOCH-CHANGE is for all."""
    outbox: list[Send] = []
    for message in messages:
        shards = [message.shard] if isinstance(message, StartEpoch) else range(len(host.replicas))
        outbox += host.handle((ShardId(shard), message) for shard in shards)
    return outbox


def _change_epoch(found: Found, newest: CoordinatorRecord) -> CoordinatorRecord:
    """Step 3, by the protocol's own roles; returns the record of the epoch that began."""
    hosts = found.hosts
    coordinator = FailureCoordinator(
        record=newest,
        shards=found.manifest.shards,
        replicas=found.manifest.replicas,
        consulted=frozenset(replica.address for host in hosts.values() for replica in host.replicas),
    )
    coordinator.begin(Epoch(1 + max(newest.epoch, *_epochs(hosts.values()))))
    change = EpochChange(coordinator.record.epoch)
    starts: list[Effect] = []
    for host in hosts.values():
        host.begin()
        for ack in _handle(host, [change]):
            assert isinstance(ack.message, EpochChangeAck)
            starts += coordinator.handle(ack.message)
    started = coordinator.record
    assert len(starts) == len(coordinator.consulted), "every consulted replica begins the epoch"
    adopt_now = len(hosts) == 1 or not any(start.entries for start in started.start_epochs)
    messages = started.start_epochs if adopt_now else ()
    _each(found, lambda host: _finish(host, started, messages))
    if not adopt_now:
        _each(found, lambda host: _commit(host, started, started.start_epochs))
    return started


def _each(found: Found, commit: Callable[[Host], None]) -> None:
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
            opened.home.rebuild(number, source.environment, found.manifest)
            found.hosts[number] = found.open_replica(number)
        except (OSError, Damage) as error:
            # The store has its majority and goes on without this one until the next opening.
            found.repaired.append(f"replica {number}: {why.args[0]}; not rebuilt: {error}")
        else:
            del found.lost[number]
            found.repaired.append(f"replica {number}: {why.args[0]}; rebuilt from replica {source.number}")

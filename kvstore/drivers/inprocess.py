"""The in-process driver: sequencer, client and all hosts of one store in one process.

A group is a handful of steps (contracts A4):

    1. The client sends, the sequencer stamps; every host gets the stamped transactions.
    2. Followers log them in parallel, each on its own thread; the learner logs and executes them on
       the leader's thread.
    3. After f followers committed, the learner commits; then all replies leave, and the client
       answers the callers. So whatever the learner's environment shows stands at a quorum.

No message is lost between objects of one process, so the timers that guard against it never fire.
"""

from __future__ import annotations

import copy
import threading
import time
from contextlib import ExitStack

from kvstore.drivers.follower import Follower
from kvstore.drivers.group_commit import Pending
from kvstore.drivers.host import Host
from kvstore.drivers.recovery import Opened
from kvstore.eris.client import Client
from kvstore.eris.effects import GroupAddress, ReplicaAddress, Send
from kvstore.eris.messages import Answer, ReplicaMessage, Reply, Request, Stamped, SyncReply
from kvstore.eris.sequencer import Sequencer
from kvstore.errors import Error, Failed, OutcomeUnknown
from kvstore.types import ClientId, RequestId, ShardId, Timestamp


class Cluster:
    """One epoch of one store. ``process`` is called by one thread at a time."""

    def __init__(self, opened: Opened) -> None:
        manifest, epoch = opened.found.manifest, opened.record.epoch
        self.opened = opened
        self.learner: Host = opened.learner
        self.replicas = manifest.replicas
        self.failure: BaseException | None = None
        """Why writes are refused until the store is opened again."""
        self.learner_failed = False
        clock = max(replica.record.clock for replica in self.learner.replicas)
        self.sequencer = Sequencer(epoch=epoch, shards=manifest.shards, clock=clock)
        self.client = Client(client=ClientId(epoch), replicas=manifest.replicas)
        self._waiting: dict[RequestId, Pending] = {}
        self._changed = threading.Condition()
        self._committed: dict[int, int] = {}
        """Batches each follower has finished, successfully or not."""
        self._arrived: list[Send] = []
        """What followers sent since the last group."""
        self._later: list[tuple[ShardId, int, ReplicaMessage]] = []
        """What the learner sends to followers with the next group."""
        self.followers = self._start_followers()
        self._given = 0

    def _start_followers(self) -> list[Follower]:
        others = (host for host in self.opened.hosts.values() if host is not self.learner)
        return [Follower(host, self._report) for host in others]

    def process(self, group: list[Pending]) -> None:
        """Answer every request of the group, or give it an error. Never raises."""
        try:
            self._process(group)
        except Exception as error:
            for pending in group:
                if pending.answer is None:
                    pending.error = _twin(error)
        self._waiting.clear()

    def _process(self, group: list[Pending]) -> None:
        if self.failure is not None:
            raise Failed(f"the store failed earlier: {self.failure}") from self.failure
        self._expect(group)
        try:
            outbox = self._commit_group(self._stamp(group))
            self._answer(outbox)
        except Exception as error:
            # The roles' memory is ahead of the disk now: they are rebuilt by the next opening (A5).
            self.failure = error
            raise

    def _expect(self, group: list[Pending]) -> None:
        """Raise ``DiskFull``, before anything is stamped, where there is no room for the group."""
        size = weight = 0
        for pending in group:
            size += pending.size
            weight += pending.weight
        # A body goes into the log, and its values into the tables.
        size, records = 2 * size, 2 * weight + 2 * self.sequencer.shards
        self.learner.environment.expect(size, records)
        for follower in self.followers:
            if follower.failure is None:
                follower.host.environment.expect(size, records)

    def _stamp(self, group: list[Pending]) -> list[tuple[ShardId, ReplicaMessage]]:
        inbox: list[tuple[ShardId, ReplicaMessage]] = []
        client, sequencer = self.client, self.sequencer
        for pending in group:
            request = client.submit(pending.operations, pending.token, pending.call)[0]
            self._waiting[client.last_request] = pending
            assert type(request) is Send
            assert type(request.message) is Request
            for send in sequencer.handle(request.message, Timestamp(time.time_ns())):
                assert type(send) is Send
                assert type(send.to) is GroupAddress
                assert type(send.message) is Stamped
                inbox.append((send.to.shard, send.message))
        return inbox

    def _commit_group(self, inbox: list[tuple[ShardId, ReplicaMessage]]) -> list[Send]:
        """Steps 2 and 3; return what all hosts sent."""
        learner = self.learner
        learner.begin()
        if self.followers:
            self._give_followers(inbox)
        try:
            outbox = learner.handle(inbox) + learner.finish()
            if self.followers:
                self._await_quorum()
        except Exception as error:
            learner.abort()
            raise self._aborted(error) from error
        try:
            learner.commit()
        except OutcomeUnknown:
            self.learner_failed = True
            raise
        return outbox + self._take_arrived() if self.followers else outbox

    def _aborted(self, error: Exception) -> Error:
        """What a group's callers are told when the learner gave up its batch."""
        if self.followers:
            # A follower may have logged the group, and then the next opening completes it.
            return OutcomeUnknown(f"the group was not committed by a quorum: {error}")
        return error if isinstance(error, Error) else Failed(f"nothing was written: {error!r}")

    # -- followers ---------------------------------------------------------------------------

    def _give_followers(self, inbox: list[tuple[ShardId, ReplicaMessage]]) -> None:
        self._given += 1
        later, self._later = self._later, []
        for follower in self.followers:
            number = follower.host.number
            sync = [(shard, message) for shard, replica, message in later if replica == number]
            follower.give(sync + inbox)

    def _report(self, follower: Follower, sends: list[Send] | None) -> None:
        with self._changed:
            number = follower.host.number
            self._committed[number] = self._committed.get(number, 0) + 1
            self._arrived += sends or ()
            self._changed.notify_all()

    def _await_quorum(self) -> None:
        """Wait until f followers committed this group (A4). Raises ``OutcomeUnknown``."""
        needed = self.replicas // 2
        with self._changed:
            while self._successes() < needed:
                possible = sum(1 for follower in self.followers if follower.failure is None)
                if possible < needed:
                    raise Failed(f"only {possible} of {needed} followers could commit")
                self._changed.wait()

    def _successes(self) -> int:
        return sum(not follower.failure and self._is_through(follower) for follower in self.followers)

    def lag(self) -> dict[str, int]:
        """Batches each follower is behind, by replica number."""
        return {
            str(follower.host.number): self._given - self._committed.get(follower.host.number, 0)
            for follower in self.followers
        }

    def _is_through(self, follower: Follower) -> bool:
        return self._committed.get(follower.host.number, 0) >= self._given

    # -- replies -----------------------------------------------------------------------------

    def _take_arrived(self) -> list[Send]:
        with self._changed:
            arrived, self._arrived = self._arrived, []
        return arrived

    def _answer(self, arrived: list[Send]) -> None:
        client, waiting = self.client, self._waiting
        for send in arrived:
            message = send.message
            if type(message) is Reply:
                for effect in client.handle(message):
                    if type(effect) is Send:
                        assert type(effect.message) is Answer
                        waiting[effect.message.request].answer = effect.message
            elif type(message) is SyncReply:
                self._later += self._synchronize(message)
        assert not self.client.outstanding, "every request of a committed group is answered"

    def _synchronize(self, message: SyncReply) -> list[tuple[ShardId, int, ReplicaMessage]]:
        later: list[tuple[ShardId, int, ReplicaMessage]] = []
        for effect in self.learner.replicas[message.shard].handle(message):
            if type(effect) is Send:
                assert type(effect.to) is ReplicaAddress
                later.append((effect.to.shard, effect.to.replica, effect.message))  # type: ignore[arg-type]  # a SyncCommit
        return later

    # -- the end -----------------------------------------------------------------------------

    def sync(self) -> None:
        """Make every commit so far durable (``durability="interval"``); between two groups only."""
        for follower in self.followers:
            follower.sync()
        try:
            self.learner.environment.sync()
        except Failed as error:
            self.failure = self.failure or error
            self.learner_failed = True

    def pause(self) -> None:
        """Let followers finish and end their threads: nobody uses the hosts until ``resume``."""
        for follower in self.followers:
            follower.stop()

    def resume(self) -> None:
        """Go on with the hosts of ``opened``, some of which may be others now."""
        failures = {follower.host.number: follower.failure for follower in self.followers}
        self.learner = self.opened.learner
        self.followers = self._start_followers()
        for follower in self.followers:
            follower.failure = failures[follower.host.number]

    def close(self) -> None:
        """Bring followers up to date and close all environments; a failed one stays unclean."""
        with ExitStack() as closing:  # whatever fails, the rest is closed all the same
            closing.callback(self.opened.home.release)
            for host in self.opened.hosts.values():
                closing.callback(host.environment.close)
            for follower in self.followers:
                closing.callback(follower.stop)
            if self.failure is None and self.followers:
                self._settle()

    def _settle(self) -> None:
        """Carry the last SYNC-COMMITs, so that the next opening finds every log stable."""
        with self._changed:
            while any(not follower.failure and not self._is_through(follower) for follower in self.followers):
                self._changed.wait()
        self._answer(self._take_arrived())
        if self._later:
            self._give_followers([])
            self.learner.begin()
            self.learner.touch_all()
            self.learner.finish()
            self.learner.commit()


def _twin(error: Exception) -> Exception:
    """The same error for another thread, so that no two share a traceback."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__ or error
    return twin

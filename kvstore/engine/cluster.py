"""The in-process driver: sequencer, client and all hosts of one store in one process.

A group takes four steps (contracts A4):

    1. The client sends requests, the sequencer stamps them, and every host gets the stamped transactions.
    2. Followers log the transactions in parallel, each on its own thread; the learner logs and executes
        them on the leader's thread.
    3. Votes go to the client before the commit, and the second halves with which the client answers are
        stamped and executed in this group: an uncontended general transaction is one commit (contracts
        C2). A group that may contain second halves goes to the followers when all of it is known.
    4. After f followers have committed, the learner commits; then all replies leave, and the client
        answers the callers. So everything the learner's environment shows is at a quorum.

No message is lost between objects of one process, so the timers that guard against loss never fire.

When the learner's environment fails and a majority is left without it, the group continues under another
learner (``failover.py``): its callers are answered, and the client retries the requests that the old
learner had not answered. Without a majority, nothing is written until the store is opened again.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from kvstore.engine.failover import Failover
from kvstore.engine.follower import Follower
from kvstore.engine.host import Host, Inbox
from kvstore.engine.recovery import Opened
from kvstore.engine.request import PendingRequest
from kvstore.eris.client import NO_EDGES, Client
from kvstore.eris.effects import Effect, GroupAddress, ReplicaAddress, Send
from kvstore.eris.messages import (
    Answer,
    Conclusory,
    ReplicaMessage,
    Reply,
    Request,
    Stamped,
    SyncReply,
)
from kvstore.eris.sequencer import Sequencer
from kvstore.errors import DiskFull, Error, Failed, OutcomeUnknown
from kvstore.execution.operations import Operations
from kvstore.ports import Leases
from kvstore.types import ClientId, RequestId, ShardId, Timestamp

if TYPE_CHECKING:
    from kvstore.fuzzylog.causes import Causes


class Cluster:
    """One epoch of one store. ``process`` is called by one thread at a time."""

    def __init__(self, opened: Opened, leases: Leases, now: Callable[[], int] | None = None) -> None:
        """``leases`` limits how long callers hold locks; when some have expired, ``end_leases`` is due."""
        manifest, epoch = opened.found.manifest, opened.record.epoch
        self.opened = opened
        self._now = now
        self.learner: Host = opened.learner
        self.replicas = manifest.replicas
        self.failure: BaseException | None = None
        """Error because of which writes are refused until the store is opened again; None while healthy."""
        self.learner_failed = False
        """Whether the outcome of the learner's last commit is unknown, so that reads must be refused."""
        self.failed_learners: dict[int, BaseException] = {}
        """Failed learners that other replicas replaced, with their errors, by replica number."""
        clock = max(replica.record.clock for replica in self.learner.replicas)
        self.sequencer = Sequencer(epoch=epoch, shards=manifest.shards, clock=clock)
        self.client = Client(client=ClientId(epoch), replicas=manifest.replicas)
        self._causes = None if manifest.region is None else _causes(manifest.shards)
        self._waiting: dict[RequestId, PendingRequest] = {}
        """Unanswered requests by id; a request that waits for locks stays here over several groups."""
        self._effects: list[Effect] = []
        """Effects of the client that are not carried out yet."""
        self.leases = leases
        self._changed = threading.Condition()
        self._committed: dict[int, int] = {}
        """Number of batches that each follower has finished, successfully or not, by replica number."""
        self._arrived: list[Send] = []
        """Messages that followers sent since the last group."""
        self._later: list[tuple[ShardId, int, ReplicaMessage]] = []
        """Messages from the learner to followers that go out with the next group."""
        self.followers = self._start_followers()
        self._given = 0
        self.groups = 0
        """Number of groups that were committed or failed since the store was opened."""

    def _start_followers(self) -> list[Follower]:
        others = (host for host in self.opened.hosts.values() if host is not self.learner)
        return [Follower(host, self._report) for host in others]

    def process(self, group: list[PendingRequest]) -> list[PendingRequest]:
        """Commit a group, together with the pending effects of the client; return all requests that are
        done now, answered or with an error. Never raises."""
        if not group and not self._effects:
            return []
        try:
            if self.failure is not None:
                raise Failed(f"the store failed earlier: {self.failure}") from self.failure
            self._expect(group)
        except Exception as error:
            return _refused(group, error)
        done: list[PendingRequest] = []
        try:
            done += self._deliver(self._commit_group(group))
            if self._effects:
                self._commit_rest(done)
        except Exception as error:
            # The roles' memory is ahead of the disk now; the next opening rebuilds the roles (A5).
            self.failure = error
            done += self._fail_all([pending for pending in group if pending.answer is None], error)
        return done

    def _commit_rest(self, done: list[PendingRequest]) -> None:
        """Commit the effects that a view change left over, without waiting for another caller."""
        while self._effects:
            done += self._deliver(self._commit_group([]))

    def _fail_all(self, group: list[PendingRequest], error: Exception) -> list[PendingRequest]:
        """Fail the group and all waiting requests, which will get no answer; return them."""
        unknown = OutcomeUnknown(f"the store failed while this waited: {error}")
        earlier = [pending for pending in self._waiting.values() if pending not in group]
        self._waiting.clear()
        return _refused(group, error) + _refused(earlier, unknown)

    def release_dead(self) -> None:
        """Abort, after the opening, what a dead process left between its halves (section 7)."""
        dead = self.learner.executor.outstanding()
        if dead:
            self._expect([])
            for stamped in dead:
                request = stamped.request
                half = Conclusory(request.client, request.request, commit=False)
                operations: Operations = dict.fromkeys(request.operations, ())
                self._effects += self.client.submit(operations, half=half)
            self._commit_rest([])

    def end_leases(self) -> list[PendingRequest]:
        """Abort the preliminaries whose lease has expired; return the requests that are done now.

        When the disk has no room for the aborts, do nothing: the leases thread asks again later.
        """
        with suppress(DiskFull):
            self._expect([])
            self._conclude_for_callers(self.leases.expired())
        return self.process([])

    def settle(self) -> list[PendingRequest]:
        """Abort all held preliminaries before the store is closed; return the requests that are done now."""
        done: list[PendingRequest] = []
        while self.failure is None and (held := self.leases.all()):
            self._conclude_for_callers(held)
            done += self.process([])
        left = list(self._waiting.values())
        self._waiting.clear()
        return done + _refused(left, OutcomeUnknown("the database was closed while this waited for locks"))

    def _conclude_for_callers(self, held: list[RequestId]) -> None:
        for preliminary in held:
            self.leases.end(preliminary)
            self._effects += self.client.conclude(preliminary)

    def _expect(self, group: list[PendingRequest]) -> None:
        """Raise ``DiskFull``, before anything is stamped, when a disk has no room for the group."""
        size = weight = 0
        for pending in group:
            size += pending.request.size
            weight += pending.request.weight
        # A request's values are written twice: with its body into the log, and into the tables.
        size, records = 2 * size, 2 * weight + 2 * self.sequencer.shards
        self.learner.environment.expect(size, records)
        for follower in self.followers:
            if follower.failure is None:
                follower.host.environment.expect(size, records)

    def _commit_group(self, group: list[PendingRequest]) -> list[Send]:
        """Commit one group; return the answers, which may leave now."""
        self.groups += 1
        answers: list[Send] = []
        may_grow = bool(self._effects)
        if self._causes is not None:
            self._causes.observe(replica.record.executed for replica in self.learner.replicas)
        for pending in group:
            self._effects += self._ask(pending)
            request = pending.request
            may_grow |= request.second_half is not None or request.conclusion is not None
        inbox = self._stamp(answers)
        given = self._given
        try:
            outbox = self._on_learner(inbox, answers, may_grow=may_grow)
        except Exception as error:
            return answers + self._move_views(error, inbox if self._given == given else None)
        return answers + self._answer(outbox + self._take_arrived() if self.followers else outbox)

    def _on_learner(self, inbox: Inbox, answers: list[Send], *, may_grow: bool) -> list[Send]:
        """Do steps 2 to 4; return the replies. After any error the learner is unusable."""
        learner, followers = self.learner, self.followers
        learner.begin()
        if followers and not may_grow:
            self._give_followers(inbox)
        try:
            outbox = learner.handle(inbox)
            if may_grow:
                outbox += self._second_halves(outbox, inbox, answers)
            outbox += learner.finish()
            if followers and may_grow:
                self._give_followers(inbox)
            if followers:
                self._await_quorum()
        except Exception as error:
            learner.abort()
            raise self._aborted(error) from error
        try:
            learner.commit()
        except OutcomeUnknown:
            self.learner_failed = True
            raise
        return outbox

    def _ask(self, pending: PendingRequest) -> list[Effect]:
        """Submit a request to the client; return the client's effects."""
        client, request = self.client, pending.request
        if request.conclusion is not None:
            preliminary, commits = request.conclusion
            self.leases.end(preliminary)
            self._waiting[preliminary] = pending
            return client.conclude(preliminary, request.operations if commits else None, request.token)
        edges = NO_EDGES
        if self._causes is not None and not request.after:  # an import is not a node of this region
            edges = self._causes.edges(request.operations.keys())
        if request.second_half is not None:
            effects = client.submit_general(request.operations, request.second_half, edges)
        else:
            effects = client.submit(
                request.operations, request.token, request.call, after=request.after, edges=edges
            )
        pending.number = client.last_request
        self._waiting[pending.number] = pending
        return effects

    def _stamp(self, answers: list[Send]) -> Inbox:
        """Have the sequencer stamp the client's requests; add the client's answers to ``answers``."""
        inbox: Inbox = []
        if not self._effects:
            return inbox
        effects, self._effects = self._effects, []
        now = Timestamp(time.time_ns() if self._now is None else self._now())
        for effect in effects:
            if type(effect) is not Send:
                continue  # a timer; no message is lost, so none is needed
            if type(effect.message) is Answer:
                answers.append(effect)
                continue
            assert type(effect.message) is Request
            for send in self.sequencer.handle(effect.message, now):
                assert type(send) is Send
                assert type(send.to) is GroupAddress
                assert type(send.message) is Stamped
                inbox.append((send.to.shard, send.message))
        return inbox

    def _second_halves(self, sent: list[Send], inbox: Inbox, answers: list[Send]) -> list[Send]:
        """Do step 3: give votes to the client, and its second halves to the learner, until none are left.

        Adds the second halves to the inbox; returns what the learner sent.
        """
        outbox: list[Send] = []
        while sent:
            for send in sent:
                if type(send.message) is Reply:
                    self._effects += self.client.on_vote(send.message)
            more = self._stamp(answers)
            if not more:
                return outbox
            inbox += more
            sent = self.learner.handle(more)
            outbox += sent
        return outbox

    def _aborted(self, error: Exception) -> Error:
        """Return the error for a group's callers after the learner aborted its batch."""
        if self.followers:
            # A follower may have logged the group; in that case the next opening completes it.
            return OutcomeUnknown(f"the group was not committed by a quorum: {error}")
        return error if isinstance(error, Error) else Failed(f"nothing was written: {error!r}")

    # -- followers ---------------------------------------------------------------------------

    def _give_followers(self, inbox: Inbox) -> None:
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
        """Wait until f followers have committed this group (A4). Raises ``Failed`` when too few can."""
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
        """Return how many batches each living follower is behind, by replica number as a str."""
        return {
            str(follower.host.number): self._given - self._committed.get(follower.host.number, 0)
            for follower in self.followers
            if follower.failure is None
        }

    def _is_through(self, follower: Follower) -> bool:
        return self._committed.get(follower.host.number, 0) >= self._given

    # -- replies -----------------------------------------------------------------------------

    def _take_arrived(self) -> list[Send]:
        with self._changed:
            arrived, self._arrived = self._arrived, []
        return arrived

    def _answer(self, arrived: list[Send]) -> list[Send]:
        """Give replies to the client; return the client's answers."""
        client = self.client
        answers: list[Send] = []
        for send in arrived:
            message = send.message
            if type(message) is Reply:
                for effect in client.handle(message):
                    if type(effect) is Send:
                        # These votes come from a view change; all others were answered before the commit.
                        (answers if type(effect.message) is Answer else self._effects).append(effect)
            elif type(message) is SyncReply:
                self._later += self._synchronize(message)
        if client.outstanding:
            client.park()
        return answers

    def _deliver(self, answers: list[Send]) -> list[PendingRequest]:
        """Give answers to their requests, and start a lease for each answer that is a preliminary's votes."""
        done: list[PendingRequest] = []
        for send in answers:
            answer = send.message
            assert type(answer) is Answer
            pending = self._waiting.pop(answer.request, None)
            if pending is None:
                continue
            if pending.request.second_half is not None and answer.committed is None:
                self.leases.begin(answer.request)
            pending.answer = answer
            done.append(pending)
        return done

    def _synchronize(self, message: SyncReply) -> list[tuple[ShardId, int, ReplicaMessage]]:
        later: list[tuple[ShardId, int, ReplicaMessage]] = []
        for effect in self.learner.replicas[message.shard].handle(message):
            if type(effect) is Send:
                assert type(effect.to) is ReplicaAddress
                later.append((effect.to.shard, effect.to.replica, effect.message))  # type: ignore[arg-type]  # a SyncCommit
        return later

    # -- another learner -----------------------------------------------------------------------

    def _move_views(self, error: Exception, inbox: Inbox | None) -> list[Send]:
        """Continue under another learner after this one failed; return the client's answers.

        ``inbox`` is the group if it was not given to the followers yet: its numbers are taken, so the
        followers must log it. Raises ``error`` when no majority is left.
        """
        if 2 * len(self._living()) <= self.replicas:
            raise error
        if inbox is not None:
            self._give_followers(inbox)
        self.pause()
        move = Failover(self._living(), self.replicas, self.opened.record)
        try:
            move.run()
        except Exception as why:
            # A follower may have logged the group; in that case the next opening completes it.
            unknown = error if isinstance(error, OutcomeUnknown) else OutcomeUnknown(str(error))
            raise unknown from (error.__cause__ or why)
        self._follow(move, error)
        answers = self._answer(move.replies)
        # A shard that resolved a request before another shard began the view has not replied to it.
        asked_again = self.client.on_timer("retry")
        self._effects += [effect for effect in asked_again if type(effect) is Send]
        return answers

    def _living(self) -> list[Host]:
        return [follower.host for follower in self.followers if follower.failure is None]

    def _follow(self, move: Failover, error: Exception) -> None:
        """Replace the failed learner, and continue with the hosts that are in the new view."""
        old, why = self.learner, error.__cause__ or error
        if old.environment.failure is None:
            old.environment.fail(why)
        # Replaced, not changed in place: another thread may be reading the status. The last reader of the
        # old learner's environment closes it.
        self.failed_learners = {**self.failed_learners, old.number: why}
        hosts = self.opened.hosts.items()
        self.opened.found.hosts = {number: host for number, host in hosts if host is not old}
        for follower in self.followers:
            follower.failure = follower.failure or move.failures.get(follower.host.number)
        self.opened.record = move.record
        self.learner_failed = False
        with self._changed:
            self._arrived = []
        self._later = []  # these, like what arrived, belong to the old view
        self.resume()

    # -- the end -----------------------------------------------------------------------------

    def sync(self) -> list[PendingRequest]:
        """Make every commit so far durable (``durability="interval"``); call between two groups only.

        Returns the requests that are done now: if the learner's sync fails, a new learner may answer some.
        """
        for follower in self.followers:
            follower.sync()
        done: list[PendingRequest] = []
        try:
            self.learner.environment.sync()
        except Failed as error:
            self._sync_failed(error, done)
        return done

    def _sync_failed(self, error: Failed, done: list[PendingRequest]) -> None:
        self.learner_failed = True
        if self.failure is not None:
            return
        try:
            done += self._deliver(self._move_views(error, None))
            self._commit_rest(done)
        except Exception as why:
            self.failure = why
            done += self._fail_all([], why)

    def pause(self) -> None:
        """Let followers finish, and end their threads: no thread uses the hosts until ``resume``."""
        for follower in self.followers:
            follower.stop()

    def resume(self) -> None:
        """Continue with the hosts of ``opened``, some of which may have been replaced."""
        failures = {follower.host.number: follower.failure for follower in self.followers}
        self.learner = self.opened.learner
        self.followers = self._start_followers()
        for follower in self.followers:
            follower.failure = failures[follower.host.number]

    def close(self) -> None:
        """Bring followers up to date and close all environments; a failed environment stays unclean."""
        with ExitStack() as closing:  # a failure does not keep the rest from being closed
            closing.callback(self.opened.directory.release)
            for host in self.opened.hosts.values():
                closing.callback(host.environment.close)
            for follower in self.followers:
                closing.callback(follower.stop)
            if self.failure is None and self.followers:
                self._settle()

    def _settle(self) -> None:
        """Deliver the last SYNC-COMMITs, so that the next opening finds every log stable."""
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


def _causes(shards: int) -> Causes:
    from kvstore.fuzzylog.causes import Causes  # a store outside a world never loads this module

    return Causes(shards)


def _refused(group: list[PendingRequest], error: Exception) -> list[PendingRequest]:
    for pending in group:
        pending.error = _twin(error)
    return group


def _twin(error: Exception) -> Exception:
    """Return a copy of the error for another thread, so that no two threads share a traceback."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__ or error
    return twin

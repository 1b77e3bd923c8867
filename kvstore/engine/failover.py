"""Failover: changing the learner while the store runs (contracts A2, A4; Eris, SOSP 2017, section 6.4).

The driver sees the failure of the learner's environment, so no timer has to suspect it. Between two
groups, with the followers' threads ended:

    1. The living host that is the learner of the lowest possible view above the present one joins that
        view, for all shards at once: the shards share a host, and a host waits as one.
    2. The messages of the protocol's view change are carried between the living hosts, each round a commit
        on every host with messages, until none are left. The new learner executes what it had only
        logged, and its replies are kept for the client.
    3. The other hosts acknowledge the waiting transactions again: their earlier acknowledgements belong
        to the old view, and a client counts replies of one view together.
    4. The coordinator's record with the new view is saved in every living environment, so that read-only
        processes and the next opening find the new learner (contracts B1, B2).

A host that fails during these steps is lost as well. While a majority lives, the steps begin again with
the next view; without a majority nothing is decided.

INVARIANT
    FAILOVER-1  Everything the new learner shows was committed by a majority, not counting the lost hosts:
        all living hosts had committed every slot before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from kvstore.engine.host import Host, Inbox
from kvstore.eris.coordinator_state import CoordinatorRecord
from kvstore.eris.effects import ReplicaAddress, Send
from kvstore.eris.messages import Reply
from kvstore.eris.shard_state import Status
from kvstore.errors import Failed
from kvstore.types import ShardId, Slot, ViewNumber

Waiting = dict[ShardId, tuple[Slot, ...]]


class Failover:
    """One change of all views. ``living`` are the hosts that are left; each has finished every group."""

    def __init__(self, living: Iterable[Host], replicas: int, record: CoordinatorRecord) -> None:
        self.living: dict[int, Host] = {host.number: host for host in living}
        self.failures: dict[int, Exception] = {}
        """Errors of the hosts that were lost during the failover, by replica number."""
        self.replies: list[Send] = []
        """Replies for the client."""
        self.record = record
        """The coordinator's record, with the new view once the failover is done."""
        self._replicas = replicas

    def run(self) -> None:
        """Change the learner. Raises ``Failed`` when no majority is left; the cluster must then stop."""
        view = self._change_view()
        while not self._keep_record(view):  # the new learner was lost in the last step
            view = self._change_view()

    def _change_view(self) -> ViewNumber:
        view = self._next_view()
        while not self._begins(view):
            view = self._next_view()
        return view

    def _next_view(self) -> ViewNumber:
        """Return the first view above all joined views whose learner lives."""
        self._require_majority()
        records = (replica.record for host in self.living.values() for replica in host.replicas)
        view = ViewNumber(1 + max(record.view for record in records))
        while view % self._replicas not in self.living:
            view = ViewNumber(view + 1)
        return view

    def _require_majority(self) -> None:
        if 2 * len(self.living) <= self._replicas:
            raise Failed(f"{len(self.living)} of {self._replicas} replicas are left, a majority is needed")

    def _begins(self, view: ViewNumber) -> bool:
        """Do steps 1 to 3; return whether the view began. False means that its learner was lost."""
        learner = view % self._replicas
        waiting = _waiting_at(self.living[learner])
        self._carry(self._on(learner, lambda host: _join(host, view)))
        if learner in self.living:
            self._lose_those_outside(view)
        if learner in self.living and any(waiting.values()):
            for number in [number for number in self.living if number != learner]:
                self.replies += self._on(number, lambda host: host.acknowledge(waiting))
        for replica in self.living[learner].replicas if learner in self.living else ():
            shard, executed = replica.address.shard, replica.record.executed
            ends = {number: host.replicas[shard].last_slot for number, host in self.living.items()}
            assert 2 * sum(end >= executed for end in ends.values()) > self._replicas, (
                f"FAILOVER-1: slot {executed} of shard {shard} is shown, and the living logs end at {ends}"
            )
        return learner in self.living

    def _lose_those_outside(self, view: ViewNumber) -> None:
        for number, host in list(self.living.items()):
            host.timers.clear()  # no message is lost between objects of one process
            if not _is_in(host, view):
                self._lose(number, Failed(f"{host.environment.location} did not begin view {view}"))

    def _carry(self, sends: list[Send]) -> None:
        """Do step 2. A host's sends leave after its commit."""
        while sends:
            inboxes = self._sort(sends)
            sends = []
            for number, inbox in inboxes.items():
                sends += self._on(number, partial(Host.handle, inbox=inbox))

    def _sort(self, sends: list[Send]) -> dict[int, Inbox]:
        """Return the messages for replicas, by host; keep the replies for the client."""
        inboxes: dict[int, Inbox] = {}
        for send in sends:
            to, message = send.to, send.message
            if type(message) is Reply:
                self.replies.append(send)
            elif type(to) is ReplicaAddress and to.replica in self.living:
                inboxes.setdefault(to.replica, []).append((to.shard, message))  # type: ignore[arg-type]  # to a replica
        return inboxes

    def _on(self, number: int, work: Callable[[Host], list[Send]]) -> list[Send]:
        """Run ``work`` as one batch on a living host; return its sends. A host that fails is lost."""
        host = self.living.get(number)
        if host is None:
            return []
        try:
            return _one_batch(host, work)
        except Exception as error:
            self._lose(number, error)
            return []

    def _lose(self, number: int, error: Exception) -> None:
        self.failures[number] = error
        environment = self.living.pop(number).environment
        if environment.failure is None:
            environment.fail(error)

    def _keep_record(self, view: ViewNumber) -> bool:
        """Do step 4; return whether the new learner is still alive."""
        record = self.record
        self.record = msgspec.structs.replace(record, counter=record.counter + 1, view=view)
        for number in sorted(self.living):
            self._on(number, self._save)
        self._require_majority()
        return view % self._replicas in self.living

    def _save(self, host: Host) -> list[Send]:
        host.save_coordinator_record(self.record)
        return []


def _one_batch(host: Host, work: Callable[[Host], list[Send]]) -> list[Send]:
    """Run ``work`` as one batch and sync it whatever the durability: views never go back (contracts B3)."""
    host.begin()
    try:
        sends = work(host) + host.finish()
    except Exception:
        host.abort()
        raise
    host.commit()
    host.environment.sync()
    return sends


def _join(host: Host, view: ViewNumber) -> list[Send]:
    """Suspect the learners of all views before this one; return the sends."""
    sends: list[Send] = []
    for replica in host.replicas:
        for _ in range(replica.record.view, view):
            sends += host.fire(replica.address.shard, "suspect")
    return sends


def _waiting_at(host: Host) -> Waiting:
    """Return the stable but unresolved slots of the host, by shard."""
    shards = (replica.address.shard for replica in host.replicas)
    return {shard: host.executor.waiting(shard) for shard in shards}


def _is_in(host: Host, view: ViewNumber) -> bool:
    return all(
        replica.status is Status.NORMAL and replica.record.view == view and replica.record.normal_view == view
        for replica in host.replicas
    )

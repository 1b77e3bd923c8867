"""Failure detection from silence: a dead learner, a dead sequencer, a client that keeps its locks.

All three are suspicions. A suspicion that is wrong costs a view change, an epoch change or an Abort, and
never breaks a promise: safety does not depend on time (Eris, SOSP 2017, sections 6.4, 6.5 and 7). The driver
passes the time with each call, in nanoseconds, of any clock that rises.

INVARIANTS
    DETECTOR-1  A message of an earlier view or epoch is no evidence that its learner or sequencer is alive.
    DETECTOR-2  A client's locks are suspected only after ``LEASE_NS`` in which this host saw them held.
    DETECTOR-3  The time that the driver passes never goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from kvstore.eris.messages import Flush, ReplicaMessage, Request, Stamped, StartEpoch, StartView, SyncCommit
from kvstore.eris.shard_state import ShardRecord, Status
from kvstore.types import ClientId, RequestId, ShardId

MILLISECOND_NS = 1_000_000
HEARTBEAT_NS = 20 * MILLISECOND_NS
"""The time between two heartbeats of a learner."""
SUSPECT_NS = 90 * MILLISECOND_NS
"""The silence after which a learner is suspected."""
SILENCE_NS = 160 * MILLISECOND_NS
"""The silence after which the sequencer is suspected."""
LEASE_NS = 150 * MILLISECOND_NS
"""The time for which a client may hold locks between the halves of its transaction."""


class WatchedReplica(Protocol):
    """What the failure detector reads of a host's replica of one shard."""

    @property
    def record(self) -> ShardRecord: ...

    @property
    def is_learner(self) -> bool: ...

    @property
    def status(self) -> Status: ...


class Timer(NamedTuple):
    """A timer of a replica that has expired: ``heartbeat``, ``suspect`` or ``silence``."""

    shard: ShardId
    name: str


class FailureDetector:
    """A host's failure detector: it watches the learner of each shard, and the sequencer."""

    def __init__(self, now: int, backoff: Callable[[int], int]) -> None:
        """Start with the sequencer and all learners taken for alive.

        ``backoff`` returns a number from 0 to its argument: the extra time until a learner is suspected
        again, different on each host, so that hosts do not start view changes against each other.
        """
        self._backoff = backoff
        self._learners: dict[ShardId, int] = {}
        """Time of the last evidence that a shard's learner is alive, by shard; later after a suspicion."""
        self._sequencer = now
        """Time of the last evidence that the sequencer is alive."""
        self._next_heartbeat = 0

    def hear(self, shard: ShardId, message: ReplicaMessage, replica: WatchedReplica, now: int) -> None:
        """Note what a message to this host's replica of the shard says about its sender."""
        assert now >= self._sequencer, f"DETECTOR-3: time goes back from {self._sequencer} to {now}"
        record = replica.record
        match message:
            case SyncCommit() | StartView():
                if message.view >= record.view:  # DETECTOR-1
                    self._learners[shard] = now
            case Flush():
                if message.epoch >= record.epoch:
                    self._sequencer = now
            case Stamped():
                if message.stamp.epoch >= record.epoch:
                    self._sequencer = now
            case StartEpoch():
                self._learners[shard] = self._sequencer = now
            case _:
                pass

    def tick(self, replicas: Sequence[WatchedReplica], now: int) -> list[Timer]:
        """Return the timers that have expired by now; ``replicas``: one of each shard, in order."""
        assert now >= self._sequencer, f"DETECTOR-3: time goes back from {self._sequencer} to {now}"
        beats = now >= self._next_heartbeat
        if beats:
            self._next_heartbeat = now + HEARTBEAT_NS
        expired: list[Timer] = []
        for number, replica in enumerate(replicas):
            expired += self._watch_learner(ShardId(number), replica, now, beats=beats)
        if now - self._sequencer > SILENCE_NS:
            self._sequencer = now
            expired.append(Timer(ShardId(0), "silence"))
        return expired

    def _watch_learner(
        self, shard: ShardId, replica: WatchedReplica, now: int, *, beats: bool
    ) -> list[Timer]:
        if replica.is_learner and replica.status is Status.NORMAL:
            self._learners[shard] = now
            return [Timer(shard, "heartbeat")] if beats else []
        if now - self._learners.setdefault(shard, now) > SUSPECT_NS:
            self._learners[shard] = now + self._backoff(SUSPECT_NS)
            return [Timer(shard, "suspect")]
        return []


class LockWatch:
    """A host's watch over locks: it finds general transactions whose client does not conclude them."""

    def __init__(self) -> None:
        self._since: dict[tuple[ClientId, RequestId], int] = {}
        """Time from which a preliminary has been seen to hold locks, or was last suspected."""

    def look(self, outstanding: Iterable[Request], now: int) -> list[Request]:
        """Return the preliminaries that an Abort should end; ``outstanding``: all that hold locks now.

        A preliminary that still holds its locks is returned again after another lease.
        """
        since: dict[tuple[ClientId, RequestId], int] = {}
        suspected: list[Request] = []
        for request in outstanding:
            key = request.client, request.request
            since[key] = self._since.get(key, now)
            assert now >= since[key], f"DETECTOR-3: time goes back from {since[key]} to {now}"
            if now - since[key] > LEASE_NS:
                since[key] = now
                suspected.append(request)
        self._since = since
        return suspected

"""A host in the simulator: the embedded store's own ``Host`` on a memory disk, which may crash or lose its
disk.

The host handles its messages in batches, as the embedded host does. A batch takes time to commit, and its
messages leave after the commit. A crash in between loses the batch, or only its messages.

A host whose disk cannot be trusted, because a record is damaged or because the disk is older than messages
that the host has sent, has no vote (contracts B2). It starts with an empty disk, an epoch begins without it,
and its replicas take part again when they have images of that epoch or a later one (``state_transfer.py``).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple, Protocol

import msgspec

from kvstore.engine.host import Host
from kvstore.eris import image_request
from kvstore.eris.effects import Address, HostAddress, Send, SetTimer
from kvstore.eris.failure_detector import FailureDetector, LockWatch, Timer
from kvstore.eris.messages import HostMessage, Prepare, Prepared, ReplicaMessage, Request, SaveRecord
from kvstore.errors import Corrupt, OutcomeUnknown
from kvstore.simulation.simulated_network import Endpoint, Micros
from kvstore.storage import MemoryDisk, MemoryEnvironment
from kvstore.storage.memory_environment import MemoryFolder
from kvstore.storage.sorted_map import SortedMap
from kvstore.types import Epoch, HostId, ShardId

GATHER_US, COMMIT_US = 100, 300
"""The time for which a host gathers messages for a batch, and the shortest time of a commit."""
TICK_US = 10_000
"""The period with which a host looks at its timers."""
RESTART_TIMERS = ("view", "epoch", "image")
"""Timers of the protocols that a crash may have interrupted; they fire when the host starts."""


class Shape(NamedTuple):
    """The shape and the settings of a simulated store."""

    shards: int
    replicas: int
    retention: int = 1 << 30
    ahead: tuple[int, ...] = (0,)
    """Hosts whose learners execute a transaction before a quorum has logged it: at most f of them."""


class Letter(NamedTuple):
    """A message for one of a host's replicas."""

    shard: ShardId
    message: ReplicaMessage


InboxItem = Letter | Timer | HostMessage | Prepared


def asking_host(number: int) -> int:
    """Return the coordinator number under which a host asks other hosts for their promises."""
    return -1 - number


class SimulatedWorld(Protocol):
    """The part of the simulator that its hosts use."""

    now: Micros
    chance: random.Random
    disk: MemoryDisk
    faults: Counter[str]

    def after(self, delay: Micros, action: Callable[[], None]) -> None:
        """Call the action after this delay."""

    def send(self, source: Endpoint, to: Address, message: msgspec.Struct) -> None:
        """Hand a message to the network."""

    def committed(self, host: SimulatedHost, sends: list[Send]) -> None:
        """Tell the observers that the host has committed a batch, and is about to send these messages."""


class SimulatedHost:
    """One host, running or crashed. Messages to a crashed host are lost."""

    def __init__(self, number: int, world: SimulatedWorld, shape: Shape) -> None:
        self.number = number
        self.node = Endpoint("host", number)
        self.world = world
        self.shape = shape
        self.host: Host | None = None
        """None while the host is crashed, or has no vote."""
        self.is_up = False
        self.is_paused = False
        self.has_forgotten = False
        """Whether the disk cannot be trusted."""
        self.lacks_vote = False
        """Whether the host has lost its disk, and not all replicas have their images yet."""
        self.life = 0
        """Number of starts. Actions scheduled before the last start are dropped."""
        self._inbox: list[InboxItem] = []
        self._batch: list[Send] | None = None
        """Messages that leave when the batch that is under way has committed."""
        self._timers: dict[tuple[ShardId, str], int] = {}
        self._next_timer = 0
        self._detector = FailureDetector(0, self._backoff)
        self._lock_watch = LockWatch()
        self._promises: dict[int, Epoch] = {}
        """Epochs that other hosts have promised, by host, while this host's disk cannot be trusted."""

    @property
    def folder(self) -> MemoryFolder:
        return self.world.disk.folders[str(self.number)]

    # -- life and death ----------------------------------------------------------------------

    def start(self) -> None:
        """Load the host from its disk. A host whose disk is damaged has no vote (contracts B4)."""
        self.life += 1
        self.is_up, self.is_paused = True, False
        self.world.disk.commits_left.pop(str(self.number), None)
        if not self.has_forgotten:
            try:
                self.host = self._load(self.world.disk)
            except Corrupt:
                self.has_forgotten = self.lacks_vote = True
        self._promises.clear()
        self._detector = FailureDetector(self._now_ns(), self._backoff)
        self._lock_watch = LockWatch()
        life = self.life
        self.world.after(self.world.chance.randint(1, TICK_US), lambda: self._tick(life))
        if self.host is not None:
            self._look_around()

    def _look_around(self) -> None:
        """Continue the protocols that the crash interrupted."""
        for shard in range(self.shape.shards):
            for name in RESTART_TIMERS:
                self._receive(Timer(ShardId(shard), name))

    def _load(self, disk: MemoryDisk) -> Host:
        environment = MemoryEnvironment(disk, str(self.number))
        for problem in environment.view().problems():
            raise Corrupt(problem, record=environment.location)
        return Host(
            HostId(self.number),
            environment,
            shards=self.shape.shards,
            replicas=self.shape.replicas,
            retention=self.shape.retention,
            owns=lambda shard, encoded: True,
            is_ahead=self.number in self.shape.ahead,
        )

    def crash(self) -> None:
        """Lose all that is not committed; the batch that is under way may be committed or lost."""
        if self._batch is not None and self.host is not None and self.world.chance.random() < 0.5:
            with suppress(OutcomeUnknown):
                self._commit(self.host, [])  # its messages are lost
        self.is_up, self.host, self._batch = False, None, None
        self._inbox.clear()
        self._timers.clear()

    def lose_disk(self, older: SortedMap | None = None) -> None:
        """Have a crashed host find an older disk, or a damaged one, at its next start."""
        assert not self.is_up, f"host {self.number} is running, and only a crashed host may lose its disk"
        self.lacks_vote = True
        if older is not None:
            self.world.disk.folders[str(self.number)] = MemoryFolder(committed=older, synced=older)
        self.has_forgotten = True

    def resume(self) -> None:
        """Continue after a pause, with the messages received meanwhile."""
        self.is_paused = False
        if self._batch is not None:
            self._later(COMMIT_US, self._end_batch)
        elif self._inbox:
            self._later(GATHER_US, self._begin_batch)

    def _later(self, delay: Micros, action: Callable[[], None]) -> None:
        """Call the action after the delay, unless the host has crashed meanwhile."""
        life = self.life
        self.world.after(delay, lambda: action() if self.is_up and life == self.life else None)

    # -- receiving --------------------------------------------------------------------------

    def receive(self, item: InboxItem) -> None:
        """Receive a message from the network."""
        if not self.is_up:
            return
        if self.has_forgotten:
            self._remember(item)
            return
        if isinstance(item, Letter) and self.host is not None:
            replica = self.host.replicas[item.shard]
            self._detector.hear(item.shard, item.message, replica, self._now_ns())
        self._receive(item)

    def _receive(self, item: InboxItem) -> None:
        self._inbox.append(item)
        if len(self._inbox) == 1 and self._batch is None and not self.is_paused:
            self._later(GATHER_US, self._begin_batch)

    def _now_ns(self) -> int:
        return self.world.now * 1000

    def _backoff(self, most: int) -> int:
        return self.world.chance.randint(0, most // 1000) * 1000

    def overdue_locks(self) -> list[Request]:
        """Return the general transactions that hold locks for too long, as this host sees it."""
        if self.host is None or self.is_paused:
            return []
        outstanding = (stamped.request for stamped in self.host.executor.outstanding())
        return self._lock_watch.look(outstanding, self._now_ns())

    def _tick(self, life: int) -> None:
        """Look at the timers, periodically."""
        if life != self.life or not self.is_up:
            return
        self.world.after(TICK_US, lambda: self._tick(life))
        if self.is_paused:
            return
        if self.host is None:
            self.lacks_vote = True
            self._ask_for_promises()
        else:
            self.lacks_vote &= any(replica.has_diverged() for replica in self.host.replicas)
            for timer in self._detector.tick(self.host.replicas, self._now_ns()):
                self._receive(timer)

    # -- batches -----------------------------------------------------------------------------

    def _begin_batch(self) -> None:
        """Handle the messages that have arrived; the commit follows after its delay."""
        host = self.host
        if host is None or self.is_paused or self._batch is not None or not self._inbox:
            return
        items, self._inbox = self._inbox, []
        try:
            self._batch = self._handle(host, items)
        except Corrupt:
            self.fail_for_good("damage")
            return
        self._later(COMMIT_US + self.world.chance.randint(0, COMMIT_US), self._end_batch)

    @staticmethod
    def _handle(host: Host, items: Iterable[InboxItem]) -> list[Send]:
        host.begin()
        sends: list[Send] = []
        for item in items:
            if isinstance(item, Letter):
                sends += host.handle([item])
            elif isinstance(item, Timer):
                sends += host.fire(item.shard, item.name)
            elif isinstance(item, Prepare | SaveRecord):
                sends += [effect for effect in host.keeper.handle(item) if isinstance(effect, Send)]
        return sends + host.finish()

    def _end_batch(self) -> None:
        """Commit the batch, and send its messages."""
        host, sends = self.host, self._batch
        if host is None or sends is None or self.is_paused:
            return
        self._batch = None
        try:
            self._commit(host, sends)
        except OutcomeUnknown:
            self.world.faults["failed commit"] += 1
            self.crash()  # its memory is ahead of its disk (contracts A5)
            self.world.after(10 * COMMIT_US, self._start_if_dead)
            return
        for send in sends:
            self.world.send(self.node, send.to, send.message)
        self._set_timers(host)
        if self._inbox:
            self._later(GATHER_US, self._begin_batch)

    def _commit(self, host: Host, sends: list[Send]) -> None:
        host.commit()
        self.world.committed(self, sends)

    def _start_if_dead(self) -> None:
        if not self.is_up:
            self.start()

    def fail_for_good(self, why: str) -> None:
        """Crash because a record is damaged; the host has no vote when it starts again."""
        self.world.faults[why] += 1
        self._batch = None
        self.crash()
        self.has_forgotten = self.lacks_vote = True
        self.world.after(10 * COMMIT_US, self._start_if_dead)

    def _set_timers(self, host: Host) -> None:
        for address, effect in host.timers:
            key = address.shard, effect.name
            self._next_timer += 1
            self._timers[key] = number = self._next_timer
            if isinstance(effect, SetTimer):
                self._later(effect.after_ms * 1000, lambda key=key, number=number: self._run_out(key, number))  # type: ignore[misc]  # a lambda keeps its own
        host.timers.clear()

    def _run_out(self, key: tuple[ShardId, str], number: int) -> None:
        if self._timers.get(key) == number:
            self._receive(Timer(*key))

    # -- a host without a vote ----------------------------------------------------------------

    def _ask_for_promises(self) -> None:
        """Ask the other hosts for their epochs; a majority of them knows the last one that has begun."""
        asker = asking_host(self.number)
        for other in range(self.shape.replicas):
            if other != self.number:
                self.world.send(self.node, HostAddress(other), Prepare(asker, Epoch(0)))

    def _remember(self, item: InboxItem) -> None:
        """Begin with an empty disk once a majority has answered, and promise to accept only later epochs."""
        if not isinstance(item, Prepared):
            return
        self._promises[item.host] = item.promised
        if len(self._promises) > self.shape.replicas // 2:
            self.has_forgotten = False
            self.world.faults["vote regained"] += 1
            self.world.disk.folders[str(self.number)] = MemoryFolder()
            self.host = host = self._load(self.world.disk)
            rejoin = Epoch(max(self._promises.values()) + 1)
            host.begin()
            host.keeper.forget(rejoin)
            for replica in host.replicas:
                image_request.forget(replica, rejoin)
            host.touch_all()
            host.finish()
            try:
                self._commit(host, [])
            except OutcomeUnknown:
                self.fail_for_good("failed commit")
            else:
                self._look_around()

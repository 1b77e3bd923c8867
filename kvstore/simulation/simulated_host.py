"""A host in the simulator: the embedded store's own ``Host`` on a memory disk, which may crash or forget.

It takes its messages in batches, as a real one does. A batch takes time to commit, and what it sends leaves
when it has. A crash in between loses the batch, or only what it was to send.

A host whose disk cannot be trusted - a record is damaged, or it is older than what its peers were told - has
no vote (contracts B2): it starts with an empty one, an epoch begins without it, and its replicas take part
when they have images of that epoch or a later one (``state_transfer.py``).
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
"""How long a host gathers messages for a batch, and how long a commit takes at least."""
TICK_US = 10_000
RESTART_TIMERS = ("view", "epoch", "image")
"""What a replica may have been in the middle of when its host crashed."""


class Shape(NamedTuple):
    """Of a store that is simulated."""

    shards: int
    replicas: int
    retention: int = 1 << 30
    ahead: tuple[int, ...] = (0,)
    """The hosts whose learners execute before a quorum has logged it: at most f."""


class Letter(NamedTuple):
    """A message for one of a host's replicas."""

    shard: ShardId
    message: ReplicaMessage


InboxItem = Letter | Timer | HostMessage | Prepared


def asking_host(number: int) -> int:
    """By this number a host asks other hosts for their promises, as a coordinator would."""
    return -1 - number


class SimulatedWorld(Protocol):
    """What a node of the simulator asks of it."""

    now: Micros
    chance: random.Random
    disk: MemoryDisk
    faults: Counter[str]

    def after(self, delay: Micros, action: Callable[[], None]) -> None:
        """Call it at that time."""

    def send(self, source: Endpoint, to: Address, message: msgspec.Struct) -> None:
        """Hand a message to the network."""

    def committed(self, host: SimulatedHost, sends: list[Send]) -> None:
        """Let those look at the host who check it: a batch was committed, and this is about to leave."""


class SimulatedHost:
    """One host, alive or not. What is said to it while it is dead is lost."""

    def __init__(self, number: int, world: SimulatedWorld, shape: Shape) -> None:
        self.number = number
        self.node = Endpoint("host", number)
        self.world = world
        self.shape = shape
        self.host: Host | None = None
        """None while it is dead, or has no vote."""
        self.is_up = False
        self.is_paused = False
        self.has_forgotten = False
        """Its disk cannot be trusted."""
        self.lacks_vote = False
        """From then until all its replicas have their images."""
        self.life = 0
        """Counts its starts: what was to happen in an earlier life never does."""
        self._inbox: list[InboxItem] = []
        self._batch: list[Send] | None = None
        """What leaves when the batch that is under way has committed."""
        self._timers: dict[tuple[ShardId, str], int] = {}
        self._next_timer = 0
        self._detector = FailureDetector(0, self._backoff)
        self._lock_watch = LockWatch()
        self._promises: dict[int, Epoch] = {}
        """Of one that has forgotten: what others promised."""

    @property
    def folder(self) -> MemoryFolder:
        return self.world.disk.folders[str(self.number)]

    # -- life and death ----------------------------------------------------------------------

    def start(self) -> None:
        """Load the host from its disk; one whose disk is damaged has no vote (contracts B4)."""
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
        """Go on with whatever the replicas are in the middle of."""
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
        """It loses all that it did not commit; what it was about to commit may be lost or not."""
        if self._batch is not None and self.host is not None and self.world.chance.random() < 0.5:
            with suppress(OutcomeUnknown):
                self._commit(self.host, [])  # but what it was to send is lost
        self.is_up, self.host, self._batch = False, None, None
        self._inbox.clear()
        self._timers.clear()

    def lose_disk(self, older: SortedMap | None = None) -> None:
        """Dead, it finds at its next start what cannot be trusted: an older disk, or a damaged one."""
        assert not self.is_up, "a living host has its disk in its hands"
        self.lacks_vote = True
        if older is not None:
            self.world.disk.folders[str(self.number)] = MemoryFolder(committed=older, synced=older)
        self.has_forgotten = True

    def resume(self) -> None:
        """Go on after a pause, with all that came meanwhile."""
        self.is_paused = False
        if self._batch is not None:
            self._later(COMMIT_US, self._end_batch)
        elif self._inbox:
            self._later(GATHER_US, self._begin_batch)

    def _later(self, delay: Micros, action: Callable[[], None]) -> None:
        """Do it if this life still lasts then."""
        life = self.life
        self.world.after(delay, lambda: action() if self.is_up and life == self.life else None)

    # -- what comes --------------------------------------------------------------------------

    def receive(self, item: InboxItem) -> None:
        """Take what the network brings."""
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
        """Return the general transactions that an Abort should end, as this host sees it now."""
        if self.host is None or self.is_paused:
            return []
        outstanding = (stamped.request for stamped in self.host.executor.outstanding())
        return self._lock_watch.look(outstanding, self._now_ns())

    def _tick(self, life: int) -> None:
        """Look at the clock, again and again."""
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
        """Have the roles take what is there; the commit comes later."""
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
        """Commit, and let go what waited for that."""
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
        """A damaged record was met: the host ends, and has no vote when it comes back."""
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

    # -- a host that has forgotten -----------------------------------------------------------

    def _ask_for_promises(self) -> None:
        """Which epochs have begun, one of a majority of the others knows."""
        asker = asking_host(self.number)
        for other in range(self.shape.replicas):
            if other != self.number:
                self.world.send(self.node, HostAddress(other), Prepare(asker, Epoch(0)))

    def _remember(self, item: InboxItem) -> None:
        """Begin with an empty disk, and with the promise to take nothing but what is newer."""
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

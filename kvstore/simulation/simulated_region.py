"""Regions in virtual time: the embedded store's own cluster on a memory disk, and its exchange with others.

A region consists of the objects that a process runs: sequencer, client, host and ``Neighbours``. The
simulator decides when a group is committed, when the disk is synced, when a message arrives, twice or never,
when a region loses power and with it all that was not synced, and when a region starts from an older state of
its disk.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from heapq import heappop, heappush
from itertools import count

from kvstore.engine.cluster import Cluster
from kvstore.engine.manifest import RegionIdentity
from kvstore.engine.options import Options
from kvstore.engine.recovery import open_for_writing
from kvstore.engine.request import ClientRequest, PendingRequest
from kvstore.engine.store_directory import MemoryDirectory
from kvstore.eris.log_tail import executed
from kvstore.errors import Error
from kvstore.execution.operations import Operations
from kvstore.execution.procedure_context import Owns
from kvstore.fuzzylog.exchange_effects import (
    AnswerPull,
    ExchangeEffect,
    Importable,
    Refused,
    SendTo,
    Stopped,
    Wanted,
)
from kvstore.fuzzylog.importing import Run
from kvstore.fuzzylog.messages import Identity, LinkMessage, Pull, Shipment, Vector, decode, encode
from kvstore.fuzzylog.neighbours import Neighbours
from kvstore.fuzzylog.shipping import Shipping
from kvstore.geo.chains import RegionLog
from kvstore.geo.own_chains import StoredChains
from kvstore.ports import CommitView
from kvstore.simulation.simulated_network import Endpoint, Micros, SimulatedNetwork
from kvstore.storage import MemoryDisk
from kvstore.storage.memory_environment import MemoryFolder
from kvstore.types import RegionId, RequestId, ShardId, Slot, Timestamp

PULL_EVERY_NS = 20_000_000
SKEW_NS = 10 * 10**9
TURN_US, ANSWER_US = 500, 2_000
"""The longest time for which a region gathers messages, and for which it reads its disk for an answer."""
START_NS = 1_700_000_000 * 10**9


class EndlessLeases:
    """Leases that never expire (``ports.Leases``): a simulated client always concludes its transaction."""

    def begin(self, preliminary: RequestId) -> None: ...
    def end(self, preliminary: RequestId) -> None: ...
    def expired(self) -> list[RequestId]:
        return []

    def all(self) -> list[RequestId]:
        return []


class SimulatedRegion:
    """One region, running or not."""

    def __init__(self, world: RegionSimulator, name: str, owner: Callable[[int, int | None], Owns]) -> None:
        self.world = world
        self.name = name
        self.number = RegionId(world.names.index(name))
        self.node = Endpoint("region", self.number)
        self.disk = MemoryDisk()
        self.offset = 0
        """The error of the region's clock, in nanoseconds."""
        self.cluster: Cluster | None = None
        """None while the region is down."""
        self.life = 0
        self.incarnation = 0
        """Number of times that the disk was exchanged. Messages on their way to an earlier disk are lost."""
        self.is_put_back = False
        """Whether the disk was replaced by an older state of itself."""
        self.synced: list[Slot] = []
        self.synced_ends: Vector = {}
        """The ends of all chains on disk."""
        self.syncs_at_once = False
        """Whether each commit is on disk when it returns."""
        self.on_sync: list[Callable[[], None]] = []
        """Called when every commit is on disk."""
        self._options = Options(
            shards=world.shards,
            replicas=1,
            durability="interval",
            watch_retention=1 << 62,
            region=RegionIdentity(name, world.names, "simulated"),
            owner=owner,
        )
        self._importing: tuple[Run, PendingRequest] | None = None
        self._turn: Micros | None = None
        """Time of the region's next turn, or None."""
        self.neighbours: Neighbours

    @property
    def shipping(self) -> Shipping:
        return self.neighbours.shipping

    # -- life and death ------------------------------------------------------------------------

    def start(self) -> None:
        self.life += 1
        opened = open_for_writing(MemoryDirectory(self.disk), self._options)
        self.cluster = Cluster(opened, EndlessLeases(), self.clock)
        self.cluster.release_dead()
        self.sync()
        names = self.world.names
        self.neighbours = Neighbours(
            Identity(self.name, names, "simulated", self.world.shards, None),
            [name for name in names if name != self.name],
            StoredChains(self.world.shards, lambda: nullcontext(self.view), lambda _: self.log()),
            self.log().importer(SKEW_NS),
            opened=self.physical(),
            location=self.name,
            pull_every=PULL_EVERY_NS,
        )
        self._importing = self._turn = None
        self._turn_soon()

    def lose_power(self) -> None:
        """Lose all that is in memory, and all that is not synced."""
        self.cluster = None
        self.life += 1
        self.disk.lose_power()

    def disk_state(self) -> dict[str, MemoryFolder]:
        """Return a copy of the disk's synced state."""
        return {
            name: MemoryFolder(folder.synced, folder.synced, folder.manifest)
            for name, folder in self.disk.folders.items()
        }

    def exchange_disk(self, state: dict[str, MemoryFolder], *, is_old: bool) -> None:
        """Have a region that is down start from another state of its disk; ``is_old`` if not the last one."""
        assert self.cluster is None, f"{self.name} is running, and its disk is in use"
        self.disk.folders = state
        self.incarnation += 1
        self.is_put_back = is_old

    def clock(self) -> int:
        return START_NS + self.world.now * 1000 + self.offset

    def physical(self) -> Timestamp:
        """Return the time that the region's clock shows."""
        return Timestamp(self.clock())

    # -- reading -------------------------------------------------------------------------------

    @property
    def view(self) -> CommitView:
        assert self.cluster is not None
        return self.cluster.learner.environment.view()

    def log(self) -> RegionLog:
        """Return all chains; of the own chains, what may leave the region."""
        return RegionLog(self.view, self.world.shards, self.number, len(self.world.names), self.synced)

    def executed(self) -> list[Slot]:
        return executed(self.view, self.world.shards)

    # -- writing -------------------------------------------------------------------------------

    def process(self, group: list[PendingRequest]) -> None:
        """Commit a group of requests, and call back those that it completes."""
        assert self.cluster is not None
        for told in self.world.before_commits:
            told(self)
        for pending in self.cluster.process(group):
            if pending.error is not None:
                raise pending.error
            if pending.on_done is not None:
                pending.on_done()
            if self._importing is not None and pending is self._importing[1]:
                run, self._importing = self._importing[0], None
                self._carry_out(self.neighbours.imported(run, self.world.now_ns()))
        self.world.observe(self)
        if self.syncs_at_once:
            self.sync()
        self._committed()

    def _committed(self) -> None:
        self.neighbours.on_commit(self.world.now_ns())
        self._turn_soon()

    def want(self, shard: ShardId, key: bytes, amount: int) -> None:
        """Ask the neighbours for rights."""
        self.neighbours.want(shard, key, amount)
        self._turn_soon()

    def sync(self) -> None:
        """Sync every commit to disk."""
        assert self.cluster is not None
        ends = self.executed()
        self.cluster.learner.environment.sync()
        self.synced = ends
        self.synced_ends = self.log().ends()
        if not self.is_put_back:
            for told in self.on_sync:
                told()

    # -- talking -------------------------------------------------------------------------------

    def _turn_soon(self) -> None:
        """Take a turn soon; other messages may arrive until then."""
        self._turn_by(self.world.now + self.world.chance.randint(1, TURN_US))

    def _turn_by(self, at: Micros) -> None:
        if self._turn is None or at < self._turn:
            self._turn, life = at, self.life
            self.world.after(at - self.world.now, lambda: self._take_turn(life, at))

    def _take_turn(self, life: int, at: Micros) -> None:
        if life != self.life or self._turn != at:
            return
        self._turn = None
        self._carry_out(self.neighbours.tick(self.world.now_ns()))
        self._import_next()
        self._turn_by(max(self.world.now + 1, self.neighbours.next_tick() // 1000 + 1))

    def take(self, neighbour: str, message: LinkMessage) -> None:
        """Handle a message of another region."""
        self._carry_out(self.neighbours.handle(neighbour, message, self.world.now_ns()))
        self._turn_soon()

    def _carry_out(self, effects: Iterable[ExchangeEffect]) -> None:
        for effect in effects:
            match effect:
                case SendTo(neighbour, message):
                    self.world.send(self, neighbour, message)
                case AnswerPull(neighbour, pull):
                    self._answer(neighbour, pull)
                case Importable():
                    self._turn_soon()
                case Wanted(wants):
                    for want in wants:
                        self._grant(self.neighbours.grant(want))
                case Refused(_, problem) | Stopped(problem):
                    self.world.report(self, problem)

    def _answer(self, neighbour: str, pull: Pull) -> None:
        """Read the disk, and send the answer later, when other events may have happened."""
        log, life = self.log(), self.life
        answer = self.neighbours.begin_answer(pull, log.ends(), self.physical())
        read = answer.read(log)

        def finish() -> None:
            if life == self.life:
                self._carry_out(self.neighbours.finish_answer(neighbour, answer, read))

        self.world.after(self.world.chance.randint(0, ANSWER_US), finish)

    def _grant(self, operations: Operations | None) -> None:
        if operations is not None:
            self.world.faults["granted"] += 1
            self.process([PendingRequest(ClientRequest(operations, 0, 1))])

    def _import_next(self) -> None:
        """Import all runs that can be imported, unless one is under way."""
        while self._importing is None:
            run = self.neighbours.next_run(self.physical())
            if run is None:
                return
            pending = PendingRequest(ClientRequest(run.operations, run.size, 1, after=run.after))
            self._importing = run, pending
            self.process([pending])


class RegionSimulator:
    """All regions, the network between them, and virtual time. A seed determines the run."""

    def __init__(
        self, seed: int, names: tuple[str, ...], shards: int, owner: Callable[[int, int | None], Owns]
    ) -> None:
        self.chance = random.Random(seed)
        self.names = names
        self.shards = shards
        self.now: Micros = 0
        self.network = SimulatedNetwork(random.Random(self.chance.getrandbits(64)))
        self.faults: Counter[str] = Counter()
        self.observers: list[Callable[[SimulatedRegion], None]] = []
        """Called after every commit of a region."""
        self.before_commits: list[Callable[[SimulatedRegion], None]] = []
        """Called before every commit of a region."""
        self.problems: list[Callable[[SimulatedRegion, Error], None]] = []
        """Called when a region refuses a neighbour, or stops because its disk is old."""
        self._queue: list[tuple[Micros, int, Callable[[], None]]] = []
        self._number = count()
        self._trace = sha256()
        self.regions = [SimulatedRegion(self, name, owner) for name in names]

    def after(self, delay: Micros, action: Callable[[], None]) -> None:
        heappush(self._queue, (self.now + delay, next(self._number), action))

    def now_ns(self) -> int:
        """Return the virtual time, which all regions share, in nanoseconds."""
        return self.now * 1000

    def report(self, region: SimulatedRegion, problem: Error) -> None:
        for told in self.problems:
            told(region, problem)

    def observe(self, region: SimulatedRegion) -> None:
        for observer in self.observers:
            observer(region)

    def send(self, source: SimulatedRegion, peer: str, message: LinkMessage) -> None:
        """Hand a message to the network; a shipment is sent as one message for each region's chains."""
        target = self.regions[self.names.index(peer)]
        for part in parts_of(message):
            encoded = encode(part)
            for delay in self.network.arrivals((source.node, target.node)):
                self.after(delay, partial(self._arrive, source, target, target.incarnation, encoded))

    def _arrive(
        self, source: SimulatedRegion, target: SimulatedRegion, incarnation: int, encoded: bytes
    ) -> None:
        if target.cluster is None or (source.node, target.node) in self.network.cut:
            return
        if target.incarnation != incarnation:
            return
        self._trace.update(self.now.to_bytes(8, "big") + encoded)
        target.take(source.name, decode(encoded))

    def run_until(self, end: Micros, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until ``end``, or until ``is_over`` returns true; return its value."""
        while self._queue and self._queue[0][0] <= end:
            if is_over():
                return True
            self.now, _, action = heappop(self._queue)
            action()
        self.now = max(self.now, end)
        return is_over()

    def trace(self) -> str:
        """Return the hash of all messages so far."""
        return self._trace.hexdigest()


def parts_of(message: LinkMessage) -> list[LinkMessage]:
    """Return a shipment as one message for each region's chains; any other message as it is."""
    if not isinstance(message, Shipment) or not message.chains:
        return [message]
    regions = sorted({segment.region for segments in message.chains.values() for segment in segments})
    parts: list[LinkMessage] = []
    for region in regions:
        chains = {
            shard: chosen
            for shard, segments in message.chains.items()
            if (chosen := tuple(segment for segment in segments if segment.region == region))
        }
        parts.append(Shipment(message.identity, chains, message.ends, message.fresh))
    return parts

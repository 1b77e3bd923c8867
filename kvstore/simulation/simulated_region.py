"""Regions in virtual time: the embedded store's own cluster on a memory disk, and what ships between them.

A region is what it is in a process - sequencer, client, host, importer, all of them the same objects - but
nothing runs by itself: the simulator decides when a group is committed, when the disk is synced, when a
message arrives, whether twice or never, and when a region loses its power, and what was not synced with it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
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
from kvstore.execution.procedure_context import Owns
from kvstore.fuzzylog.importing import Importer, Run
from kvstore.fuzzylog.messages import Identity, LinkMessage, News, Pull, Shipment, decode, encode
from kvstore.fuzzylog.shipping import Shipping
from kvstore.geo.chains import RegionLog
from kvstore.ports import CommitView
from kvstore.simulation.simulated_network import Endpoint, Micros, SimulatedNetwork
from kvstore.storage import MemoryDisk
from kvstore.types import RegionId, RequestId, Slot, Timestamp

PULL_US = 20_000
START_NS = 1_700_000_000 * 10**9


class EndlessLeases:
    """Leases that never expire (``ports.Leases``): all clients of the simulator conclude what they begin."""

    def begin(self, preliminary: RequestId) -> None: ...
    def end(self, preliminary: RequestId) -> None: ...
    def expired(self) -> list[RequestId]:
        return []

    def all(self) -> list[RequestId]:
        return []


class SimulatedRegion:
    """One region, alive or not."""

    def __init__(self, world: RegionSimulator, name: str, owner: Callable[[int, int | None], Owns]) -> None:
        self.world = world
        self.name = name
        self.number = RegionId(world.names.index(name))
        self.node = Endpoint("region", self.number)
        self.disk = MemoryDisk()
        self.offset = 0
        """How far its clock is from true time, in nanoseconds."""
        self.cluster: Cluster | None = None
        """None while it is dead."""
        self.life = 0
        self.synced: list[Slot] = []
        self.syncs_at_once = False
        """Whether each commit is on disk when it returns."""
        self.on_sync: list[Callable[[], None]] = []
        """Told when all that was committed is on disk."""
        self._options = Options(
            shards=world.shards,
            replicas=1,
            durability="interval",
            watch_retention=1 << 62,
            region=RegionIdentity(name, world.names, "simulated"),
            owner=owner,
        )
        self._importing: tuple[Run, PendingRequest] | None = None
        self.shipping: Shipping

    # -- life and death ------------------------------------------------------------------------

    def start(self) -> None:
        self.life += 1
        opened = open_for_writing(MemoryDirectory(self.disk), self._options)
        self.cluster = Cluster(opened, EndlessLeases(), self.clock)
        self.cluster.release_dead()
        self.sync()
        ends = self.log().ends()
        copies = {region: slots for region, slots in ends.items() if region != self.number}
        identity = Identity(self.name, self.world.names, "simulated", self.world.shards, None)
        importer = Importer(self.number, copies, self.log().tails(), 10 * 10**9)
        self.shipping = Shipping(identity, importer)
        self._importing = None
        self._tick(self.life)

    def lose_power(self) -> None:
        """What was not synced is gone; so is all that was in memory."""
        self.cluster = None
        self.life += 1
        self.disk.lose_power()

    def clock(self) -> int:
        return START_NS + self.world.now * 1000 + self.offset

    # -- reading -------------------------------------------------------------------------------

    @property
    def view(self) -> CommitView:
        assert self.cluster is not None
        return self.cluster.learner.environment.view()

    def log(self) -> RegionLog:
        """What may leave the region."""
        return RegionLog(self.view, self.world.shards, self.number, len(self.world.names), self.synced)

    def executed(self) -> list[Slot]:
        return executed(self.view, self.world.shards)

    # -- writing -------------------------------------------------------------------------------

    def process(self, group: list[PendingRequest]) -> None:
        """Commit a group; what it completes is done then."""
        assert self.cluster is not None
        for pending in self.cluster.process(group):
            if pending.error is not None:
                raise pending.error
            if pending.on_done is not None:
                pending.on_done()
            if self._importing is not None and pending is self._importing[1]:
                run, self._importing = self._importing[0], None
                self.shipping.importer.imported(run)
        self.world.observe(self)
        if self.syncs_at_once:
            self.sync()

    def sync(self) -> None:
        """Put on disk all that was committed."""
        assert self.cluster is not None
        ends = self.executed()
        self.cluster.learner.environment.sync()
        self.synced = ends
        for told in self.on_sync:
            told()

    # -- talking -------------------------------------------------------------------------------

    def _tick(self, life: int) -> None:
        if life != self.life:
            return
        end = tuple(self.log().end)
        for peer in self.world.names:
            if peer != self.name and self.world.chance.random() < 0.7:
                self.world.send(self, peer, self.shipping.pull(end))
        self.import_next()
        self.world.after(self.world.chance.randint(PULL_US // 2, PULL_US), lambda: self._tick(life))

    def take(self, message: LinkMessage) -> None:
        """Handle what came from another region."""
        match message:
            case Pull():
                log = self.log()
                assert log.has(message.tails.get(self.number, {})), "a copy ends with what is not here"
                answer = self.shipping.begin(message, log.ends(), Timestamp(self.clock()))
                shipment = self.shipping.finish(answer, answer.read(log))
                self.world.send(self, message.identity.region, shipment)
            case Shipment():
                self.shipping.take(message)
                self.import_next()
            case News():
                pass  # nobody waits for news here

    def import_next(self) -> None:
        """Import what can be imported, unless a run is under way."""
        while self._importing is None and self.cluster is not None:
            run = self.shipping.importer.next_run(Timestamp(self.clock()))
            if run is None:
                return
            pending = PendingRequest(ClientRequest(run.operations, run.size, 1, after=run.after))
            self._importing = run, pending
            self.process([pending])


class RegionSimulator:
    """All regions, the network between them, and virtual time. The same seed is the same run."""

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
        """Told whenever a region has committed something."""
        self._queue: list[tuple[Micros, int, Callable[[], None]]] = []
        self._number = count()
        self._trace = sha256()
        self.regions = [SimulatedRegion(self, name, owner) for name in names]

    def after(self, delay: Micros, action: Callable[[], None]) -> None:
        heappush(self._queue, (self.now + delay, next(self._number), action))

    def observe(self, region: SimulatedRegion) -> None:
        for observer in self.observers:
            observer(region)

    def send(self, source: SimulatedRegion, peer: str, message: LinkMessage) -> None:
        """Hand a message to the network. A shipment travels in parts, region by region."""
        target = self.regions[self.names.index(peer)]
        for part in parts_of(message):
            encoded = encode(part)
            for delay in self.network.arrivals((source.node, target.node)):
                self.after(delay, lambda encoded=encoded: self._arrive(source, target, encoded))  # type: ignore[misc]  # bound

    def _arrive(self, source: SimulatedRegion, target: SimulatedRegion, encoded: bytes) -> None:
        if target.cluster is None or (source.node, target.node) in self.network.cut:
            return
        self._trace.update(self.now.to_bytes(8, "big") + encoded)
        target.take(decode(encoded))

    def run_until(self, end: Micros, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Go on until then, or until it is over; return whether it is."""
        while self._queue and self._queue[0][0] <= end:
            if is_over():
                return True
            self.now, _, action = heappop(self._queue)
            action()
        self.now = max(self.now, end)
        return is_over()

    def trace(self) -> str:
        """What tells one run from another."""
        return self._trace.hexdigest()


def parts_of(message: LinkMessage) -> list[LinkMessage]:
    """What is sent apart: of a shipment what belongs to one region, and how far all reach."""
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

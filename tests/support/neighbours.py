"""Regions on memory disks, with every message between them in the test's hands.

Nothing moves by itself. A region is the one that a process has: cluster, log, ``Shipping``, ``Importer`` and
``Rebalancing`` are the objects of the store. What a region sends lies on ``wire``, in order, until the test
delivers it; there it can be lost, repeated or overtaken.

    world = World(shards=2, names=("eu", "us"))
    eu, us = world.regions
    eu.write({0: [put("k", 1)]})     eu commits, and News for us lies on the wire
    world.deliver(world.wire[0])     us pulls
    world.deliver(world.wire[0])     eu answers with a shipment
    world.deliver(world.wire[0])     us keeps what came
    us.import_all()                  us applies it

``Exchange`` decides what a region sends when a message arrives. It is the only place here that knows the
protocol between neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from kvstore.engine.cluster import Cluster
from kvstore.engine.manifest import RegionIdentity
from kvstore.engine.options import Options
from kvstore.engine.recovery import open_for_writing
from kvstore.engine.request import ClientRequest, PendingRequest
from kvstore.engine.store_directory import MemoryDirectory
from kvstore.eris.client import SecondHalf
from kvstore.eris.log_tail import executed
from kvstore.eris.messages import Answer
from kvstore.eris.shard_state import HIDDEN, REGISTERS, table_name
from kvstore.execution.crdt import cells
from kvstore.execution.crdt.cells import Cell
from kvstore.execution.crdt.escrow import Funds, Unaffordable, decode_unaffordable, funds
from kvstore.execution.operations import Grant, Operation, Operations
from kvstore.execution.stored_value import VERSION_BYTES
from kvstore.fuzzylog.importing import Importer, Run
from kvstore.fuzzylog.messages import (
    Identity,
    LinkMessage,
    News,
    Pull,
    Shipment,
    Vector,
    Want,
    decode,
    encode,
)
from kvstore.fuzzylog.rebalancing import Rebalancing
from kvstore.fuzzylog.shipping import Shipping
from kvstore.geo.chains import RegionLog
from kvstore.geo.typed_keys import RegionNames
from kvstore.ports import CommitView
from kvstore.simulation.simulated_region import EndlessLeases
from kvstore.storage import MemoryDisk
from kvstore.types import RegionId, ShardId, Slot, Timestamp

SECOND = 10**9
START = 1_700_000_000 * SECOND
SKEW_S = 10
ROWS_ALL = 1 << 20

Parts = Mapping[int, Iterable[Operation]]
"""What a transaction does, by shard number."""


class Packet(NamedTuple):
    """A message on its way from one region to another."""

    to: RegionId
    sender: RegionId
    message: LinkMessage


class World:
    """All regions, the links between them, and physical time."""

    def __init__(self, *, shards: int, names: tuple[str, ...]) -> None:
        assert names == tuple(sorted(names)), "a region's number is its place among the sorted names"
        self.shards = shards
        self.names = names
        self.now = 0
        """Nanoseconds since ``START``. Time stands still unless a test moves it."""
        self.wire: list[Packet] = []
        self.cut: set[frozenset[RegionId]] = set()
        """Pairs of regions whose link is cut: what one sends to the other is lost."""
        self.regions = [Region(self, RegionId(number)) for number in range(len(names))]

    def region(self, name: str) -> Region:
        """Return the region of this name."""
        return self.regions[self.names.index(name)]

    def send(self, packet: Packet) -> None:
        """Lay a message on the wire, unless the link is cut."""
        is_cut = frozenset((packet.to, packet.sender)) in self.cut
        is_news = isinstance(packet.message, News)
        # A region announces many commits with one News: a second one adds nothing before the first arrives.
        if not is_cut and not (is_news and packet in self.wire):
            self.wire.append(packet)

    def deliver(self, packet: Packet) -> None:
        """Take a message off the wire and hand it to its receiver; a region that is down loses it."""
        self.wire.remove(packet)
        receiver = self.regions[packet.to]
        if receiver.is_alive:
            receiver.take(packet.sender, decode(encode(packet.message)))


class Exchange:
    """What a region answers to its neighbours, and when it pulls: the decisions of the driver.

    Each method returns the messages to send, with their receivers.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self.own = region.number
        world = region.world
        log = region.log()
        copies = {other: slots for other, slots in log.ends().items() if other != self.own}
        identity = Identity(region.name, world.names, "by hand", world.shards, None)
        importer = Importer(self.own, copies, log.tails(), SKEW_S * SECOND)
        self.shipping = Shipping(identity, importer)
        self.rebalancing = Rebalancing(self.own, len(world.names))
        self.wanted: list[Want] = []
        """Requests for rights that arrived and were not considered yet."""
        self._announced: Vector = log.ends()

    @property
    def importer(self) -> Importer:
        return self.shipping.importer

    def peers(self) -> list[RegionId]:
        """All other regions."""
        return [RegionId(number) for number in range(len(self._region.world.names)) if number != self.own]

    def pull(self, peers: Iterable[RegionId]) -> Iterator[tuple[RegionId, LinkMessage]]:
        """Ask these neighbours for everything that is not here."""
        pull = self.shipping.pull(self._region.log().end, self.rebalancing.wants(self._region.funds))
        yield from ((peer, pull) for peer in peers)

    def announce(self) -> Iterator[tuple[RegionId, LinkMessage]]:
        """Send News to all neighbours, if any chain has grown since the last News."""
        ends = self._region.log().ends()
        if ends != self._announced:
            self._announced = ends
            yield from ((peer, News(self.own)) for peer in self.peers())

    def take(self, sender: RegionId, message: LinkMessage) -> Iterator[tuple[RegionId, LinkMessage]]:
        """Handle a message of a neighbour."""
        match message:
            case News():
                yield from self.pull([sender])
            case Pull():
                self.wanted += message.wants
                yield sender, self._answer(message)
            case Shipment():
                has_more = self.shipping.take(message)
                if has_more and message.chains:
                    yield from self.pull([sender])

    def _answer(self, pull: Pull) -> Shipment:
        log = self._region.log()
        assert log.has(pull.tails.get(self.own, {})), "a copy ends with a node that is not here"
        answer = self.shipping.begin(pull, log.ends(), self._region.clock())
        return self.shipping.finish(answer, answer.read(log))

    def grants(self) -> Iterator[tuple[ShardId, Grant]]:
        """Decide all requests for rights that have arrived; each grant is to be committed before the next."""
        wanted, self.wanted = self.wanted, []
        for want in wanted:
            cell = self._region.cell(want.shard, want.key)
            rights = funds(cell, self.own).rights
            amount = self.rebalancing.grant(want, rights, funds(cell, want.taker).rights)
            if amount > 0:
                yield want.shard, Grant(want.key, amount, want.taker)

    def next_run(self) -> Run | None:
        """Return the run to import now, if there is one."""
        return self.importer.next_run(self._region.clock())


class Imported(NamedTuple):
    """A run that a region imported, and the slots of the import."""

    run: Run
    slots: Mapping[ShardId, Slot]


class Region:
    """One region; it runs when the constructor returns."""

    def __init__(self, world: World, number: RegionId) -> None:
        self.world = world
        self.number = number
        self.name = world.names[number]
        self.disk = MemoryDisk()
        self.offset = 0
        """How far the region's clock is ahead of physical time, in nanoseconds."""
        self.syncs = True
        """Whether each commit is on disk when it returns."""
        self.is_alive = False
        self.refused: list[Exception] = []
        """Debits that were refused, in order."""
        self._cluster: Cluster
        self._synced: list[Slot] = []
        self.exchange: Exchange
        self._names = RegionNames(world.names, number, self._ask_for)
        self.start()

    # -- life and death ------------------------------------------------------------------------

    def start(self) -> None:
        """Open the region from its disk."""
        options = Options(
            shards=self.world.shards,
            replicas=1,
            durability="interval",
            region=RegionIdentity(self.name, self.world.names, "by hand"),
            owner=lambda shards, placement: lambda shard, key: True,
        )
        opened = open_for_writing(MemoryDirectory(self.disk), options)
        self._cluster = Cluster(opened, EndlessLeases(), lambda: int(self.clock()))
        self.is_alive = True
        self.sync()
        self.exchange = Exchange(self)

    def lose_power(self) -> None:
        """Lose what was not synced and all that was in memory."""
        self.is_alive = False
        self.disk.lose_power()

    def sync(self) -> None:
        """Put every commit on disk."""
        synced = self.executed()
        self._cluster.learner.environment.sync()
        self._synced = synced

    # -- reading -------------------------------------------------------------------------------

    def clock(self) -> Timestamp:
        """Return the physical time as this region's machine has it."""
        return Timestamp(START + self.world.now + self.offset)

    @property
    def view(self) -> CommitView:
        return self._cluster.learner.environment.view()

    def log(self) -> RegionLog:
        """Return all chains, the region's own ones as far as they may leave it."""
        return RegionLog(self.view, self.world.shards, self.number, len(self.world.names), self._synced)

    def executed(self) -> list[Slot]:
        """Return the end of each of the region's own chains, on disk or not."""
        return executed(self.view, self.world.shards)

    def cells(self) -> dict[tuple[ShardId, bytes], Cell]:
        """Return every key's record, whether it shows a value or not."""
        return {place: cells.decode(payload) for place, payload in self.records().items()}

    def records(self) -> dict[tuple[ShardId, bytes], bytes]:
        """Return every key's encoded record."""
        found = {}
        for shard in map(ShardId, range(self.world.shards)):
            for kind, skip in ((REGISTERS, VERSION_BYTES), (HIDDEN, 0)):
                rows = self.view.table(table_name(shard, kind)).scan(b"", b"\xff", limit=ROWS_ALL)
                found.update({(shard, key): stored[skip:] for key, stored in rows})
        return dict(sorted(found.items()))

    def cell(self, shard: ShardId, key: bytes) -> Cell:
        """Return the record of one key."""
        return self.cells().get((shard, key), cells.NOTHING)

    def funds(self, shard: ShardId, key: bytes) -> Funds:
        """Return what this region may spend of a bounded counter, and its balance."""
        return funds(self.cell(shard, key), self.number)

    # -- writing -------------------------------------------------------------------------------

    def write(self, parts: Parts, second_half: Parts | None = None) -> Answer:
        """Commit one transaction; with a second half, one that takes locks first."""
        shards = sorted({*parts, *(second_half or {})})
        request = ClientRequest(_operations(parts, shards), 0, 1)
        if second_half is not None:
            half = SecondHalf(_operations(second_half, shards))
            request = ClientRequest(request.operations, 0, 1, second_half=half)
        answer = self._process(request)
        for outcome in answer.outcomes.values():
            if outcome.unaffordable:
                self.refused.append(self._names.refusal(decode_unaffordable(outcome.unaffordable)))
        return answer

    def _process(self, request: ClientRequest) -> Answer:
        pending = PendingRequest(request)
        for done in self._cluster.process([pending]):
            if done.error is not None:
                raise done.error
        if self.syncs:
            self.sync()
        self._send(self.exchange.announce())
        assert pending.answer is not None, "nothing holds locks here"
        return pending.answer

    def _ask_for(self, short: Unaffordable) -> None:
        shards = map(ShardId, range(self.world.shards))
        shard = next(shard for shard in shards if self.cell(shard, short.key).escrow is not None)
        self.exchange.rebalancing.want(shard, short.key, short.amount)

    def grant_all(self) -> Iterator[tuple[ShardId, Grant, Slot]]:
        """Grant the rights that neighbours asked for; yield each grant with its slot."""
        for shard, grant in self.exchange.grants():
            yield shard, grant, self._process(ClientRequest({shard: (grant,)}, 0, 1)).slots[shard]

    def import_all(self) -> Iterator[Imported]:
        """Import run by run; yield each run."""
        while (run := self.exchange.next_run()) is not None:
            answer = self._process(ClientRequest(run.operations, run.size, 1, after=run.after))
            self.exchange.importer.imported(run)
            yield Imported(run, answer.slots)

    # -- messages ------------------------------------------------------------------------------

    def pull(self, peers: Iterable[RegionId]) -> None:
        """Ask these neighbours for everything that is not here."""
        self._send(self.exchange.pull(peers))

    def take(self, sender: RegionId, message: LinkMessage) -> None:
        """Handle a message of a neighbour."""
        self._send(self.exchange.take(sender, message))

    def announce(self) -> None:
        """Send News, if any chain has grown since the last News."""
        self._send(self.exchange.announce())

    def _send(self, messages: Iterator[tuple[RegionId, LinkMessage]]) -> None:
        for peer, message in messages:
            self.world.send(Packet(peer, self.number, message))


def _operations(parts: Parts, shards: Iterable[int]) -> Operations:
    return {ShardId(shard): tuple(parts.get(shard, ())) for shard in shards}

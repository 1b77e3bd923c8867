"""What a region answers a neighbour that pulls, and what it makes of the answer.

A region ships copies as it has them: of its own chains up to what nothing can take back any more (contracts
D2), of the others' up to what it imported. Where they come from is behind ``Copies``.

INVARIANTS
    SHIP-1  What is shipped is executed, has a quorum, and is on disk; it never happens otherwise.
    SHIP-2  All copies of a chain are beginnings of one sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from kvstore.execution.operations import Segment
from kvstore.fuzzylog.importing import Importer, dominates, lacking
from kvstore.fuzzylog.messages import Identity, Pull, Shipment, Vector, Want
from kvstore.types import RegionId, ShardId, Slot, Timestamp

SHIPMENT_BYTES = 1 << 20
"""About so much of each region's chains goes with one answer; the rest is pulled then."""


class Copies(Protocol):
    """The chains as they lie on disk, of one moment."""

    def ends(self) -> Vector:
        """How far each chain is here, the own ones as far as they may leave the region."""

    def read(self, region: RegionId, after: tuple[Slot, ...], size: int) -> Iterable[tuple[ShardId, Segment]]:
        """What of a region's chains comes behind these slots: whole nodes, about so many bytes."""


class PullAnswer(NamedTuple):
    """An answer that is being made: between its beginning and its end the disk is read, which takes long."""

    ends: Vector
    on_disk: Vector
    fresh: dict[RegionId, Timestamp]
    after: Vector
    """By region, behind what the neighbour lacks it."""

    def read(self, copies: Copies) -> dict[RegionId, dict[ShardId, Segment]]:
        return {
            region: dict(copies.read(region, slots, SHIPMENT_BYTES)) for region, slots in self.after.items()
        }


class Shipping:
    """One region's exchange with all its neighbours."""

    def __init__(self, identity: Identity, importer: Importer) -> None:
        self.identity = identity
        self.importer = importer
        self.own = importer.own
        self.known: Vector = {}
        """How far all chains are known to reach, by what neighbours said."""
        self.fresh: dict[RegionId, Timestamp] = {}
        """By region, the time up to which all that happened there is applied here."""
        self._promised: dict[RegionId, list[tuple[Vector, dict[RegionId, Timestamp]]]] = {}

    def pull(self, own_end: tuple[Slot, ...], wants: tuple[Want, ...] = ()) -> Pull:
        """What to ask a neighbour for; ``own_end``: how far this region's own chains are applied, all."""
        received = self.importer.received()
        applied = self.importer.applied()
        own = {self.own: own_end}
        tails = self.importer.tails()
        return Pull(self.identity, {**received, **own}, {**applied, **own}, wants, tails)

    def begin(self, pull: Pull, on_disk: Vector, now: Timestamp) -> PullAnswer:
        """What the neighbour lacks and is here; ``now``: physical time, of what is on disk or earlier."""
        asker = RegionId(self.identity.names.index(pull.identity.region))
        ends = {**on_disk, **self.importer.applied()}
        nothing = (Slot(0),) * self.identity.shards
        after = {
            region: pull.received.get(region, nothing)
            for region, _ in lacking(pull.received, ends)
            if region != asker
        }
        return PullAnswer(ends, on_disk, {**self.fresh, self.own: now}, after)

    def finish(self, answer: PullAnswer, read: Mapping[RegionId, dict[ShardId, Segment]]) -> Shipment:
        """``read``: by region, what of it was read from disk."""
        chains: dict[ShardId, list[Segment]] = {}
        for region, parts in read.items():
            noted = self._with_noted(region, parts, answer.after[region], answer.on_disk[region])
            for shard, segment in noted.items():
                chains.setdefault(shard, []).append(segment)
        shipped = {shard: tuple(segments) for shard, segments in chains.items()}
        own_end = answer.on_disk.get(self.own, ())
        early = {
            shard: segment.last
            for shard, segment in read.get(self.own, {}).items()
            if segment.last > own_end[shard]
        }
        assert not early, f"SHIP-1: slots up to {early} are to be shipped, and {own_end} may leave the region"
        return Shipment(self.identity, shipped, answer.ends, answer.fresh)

    def _with_noted(
        self,
        region: RegionId,
        parts: dict[ShardId, Segment],
        after: tuple[Slot, ...],
        on_disk: tuple[Slot, ...],
    ) -> dict[ShardId, Segment]:
        """The parts, and what is noted here behind them: so it gets on to those who hear of it here only."""
        if region == self.own:
            return parts
        for shard, slot in enumerate(on_disk):
            sent = parts[ShardId(shard)].last if ShardId(shard) in parts else after[shard]
            if sent < slot or self.importer.chains[region, ShardId(shard)].copied != slot:
                return parts  # not all that is on disk goes along, or more has come since
        for shard, chain in self.importer.chains_of(region):
            part = parts.get(shard)
            first, items = (after[shard] + 1, ()) if part is None else (part.first, part.items)
            sent = after[shard] if part is None else part.last
            assert part is None or part.last == chain.copied, (
                f"SHIP-2: the copy of chain {(region, shard)} ends at slot {chain.copied}, not at slot {sent}"
            )
            noted = tuple(item for item in chain.noted() if item.last > sent)
            if noted:
                parts[shard] = Segment(region, Slot(first), items + noted)
        return parts

    def take(self, shipment: Shipment) -> bool:
        """Keep what came; return whether the neighbour has still more."""
        sender = RegionId(self.identity.names.index(shipment.identity.region))
        assert sender != self.own, f"SHIP-2: region {self.own} takes its own shipment, up to {shipment.ends}"
        self.importer.receive(shipment)
        for region, slots in shipment.ends.items():
            known = self.known.get(region, slots)
            self.known[region] = tuple(map(max, known, slots))
        theirs = {region: slots for region, slots in shipment.ends.items() if region != self.own}
        self._promised.setdefault(sender, []).append((theirs, shipment.fresh))
        self.refresh()
        return not dominates(self.importer.received(), theirs)

    def refresh(self) -> None:
        """See what of what neighbours have told is applied by now."""
        applied = self.importer.applied()
        for promises in self._promised.values():
            while promises and dominates(applied, promises[0][0]):
                for region, time in promises.pop(0)[1].items():
                    if region != self.own:
                        self.fresh[region] = max(time, self.fresh.get(region, Timestamp(0)))
            del promises[64:]

    def behind(self, region: RegionId) -> int:
        """How many slots of a region are known of and not applied."""
        applied, known = self.importer.applied(), self.known
        return dict(lacking(applied, {region: known[region]})).get(region, 0) if region in known else 0

"""The answer to a neighbour's pull, and what a region learns from an answer.

A region ships its own chains up to the last slot that can no longer be lost (contracts D2), and its copies of
other regions' chains up to the last import. The port ``Copies`` reads both from disk.

INVARIANTS
    SHIP-1  Every shipped slot is executed, at a quorum, and on disk; it never changes afterwards.
    SHIP-2  All copies of a chain are prefixes of one sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from kvstore.execution.operations import Segment
from kvstore.fuzzylog.importing import Importer, dominates, lacking
from kvstore.fuzzylog.messages import Identity, Pull, Shipment, Vector, Want
from kvstore.types import RegionId, ShardId, Slot, Timestamp

SHIPMENT_BYTES = 1 << 20
"""About how many bytes of each region's chains one answer carries; the next pull asks for the rest."""


class Copies(Protocol):
    """The chains on disk, as one snapshot."""

    def ends(self) -> Vector:
        """Return the end of each chain; of the own chains, the part that may leave the region."""

    def read(self, region: RegionId, after: tuple[Slot, ...], size: int) -> Iterable[tuple[ShardId, Segment]]:
        """Return the segments of a region's chains after these slots: whole nodes, about ``size`` bytes."""


class PullAnswer(NamedTuple):
    """An answer in the making. The disk is read between its beginning and its end."""

    ends: Vector
    on_disk: Vector
    fresh: dict[RegionId, Timestamp]
    after: Vector
    """Slots after which the neighbour lacks items, by region."""

    def read(self, copies: Copies) -> dict[RegionId, dict[ShardId, Segment]]:
        return {
            region: dict(copies.read(region, slots, SHIPMENT_BYTES)) for region, slots in self.after.items()
        }


class Shipping:
    """What one region ships to its neighbours, and what they have shipped to it."""

    def __init__(self, identity: Identity, importer: Importer) -> None:
        self.identity = identity
        self.importer = importer
        self.own = importer.own
        self.known: Vector = {}
        """The ends of all chains, as far as neighbours have told."""
        self.fresh: dict[RegionId, Timestamp] = {}
        """The time up to which all that happened in a region is applied here, by region."""
        self._promised: dict[RegionId, list[tuple[Vector, dict[RegionId, Timestamp]]]] = {}

    def pull(self, own_end: tuple[Slot, ...], wants: tuple[Want, ...] = ()) -> Pull:
        """Return the pull to send to a neighbour; ``own_end`` are the ends of this region's own chains."""
        received = self.importer.received()
        applied = self.importer.applied()
        own = {self.own: own_end}
        tails = self.importer.tails()
        return Pull(self.identity, {**received, **own}, {**applied, **own}, wants, tails)

    def begin(self, pull: Pull, on_disk: Vector, now: Timestamp) -> PullAnswer:
        """Return what the neighbour lacks and this region has; ``now`` is no later than what is on disk."""
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
        """Return the shipment with the segments read from disk, by region and shard."""
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
        """Return the parts and the noted items after them, for neighbours that hear of them here only."""
        if region == self.own:
            return parts
        for shard, slot in enumerate(on_disk):
            sent = parts[ShardId(shard)].last if ShardId(shard) in parts else after[shard]
            if sent < slot or self.importer.chains[region, ShardId(shard)].copied != slot:
                return parts  # the answer does not reach the end of the copy, or the copy has grown since
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
        """Keep the items of a shipment; return whether the neighbour has more."""
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
        """Update ``fresh`` from the shipments that are applied completely by now."""
        applied = self.importer.applied()
        for promises in self._promised.values():
            while promises and dominates(applied, promises[0][0]):
                for region, time in promises.pop(0)[1].items():
                    if region != self.own:
                        self.fresh[region] = max(time, self.fresh.get(region, Timestamp(0)))
            del promises[64:]

    def behind(self, region: RegionId) -> int:
        """Return the number of a region's slots that are known of and not applied."""
        applied, known = self.importer.applied(), self.known
        return dict(lacking(applied, {region: known[region]})).get(region, 0) if region in known else 0

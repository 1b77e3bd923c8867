"""What really happened, seen from outside: the chains as their regions synced them, and who had seen what.

White-box judges of the log (fuzzylog.md, 7.1): every copy is exact (SHIP-2) and never ahead of its owner
(SHIP-1), every node comes whole (I5) and behind all that its region had when it was submitted (I13, I18).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from kvstore.errors import Error
from kvstore.execution.operations import Marker, Piece, Segment
from kvstore.fuzzylog.messages import Vector
from kvstore.simulation.simulated_region import RegionSimulator, SimulatedRegion
from kvstore.types import RegionId, ShardId, Slot
from tests.simulation.ledger import Violation

EVERYTHING = 1 << 60
NOTHING = Slot(0)
Chain = tuple[RegionId, ShardId]


class Issued(NamedTuple):
    """The clocks of a group, up to the last, and what its region had when it was submitted."""

    until: int
    seen: Vector


@dataclass
class Record:
    """A chain as its region synced it: what stands in it, without the slots where nothing does."""

    end: Slot = NOTHING
    slots: list[Slot] = field(default_factory=list)
    items: list[Piece | Marker] = field(default_factory=list)

    def between(self, after: Slot, until: Slot) -> list[Piece | Marker]:
        return self.items[bisect_right(self.slots, after) : bisect_right(self.slots, until)]

    def last_node(self, until: Slot) -> Slot:
        """The last node up to there; 0 if there is none."""
        at = bisect_right(self.slots, until) - 1
        while at >= 0 and not isinstance(self.items[at], Piece):
            at -= 1
        return self.slots[at] if at >= 0 else Slot(0)


class Ledger:
    """Watches all regions."""

    def __init__(self, simulator: RegionSimulator) -> None:
        self.simulator = simulator
        self.chains: dict[Chain, Record] = defaultdict(Record)
        self.issued: dict[RegionId, list[Issued]] = defaultdict(list)
        self._copied: dict[RegionId, Vector] = {}
        self.nodes = self.imported = 0
        self._had: dict[RegionId, Vector] = {}
        """What a region had before the commit that is under way."""
        simulator.before_commits.append(self._about_to_commit)
        simulator.observers += [self._committed, self.look_at]
        simulator.problems.append(self._on_problem)
        for region in simulator.regions:
            region.on_sync.append(lambda region=region: self._synced(region))  # type: ignore[misc]  # bound

    def started(self, region: SimulatedRegion) -> None:
        """A region has its power back: nobody may have more of it than it has (SHIP-1)."""
        assert region.cluster is not None
        clock = region.cluster.sequencer.clock
        issued = self.issued[region.number]
        while issued and issued[-1].until > clock:
            issued.pop()  # it was lost, and its times are given anew
        ends = region.log().ends()
        self._copied[region.number] = ends
        for other, vector in self._copied.items():
            lost = [
                shard
                for shard, slot in enumerate(vector.get(region.number, ()))
                if other != region.number and slot > ends[region.number][shard]
            ]
            if lost:
                raise Violation(
                    f"{self._name(other)} has more of {region.name} than itself, on shards {lost}"
                )

    def vector(self, region: SimulatedRegion) -> Vector:
        """What a region has: all that it executed, and all that it imported."""
        return {**region.log().ends(), region.number: tuple(region.executed())}

    def _about_to_commit(self, region: SimulatedRegion) -> None:
        if region.is_put_back:
            raise Violation(f"{region.name} was put back from an older state, and goes on")
        self._had[region.number] = self.vector(region)

    def _committed(self, region: SimulatedRegion) -> None:
        """Note what a group that is committed now has seen: what the region had when it was submitted."""
        assert region.cluster is not None
        issued = Issued(int(region.cluster.sequencer.clock), self._had[region.number])
        self.issued[region.number].append(issued)

    # -- old copies ----------------------------------------------------------------------------

    def _on_problem(self, region: SimulatedRegion, problem: Error) -> None:
        if not region.is_put_back:
            raise Violation(f"{region.name} is no old copy, and no stranger: {problem}")
        if region.name not in str(problem):
            raise Violation(f"{region.name} was put back, and is not named: {problem}")
        self.simulator.faults["old copy stopped"] += 1

    def ended(self, region: SimulatedRegion) -> None:
        """Judge a region that was put back, at its end: it stops when it has heard from any neighbour."""
        if region.neighbours.heard and not region.neighbours.is_old:
            raise Violation(f"{region.name} was put back from an older state, and does not notice")

    def all_have_more(self, region: SimulatedRegion, slots: tuple[Slot, ...]) -> bool:
        """Return whether each other region has more of a region's chains on disk than these slots."""
        return all(
            any(theirs > slot for theirs, slot in zip(held, slots, strict=True))
            for other in self.simulator.regions
            if other is not region
            if (held := other.synced_ends[region.number])
        )

    # -- own chains ----------------------------------------------------------------------------

    def _synced(self, region: SimulatedRegion) -> None:
        shards = range(self.simulator.shards)
        after = tuple(self.chains[region.number, ShardId(shard)].end for shard in shards)
        for shard, segment in region.log().read(region.number, after, EVERYTHING):
            record = self.chains[region.number, shard]
            for item in segment.items:
                if isinstance(item, Piece | Marker):
                    record.slots.append(item.last)
                    record.items.append(item)
                    self.nodes += isinstance(item, Piece)
            record.end = segment.last

    # -- copies --------------------------------------------------------------------------------

    def look_at(self, region: SimulatedRegion) -> None:
        """A region has committed something: look at what it imported."""
        ends = region.log().ends()
        before = self._copied.get(region.number) or {other: (Slot(0),) * len(ends[other]) for other in ends}
        self._copied[region.number] = ends
        for other, slots in ends.items():
            if other != region.number and slots != before[other]:
                for shard, segment in region.log().read(other, before[other], EVERYTHING):
                    self._check_copy(region, before[other][shard], shard, segment, ends)

    def _check_copy(
        self, region: SimulatedRegion, after: Slot, shard: ShardId, segment: Segment, ends: Vector
    ) -> None:
        record = self.chains[segment.region, shard]
        where = f"{region.name}'s copy of {self._name(segment.region)}'s chain {shard}"
        if segment.last > record.end:
            raise Violation(f"{where} ends at {segment.last}, and the chain at {record.end}")
        copy = [item for item in segment.items if isinstance(item, Piece | Marker)]
        if copy != record.between(after, segment.last):
            raise Violation(f"{where} is not exact behind {after}")
        for item in copy:
            if isinstance(item, Piece):
                self.imported += 1
                self._check_node(where, segment.region, item, ends, region.number)

    def _check_node(self, where: str, origin: RegionId, piece: Piece, ends: Vector, own: RegionId) -> None:
        for shard, slot in piece.places.items():
            if ends[origin][shard] < slot:
                raise Violation(f"{where} has {piece.last}, and lacks its piece on shard {shard}")
        for region, slots in self._seen_by(origin, piece).items():
            for shard, slot in enumerate(slots):
                cause = self.chains[region, ShardId(shard)].last_node(slot)
                if region != own and ends[region][shard] < cause:
                    missing = f"slot {cause} of {self._name(region)}'s chain {shard}"
                    raise Violation(f"{where} has {piece.last}, and lacks a cause: {missing}")

    def _seen_by(self, origin: RegionId, piece: Piece) -> Vector:
        issued = self.issued[origin]
        at = bisect_left(issued, int(piece.time), key=lambda group: group.until)
        return issued[at].seen if at < len(issued) else {}

    def _name(self, region: RegionId) -> str:
        return self.simulator.names[region]

"""What came from other regions and is not imported yet, and what of it may be imported next (contracts D3).

Of each chain the items that have come wait in their order. One is *passed* when all it comes behind is: its
predecessor, its edges, and for a marker what the other region had imported there. A node is passed as a
whole, when each of its pieces is the next of its chain. So all that is passed is closed downwards, at any
moment, and whatever is taken of it in this order as well.

One run is imported at a time. It is a transaction, because it carries a node that changes something; what is
passed behind the last such node is only noted, and goes with the next run. Else two idle regions would import
each other's imports for ever.

INVARIANTS
    IMPORT-1  Whatever is imported is closed: causes first, whole nodes, no slot of a chain left out.
    IMPORT-2  A node more than ``skew`` ahead of the clock waits, and all that comes behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from kvstore.execution.operations import ChainItem, Import, Marker, Operations, Piece, Segment, Skip
from kvstore.fuzzylog.messages import Shipment, Tails, Vector, encode
from kvstore.types import RegionId, ShardId, Slot, Timestamp

NODES_MAX = 256
BYTES_MAX = 1 << 20
"""One run has at most so many nodes, or bytes; a node that is larger is a run of its own."""


@dataclass(slots=True)
class IncomingChain:
    """What came of one chain behind ``copied``, where the copy that imports made ends."""

    copied: Slot
    items: deque[ChainItem] = field(default_factory=deque)
    applied_items: int = 0
    """How many of the items are noted as applied."""
    tail: tuple[Slot, Timestamp] | None = None
    """The last node of the copy."""

    @property
    def received(self) -> Slot:
        return self.items[-1].last if self.items else self.copied

    def noted(self) -> Iterator[ChainItem]:
        """Those that are noted as applied, and are not part of the copies yet."""
        return islice(self.items, self.applied_items)

    @property
    def applied(self) -> Slot:
        return self.items[self.applied_items - 1].last if self.applied_items else self.copied


class Run(NamedTuple):
    """What is imported next. ``after``: the time of its latest node. ``ends``: how many items of each
    chain."""

    operations: Operations
    after: Timestamp
    size: int
    ends: dict[tuple[RegionId, ShardId], int]


class Importer:
    """The chains of all other regions, as they are known in one."""

    def __init__(self, own: RegionId, copied: Vector, tails: Tails, skew: int) -> None:
        """``copied``: of the other regions, how far imports got, ``tails``: the last nodes of that; ``skew``
        in nanoseconds."""
        self.own = own
        self.skew = skew
        self.chains = {
            (region, ShardId(shard)): IncomingChain(slot, tail=tails.get(region, {}).get(ShardId(shard)))
            for region, slots in copied.items()
            for shard, slot in enumerate(slots)
        }
        self.held: dict[RegionId, Timestamp] = {}
        """Regions of which a node is too far ahead of the clock, and its time."""
        self.ignored = 0
        """Parts of shipments that did not continue what is here."""

    # -- what comes ----------------------------------------------------------------------------

    def receive(self, shipment: Shipment) -> None:
        """Take what is new; of a region whose part begins too late, nothing."""
        parts: dict[RegionId, list[tuple[ShardId, Segment]]] = {}
        for shard, segments in shipment.chains.items():
            for segment in segments:
                parts.setdefault(segment.region, []).append((shard, segment))
        for region, part in parts.items():
            if region != self.own:
                self._receive(region, part)

    def _receive(self, region: RegionId, part: list[tuple[ShardId, Segment]]) -> None:
        if any(segment.first > self.chains[region, shard].received + 1 for shard, segment in part):
            self.ignored += 1
            return
        for shard, segment in part:
            chain = self.chains[region, shard]
            received = chain.received
            chain.items.extend(item for item in segment.items if item.last > received)
            assert chain.received == max(received, segment.last), (
                f"IMPORT-1: chain {(region, shard)} came up to slot {segment.last}, had {received}, and now "
                f"ends at slot {chain.received}"
            )

    def chains_of(self, region: RegionId) -> Iterator[tuple[ShardId, IncomingChain]]:
        """A region's chains, by shard."""
        return ((shard, chain) for (other, shard), chain in self.chains.items() if other == region)

    def received(self) -> Vector:
        """How far each chain has come."""
        return self._vector({key: chain.received for key, chain in self.chains.items()})

    def applied(self) -> Vector:
        """How far each chain is applied."""
        return self._vector({key: chain.applied for key, chain in self.chains.items()})

    def tails(self) -> Tails:
        """The last node of each copy."""
        tails: Tails = {}
        for (region, shard), chain in self.chains.items():
            if chain.tail is not None:
                tails.setdefault(region, {})[shard] = chain.tail
        return tails

    @staticmethod
    def _vector(slots: Mapping[tuple[RegionId, ShardId], Slot]) -> Vector:
        vector: Vector = {}
        for (region, _), slot in slots.items():
            vector[region] = (*vector.get(region, ()), slot)
        return vector

    # -- what is next --------------------------------------------------------------------------

    def next_run(self, now: Timestamp) -> Run | None:
        """The next run, if a node can be imported; else note what can be passed. ``now``: physical time."""
        walk = _Walk(self, now)
        run = walk.run()
        latest = now + self.skew
        assert run is None or run.after <= latest, (
            f"IMPORT-2: a node of {run.after} is to be imported, and {latest} is the latest that may be"
        )
        self.held = walk.held
        if run is None:
            for key, end in walk.applied_items.items():
                self.chains[key].applied_items = end
        return run

    def imported(self, run: Run) -> None:
        """The run is committed: it is part of the copies now."""
        for key, end in run.ends.items():
            chain = self.chains[key]
            for _ in range(end):
                item = chain.items.popleft()
                assert item.last > chain.copied, (
                    f"IMPORT-1: slot {item.last} of chain {key} is imported after slot {chain.copied}"
                )
                chain.copied = item.last
                if type(item) is Piece:
                    chain.tail = item.last, item.time
            chain.applied_items = max(0, chain.applied_items - end)


class _Walk:
    """One walk over what may be passed, from what is noted on."""

    def __init__(self, importer: Importer, now: Timestamp) -> None:
        self._own = importer.own
        self._latest = now + importer.skew
        self._chains = importer.chains
        self.applied_items = {key: chain.applied_items for key, chain in importer.chains.items()}
        self._applied = {key: chain.applied for key, chain in importer.chains.items()}
        self.held: dict[RegionId, Timestamp] = {}
        self._taken: dict[tuple[RegionId, ShardId], int] = {}
        """Of each chain, how many items are passed where the last node was taken."""
        self._nodes = 0
        self._size = 0
        self._after = Timestamp(0)

    def run(self) -> Run | None:
        """Pass what can be passed; return the run up to the last node that was taken."""
        moved = True
        while moved and not self._is_full():
            moved = False
            for key in self._chains:
                while not self._is_full() and self._pass(key):
                    moved = True
        if not self._nodes:
            return None
        ends = {key: end for key, end in self._taken.items() if end}
        return Run(self._operations(ends), self._after, self._size, ends)

    def _is_full(self) -> bool:
        return self._nodes >= NODES_MAX or self._size >= BYTES_MAX

    def _head(self, key: tuple[RegionId, ShardId]) -> ChainItem | None:
        items, at = self._chains[key].items, self.applied_items[key]
        return items[at] if at < len(items) else None

    def _pass(self, key: tuple[RegionId, ShardId]) -> bool:
        """Pass the next item of a chain, with all pieces of its node, if all it comes behind is passed."""
        item = self._head(key)
        if item is None or not self._is_ready(key, item):
            return False
        if not isinstance(item, Piece):
            self._step(key, item)
            return True
        return self._pass_node(key[0], item, item.places or {key[1]: item.last})

    def _is_ready(self, key: tuple[RegionId, ShardId], item: ChainItem) -> bool:
        region, shard = key
        match item:
            case Marker(_, chains):
                others = ((other, shard, slot) for other, slot in chains.items() if other != self._own)
                return all(self._applied[other, shard] >= slot for other, shard, slot in others)
            case Skip(_, edges) | Piece(edges=edges):
                return all(self._applied[region, other] >= slot for other, slot in edges.items())

    def _pass_node(self, region: RegionId, piece: Piece, places: Mapping[ShardId, Slot]) -> bool:
        pieces: list[tuple[tuple[RegionId, ShardId], Piece]] = []
        for shard, slot in places.items():
            other = self._head((region, shard))
            if (
                not isinstance(other, Piece)
                or other.last != slot
                or not self._is_ready((region, shard), other)
            ):
                return False
            pieces.append(((region, shard), other))
        if piece.time > self._latest:
            self.held[region] = piece.time
            return False
        assert all(part.time == piece.time for _, part in pieces), (
            f"IMPORT-1: one node of region {region} has pieces at {dict(places)}, with the times "
            f"{[part.time for _, part in pieces]}"
        )
        size = sum(len(encode(part)) for _, part in pieces)
        if self._nodes and self._size + size > BYTES_MAX:
            self._size = BYTES_MAX  # it is for the next run
            return False
        for key, part in pieces:
            self._step(key, part)
        self._nodes += 1
        self._size += size
        self._after = max(self._after, piece.time)
        self._taken = dict(self.applied_items)
        return True

    def _step(self, key: tuple[RegionId, ShardId], item: ChainItem) -> None:
        assert item.last > self._applied[key], (
            f"IMPORT-1: slot {item.last} of chain {key} is passed after slot {self._applied[key]}"
        )
        self.applied_items[key] += 1
        self._applied[key] = item.last

    def _operations(self, ends: Mapping[tuple[RegionId, ShardId], int]) -> Operations:
        segments: dict[ShardId, list[Segment]] = {}
        for (region, shard), end in ends.items():
            chain = self._chains[region, shard]
            items = tuple(islice(chain.items, end))
            segments.setdefault(shard, []).append(Segment(region, Slot(chain.copied + 1), items))
        return {shard: (Import(tuple(segments[shard])),) for shard in sorted(segments)}


def dominates(one: Vector, other: Vector) -> bool:
    """Whether a cut has all that another has."""
    return all(
        mine >= theirs
        for region, slots in other.items()
        for mine, theirs in zip(one.get(region, (Slot(0),) * len(slots)), slots, strict=True)
    )


def lacking(one: Vector, other: Vector) -> Iterable[tuple[RegionId, int]]:
    """By region, how many slots of another cut this one lacks; those of which it lacks none are left out."""
    for region, slots in other.items():
        mine = one.get(region, (Slot(0),) * len(slots))
        missing = sum(max(0, theirs - own) for own, theirs in zip(mine, slots, strict=True))
        if missing:
            yield region, missing

"""Received chains of other regions that are not imported yet, and what may be imported next (contracts D3).

The received items of each chain wait in order. An item is *passed* when everything that it depends on is
passed: its predecessor, the targets of its edges, and, for a marker, what the other region had imported at
that slot. A node is passed as a whole, when each of its pieces is the next item of its chain. So the passed
items are causally closed at any moment, and so is every prefix of the order in which they are passed.

One run is imported at a time, as one transaction that carries at least one node. Items passed after the last
node are only noted as applied; the next run carries them. Otherwise two idle regions would import each
other's imports without end.

INVARIANTS
    IMPORT-1  What is imported is causally closed: causes first, whole nodes, no slot of a chain left out.
    IMPORT-2  A node more than ``skew`` ahead of the clock waits, and so does all that depends on it.
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
"""Most nodes, and most bytes, of one run; a larger node is a run of its own."""


@dataclass(slots=True)
class IncomingChain:
    """The received items of one chain after slot ``copied``, where this region's copy of the chain ends."""

    copied: Slot
    items: deque[ChainItem] = field(default_factory=deque)
    applied_items: int = 0
    """Number of items that are noted as applied; they are the first ones."""
    tail: tuple[Slot, Timestamp] | None = None
    """Slot and time of the last node in the copy."""

    @property
    def received(self) -> Slot:
        return self.items[-1].last if self.items else self.copied

    def noted(self) -> Iterator[ChainItem]:
        """Return the items that are noted as applied and are not in the copy yet."""
        return islice(self.items, self.applied_items)

    @property
    def applied(self) -> Slot:
        return self.items[self.applied_items - 1].last if self.applied_items else self.copied


class Run(NamedTuple):
    """The transaction that imports the next items.

    ``after`` is the time of the latest node, ``size`` the bytes of all nodes, and ``ends`` the number of
    items by chain.
    """

    operations: Operations
    after: Timestamp
    size: int
    ends: dict[tuple[RegionId, ShardId], int]


class Importer:
    """The chains of all other regions, as one region has received and imported them."""

    def __init__(self, own: RegionId, copied: Vector, tails: Tails, skew: int) -> None:
        """Start from the copies on disk: their ends, and the last nodes in them.

        ``skew`` is the lead over this region's clock that a node may have, in nanoseconds.
        """
        self.own = own
        self.skew = skew
        self.chains = {
            (region, ShardId(shard)): IncomingChain(slot, tail=tails.get(region, {}).get(ShardId(shard)))
            for region, slots in copied.items()
            for shard, slot in enumerate(slots)
        }
        self.held: dict[RegionId, Timestamp] = {}
        """Times of the nodes that are too far ahead of the clock, by region."""
        self.ignored = 0
        """Number of shipped parts that did not continue a chain, and were ignored."""

    # -- receiving ----------------------------------------------------------------------------

    def receive(self, shipment: Shipment) -> None:
        """Keep the new items of a shipment. Ignore a region's part if it begins after a gap."""
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
        """Return a region's chains, with their shards."""
        return ((shard, chain) for (other, shard), chain in self.chains.items() if other == region)

    def received(self) -> Vector:
        """Return the last received slot of each chain."""
        return self._vector({key: chain.received for key, chain in self.chains.items()})

    def applied(self) -> Vector:
        """Return the last applied slot of each chain."""
        return self._vector({key: chain.applied for key, chain in self.chains.items()})

    def tails(self) -> Tails:
        """Return slot and time of the last node of each copy."""
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

    # -- importing ---------------------------------------------------------------------------

    def next_run(self, now: Timestamp) -> Run | None:
        """Return the next run, or None if no node can be imported; then note the passed items as applied.

        ``now`` is the physical time.
        """
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
        """Note that the run is committed, and its items are in the copies."""
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
    """One walk over the items that may be passed, starting after those noted as applied."""

    def __init__(self, importer: Importer, now: Timestamp) -> None:
        self._own = importer.own
        self._latest = now + importer.skew
        self._chains = importer.chains
        self.applied_items = {key: chain.applied_items for key, chain in importer.chains.items()}
        self._applied = {key: chain.applied for key, chain in importer.chains.items()}
        self.held: dict[RegionId, Timestamp] = {}
        self._taken: dict[tuple[RegionId, ShardId], int] = {}
        """Number of items passed when the last node was taken, by chain."""
        self._nodes = 0
        self._size = 0
        self._after = Timestamp(0)

    def run(self) -> Run | None:
        """Pass every item that can be passed; return the run up to the last node, or None."""
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
        """Pass the next item of a chain, with all pieces of its node, if all it depends on is passed.

        Return whether it was passed.
        """
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
            self._size = BYTES_MAX  # the run is full; the next one begins with this node
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
    """Return whether a vector covers another: no chain of the other reaches further."""
    return all(
        mine >= theirs
        for region, slots in other.items()
        for mine, theirs in zip(one.get(region, (Slot(0),) * len(slots)), slots, strict=True)
    )


def lacking(one: Vector, other: Vector) -> Iterable[tuple[RegionId, int]]:
    """Yield the regions of which ``one`` lacks slots of ``other``, with the number of these slots."""
    for region, slots in other.items():
        mine = one.get(region, (Slot(0),) * len(slots))
        missing = sum(max(0, theirs - own) for own, theirs in zip(mine, slots, strict=True))
        if missing:
            yield region, missing

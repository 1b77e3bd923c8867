"""The place where the two papers meet: a shard's log *is* the region's chain of that color (contracts A1).

The transactions that a region executed are the nodes of its own chains; the segments that it imported are its
copies of the others' chains. This module reads both from one commit of the learner. Every commit is causally
closed (contracts A2), and so is what is read from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from heapq import merge
from itertools import groupby
from typing import NamedTuple

import msgspec

from kvstore.eris.log import effects_key, read_body
from kvstore.eris.log_tail import Committed, before, clock_of, committed_after, executed, log_record
from kvstore.eris.messages import Conclusory, Preliminary, Stamped
from kvstore.eris.shard_state import CHAINS, SHIPPED, table_name
from kvstore.execution.applied import decode_effects, effects_of
from kvstore.execution.crdt.region_shard import copied, copy_key
from kvstore.execution.operations import (
    Append,
    ChainItem,
    Import,
    KeyEffect,
    Marker,
    Operations,
    Piece,
    Segment,
    Skip,
)
from kvstore.fuzzylog.importing import Importer
from kvstore.fuzzylog.messages import Tails, Vector
from kvstore.fuzzylog.playback import Frontier, Played, effects_on, play
from kvstore.ports import CommitView
from kvstore.types import ChainId, RegionId, ShardId, Slot, Timestamp

ShardSlot = tuple[ShardId, Slot]

ROWS_MAX = 64
"""Number of a chain's imports that are looked up at once."""
PLACE_BYTES = 40
"""Approximate bytes of a piece besides its keys and values."""


class RegionLog:
    """The chains of all regions, as of one commit of a region's learner."""

    def __init__(
        self, view: CommitView, shards: int, own: RegionId, regions: int, synced: Iterable[Slot] | None = None
    ) -> None:
        """``synced`` are the ends of the own chains on disk, or None if every commit is on disk."""
        self._view = view
        self._shards = [ShardId(shard) for shard in range(shards)]
        self._own = own
        self._others = [RegionId(region) for region in range(regions) if region != own]
        resolved = executed(view, shards)
        self.end = tuple(resolved if synced is None else map(min, resolved, synced))
        """Ends of the own chains, as far as they can no longer be lost: resolved on all shards, and on disk
        (contracts D2). What the learner shows is at a quorum (contracts A4)."""

    def ends(self) -> Vector:
        """Return the end of each chain."""
        return {self._own: self.end, **{region: self._copied(region) for region in self._others}}

    def _copied(self, region: RegionId) -> tuple[Slot, ...]:
        return tuple(copied(self._view.table(table_name(shard, CHAINS)), region) for shard in self._shards)

    def read(self, region: RegionId, after: tuple[Slot, ...], size: int) -> Iterable[tuple[ShardId, Segment]]:
        """Return the segments of a region's chains after these slots: whole nodes, about ``size`` bytes."""
        return self._read_own(after, size) if region == self._own else self._read_copies(region, after, size)

    # -- the own chains ------------------------------------------------------------------------

    def _read_own(self, after: tuple[Slot, ...], size: int) -> Iterator[tuple[ShardId, Segment]]:
        position = list(after)
        chains: dict[ShardId, list[ChainItem]] = {shard: [] for shard in self._shards}
        for committed in committed_after(self._view, position):
            if any(piece.slot > self.end[piece.shard] for piece in committed.pieces):
                break  # the node is not on disk yet
            for shard, item in self._items(committed):
                _append(chains[shard], item)
                size -= item_size(item)
            if size <= 0:
                break
        for shard, items in chains.items():
            end = min(position[shard], self.end[shard])
            if end > (items[-1].last if items else after[shard]):
                _append(items, Skip(end))  # NO-OPs at the end of the chain
            if items:
                yield shard, Segment(self._own, Slot(after[shard] + 1), tuple(items))

    def _items(self, committed: Committed) -> Iterator[tuple[ShardId, ChainItem]]:
        stamped = committed.stamped
        request = stamped.request
        imports = {
            shard: {segment.region: segment.last for segment in part[0].segments}
            for shard, part in request.operations.items()
            if part and type(part[0]) is Import
        }
        if imports:
            yield from ((piece.shard, Marker(piece.slot, imports[piece.shard])) for piece in committed.pieces)
            return
        effects = self._effects(committed)
        payload = payload_of(stamped)
        if payload is None and not any(effects.values()):
            yield from ((piece.shard, Skip(piece.slot, request.edges)) for piece in committed.pieces)
            return
        places = {piece.shard: piece.slot for piece in committed.pieces}
        lowest, several = min(places), places if len(places) > 1 else {}
        for shard, slot in places.items():
            own = effects.get(shard, ())
            if shard == lowest:
                yield shard, Piece(slot, committed.time, own, several, request.edges, payload)
            else:
                yield shard, Piece(slot, committed.time, own, several)

    def _effects(self, committed: Committed) -> dict[ShardId, tuple[KeyEffect, ...]]:
        """Return the effects that other regions apply, by shard."""
        request = committed.stamped.request
        found: dict[ShardId, tuple[KeyEffect, ...]] = {}
        for piece in committed.pieces:
            shipped = self._view.table(table_name(piece.shard, SHIPPED)).get(effects_key(piece.slot))
            if shipped is not None:
                found[piece.shard] = decode_effects(shipped)
            elif request.half is None:
                found[piece.shard] = effects_of(request.operations[piece.shard])
        return found

    # -- copies of other chains ---------------------------------------------------------------

    def _read_copies(
        self, region: RegionId, after: tuple[Slot, ...], size: int
    ) -> Iterator[tuple[ShardId, Segment]]:
        """Yield whole imports in their order, because each is causally closed."""
        chains: dict[ShardId, list[ChainItem]] = {shard: [] for shard in self._shards}
        ends = list(after)
        for _, group in groupby(self._imports(region, after), key=lambda found: found.time):
            for found in group:
                items = [item for item in found.segment.items if item.last > ends[found.shard]]
                chains[found.shard] += items
                ends[found.shard] = max(ends[found.shard], found.segment.last)
                size -= sum(map(item_size, items))
            if size <= 0:
                break
        for shard, items in chains.items():
            if items:
                yield shard, Segment(region, Slot(after[shard] + 1), tuple(items))

    def _imports(self, region: RegionId, after: tuple[Slot, ...]) -> Iterator[ImportedSegment]:
        """Yield the imported segments of a region's chains after these slots, in the order of the imports."""
        walks = (self._imports_of(region, shard, after[shard]) for shard in self._shards)
        return merge(*walks, key=lambda found: (found.time, found.shard))

    def _imports_of(self, region: RegionId, shard: ShardId, after: Slot) -> Iterator[ImportedSegment]:
        table = self._view.table(table_name(shard, CHAINS))
        stop = copy_key(region, Slot(2**63))
        start = copy_key(region, Slot(after + 1))
        while rows := table.scan(start, stop, limit=ROWS_MAX):
            for key, slot in rows:
                stamped = self._stamped(shard, Slot(int.from_bytes(slot, "big")))
                segment = _segment_in(stamped, shard, region, key)
                yield ImportedSegment(stamped.stamp.clock, shard, segment, stamped.request.operations)
            start = rows[-1][0] + b"\x00"

    def importer(self, skew: int) -> Importer:
        """Return an importer that continues the copies; ``skew`` is the lead that a node may have, in ns."""
        return Importer(
            self._own, {region: self._copied(region) for region in self._others}, self.tails(), skew
        )

    def tails(self) -> Tails:
        """Return slot and time of the last node of each copy."""
        tails: Tails = {}
        for region in self._others:
            for shard in self._shards:
                tail = self._tail(region, shard)
                if tail is not None:
                    tails.setdefault(region, {})[shard] = tail
        return tails

    def _tail(self, region: RegionId, shard: ShardId) -> tuple[Slot, Timestamp] | None:
        table = self._view.table(table_name(shard, CHAINS))
        start, stop = copy_key(region, Slot(0)), copy_key(region, Slot(2**63))
        while rows := table.scan(start, stop, reverse=True, limit=ROWS_MAX):
            for key, slot in rows:
                stamped = self._stamped(shard, Slot(int.from_bytes(slot, "big")))
                for item in reversed(_segment_in(stamped, shard, region, key).items):
                    if type(item) is Piece:
                        return item.last, item.time
            stop = rows[-1][0]
        return None

    def has(self, tails: Mapping[ShardId, tuple[Slot, Timestamp]]) -> bool:
        """Return whether these nodes are in the own chains."""
        return all(
            slot <= self.end[shard] and clock_of(self._view, shard, slot) == time
            for shard, (slot, time) in tails.items()
        )

    def _stamped(self, shard: ShardId, slot: Slot) -> Stamped:
        stamped = read_body(log_record(self._view, shard, slot), partial(log_record, self._view))
        assert stamped is not None, f"slot {slot} of shard {shard} was executed, and is dropped"
        return stamped

    # -- playing -------------------------------------------------------------------------------

    def nodes(self, colors: frozenset[ShardId], since: Frontier) -> Iterator[Played]:
        """Yield every node of these colors that was not played up to ``since``, causes first (contracts D8).

        Nodes of other colors that ``since`` names are yielded too, without effects.
        """
        read = colors | {shard for _, shard in since}
        remote: dict[ChainId, Iterable[Piece]] = {
            (region, shard): self._pieces(region, shard, since.get((region, shard), Slot(0)))
            for region in self._others
            for shard in read
        }
        own = self._own_nodes(colors, read, since)
        return merge(own, play(remote, colors), key=lambda node: (node.time, node.region))

    def _pieces(self, region: RegionId, shard: ShardId, after: Slot) -> Iterator[Piece]:
        for found in self._imports_of(region, shard, after):
            payloads: dict[ShardSlot, bytes] | None = None
            for item in found.segment.items:
                if item.last <= after:
                    continue
                after = item.last
                if type(item) is not Piece:
                    continue
                if not item.places or min(item.places) == shard:
                    yield item
                    continue
                payloads = _payloads(found.brought, region) if payloads is None else payloads
                lowest = min(item.places)
                yield msgspec.structs.replace(item, payload=payloads.get((lowest, item.places[lowest])))

    def _own_nodes(
        self, colors: frozenset[ShardId], read: frozenset[ShardId], since: Frontier
    ) -> Iterator[Played]:
        position = self._position(read, since)
        for committed in committed_after(self._view, position):
            items = dict(self._items(committed))
            pieces = {shard: item for shard, item in items.items() if type(item) is Piece}
            participants = committed.stamped.stamp.numbers.keys()
            is_whole = pieces.keys() >= participants & read
            if not pieces or read.isdisjoint(participants) or not is_whole:
                continue  # a node that was played before may have pieces on colors that are not read
            effects = effects_on(colors, pieces)
            places = {shard: piece.last for shard, piece in pieces.items()}
            yield Played(self._own, committed.time, places, payload_of(committed.stamped), effects)

    def _position(self, read: frozenset[ShardId], since: Frontier) -> list[Slot]:
        """Return the slot after which to read each shard, so that all pieces of every new node are read."""
        ends = {shard: since.get((self._own, shard), Slot(0)) for shard in read}
        clocks = [
            clock_of(self._view, shard, Slot(end + 1)) for shard, end in ends.items() if end < self.end[shard]
        ]
        if not clocks:
            return list(self.end)
        position = before(self._view, len(self._shards), min(clocks))
        return [ends.get(shard, position[shard]) for shard in self._shards]


class ImportedSegment(NamedTuple):
    """A segment, and the time at which it was imported here."""

    time: Timestamp
    shard: ShardId
    segment: Segment
    brought: Operations
    """The whole import, with its parts on every shard."""


def _payloads(brought: Operations, region: RegionId) -> dict[ShardSlot, bytes]:
    """Return the payloads of a region's nodes in an import, by the node's place on its lowest color.

    A payload is shipped only with that place, and an import holds whole nodes.
    """
    return {
        (shard, item.last): item.payload
        for shard, part in brought.items()
        if part and type(part[0]) is Import
        for segment in part[0].segments
        if segment.region == region
        for item in segment.items
        if type(item) is Piece and item.payload is not None
    }


def _segment_in(stamped: Stamped, shard: ShardId, region: RegionId, key: bytes) -> Segment:
    (operation,) = stamped.request.operations[shard]
    assert type(operation) is Import
    return next(
        segment
        for segment in operation.segments
        if segment.region == region and copy_key(region, segment.last) == key
    )


def _append(items: list[ChainItem], item: ChainItem) -> None:
    """Append an item; merge a skip with a skip before it, unless the earlier one would gain edges.

    Items of other chains may depend on slots between the two, and must not wait for the additional edges.
    """
    previous = items[-1] if items else None
    if (
        type(item) is Skip
        and type(previous) is Skip
        and all(previous.edges.get(shard, 0) >= slot for shard, slot in item.edges.items())
    ):
        items[-1] = Skip(item.last, previous.edges)
    else:
        items.append(item)


def payload_of(stamped: Stamped) -> bytes | None:
    """Return the payload that a transaction appended to the log, or None."""
    if type(stamped.request.half) in (Preliminary, Conclusory):
        return None
    for part in stamped.request.operations.values():
        for operation in part:
            if type(operation) is Append and operation.payload is not None:
                return operation.payload
    return None


def item_size(item: ChainItem) -> int:
    """Return the approximate size of an item, in bytes."""
    if type(item) is not Piece:
        return PLACE_BYTES
    size = PLACE_BYTES + len(item.payload or b"")
    return size + sum(len(effect.key) + _value_size(effect) for effect in item.effects)


def _value_size(effect: KeyEffect) -> int:
    value: bytes = getattr(effect, "value", b"") or getattr(effect, "member", b"")
    return len(value)

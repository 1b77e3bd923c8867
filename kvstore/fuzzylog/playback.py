"""Playing the log: every node once, none before its causes (contracts D8).

The chains are merged by time, then region. A node is stamped later than all it comes behind, also through
colors that are not played, so that order is one that the graph allows, and nobody has to walk the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from kvstore.execution.operations import KeyEffect, Piece
from kvstore.types import ChainId, RegionId, ShardId, Slot, Timestamp

Frontier = dict[ChainId, Slot]
"""By chain, the last slot that was played."""


class Entry(NamedTuple):
    """A piece where a chain has it. Sorts as it is played."""

    time: Timestamp
    region: RegionId
    shard: ShardId
    piece: Piece


class Played(NamedTuple):
    """A node. ``places``: its slot on each of its colors. ``effects``: on those that are played."""

    region: RegionId
    time: Timestamp
    places: dict[ShardId, Slot]
    payload: bytes | None
    effects: tuple[KeyEffect, ...]


def play(chains: Mapping[ChainId, Iterable[Piece]], colors: frozenset[ShardId]) -> Iterator[Played]:
    """Merge the chains' pieces, each chain in its order, into nodes. They have the effects of these colors.

    ``chains`` holds all chains of the colors, and of the others those of which something was played before:
    a node that stands there below the frontier was played, and some of its pieces do not come.
    """
    entries = merge(*(_entries(chain, pieces) for chain, pieces in chains.items()), key=_order)
    read = {shard for _, shard in chains}
    for (time, region), group in groupby(entries, key=_order):
        pieces = {entry.shard: entry.piece for entry in group}
        places = next((piece.places for piece in pieces.values() if piece.places), None)
        if places is None:
            places = {shard: piece.last for shard, piece in pieces.items()}
        if pieces.keys() >= places.keys() & read:
            payload = next((piece.payload for piece in pieces.values() if piece.payload is not None), None)
            yield Played(region, time, dict(places), payload, effects_on(colors, pieces))


def effects_on(colors: frozenset[ShardId], pieces: Mapping[ShardId, Piece]) -> tuple[KeyEffect, ...]:
    """What a node did on the colors that are played, the same in every region."""
    return tuple(effect for shard in sorted(colors & pieces.keys()) for effect in pieces[shard].effects)


def _entries(chain: ChainId, pieces: Iterable[Piece]) -> Iterator[Entry]:
    return (Entry(piece.time, chain[0], chain[1], piece) for piece in pieces)


def _order(entry: Entry) -> tuple[Timestamp, RegionId]:
    return entry.time, entry.region

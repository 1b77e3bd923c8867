"""Playing the log: every node once, none before its causes (contracts D8).

The chains are merged by time, then region. A node is stamped later than all that it depends on, also through
colors that are not played, so this order agrees with the graph, and playback does not walk the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from kvstore.execution.operations import KeyEffect, Piece
from kvstore.types import ChainId, RegionId, ShardId, Slot, Timestamp

Frontier = dict[ChainId, Slot]
"""The last slot that was played, by chain."""


class Entry(NamedTuple):
    """A piece and its place. Entries sort in the order of playback."""

    time: Timestamp
    region: RegionId
    shard: ShardId
    piece: Piece


class Played(NamedTuple):
    """A node that was played: its slots, by color, and its effects on the colors that are played."""

    region: RegionId
    time: Timestamp
    places: dict[ShardId, Slot]
    payload: bytes | None
    effects: tuple[KeyEffect, ...]


def play(chains: Mapping[ChainId, Iterable[Piece]], colors: frozenset[ShardId]) -> Iterator[Played]:
    """Merge the pieces of the chains into nodes, and yield them with their effects on these colors.

    ``chains`` holds all chains of the colors, and those other chains that have a place in the frontier: a
    node below the frontier was played before, and some of its pieces are not read again.
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
    """Return the effects of a node on the colors that are played; every region computes equal effects."""
    return tuple(effect for shard in sorted(colors & pieces.keys()) for effect in pieces[shard].effects)


def _entries(chain: ChainId, pieces: Iterable[Piece]) -> Iterator[Entry]:
    return (Entry(piece.time, chain[0], chain[1], piece) for piece in pieces)


def _order(entry: Entry) -> tuple[Timestamp, RegionId]:
    return entry.time, entry.region

"""The dependencies between nodes, computed from the chains (contracts D4).

A node depends on its predecessors in its region's chains, on the nodes that its edges lead to, and on the
nodes that the region had imported below these places, which the markers name. This module joins the three
into a past for each node, from which the order of any two nodes follows. It keeps only the nodes from a given
time on: a path between two of them touches no earlier node.

INVARIANTS
    CHAIN-1  The items of a chain are taken in its order, each once.
    CHAIN-2  Each piece of a node names its own slot among the places of the node.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from kvstore.execution.operations import Marker, Piece, Segment, Skip
from kvstore.types import ChainId, RegionId, ShardId, Slot, Timestamp

Past = dict[ChainId, Slot]
"""The last slot that a node depends on, by chain, with all that this slot depends on."""
Name = tuple[Timestamp, RegionId]
"""The name of a node. Names sort in the order of playback: a node after every node that it depends on."""
ChainSlot = tuple[ChainId, Slot]


class _ChainState(NamedTuple):
    """What a chain depends on at a slot: its last node, and the imports and the edges of skips after it."""

    node: Name | None = None
    imports: Mapping[RegionId, Slot] = {}
    edges: Mapping[ShardId, Slot] = {}


class _Node(NamedTuple):
    places: dict[ShardId, Slot]
    edges: dict[ShardId, Slot]


class Ancestry:
    """The nodes from ``since`` on, built from all chains, each from its beginning."""

    def __init__(self, since: Timestamp) -> None:
        self._since = since
        self._standings: dict[ChainId, tuple[list[Slot], list[_ChainState]]] = {}
        self._nodes: dict[Name, _Node] = {}
        self._pasts: dict[Name, Past] = {}

    def take(self, shard: ShardId, segment: Segment) -> None:
        """Add the next segment of a chain."""
        chain = (segment.region, shard)
        slots, standings = self._standings.setdefault(chain, ([], []))
        for item in segment.items:
            last = standings[-1] if standings else _ChainState()
            assert not slots or item.last > slots[-1], (
                f"CHAIN-1: slot {item.last} of chain {chain} is taken after slot {slots[-1]}"
            )
            match item:
                case Piece(time=time) if time < self._since:
                    slots.clear()  # no item up to here depends on a node that is kept
                    standings.clear()
                    continue
                case Piece():
                    last = _ChainState(self._add(chain, item))
                case Marker(chains=chains):
                    last = last._replace(imports={**last.imports, **chains})
                case Skip(edges=edges):
                    last = last._replace(edges={**last.edges, **edges})
            slots.append(item.last)
            standings.append(last)

    def _add(self, chain: ChainId, piece: Piece) -> Name:
        region, shard = chain
        name = (piece.time, region)
        node = self._nodes.setdefault(name, _Node({}, {}))
        places = piece.places or {shard: piece.last}
        assert places.get(shard) == piece.last, (
            f"CHAIN-2: a piece in slot {piece.last} of chain {chain} says that its node is in {places}"
        )
        node.places.update(places)
        node.edges.update(piece.edges)
        return name

    def causes(self, wanted: Iterable[ChainSlot]) -> dict[ChainSlot, list[ChainSlot]]:
        """Return the direct causes of each node among the wanted nodes, the latest first.

        A node is given by any of its places. Nodes that this object does not hold are left out.
        """
        named = {name: place for place in wanted if (name := self._name(place)) is not None}
        self._join_all()
        found: dict[ChainSlot, list[ChainSlot]] = {}
        reached: dict[ChainId, tuple[list[Slot], list[Name]]] = {}
        for name in sorted(named):
            near = self._nearest(self._before(name), reached)
            found[named[name]] = [named[cause] for cause in near]
            for chain, slot in self._places(name):
                slots, names = reached.setdefault(chain, ([], []))
                slots.append(slot)
                names.append(name)
        return found

    def _nearest(self, past: Past, reached: Mapping[ChainId, tuple[list[Slot], list[Name]]]) -> list[Name]:
        """Return the nodes of a past that no other node of this past depends on, the latest first."""
        candidates = set()
        for chain, (slots, names) in reached.items():
            at = bisect_right(slots, past.get(chain, Slot(0)))
            candidates |= set(names[at - 1 : at])
        near: list[Name] = []
        for name in sorted(candidates, reverse=True):
            chain, slot = next(self._places(name))
            if all(self._pasts[later].get(chain, 0) < slot for later in near):
                near.append(name)
        return near

    def _name(self, place: ChainSlot) -> Name | None:
        chain, slot = place
        standing = self._standing(chain, slot)
        name = None if standing is None else standing.node
        return name if name is not None and (chain, slot) in self._places(name) else None

    def _places(self, name: Name) -> Iterator[ChainSlot]:
        return (((name[1], shard), slot) for shard, slot in self._nodes[name].places.items())

    def _standing(self, chain: ChainId, slot: Slot) -> _ChainState | None:
        slots, standings = self._standings.get(chain, ([], []))
        at = bisect_right(slots, slot)
        return standings[at - 1] if at else None

    def _join_all(self) -> None:
        """Compute the past of every node, the node itself included."""
        for name in sorted(self._nodes):
            self._pasts[name] = _joined(self._before(name), dict(self._places(name)))

    def _before(self, name: Name) -> Past:
        """Return all that a node depends on."""
        region, node = name[1], self._nodes[name]
        waiting: list[ChainSlot] = [((region, shard), slot) for shard, slot in node.edges.items()]
        waiting += [((region, shard), Slot(slot - 1)) for shard, slot in node.places.items()]
        past: Past = {}
        while waiting:
            chain, slot = waiting.pop()
            if past.get(chain, 0) >= slot:
                continue
            past[chain] = slot
            standing = self._standing(chain, slot)
            if standing is not None:
                cause = standing.node
                assert cause is None or cause < name, f"CAUSES-1: node {name} depends on node {cause}"
                past = _joined(past, {} if standing.node is None else self._pasts[standing.node])
                waiting += [((other, chain[1]), last) for other, last in standing.imports.items()]
                waiting += [((chain[0], shard), last) for shard, last in standing.edges.items()]
        return past


def _joined(one: Past, other: Past) -> Past:
    return {chain: max(one.get(chain, Slot(0)), other.get(chain, Slot(0))) for chain in one.keys() | other}

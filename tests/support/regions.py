"""Checks of regions that were killed while they wrote (``programs/regions.py``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kvstore.execution.operations import Marker, Skip
from kvstore.execution.operations import Piece as Part
from kvstore.fuzzylog.messages import Vector
from kvstore.geo.public_log import Node
from kvstore.geo.region import LostWrite, Region
from kvstore.keys import Key
from kvstore.types import RegionId, Slot
from tests.support.programs.regions import COPIES, LANES, MONEY, PURSES, SHARDS, progress

Chain = tuple[str, int]
Place = tuple[str, int, int]
Regions = Mapping[str, Region]


class Said:
    """The acknowledgements that the programs wrote into these files."""

    def __init__(self, files: list[Path]) -> None:
        self.lanes: dict[tuple[str, str], int] = {}
        self.nodes: dict[Place, str] = {}
        self._seen: dict[str, dict[str, int]] = {}
        self._read = dict.fromkeys(files, 0)

    def read(self) -> Said:
        """Read the acknowledgements written so far."""
        for file, start in self._read.items():
            lines = _lines(file, start)
            self._read[file] += len(lines)
            for line in lines.splitlines():
                self._note(*json.loads(line))
        return self

    def _note(self, region: str, lane: str, number: int | str, color: int = 0, index: int = 0) -> None:
        if isinstance(number, str):
            self.nodes[region, color, index] = number
            self._seen[region] = json.loads(number)[2]
        else:
            assert number >= self.lanes.get((region, lane), 0), "acknowledged and gone in the next opening"
            self.lanes[region, lane] = number

    def seen(self, region: str, of: str) -> int:
        """Return how many puts of region ``of`` the region ``region`` had seen at its last append."""
        return self._seen.get(region, {}).get(of, 0)


def _lines(file: Path, start: int) -> bytes:
    """Return the whole lines from ``start`` on; a kill may have left the last line incomplete."""
    if not file.exists():
        return b""
    with file.open("rb") as opened:
        opened.seek(start)
        content = opened.read()
    return content[: content.rfind(b"\n") + 1]


Nodes = dict[str, list[Node]]
"""All nodes by region, in the order of a playback."""


def nodes_of(regions: Regions) -> Nodes:
    return {name: list(db.log.sync()) for name, db in regions.items()}


def check_acknowledged(regions: Regions, nodes: Nodes, said: Said) -> None:
    """Check that a region holds all acknowledged writes, and at most one further write of each lane."""
    for region, db in regions.items():
        for lane in LANES:
            acknowledged, found = said.lanes.get((region, lane), 0), progress(db, lane)
            assert acknowledged <= found <= acknowledged + 1, (region, lane, acknowledged, found)
        appended = {place: payload for place, payload in said.nodes.items() if place[0] == region}
        have = {_place(node): node.payload for node in nodes[region]}
        lost = [place for place, payload in appended.items() if have.get(place) != payload.encode()]
        assert lost == [], f"{region} lost nodes"


def check_whole(db: Region, regions: Regions) -> None:
    """Check one region at one moment: no write is applied by half, or twice."""
    with db.snapshot() as view:
        for region in regions:
            copies = {view.get(("batch", region, copy), 0) for copy in range(COPIES)}
            assert len(copies) == 1, (db.name, region, copies)
            assert copies == {view.get(("adds", region), 0)}
        assert view.get("all adds", 0) == sum(view.get(("adds", region), 0) for region in regions)
        made = sum(view.get(("made", region), False) for region in regions)
        money = sum(view.get(("purse", purse), 0) for purse in range(PURSES))
        assert money == made * MONEY * PURSES, "money is not conserved"


def check_copies(regions: Regions, nodes: Nodes) -> None:
    """Check that each copy of a chain is a prefix of that chain, and holds no node without its causes."""
    chains = {name: _chains(found) for name, found in nodes.items()}
    for name, found in nodes.items():
        assert len({_place(node) for node in found}) == len(found), f"{name} has a node twice"
        for chain, copy in chains[name].items():
            assert copy == chains[chain[0]][chain][: len(copy)], (name, chain)
        _check_order(name, found)
        _check_closed(regions[name])


def check_equal(regions: Regions, nodes: Nodes) -> None:
    """Check that all regions show equal content and hold equal nodes."""
    first, *others = regions
    state = _state(regions[first])
    for other in others:
        assert nodes[other] == nodes[first]
        assert _state(regions[other]) == state


def _state(db: Region) -> tuple[dict[Key, Any], list[LostWrite]]:
    with db.snapshot() as view:
        return dict(view.scan()), list(db.lost_writes())


def _chains(nodes: list[Node]) -> dict[Chain, list[Node]]:
    """Return the nodes in order, by region and color."""
    chains: dict[Chain, list[Node]] = {}
    for node in nodes:
        for color in node.colors:
            chains.setdefault((node.region, color), []).append(node)
    return chains


def _check_order(name: str, nodes: list[Node]) -> None:
    """Check that the nodes that a node's writer had seen precede it."""
    played: dict[str, int] = {}
    for node in nodes:
        for effect in node.effects:
            if effect.kind == "put" and isinstance(effect.key, tuple) and effect.key[0] == "put":
                played[str(effect.key[1])] = effect.value
        if node.payload is not None:
            for region, number in json.loads(node.payload)[2].items():
                assert played.get(region, 0) >= number, (name, node.id, region)


def _check_closed(db: Region) -> None:
    """Check the edges and markers of all chains on disk: no cause is missing."""
    with db._readers.viewing() as view:
        log = db.exchange.log(view)
        ends = log.ends()
        for region in ends:
            for shard, segment in log.read(region, (Slot(0),) * SHARDS, 1 << 60):
                for item in segment.items:
                    late = list(_missing(item, region, shard, ends))
                    assert late == [], (db.name, region, shard, item, late)


def _missing(
    item: Skip | Marker | Part, region: RegionId, shard: int, ends: Vector
) -> Iterator[tuple[RegionId, int, Slot]]:
    if isinstance(item, Marker):
        causes = [(other, shard, slot) for other, slot in item.chains.items()]
    else:
        causes = [(region, int(other), slot) for other, slot in item.edges.items()]
    if isinstance(item, Part):
        causes += [(region, int(other), slot) for other, slot in item.places.items()]
    return (cause for cause in causes if ends[cause[0]][cause[1]] < cause[2])


def _place(node: Node) -> Place:
    return node.id.region, node.id.color, node.id.index

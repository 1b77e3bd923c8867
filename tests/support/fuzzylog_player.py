"""Carries out the commands of the transcripts in ``tests/transcripts/fuzzylog``; the head of
``tests/fuzzylog/test_transcripts.py`` lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from kvstore.fuzzylog.messages import Shipment
from kvstore.geo.region import _lost
from kvstore.types import RegionId, Slot
from tests.support.fuzzylog_text import (
    parsed,
    shown_answer,
    shown_cell,
    shown_import,
    shown_key,
    shown_message,
    shown_operation,
    shown_range,
    shown_segment,
    shown_time,
    shown_vector,
)
from tests.support.neighbours import SECOND, Packet, Region, World

EVERYTHING = 1 << 60
ROUNDS_MAX = 20


class Player:
    """Carries out the commands of one transcript."""

    def __init__(self) -> None:
        self.world: World

    def play(self, verb: str, arguments: list[str]) -> list[str]:
        """Carry out one command; return what came of it, and the messages that it sent."""
        command: Callable[..., list[str]] | None = getattr(self, f"_{verb}", None)
        assert command is not None, f"there is no command {verb}"
        if verb in ("regions", "wire"):
            return command(*arguments)
        before = list(self.world.wire)
        lines = command(*arguments)
        return [*lines, *self._shown_packets(_added(before, self.world.wire))]

    # -- regions, and what their clients ask for ------------------------------------------------

    def _regions(self, shards: str, *names: str) -> list[str]:
        self.world = World(shards=int(shards), names=names)
        return []

    def _write(self, name: str, *parts: str) -> list[str]:
        region = self.world.region(name)
        region.refused.clear()
        answer = region.write(parsed(parts, self.world.names))
        return [f"{name} {shown_answer(answer, region.refused)}"]

    def _general(self, name: str, *parts: str) -> list[str]:
        region, middle = self.world.region(name), parts.index("|")
        locked, writes = (parsed(half, self.world.names) for half in (parts[:middle], parts[middle + 1 :]))
        return [f"{name} {shown_answer(region.write(locked, writes), region.refused)}"]

    def _import(self, name: str) -> list[str]:
        region, lines = self.world.region(name), []
        for shard, grant, slot in region.grant_all():
            lines.append(f"{name} s{shard}#{slot} {shown_operation(grant, self.world.names)}")
        for imported in region.import_all():
            first, *rest = shown_import(imported, self.world.names)
            lines += [f"{name} {first}", *rest]
        return lines

    # -- messages ------------------------------------------------------------------------------

    def _pull(self, name: str, *peers: str) -> list[str]:
        region = self.world.region(name)
        region.pull([self.world.region(peer).number for peer in peers] or region.exchange.peers())
        return []

    def _fetch(self, name: str, peer: str) -> list[str]:
        """Pull from one neighbour, which answers at once; show the answer, which has arrived."""
        region, other = self.world.region(name), self.world.region(peer)
        region.pull([other.number])
        assert self.world.wire, f"{name} cannot reach {peer}"
        self.world.deliver(self.world.wire[-1])
        answer = self.world.wire[-1]
        assert (answer.sender, answer.to) == (other.number, region.number), f"{peer} did not answer"
        self.world.deliver(answer)
        return self._shown_packets([answer])

    def _deliver(self, *where: str) -> list[str]:
        for packet in self._chosen(where):
            self.world.deliver(packet)
        return []

    def _lose(self, *where: str) -> list[str]:
        for packet in self._chosen(where):
            self.world.wire.remove(packet)
        return []

    def _repeat(self, *where: str) -> list[str]:
        self.world.wire += self._chosen(where)
        return []

    def _tear(self, *where: str) -> list[str]:
        for packet in self._chosen(where):
            assert isinstance(packet.message, Shipment), "only shipments are torn"
            self.world.wire.remove(packet)
            self.world.wire += [packet._replace(message=part) for part in _parts_of(packet.message)]
        return []

    def _chosen(self, where: Iterable[str]) -> list[Packet]:
        """Return the messages on the wire that a command selects, in order."""
        chosen = list(self.world.wire)
        for part in where:
            name, _, value = part.rpartition("=")
            match name:
                case "to":
                    chosen = [each for each in chosen if each.to == self.world.region(value).number]
                case "from":
                    chosen = [each for each in chosen if each.sender == self.world.region(value).number]
                case "with":
                    chosen = [each for each in chosen if value in self._chains_in(each)]
                case _:
                    chosen = [each for each in chosen if type(each.message).__name__ == value]
        assert chosen, f"there is no such message: {' '.join(where)}"
        return chosen

    def _chains_in(self, packet: Packet) -> set[str]:
        if not isinstance(packet.message, Shipment):
            return set()
        return {
            f"{self.world.names[segment.region]}.s{shard}"
            for shard, segments in packet.message.chains.items()
            for segment in segments
        }

    def _run(self) -> list[str]:
        """Deliver and import until nothing is on the wire and no region has anything to do."""
        lines: list[str] = []
        for _ in range(ROUNDS_MAX):
            for packet in list(self.world.wire):
                self.world.deliver(packet)
            for region in self.world.regions:
                if region.is_alive:
                    lines += [line for line in self._import(region.name) if not line.startswith("  ")]
            if not self.world.wire:
                return lines
        raise AssertionError("the regions never fall silent")

    def _settle(self) -> list[str]:
        """Have all regions pull until none of them gets anything new, and compare them."""
        for _ in self.world.names:
            for region in self.world.regions:
                region.pull(region.exchange.peers())
            self._run()
        first, *others = self.world.regions
        differ = [region.name for region in others if region.records() != first.records()]
        return [f"{', '.join(differ)} differ from {first.name}"] if differ else ["all regions are equal"]

    def _wire(self) -> list[str]:
        return self._shown_packets(self.world.wire)

    def _shown_packets(self, packets: Iterable[Packet]) -> list[str]:
        lines = []
        for packet in packets:
            first, *rest = shown_message(packet.message, self.world.names)
            lines += [f"{self.world.names[packet.to]} <- {first}", *rest]
        return lines

    # -- faults and time -----------------------------------------------------------------------

    def _cut(self, one: str, other: str) -> list[str]:
        self.world.cut.add(self._link(one, other))
        return []

    def _heal(self, one: str, other: str) -> list[str]:
        self.world.cut.remove(self._link(one, other))
        return []

    def _link(self, one: str, other: str) -> frozenset[RegionId]:
        return frozenset((self.world.region(one).number, self.world.region(other).number))

    def _clock(self, name: str, seconds: str) -> list[str]:
        self.world.region(name).offset = int(seconds) * SECOND
        return []

    def _wait(self, seconds: str) -> list[str]:
        self.world.now += int(seconds) * SECOND
        return []

    def _buffer(self, name: str) -> list[str]:
        self.world.region(name).syncs = False
        return []

    def _sync(self, name: str) -> list[str]:
        self.world.region(name).sync()
        self.world.region(name).announce()
        return []

    def _crash(self, name: str) -> list[str]:
        self.world.region(name).lose_power()
        return []

    def _restart(self, name: str) -> list[str]:
        self.world.region(name).start()
        return []

    # -- what a region holds -------------------------------------------------------------------

    def _show(self, *names: str) -> list[str]:
        lines = []
        for name in names or self.world.names:
            found = self.world.region(name).cells()
            shown = (shown_cell(key, cell, self.world.names) for (_, key), cell in found.items())
            lines.append(f"{name}: {', '.join(shown) or 'empty'}")
        return lines

    def _lost(self, *names: str) -> list[str]:
        lines = []
        for name in names or self.world.names:
            for (_, key), cell in self.world.region(name).cells().items():
                for origin, value in _lost(cell):
                    writer = f"{self.world.names[origin.region]} at {shown_time(origin.time)}"
                    lines.append(f"{name}: lost {shown_key(key)}={value} of {writer}")
        return lines

    def _status(self, *names: str) -> list[str]:
        return [self._status_of(self.world.region(name)) for name in names or self.world.names]

    def _status_of(self, region: Region) -> str:
        names, shipping = self.world.names, region.exchange.shipping
        importer = shipping.importer
        shipping.refresh()
        applied = {**importer.applied(), region.number: tuple(region.executed())}
        said = f"{region.name}: applied {shown_vector(applied, names)}"
        for (other, shard), chain in importer.chains.items():
            place = f"{names[other]} s{shard}"
            if chain.applied > chain.copied:
                said += f"; only noted {place}{shown_range(chain.copied, chain.applied)}"
            if chain.received > chain.applied:
                said += f"; waiting {place}{shown_range(chain.applied, chain.received)}"
        for other, time in sorted(importer.held.items()):
            said += f"; {names[other]} is held until {shown_time(time)}"
        behind = {other: shipping.behind(other) for other in region.exchange.peers()}
        said += "".join(f"; behind {names[other]} by {count}" for other, count in behind.items() if count)
        return said

    def _chain(self, name: str, of: str) -> list[str]:
        nothing = (Slot(0),) * self.world.shards
        owner = self.world.region(of).number
        found = self.world.region(name).log().read(owner, nothing, EVERYTHING)
        return [shown_segment(shard, segment, self.world.names) for shard, segment in found]


def _added(before: list[Packet], now: list[Packet]) -> list[Packet]:
    """Return the packets that are on the wire now and were not before; a repeated packet counts as new."""
    left, added = list(before), []
    for packet in now:
        if packet in left:
            left.remove(packet)
        else:
            added.append(packet)
    return added


def _parts_of(shipment: Shipment) -> list[Shipment]:
    """Return the shipment as several, each with one part of one chain."""
    return [
        msgspec.structs.replace(shipment, chains={shard: (segment,)})
        for shard, segments in sorted(shipment.chains.items())
        for segment in segments
    ]

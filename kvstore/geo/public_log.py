"""The public log of a region: append a node to one or several colors, and play the nodes, causes first.

A color is a shard. Transactions that wrote to keys are nodes of the log too; they have ``effects`` and no
payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvstore import keys, values
from kvstore.engine.readers import Readers
from kvstore.engine.request import ClientRequest, PendingRequest
from kvstore.errors import ForeignSnapshot, LimitExceeded, UnknownColor, UsageError, ValueNotSupported
from kvstore.execution import operations
from kvstore.execution.operations import Append, Operations
from kvstore.fuzzylog import playback
from kvstore.fuzzylog.ancestry import Ancestry, ChainSlot
from kvstore.fuzzylog.messages import Identity
from kvstore.geo.chains import RegionLog
from kvstore.geo.replication import ReplicationAgent
from kvstore.keys import Key
from kvstore.types import RegionId, ShardId, Slot, Timestamp

PAYLOAD_BYTES_MAX = 16 << 20
"""Most bytes of a payload; equal to the limit of a value."""
READ_AHEAD = 256
"""Number of nodes that are read from one view of the store."""
SLOT_MAX = 2**62
"""The largest slot that a frontier may name."""
READ_BYTES = 1 << 20
"""Bytes of each chain that ``causes`` reads at a time."""
RESOLVED_S = 30.0
"""The time that ``sync`` waits for transactions that were executed before it and still wait for locks."""


@dataclass(frozen=True, slots=True, order=True)
class NodeId:
    """The name of a node: its region, and its place on the lowest of its colors."""

    region: str
    color: int
    index: int


class Effect(NamedTuple):
    """The effect of a node on one key. Kinds: put, delete, add, set_add, set_remove, credit, spend, grant."""

    kind: str
    key: Key
    value: Any = None
    region: str | None = None


class Node(NamedTuple):
    """A node of the log. ``time`` is in nanoseconds; ``effects`` are those on the colors that are played."""

    id: NodeId
    colors: tuple[int, ...]
    region: str
    time: int
    payload: bytes | None
    effects: tuple[Effect, ...]


class Log:
    """The log of one region: its own chains, and its copies of the other regions' chains."""

    def __init__(
        self,
        exchange: ReplicationAgent,
        readers: Readers,
        run: Callable[[PendingRequest], object],
        wait: Callable[[float], None],
    ) -> None:
        self._exchange = exchange
        self._readers = readers
        self._run = run
        self._wait = wait
        self._names = exchange.identity.names
        self._shards = exchange.identity.shards

    def append(self, colors: Iterable[int], payload: bytes) -> NodeId:
        """Append one node to all of these colors, atomically and in one round; return its name.

        Raises:
            UnknownColor, LimitExceeded, ValueNotSupported: of the arguments; nothing was appended.
        """
        wanted = sorted(self._colors(colors))
        if not isinstance(payload, bytes | bytearray | memoryview):
            raise ValueNotSupported(f"a payload is bytes, not {type(payload).__name__}", place="payload")
        payload = bytes(payload)
        if len(payload) > PAYLOAD_BYTES_MAX:
            message = f"a payload of {len(payload)} bytes is over the limit of {PAYLOAD_BYTES_MAX}"
            raise LimitExceeded(message, size=len(payload), limit=PAYLOAD_BYTES_MAX)
        parts: Operations = {color: (Append(None),) for color in wanted}
        parts[wanted[0]] = (Append(payload),)
        pending = PendingRequest(ClientRequest(parts, len(payload), len(wanted)))
        self._run(pending)
        assert pending.answer is not None, "a request is answered or fails"
        return NodeId(self._exchange.identity.region, int(wanted[0]), int(pending.answer.slots[wanted[0]]))

    def sync(self, colors: Iterable[int] | None = None, since: dict[str, Any] | None = None) -> Playback:
        """Return the nodes of these colors after ``since``: each node once, none before its causes.

        ``colors`` defaults to all. ``since`` is the ``frontier`` of an earlier playback; None plays from the
        first node.

        Raises:
            UnknownColor: there is no such color.
            ForeignSnapshot: the frontier is of another log.
            TimedOut: a transaction executed before this call still waits for locks.
        """
        played = frozenset(self._colors(range(self._shards) if colors is None else colors))
        frontier = self._parse(since)
        self._wait(RESOLVED_S)
        return Playback(self._exchange, self._readers, played, frontier)

    def causes(self, nodes: Iterable[Node]) -> dict[NodeId, tuple[NodeId, ...]]:
        """Return the direct causes of each of these nodes among them, the latest first.

        Raises ``ForeignSnapshot`` for a node that is not in this log, ``UsageError`` for any other object.
        """
        given: list[Any] = list(nodes)
        for node in given:
            if not isinstance(node, Node):
                raise UsageError(f"causes takes nodes, as sync delivers them, not {node!r}")
        places = {self._place(node.id): node.id for node in given}
        ancestry = Ancestry(Timestamp(min((node.time for node in given), default=0)))
        if given:
            with self._readers.viewing() as view:
                _read_all(self._exchange.log(view), self._exchange.identity, ancestry)
        found = ancestry.causes(places)
        for place, node in places.items():
            if place not in found:
                raise ForeignSnapshot(f"{node} is no node of this log")
        return {places[place]: tuple(places[cause] for cause in causes) for place, causes in found.items()}

    def _place(self, node: NodeId) -> ChainSlot:
        if node.region not in self._names:
            raise ForeignSnapshot(f"{node} is no node of this log")
        return (RegionId(self._names.index(node.region)), ShardId(node.color)), Slot(node.index)

    def _colors(self, colors: Iterable[int]) -> set[ShardId]:
        if isinstance(colors, str | bytes) or not isinstance(colors, Iterable):
            raise UsageError(f"colors are a list of numbers, not {colors!r}")
        found = set()
        for color in colors:
            if type(color) is not int or not 0 <= color < self._shards:
                message = f"there is no color {color!r}: colors are 0 to {self._shards - 1}"
                raise UnknownColor(message, color=color)
            found.add(ShardId(color))
        if not found:
            raise UsageError("a node has at least one color")
        return found

    def _parse(self, since: dict[str, Any] | None) -> playback.Frontier:
        if since is None:
            return {}
        try:
            world, places = since["world"], since["places"]
            frontier = {
                (RegionId(self._names.index(name)), ShardId(int(color))): Slot(slot)
                for name, chain in places.items()
                for color, slot in chain.items()
            }
            valid = all(
                0 <= shard < self._shards and type(slot) is int and 0 <= slot <= SLOT_MAX
                for (_, shard), slot in frontier.items()
            )
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise ForeignSnapshot(f"not a frontier of this log: {since!r}") from error
        if world != self._exchange.identity.world or not valid:
            raise ForeignSnapshot(f"the frontier is of another log, {world!r}")
        return frontier


def _read_all(log: RegionLog, identity: Identity, ancestry: Ancestry) -> None:
    """Read every chain to its end, in parts of ``READ_BYTES``."""
    for region in map(RegionId, range(len(identity.names))):
        ends = [Slot(0)] * identity.shards
        more = True
        while more:
            more = False
            for shard, segment in log.read(region, tuple(ends), READ_BYTES):
                ancestry.take(shard, segment)
                ends[shard], more = segment.last, True


class Playback:
    """A finite iterator over nodes. ``frontier`` is the position after the nodes that it has returned."""

    def __init__(
        self,
        exchange: ReplicationAgent,
        readers: Readers,
        colors: frozenset[ShardId],
        since: playback.Frontier,
    ) -> None:
        self._exchange = exchange
        self._readers = readers
        self._colors = colors
        self._frontier = dict(since)
        self._read = dict(since)
        """How far every chain was read that may tell what was played before."""
        with readers.viewing() as view:
            self._ends = exchange.log(view).ends()
        self._nodes = self._stream()

    def __iter__(self) -> Iterator[Node]:
        return self

    def __next__(self) -> Node:
        return next(self._nodes)

    @property
    def frontier(self) -> dict[str, Any]:
        """The argument ``since`` with which the next ``sync`` continues here. It can be stored as JSON."""
        names = self._exchange.identity.names
        places: dict[str, dict[str, int]] = {}
        for (region, shard), slot in sorted(self._frontier.items()):
            places.setdefault(names[region], {})[str(shard)] = int(slot)
        return {"world": self._exchange.identity.world, "places": places}

    def _stream(self) -> Iterator[Node]:
        while nodes := self._read_ahead():
            for node in nodes:
                for shard, slot in node.places.items():
                    if shard in self._colors:
                        self._frontier[node.region, shard] = slot
                yield self._public(node)
        for region, slots in self._ends.items():
            for shard in self._colors:
                self._frontier[region, shard] = max(
                    slots[shard], self._frontier.get((region, shard), Slot(0))
                )

    def _read_ahead(self) -> list[playback.Played]:
        """Return the next nodes, of those that existed when the playback began."""
        found: list[playback.Played] = []
        with self._readers.viewing() as view:
            read = self._colors | {shard for _, shard in self._read}
            for node in self._exchange.log(view).nodes(self._colors, self._read):
                if any(slot > self._ends[node.region][shard] for shard, slot in node.places.items()):
                    continue
                for shard in read & node.places.keys():
                    self._read[node.region, shard] = node.places[shard]
                if self._colors.isdisjoint(node.places):
                    continue
                found.append(node)
                if len(found) == READ_AHEAD:
                    break
        return found

    def _public(self, node: playback.Played) -> Node:
        names = self._exchange.identity.names
        lowest = min(node.places)
        name = names[node.region]
        effects = tuple(_effect(effect, names) for effect in node.effects)
        place = NodeId(name, int(lowest), int(node.places[lowest]))
        return Node(place, tuple(sorted(map(int, node.places))), name, int(node.time), node.payload, effects)


def _effect(effect: operations.KeyEffect, names: tuple[str, ...]) -> Effect:
    key = keys.decode(effect.key)
    match effect:
        case operations.Put(_, value):
            return Effect("put", key, values.decode(value))
        case operations.Delete():
            return Effect("delete", key)
        case operations.Add(_, amount):
            return Effect("add", key, values.decode(amount))
        case operations.SetAdd(_, member):
            return Effect("set_add", key, values.decode(member))
        case operations.SetRemove(_, member):
            return Effect("set_remove", key, values.decode(member))
        case operations.Credit(_, amount, owner):
            return Effect("credit", key, amount, names[owner])
        case operations.Spend(_, amount):
            return Effect("spend", key, amount)
        case operations.Grant(_, amount, taker):
            return Effect("grant", key, amount, names[taker])

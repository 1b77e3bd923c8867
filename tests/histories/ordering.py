"""Finding an order of blocks: of the versions of a key that no read puts next to each other.

A topological order of the graph is kept. Where in it a block of a key begins before another has been read
for the last time, one of the two has to go first. One that closes no cycle is chosen, and the topological
order repaired around it (Pearce and Kelly 2006); when both close one, the search jumps back to the last
choice that has to do with it. Pairs that the order keeps apart by itself are never looked at, so what real
time decides costs nothing; and it goes from the beginning to the end, so that what belongs together in time
is decided together.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tests.histories.cycles import BY_SEVERITY, Cycle, way, worst_cycle
from tests.histories.graph import THROUGH, WW, Graph, Label
from tests.histories.verdict import Undecidable
from tests.histories.versions import Block


class Choice(NamedTuple):
    """An edge that puts one block before another of its key."""

    source: int
    target: int
    label: Label
    before: Block
    after: Block


class Decision(NamedTuple):
    """A choice that was taken. ``reasons`` are the earlier decisions that rule out its opposite.

    ``None``: nothing does, the opposite is still to be tried.
    """

    choice: Choice
    reasons: frozenset[int] | None


class _Settled(NamedTuple):
    """Before this place no two blocks overlap; ``latest`` is the last to begin there, by key."""

    place: int
    latest: dict[Any, Block]


_SETTLED_APART = 64
_SETTLED_MAX = 32
"""How many of these are kept; when the search goes back further it looks at everything again."""


class Search:
    """Looks for an order in which each read sees the last version before it.

    ``keys`` has the blocks of each key that are in no known order, ``order`` every node of the graph.
    """

    def __init__(self, graph: Graph, keys: Sequence[Sequence[Block]], order: list[int], budget: int) -> None:
        self._graph = graph
        self._begin_at: defaultdict[int, list[Block]] = defaultdict(list)
        for blocks in keys:
            for block in () if all(block.is_point for block in blocks) else blocks:
                self._begin_at[block.head].append(block)
        self._node_at = order
        self._place = [0] * len(graph)
        for place, node in enumerate(order):
            self._place[node] = place
        self._budget = budget
        self._trail: list[Decision] = []
        self._decided: dict[tuple[int, int], int] = {}
        self._settled: deque[_Settled] = deque([_Settled(0, {})], maxlen=_SETTLED_MAX)

    def run(self) -> Cycle | None:
        """Find an order, or the cycle that closes whatever is chosen.

        Raises:
            Undecidable: the budget of steps is spent.
        """
        cycle = None
        while cycle is None and (overlap := self._first_overlap()) is not None:
            cycle = self._separate(*overlap)
        return cycle

    def order(self) -> list[int]:
        """The transactions in the order found."""
        return [node for node in self._node_at if node < self._graph.transactions]

    def _first_overlap(self) -> tuple[Block, Block] | None:
        """The first block in the order that begins while another of its key still goes on, and that one."""
        start, latest = self._settled[-1].place, dict(self._settled[-1].latest)
        for place in range(start, len(self._node_at)):
            if place - start >= _SETTLED_APART:
                self._spend(place - start)
                start = place
                self._settled.append(_Settled(place, dict(latest)))
            for block in self._begin_at.get(self._node_at[place], ()):
                before = latest.get(block.key)
                if before is not None and place < self._last(before):
                    return before, block
                latest[block.key] = block
        return None

    def _unsettle(self, place: int) -> None:
        """What stands from this place on has moved."""
        while self._settled and self._settled[-1].place > place:
            self._settled.pop()
        if not self._settled:
            self._settled.append(_Settled(0, {}))

    def _last(self, block: Block) -> int:
        """Where the block ends: its last version was written and read by all who did."""
        tail = block.tail
        assert tail.writer is not None
        return max(self._place[node] for node in (tail.writer, *tail.readers))

    def _separate(self, one: Block, other: Block) -> Cycle | None:
        """Put one before the other, or take earlier decisions back so that this comes up again."""
        choice, opposite = self._choice(one, other), self._choice(other, one)
        against = self._try(choice)
        if against is None:
            self._decide(choice, None)
            return None
        against_opposite = self._try(opposite)
        if against_opposite is None:
            self._decide(opposite, against)
            return None
        return self._jump_back(against | against_opposite, [choice, opposite])

    def _jump_back(self, reasons: frozenset[int], closing: list[Choice]) -> Cycle | None:
        """Turn around the last decision that the conflict has to do with; without any there is no order."""
        while reasons:
            last = max(reasons)
            decision = self._trail[last]
            self._take_back(last)
            reasons -= {last}
            if decision.reasons is not None:
                reasons |= decision.reasons
                continue
            before, after = decision.choice.before, decision.choice.after
            opposite = self._choice(after, before)
            against = self._try(opposite)
            if against is None:
                self._decide(opposite, reasons)
                return None
            reasons |= against
            closing = [opposite]
        return self._explained(closing)

    def _choice(self, before: Block, after: Block) -> Choice:
        kind = WW if before.end == before.tail.writer else THROUGH
        return Choice(before.end, after.head, Label(kind, before.key), before, after)

    def _decide(self, choice: Choice, reasons: frozenset[int] | None) -> None:
        """Add an edge that was tried."""
        self._graph.add(choice.source, choice.target, choice.label)
        self._decided[choice.source, choice.target] = len(self._trail)
        self._trail.append(Decision(choice, reasons))

    def _take_back(self, to: int) -> None:
        while len(self._trail) > to:
            source, target = self._trail.pop().choice[:2]
            self._graph.take_back(source, target)
            del self._decided[source, target]

    def _try(self, choice: Choice) -> frozenset[int] | None:
        """Make room for an edge in the order; or the decisions in the cycle that it closes."""
        source, target = choice.source, choice.target
        low, high = self._place[target], self._place[source]
        if low > high:
            return None
        came_from = self._reached(target, self._graph.successors, low, high)
        if source in came_from:
            return frozenset(self._reasons(came_from, source))
        behind = self._reached(source, self._graph.predecessors, low, high)
        place_of = self._place.__getitem__
        moved = sorted(behind, key=place_of) + sorted(came_from, key=place_of)
        for node, place in zip(moved, sorted(map(place_of, moved)), strict=True):
            self._place[node], self._node_at[place] = place, node
        self._unsettle(low)
        return None

    def _reached(self, start: int, neighbours: list[list[int]], low: int, high: int) -> dict[int, int]:
        """All nodes that lead on from here and stand between the places; each with the one before it."""
        came_from, stack = {start: start}, [start]
        while stack:
            node = stack.pop()
            for neighbour in neighbours[node]:
                if neighbour not in came_from and low <= self._place[neighbour] <= high:
                    came_from[neighbour] = node
                    stack.append(neighbour)
        self._spend(len(came_from))
        return came_from

    def _spend(self, steps: int) -> None:
        self._budget -= steps
        if self._budget < 0:
            raise Undecidable("the budget is spent, and the order of some writes is still open")

    def _reasons(self, came_from: dict[int, int], node: int) -> Iterator[int]:
        """The decisions on the way here that could have been others."""
        while came_from[node] != node:
            decision = self._decided.get((came_from[node], node))
            if decision is not None and self._trail[decision].reasons != frozenset():
                yield decision
            node = came_from[node]

    def _explained(self, closing: list[Choice]) -> Cycle:
        """The cycle that one of these choices closes; nothing else in it could have been chosen otherwise.

        Where clients saw which of two writers was the first, the cycle is that of their order; where they
        did not, it is the one that breaks less.
        """
        certain = [decision for decision in self._trail if decision.reasons == frozenset()]
        self._take_back(0)
        for decision in certain:
            self._decide(*decision)
        cycles = [self._closed(choice) for choice in closing if self._seen_first(choice)]
        cycles = cycles or [self._closed(choice) for choice in closing]
        return max(cycles, key=lambda cycle: BY_SEVERITY.index(cycle.name))

    def _seen_first(self, choice: Choice) -> bool:
        """Whether clients saw that the first writer was done when the second began."""
        writer = choice.before.tail.writer
        assert writer is not None
        found, _ = way(self._graph, self._graph.clients, writer, choice.target)
        return found is not None

    def _closed(self, choice: Choice) -> Cycle:
        self._graph.add(choice.source, choice.target, choice.label)
        cycle = worst_cycle(self._graph)
        self._graph.take_back(choice.source, choice.target)
        assert cycle is not None, "a choice was refused that closes no cycle"
        return cycle

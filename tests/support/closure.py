"""The least sum of weights over all downward-closed sets, by one max-flow (Picard, 1976).

A node with a negative weight is a gain, but can only be taken with all nodes it depends on. In the network
dependencies have unbounded capacity, gains flow in, costs flow out, and the gains that cannot flow are the
result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

INFINITE = 1 << 60


def least_closed_sum(weights: Sequence[int], causes: Mapping[int, Sequence[int]]) -> int:
    """Return the least sum of weights of a set of nodes that contains all its causes, or 0 for no nodes.

    ``causes``: the nodes that each node depends on directly.
    """
    source, sink = len(weights), len(weights) + 1
    flow = Flow(len(weights) + 2)
    gains = 0
    for node, weight in enumerate(weights):
        if weight < 0:
            gains -= weight
            flow.pipe(source, node, -weight)
        elif weight > 0:
            flow.pipe(node, sink, weight)
        for cause in causes.get(node, ()):
            flow.pipe(node, cause, INFINITE)
    return flow.most(source, sink) - gains


class Flow:
    """A flow network (Dinic, 1970)."""

    def __init__(self, nodes: int) -> None:
        self._to: list[int] = []
        self._left: list[int] = []
        self._pipes: list[list[int]] = [[] for _ in range(nodes)]

    def pipe(self, start: int, end: int, capacity: int) -> None:
        """Add an edge with this capacity; edge ``i ^ 1`` is the reverse of edge ``i``."""
        for one, other, room in ((start, end, capacity), (end, start, 0)):
            self._pipes[one].append(len(self._to))
            self._to.append(other)
            self._left.append(room)

    def most(self, source: int, sink: int) -> int:
        """Return the maximum flow."""
        total = 0
        while (levels := self._levels(source))[sink] >= 0:
            nexts = [0] * len(self._pipes)
            while pushed := self._push(source, sink, levels, nexts):
                total += pushed
        return total

    def _levels(self, source: int) -> list[int]:
        levels = [-1] * len(self._pipes)
        levels[source] = 0
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for pipe in self._pipes[node]:
                end = self._to[pipe]
                if self._left[pipe] and levels[end] < 0:
                    levels[end] = levels[node] + 1
                    queue.append(end)
        return levels

    def _push(self, source: int, sink: int, levels: list[int], nexts: list[int]) -> int:
        """Fill one path; return the flow added."""
        path: list[int] = []
        node = source
        while node != sink:
            pipe = self._next_pipe(node, levels, nexts)
            if pipe is not None:
                path.append(pipe)
                node = self._to[pipe]
            elif path:
                node = self._to[path.pop() ^ 1]
                nexts[node] += 1
            else:
                return 0
        amount = min(self._left[pipe] for pipe in path)
        for pipe in path:
            self._left[pipe] -= amount
            self._left[pipe ^ 1] += amount
        return amount

    def _next_pipe(self, node: int, levels: list[int], nexts: list[int]) -> int | None:
        pipes = self._pipes[node]
        while nexts[node] < len(pipes):
            pipe = pipes[nexts[node]]
            if self._left[pipe] and levels[self._to[pipe]] == levels[node] + 1:
                return pipe
            nexts[node] += 1
        return None

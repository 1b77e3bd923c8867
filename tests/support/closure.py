"""The least sum of weights over all sets that are closed downwards: one max-flow (Picard, 1976).

A node with a weight below zero is worth taking, but only with everything it comes behind. Those edges are
pipes without bounds, gains flow in, costs flow out, and what cannot flow is what is gained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

INFINITE = 1 << 60


def least_closed_sum(weights: Sequence[int], causes: Mapping[int, Sequence[int]]) -> int:
    """The least sum of the weights of a set of nodes that has all its causes in it; the empty set, 0, is one.

    ``causes``: by node, the nodes that it comes behind at once.
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
    """A network of pipes (Dinic, 1970)."""

    def __init__(self, nodes: int) -> None:
        self._to: list[int] = []
        self._left: list[int] = []
        self._pipes: list[list[int]] = [[] for _ in range(nodes)]

    def pipe(self, start: int, end: int, capacity: int) -> None:
        """Pipe ``i ^ 1`` is pipe ``i`` backwards."""
        for one, other, room in ((start, end, capacity), (end, start, 0)):
            self._pipes[one].append(len(self._to))
            self._to.append(other)
            self._left.append(room)

    def most(self, source: int, sink: int) -> int:
        """How much can flow."""
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
        """Fill one path; return how much went through it."""
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

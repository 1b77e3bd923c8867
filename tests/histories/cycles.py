"""Finding a short cycle in a graph of transactions, and naming it.

The strongest name wins. Cycles of dependencies alone are looked for before those that need the order of
processes or real time, which get it as a suffix: the former break serializability, the latter only its
agreement with the order that clients saw.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from typing import NamedTuple

from tests.histories.graph import NAMES, PROCESS, REALTIME, RW, WR, WW, Graph, Label

BY_SEVERITY = [
    f"{name}{suffix}" for suffix in ("", "-process", "-realtime") for name in ("G0", "G1c", "G-single", "G2")
]
_SUFFIXES = {0: "", PROCESS: "-process", REALTIME: "-realtime"}
_STEPS_MAX = 2_000_000
"""How many edges are followed to find a cycle that is short and has its strongest name: it is for readers."""
_UNLIMITED = 1 << 62

Edge = tuple[int, Label]


class Cycle(NamedTuple):
    """Transactions, each with the label of the edge to the next; the last leads to the first."""

    name: str
    steps: list[Edge]

    def told(
        self, describe: Callable[[int], str], name: Callable[[int], str], witnesses: Iterable[int] = ()
    ) -> str:
        """The transactions one a line, those in it and those that bear witness to it, then the circle."""
        circle = "".join(f"{name(node)} -[{_meaning(label)}]-> " for node, label in self.steps)
        lines = [describe(node) for node in dict.fromkeys([*(node for node, _ in self.steps), *witnesses])]
        return "\n".join([*lines, f"{circle}{name(self.steps[0][0])}"])


def _meaning(label: Label) -> str:
    return NAMES[label.kind] if label.key is None else f"{NAMES[label.kind]} {label.key}"


def worst_cycle(graph: Graph) -> Cycle | None:
    """A cycle with the strongest name that any has, or ``None``."""
    for extra in (0, graph.clients):
        suffix = _SUFFIXES[extra]
        for name, kinds in (("G0", WW), ("G1c", WW | WR)):
            for component in components(graph, kinds | extra):
                steps = shortest_cycle(graph, kinds | extra, component)
                return Cycle(name + suffix, _contracted(graph, steps))
        found = list(components(graph, WW | WR | RW | extra))
        for component in found:
            single = single_cycle(graph, RW, WW | WR | extra, component)
            if single is not None:
                return Cycle(f"G-single{suffix}", _contracted(graph, single))
        for component in found:
            steps = shortest_cycle(graph, WW | WR | RW | extra, component)
            return Cycle(f"G2{suffix}", _contracted(graph, steps))
    return None


def components(graph: Graph, kinds: int) -> Iterator[list[int]]:
    """The strongly connected components of more than one node: Tarjan's algorithm, without recursion."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    closed: set[int] = set()
    for root in range(len(graph)):
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        path = [(root, graph.edges(root, kinds))]
        while path:
            node, edges = path[-1]
            for target, _ in edges:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    path.append((target, graph.edges(target, kinds)))
                    break
                if target not in closed:
                    low[node] = min(low[node], index[target])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == index[node]:
                    component = _popped(stack, node)
                    closed.update(component)
                    if len(component) > 1:
                        yield component


def _popped(stack: list[int], node: int) -> list[int]:
    """The end of the stack from the node on."""
    at = len(stack) - 1
    while stack[at] != node:
        at -= 1
    component = stack[at:]
    del stack[at:]
    return component


def shortest_cycle(graph: Graph, kinds: int, component: list[int]) -> list[Edge]:
    """A cycle within the component that is as short as any through the nodes it is looked for from."""
    inside, best, steps = set(component), list[Edge](), _STEPS_MAX
    for start in sorted(component):
        found, taken = way(graph, kinds, start, start, steps if best else _UNLIMITED, inside)
        steps -= taken
        if found is not None and (not best or _length(graph, found) < _length(graph, best)):
            best = found
        if steps <= 0:
            break
    return best


def single_cycle(graph: Graph, once: int, kinds: int, component: list[int]) -> list[Edge] | None:
    """The shortest cycle found with exactly one edge of the kind ``once``, and otherwise the other kinds."""
    inside, best, steps = set(component), list[Edge](), _STEPS_MAX
    for source in component:
        for target, label in graph.edges(source, once):
            if label.kind == once and target in inside and steps > 0:
                found, taken = way(graph, kinds, target, source, steps, inside)
                steps -= taken
                if found is not None and (not best or _length(graph, found) + 1 < _length(graph, best)):
                    best = [(source, label), *found]
    return best or None


def way(
    graph: Graph,
    kinds: int,
    source: int,
    target: int,
    steps: int = _UNLIMITED,
    inside: Container[int] | None = None,
) -> tuple[list[Edge] | None, int]:
    """The shortest way of at least one edge, each node with the label that leads on; and the steps taken.

    Args:
        steps: how many edges are looked at before there is taken to be no way.
        inside: the only nodes that may be on the way; all when ``None``.
    """
    came_from: dict[int, tuple[int, Label]] = {}
    queue, taken = deque([source]), 0
    while queue and taken < steps:
        node = queue.popleft()
        for successor, label in graph.edges(node, kinds):
            taken += 1
            if successor not in came_from and (inside is None or successor in inside):
                came_from[successor] = node, label
                if successor == target:
                    return _backwards(came_from, source, target), taken
                queue.append(successor)
    return None, taken


def _backwards(came_from: dict[int, tuple[int, Label]], source: int, target: int) -> list[Edge]:
    way = [came_from[target]]
    while way[-1][0] != source:
        way.append(came_from[way[-1][0]])
    return way[::-1]


def _contracted(graph: Graph, steps: list[Edge]) -> list[Edge]:
    """The cycle without its moments, and beginning with a transaction."""
    return [(node, label) for node, label in steps if node < graph.transactions]


def _length(graph: Graph, steps: list[Edge]) -> int:
    return len(_contracted(graph, steps))

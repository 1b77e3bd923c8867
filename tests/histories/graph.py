"""The graph of what has to be before what, in any serial order that explains a history.

The first nodes are the transactions. Further ones stand for moments: a transaction that returned points to
a moment, and that to all that were called later. So real time takes a number of edges that grows with the
number of transactions, not with its square; the same serves many readers of a version and many who are next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any, Final, NamedTuple

from tests.histories.history import Outcome, Transaction, is_timed

THROUGH: Final = 0
"""Out of a moment: what this edge means is said by the one that led into the moment."""
WW: Final = 1
"""The target replaced what the source wrote, or appended behind it."""
WR: Final = 2
"""The target read what the source wrote."""
RW: Final = 4
"""The target replaced what the source read."""
PROCESS: Final = 8
"""One process did the source, then the target."""
REALTIME: Final = 16
"""The source had returned when the target was called."""
ARBITRATION: Final = 32
"""Somebody who knew what both had written read that of the target."""

NAMES = {WW: "ww", WR: "wr", RW: "rw", PROCESS: "process", REALTIME: "real time", ARBITRATION: "arbitration"}


class Label(NamedTuple):
    kind: int
    key: Any


class Graph:
    """Nodes are numbers from 0 on. ``labels`` runs beside ``successors``.

    ``clients`` is the kind of edges that say in which order clients saw things: PROCESS or REALTIME.
    """

    def __init__(self, transactions: int) -> None:
        self.transactions = transactions
        self.clients = PROCESS
        self.successors: list[list[int]] = [[] for _ in range(transactions)]
        self.labels: list[list[Label]] = [[] for _ in range(transactions)]
        self.predecessors: list[list[int]] = [[] for _ in range(transactions)]

    def __len__(self) -> int:
        return len(self.successors)

    def moment(self) -> int:
        """A new node that is no transaction."""
        for beside in (self.successors, self.labels, self.predecessors):
            beside.append([])
        return len(self) - 1

    def add(self, source: int, target: int, label: Label) -> None:
        """Add an edge. A transaction is not before itself, whatever it read and wrote."""
        if source != target:
            self.successors[source].append(target)
            self.labels[source].append(label)
            self.predecessors[target].append(source)

    def take_back(self, source: int, target: int) -> None:
        """Remove the edge that was added last at both its ends."""
        removed = self.successors[source].pop(), self.predecessors[target].pop()
        self.labels[source].pop()
        assert removed == (target, source), "edges are taken back in the order they were added"

    def edges(self, source: int, kinds: int) -> Iterator[tuple[int, Label]]:
        """The edges of these kinds out of a node, and those that go through it."""
        for target, label in zip(self.successors[source], self.labels[source], strict=True):
            if label.kind & kinds or label.kind == THROUGH:
                yield target, label

    def order(self, priority: Sequence[int]) -> list[int] | None:
        """All nodes so that every edge points forwards, the lowest priority first where there is a choice.

        ``None`` when there is a cycle.
        """
        waits_for = [len(sources) for sources in self.predecessors]
        ready = [(priority[node], node) for node, count in enumerate(waits_for) if not count]
        heapify(ready)
        order = []
        while ready:
            _, node = heappop(ready)
            order.append(node)
            for target in self.successors[node]:
                waits_for[target] -= 1
                if not waits_for[target]:
                    heappush(ready, (priority[target], target))
        return order if len(order) == len(self) else None


def add_order_of_clients(graph: Graph, transactions: Sequence[Transaction]) -> None:
    """Real time, and where that is not known the order of each process."""
    if is_timed(transactions):
        graph.clients = REALTIME
        _add_real_time(graph, transactions)
    else:
        add_order_of_processes(graph, transactions)


def add_order_of_processes(graph: Graph, transactions: Sequence[Transaction]) -> None:
    of_process: defaultdict[int, list[int]] = defaultdict(list)
    for node, one in enumerate(transactions):
        of_process[one.process].append(node)
    for process, nodes in of_process.items():
        for source, target in pairwise(nodes):
            graph.add(source, target, Label(PROCESS, process))


def _add_real_time(graph: Graph, transactions: Sequence[Transaction]) -> None:
    """One moment for each call that returns came before. At the same time nothing is before anything."""
    realtime, through = Label(REALTIME, None), Label(THROUGH, None)
    moment: int | None = None
    returned: list[int] = []
    for _, is_return, node in _events(transactions):
        if is_return:
            returned.append(node)
            continue
        if returned:
            before, moment = moment, graph.moment()
            for source in returned:
                graph.add(source, moment, realtime)
            if before is not None:
                graph.add(before, moment, through)
            returned = []
        if moment is not None:
            graph.add(moment, node, through)


def _events(transactions: Sequence[Transaction]) -> list[tuple[int, bool, int]]:
    """Time, whether it is a return, and the transaction: calls before returns of the same time."""
    calls = [(one.called or 0, False, node) for node, one in enumerate(transactions)]
    returns = [
        (one.returned, True, node)
        for node, one in enumerate(transactions)
        if one.returned is not None and one.outcome is not Outcome.UNKNOWN
    ]
    return sorted(calls + returns)

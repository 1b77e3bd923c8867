"""Is what each transaction read explained by what it can have known, and do all agree on who came last?

Transactional causal consistency with convergence, for registers whose every value is written once: some order
of all transactions extends what each session did in turn and who read from whom, and whoever knows of two
writes of a key has read the later one. That is CC of Biswas and Enea (OOPSLA 2019) and TCC of Plume; the
anomalies are the bad patterns of Bouajjani et al. (POPL 2017), of transactions instead of operations.

Of each session a transaction knows a beginning, so what it knows is a vector of lengths, and of each session
only the last write of a key within it has to be looked at. Real time plays no part.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.histories.cycles import Cycle, components, shortest_cycle, single_cycle
from tests.histories.evidence import Evidence, gather, misread_values
from tests.histories.graph import ARBITRATION, PROCESS, WR, Graph, Label, add_order_of_processes
from tests.histories.history import History
from tests.histories.verdict import Anomaly, Result, Undecidable

KNOWN = PROCESS | WR
"""The edges along which a transaction gets to know another."""


class Arbitration(NamedTuple):
    """``reader`` knew two writes of a key and read the one of ``later``, so ``earlier`` was before that.

    ``later`` is ``None`` when it read that there was nothing yet.
    """

    earlier: int
    later: int | None
    reader: int
    key: Any


def check_causal(history: History) -> Result:
    """Judge a history of registers by the order of its processes. Times only give that order."""
    try:
        return _judged(gather(sorted(history, key=lambda one: one.called or 0)))
    except Undecidable as missing:
        return Result("unknown", explanation=str(missing))


def _judged(evidence: Evidence) -> Result:
    for of_key in evidence.keys.values():
        if of_key.shape == "list":
            raise Undecidable(f"key {of_key.key!r} is a list, and causality is judged of registers only")
        evidence.anomalies += misread_values(evidence, of_key)
    misread = evidence.worst_read()
    return misread.result() if misread is not None else _judged_by_graph(evidence, _graph_of(evidence))


def _graph_of(evidence: Evidence) -> Graph:
    graph = Graph(len(evidence.transactions))
    add_order_of_processes(graph, evidence.transactions)
    for of_key in evidence.keys.values():
        for reader, value in of_key.reads:
            if value is not None:
                graph.add(of_key.writer_of[value], reader, Label(WR, of_key.key))
    return graph


def _judged_by_graph(evidence: Evidence, graph: Graph) -> Result:
    by_number = range(len(graph))
    order = graph.order(by_number)
    if order is None:
        circle = shortest_cycle(graph, KNOWN, next(components(graph, KNOWN)))
        return _violation(evidence, "cyclic-co", circle, {})
    decided: dict[tuple[int, int], Arbitration] = {}
    for found in list(_arbitrations(evidence, graph, order)):
        if found.later is None:
            return _nothing_read(evidence, graph, found)
        if decided.setdefault((found.earlier, found.later), found) is found:
            graph.add(found.earlier, found.later, Label(ARBITRATION, found.key))
    if graph.order(by_number) is not None:
        return Result("ok")
    return _contradiction(evidence, graph, decided)


def _arbitrations(evidence: Evidence, graph: Graph, order: list[int]) -> Iterator[Arbitration]:
    """What each read decides that knowledge alone does not. A vector is kept as long as it is needed."""
    sessions = _Sessions(evidence)
    knows: dict[int, list[int]] = {}
    needed = [len(successors) for successors in graph.successors]
    for node in order:
        sources = graph.predecessors[node]
        past = sessions.together([knows[source] for source in sources])
        for key, later in sessions.reads[node]:
            for earlier in sessions.last_writers(key, past):
                if later is None or not sessions.is_known(earlier, knows[later]):
                    yield Arbitration(earlier, later, node, key)
        knows[node] = sessions.with_itself(node, past)
        for source in sources:
            needed[source] -= 1
            if not needed[source]:
                del knows[source]


class _Sessions:
    """Where in its session each transaction stands, from 1 on, and what it read and wrote."""

    def __init__(self, evidence: Evidence) -> None:
        number: dict[int, int] = {}
        self._members: list[list[int]] = []
        self._at: list[tuple[int, int]] = []
        for node, one in enumerate(evidence.transactions):
            session = number.setdefault(one.process, len(number))
            if session == len(self._members):
                self._members.append([])
            self._members[session].append(node)
            self._at.append((session, len(self._members[session])))
        self.reads: defaultdict[int, list[tuple[Any, int | None]]] = defaultdict(list)
        self._writes: defaultdict[Any, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for of_key in evidence.keys.values():
            for reader, value in of_key.reads:
                self.reads[reader].append((of_key.key, of_key.writer_of.get(value)))
            for writer, _ in of_key.writes:
                session, place = self._at[writer]
                self._writes[of_key.key][session].append(place)

    def together(self, vectors: list[list[int]]) -> list[int]:
        return list(map(max, *vectors, [0] * len(self._members))) if vectors else [0] * len(self._members)

    def with_itself(self, node: int, past: list[int]) -> list[int]:
        session, place = self._at[node]
        return [*past[:session], place, *past[session + 1 :]]

    def is_known(self, node: int, vector: list[int]) -> bool:
        session, place = self._at[node]
        return place <= vector[session]

    def last_writers(self, key: Any, vector: list[int]) -> Iterator[int]:
        """Of each session the last within the vector that wrote the key."""
        for session, places in self._writes[key].items():
            count = bisect_right(places, vector[session])
            if count:
                yield self._members[session][places[count - 1] - 1]


def _nothing_read(evidence: Evidence, graph: Graph, found: Arbitration) -> Result:
    name = "fractured-read" if _reads_from(graph, found) else "write-co-init-read"
    told = (
        f"{evidence.described(found.reader)}\n{evidence.described(found.earlier)}\n"
        f"{evidence.name(found.reader)} knew of the other, and read nothing in key {found.key!r}"
    )
    return Anomaly(name, told).result()


def _contradiction(evidence: Evidence, graph: Graph, decided: dict[tuple[int, int], Arbitration]) -> Result:
    """A cycle with one arbitration says that a write was known and not read; with more, that two disagree."""
    found = list(components(graph, KNOWN | ARBITRATION))
    for component in found:
        single = single_cycle(graph, ARBITRATION, KNOWN, component)
        if single is not None:
            first, second = (node for node, _ in (*single, single[0])[:2])
            name = "fractured-read" if _reads_from(graph, decided[first, second]) else "write-co-read"
            return _violation(evidence, name, single, decided)
    return _violation(evidence, "cyclic-cf", shortest_cycle(graph, KNOWN | ARBITRATION, found[0]), decided)


def _reads_from(graph: Graph, found: Arbitration) -> bool:
    """Whether the reader knew of the write because it read something else of the same transaction."""
    return any(
        target == found.reader and label.kind == WR for target, label in graph.edges(found.earlier, WR)
    )


def _violation(
    evidence: Evidence,
    name: str,
    steps: list[tuple[int, Label]],
    decided: dict[tuple[int, int], Arbitration],
) -> Result:
    targets = [*(node for node, _ in steps[1:]), steps[0][0]]
    arbitrations = [
        decided[source, target]
        for (source, label), target in zip(steps, targets, strict=True)
        if label.kind == ARBITRATION
    ]
    told = Cycle(name, steps).told(evidence.described, evidence.name, [one.reader for one in arbitrations])
    reasons = "".join(f"\n{evidence.name(one.reader)} decided key {one.key!r}" for one in arbitrations)
    return Anomaly(name, told + reasons).result()

"""Is there a serial order of the transactions that explains all they read, and agrees with real time?

For lists and registers whose every value is written once, as in Elle (Kingsbury and Alvaro, VLDB 2020):
reads tell who was before whom, and a cycle in that is a violation. What reads leave open is searched for.
Both answers are proven: a violation by a cycle or by a read that nothing allows, "ok" by a serial order that
is played back here. Where the history has no times, "real time" is the order of each process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from tests.histories.cycles import Cycle, worst_cycle
from tests.histories.evidence import Evidence, gather
from tests.histories.graph import RW, THROUGH, WR, WW, Graph, Label, add_order_of_clients
from tests.histories.history import History, Outcome, Transaction, is_timed
from tests.histories.ordering import Search
from tests.histories.verdict import Anomaly, Result, Undecidable
from tests.histories.versions import Block, KeyVersions, versions_of

BUDGET = 50_000_000
"""Steps of the search for the order of writes; a few take a microsecond."""


def check(history: History, budget: int = BUDGET) -> Result:
    """Judge a history.

    Args:
        budget: after how many steps of search the answer is "unknown".
    """
    try:
        return _judged(gather(history), budget)
    except Undecidable as missing:
        return Result("unknown", explanation=str(missing))


def _judged(evidence: Evidence, budget: int) -> Result:
    keys = [versions_of(evidence, of_key) for of_key in evidence.keys.values()]
    misread = evidence.worst_read()
    if misread is not None:
        return misread.result()
    graph = _graph_of(evidence, keys)
    order = graph.order(_priorities(evidence, keys, graph))
    if order is None:
        return _violation(evidence, worst_cycle(graph))
    search = Search(graph, [key.others for key in keys], order, budget)
    cycle = search.run()
    if cycle is not None:
        result = _violation(evidence, cycle)
        told = f"{result.explanation}\nEvery other order of the writes closes a cycle as well."
        return replace(result, explanation=told)
    play_back(evidence.transactions, search.order())
    return Result("ok")


def _violation(evidence: Evidence, cycle: Cycle | None) -> Result:
    assert cycle is not None, "what has no order has a cycle"
    return Anomaly(cycle.name, cycle.told(evidence.described, evidence.name)).result()


def _graph_of(evidence: Evidence, keys: list[KeyVersions]) -> Graph:
    graph = Graph(len(evidence.transactions))
    add_order_of_clients(graph, evidence.transactions)
    for key in keys:
        for block in (key.first, *key.others):
            _add_block(graph, block)
        for block in key.others:
            if key.first.end >= 0:
                kind = WW if key.first.end == key.first.tail.writer else THROUGH
                graph.add(key.first.end, block.head, Label(kind, block.key))
    return graph


def _add_block(graph: Graph, block: Block) -> None:
    """The edges between the versions of a block, and its end."""
    ww, wr, rw = (Label(kind, block.key) for kind in (WW, WR, RW))
    for version in block.versions:
        for reader in version.readers:
            if version.writer is not None:
                graph.add(version.writer, reader, wr)
    for version, after in pairwise(block.versions):
        assert after.writer is not None
        for reader in version.readers:
            graph.add(reader, after.writer, rw)
        if version.writer is not None:
            graph.add(version.writer, after.writer, ww)
    tail = block.tail
    if tail.readers:
        block.end = graph.moment()
        for reader in tail.readers:
            graph.add(reader, block.end, rw)
        if tail.writer is not None:
            graph.add(tail.writer, block.end, ww)
    elif tail.writer is not None:
        block.end = tail.writer


def _priorities(evidence: Evidence, keys: list[KeyVersions], graph: Graph) -> list[int]:
    """When each transaction probably took place; moments at once.

    That is the middle of call and return. What was unknown and seen may have come late: it is put where it
    was first seen, but not before its call.
    """
    timed = is_timed(evidence.transactions)
    times = [_middle(one) if timed else node for node, one in enumerate(evidence.transactions)]
    seen: defaultdict[int, list[int]] = defaultdict(list)
    for key in keys:
        for block in (key.first, *key.others):
            for version in block.versions:
                if (
                    version.writer is not None
                    and evidence.transactions[version.writer].outcome is Outcome.UNKNOWN
                ):
                    seen[version.writer] += [times[reader] for reader in version.readers]
    for node, readers in seen.items():
        times[node] = max(times[node], min(readers, default=times[node]))
    return times + [-1] * (len(graph) - len(times))


def _middle(one: Transaction) -> int:
    assert one.called is not None
    return one.called if one.returned is None else (one.called + one.returned) // 2


def play_back(transactions: Sequence[Transaction], order: list[int]) -> None:
    """Do the transactions one after another on an empty store: all they read is there, and no client objects.

    Raises:
        AssertionError: they are not explained by this order.
    """
    state: dict[Any, Any] = {}
    for node in order:
        for kind, key, value in transactions[node].operations:
            if kind == "append":
                state.setdefault(key, []).append(value)
            elif kind == "write":
                state[key] = value
            elif transactions[node].outcome is Outcome.OK:
                now = state.get(key)
                now = tuple(now) if isinstance(now, list) else now
                assert now == (value if value != () else None), transactions[node]
    _compare_with_clients(transactions, order)


def _compare_with_clients(transactions: Sequence[Transaction], order: list[int]) -> None:
    """Nothing returned before something was called that the order has earlier."""
    timed = is_timed(transactions)
    latest: dict[int | None, int] = {}
    for node in order:
        one = transactions[node]
        began, ended = (one.called, one.returned) if timed else (node, node)
        clock = None if timed else one.process  # real time is one clock for all
        assert began is not None
        assert ended is None or ended >= latest.get(clock, ended), one
        latest[clock] = max(latest.get(clock, began), began)

"""The log drawn as a graph, as ``git log --graph`` does: the newest node first, a lane for each region.

A lane shows the nodes of a region in the order in which they were written. A line leads from a node to a node
of another lane that it depends on. The line runs down the lane of its start and joins the other lane right
above its end, so that it passes no node there that its start does not depend on. If a node in the lane of the
start blocks it, or another line would seem to continue it, no line is drawn, and the text of the node names
the dependency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import kvstore

CausesByNode = Mapping[kvstore.NodeId, Sequence[kvstore.NodeId]]
Text = Callable[[kvstore.Node, Sequence[kvstore.NodeId], int], str]
"""The text beside a node, given the causes that no line leads to and the columns already used."""


class _Line(NamedTuple):
    """A line from the node of ``row``, in lane ``start``; it joins lane ``end`` right below row ``below``."""

    row: int
    start: int
    end: int
    below: int

    @property
    def order(self) -> tuple[bool, int]:
        """The sort key of the lines below a row: lines from that row's node first, then shorter lines."""
        return self.row != self.below, abs(self.end - self.start)


def graph_lines(
    nodes: Sequence[kvstore.Node], causes: CausesByNode, regions: Sequence[str], text: Text
) -> Iterator[str]:
    """Yield the lines of the picture; ``nodes`` are oldest first, each after its causes."""
    picture = _Picture(nodes[::-1], causes, regions)
    left = Counter(picture.lanes)
    leaving: Counter[int] = Counter()
    """Numbers of lines that run down a lane and have yet to leave, by lane."""
    active: set[int] = set()
    for row, node in enumerate(picture.nodes):
        lane = picture.lanes[row]
        marks = _marks(len(regions), active, lane)
        yield f"{marks} {text(node, picture.unsaid[row], len(marks) + 1)}"
        left[lane] -= 1
        leaving[lane] += picture.leaving[row]
        for line in sorted(picture.below[row], key=lambda line: line.order):
            leaving[line.start] -= 1
            active = {at for at in active | {lane} if left[at] or leaving[at]}
            yield _line_marks(len(regions), active, line)
            active.add(line.end)
        active = {at for at in active | {lane} if left[at] or leaving[at]}


class _Picture:
    """The lines that are drawn, and their places. Rows are numbered from the newest node."""

    def __init__(self, nodes: Sequence[kvstore.Node], causes: CausesByNode, regions: Sequence[str]) -> None:
        self.nodes = nodes
        self.lanes = [regions.index(node.region) for node in nodes]
        self.below: list[list[_Line]] = [[] for _ in nodes]
        self.unsaid: list[list[kvstore.NodeId]] = [[] for _ in nodes]
        """Causes that no line leads to, by row."""
        self.leaving = [0] * len(nodes)
        """Numbers of lines that begin at a row, by row."""
        self._rows = {node.id: row for row, node in enumerate(nodes)}
        self._lane_before, self._lane_after = self._neighbours(len(regions))
        self._effects = self._effects_of(causes)
        for row, node in enumerate(nodes):
            for cause in causes[node.id]:
                self._lead(row, cause)

    def _neighbours(self, lanes: int) -> tuple[list[int | None], list[int | None]]:
        """Return the rows before and after each row in its lane."""
        before: list[int | None] = []
        after: list[int | None] = [None] * len(self.nodes)
        last: list[int | None] = [None] * lanes
        for row, lane in enumerate(self.lanes):
            previous = last[lane]
            before.append(previous)
            if previous is not None:
                after[previous] = row
            last[lane] = row
        return before, after

    def _effects_of(self, causes: CausesByNode) -> dict[int, list[int]]:
        """Return the rows of other lanes that directly depend on a row, by row."""
        found: dict[int, list[int]] = {}
        for row, node in enumerate(self.nodes):
            for cause in causes[node.id]:
                if self.lanes[self._rows[cause]] != self.lanes[row]:
                    found.setdefault(self._rows[cause], []).append(row)
        return found

    def _lead(self, row: int, cause: kvstore.NodeId) -> None:
        """Draw a line from a row to a cause in another lane, unless the line would mislead."""
        end, lane = self._rows[cause], self.lanes[row]
        if self.lanes[end] == lane:
            return
        passed = self._lane_before[end]
        below = row if passed is None else max(row, passed)
        if below > row and self._is_in_the_way(row, below):
            self.unsaid[row].append(cause)
        else:
            self.leaving[row] += 1
            self.below[below].append(_Line(row, lane, self.lanes[end], below))

    def _is_in_the_way(self, row: int, below: int) -> bool:
        """Return whether a line cannot run down its own lane: a node is in between, or a line that joins the
        lane above that node would seem to continue as this line."""
        after = self._lane_after[row]
        if after is None:
            return False
        return after <= below or any(other <= below for other in self._effects.get(after, ()))


def _marks(lanes: int, active: set[int], star: int | None = None) -> str:
    return " ".join("*" if lane == star else "|" if lane in active else " " for lane in range(lanes))


def _line_marks(lanes: int, active: set[int], line: _Line) -> str:
    r"""Return the marks of a line such as ``|\|``, or ``|_|/|`` across lanes in between."""
    marks = list(_marks(lanes, active))
    low, high = sorted((line.start, line.end))
    for column in range(2 * low + 1, 2 * high):
        marks[column] = "_" if marks[column] == " " else marks[column]
    if line.start < line.end:
        marks[2 * low + 1] = "\\"
    else:
        marks[2 * high - 1] = "/"
    return "".join(marks).rstrip()

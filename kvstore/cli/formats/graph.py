"""The log of a world drawn as a graph, as git draws one: the newest node first, a lane for each region.

A region's lane is the order in which it wrote. What a node comes behind in another lane, a line leads to. It
joins that lane right above its end, so that it passes no node there that the node does not come behind; and
up to where it leaves, it goes down in the lane of its beginning. Where another node stands in its way, or
another line that would seem to go on with it, there is none: the node's text says what it is behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import kvstore

CausesByNode = Mapping[kvstore.NodeId, Sequence[kvstore.NodeId]]
Text = Callable[[kvstore.Node, Sequence[kvstore.NodeId], int], str]
"""What stands beside a node; given the causes that no line leads to, and the columns that are taken."""


class _Line(NamedTuple):
    """From the node of a row, in its lane, into another lane, right below a row."""

    row: int
    start: int
    end: int
    below: int

    @property
    def order(self) -> tuple[bool, int]:
        """Of lines below one row, those that leave its own node come first, and short ones."""
        return self.row != self.below, abs(self.end - self.start)


def graph_lines(
    nodes: Sequence[kvstore.Node], causes: CausesByNode, regions: Sequence[str], text: Text
) -> Iterator[str]:
    """The picture. ``nodes``: the oldest first, each behind its causes."""
    picture = _Picture(nodes[::-1], causes, regions)
    left = Counter(picture.lanes)
    leaving: Counter[int] = Counter()
    """By lane, the lines that go down in it and have still to leave."""
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
    """Which lines are drawn, and where. Rows are numbered from the newest node on."""

    def __init__(self, nodes: Sequence[kvstore.Node], causes: CausesByNode, regions: Sequence[str]) -> None:
        self.nodes = nodes
        self.lanes = [regions.index(node.region) for node in nodes]
        self.below: list[list[_Line]] = [[] for _ in nodes]
        self.unsaid: list[list[kvstore.NodeId]] = [[] for _ in nodes]
        """By row, the causes that no line leads to."""
        self.leaving = [0] * len(nodes)
        """By row, how many lines begin there."""
        self._rows = {node.id: row for row, node in enumerate(nodes)}
        self._lane_before, self._lane_after = self._neighbours(len(regions))
        self._effects = self._effects_of(causes)
        for row, node in enumerate(nodes):
            for cause in causes[node.id]:
                self._lead(row, cause)

    def _neighbours(self, lanes: int) -> tuple[list[int | None], list[int | None]]:
        """By row, the rows before and after it in its lane."""
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
        """By row, the rows of other lanes that come right behind it."""
        found: dict[int, list[int]] = {}
        for row, node in enumerate(self.nodes):
            for cause in causes[node.id]:
                if self.lanes[self._rows[cause]] != self.lanes[row]:
                    found.setdefault(self._rows[cause], []).append(row)
        return found

    def _lead(self, row: int, cause: kvstore.NodeId) -> None:
        """Draw a line from a row to a cause in another lane, if that would be the truth."""
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
        """Whether a line cannot go down from a row in its own lane: a node stands there, or a line that
        joins the lane on its way to that node would seem to leave with this one."""
        after = self._lane_after[row]
        if after is None:
            return False
        return after <= below or any(other <= below for other in self._effects.get(after, ()))


def _marks(lanes: int, active: set[int], star: int | None = None) -> str:
    return " ".join("*" if lane == star else "|" if lane in active else " " for lane in range(lanes))


def _line_marks(lanes: int, active: set[int], line: _Line) -> str:
    r"""Such as ``|\|``, or across the lanes between ``|_|/|``."""
    marks = list(_marks(lanes, active))
    low, high = sorted((line.start, line.end))
    for column in range(2 * low + 1, 2 * high):
        marks[column] = "_" if marks[column] == " " else marks[column]
    if line.start < line.end:
        marks[2 * low + 1] = "\\"
    else:
        marks[2 * high - 1] = "/"
    return "".join(marks).rstrip()

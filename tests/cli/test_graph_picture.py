"""The drawn log is correct: its lines lead from each node to its causes, and to no other node."""

from __future__ import annotations

import random

import pytest

from kvstore import Node, NodeId
from kvstore.cli.formats.graph import graph_lines

Pasts = dict[int, set[int]]


def history(dice: random.Random) -> tuple[list[Node], Pasts]:
    """Draw nodes of regions that now and then import the state of another region; return nodes and pasts."""
    regions = "abcd"[: dice.randint(2, 4)]
    known: dict[str, set[int]] = {region: set() for region in regions}
    nodes: list[Node] = []
    pasts: Pasts = {}
    for number in range(dice.randint(2, 12)):
        region, other = dice.choice(regions), dice.choice(regions)
        theirs = [node.time for node in nodes if node.region == other]
        if theirs and dice.random() < 0.5:
            taken = dice.choice(theirs)
            known[region] |= pasts[taken] | {taken}
        nodes.append(Node(NodeId(region, 0, number), (0,), region, number, None, ()))
        pasts[number] = set(known[region])
        known[region].add(number)
    return nodes, pasts


def drawn(nodes: list[Node], pasts: Pasts, regions: list[str]) -> list[str]:
    near = {
        node.id: [
            nodes[cause].id
            for cause in sorted(pasts[node.time], reverse=True)
            if not any(cause in pasts[other] for other in pasts[node.time])
        ]
        for node in nodes
    }
    return list(
        graph_lines(
            nodes,
            near,
            regions,
            lambda node, unsaid, _: f"#{node.time}:{','.join(str(cause.index) for cause in unsaid)}",
        )
    )


def read(lines: list[str], lanes: int) -> Pasts:
    """Read the picture from the top: each lane carries down the nodes that lead to the nodes below."""
    going = [set[int]() for _ in range(lanes)]
    found: Pasts = {}
    for line in lines:
        marks, _, text = line.partition("#")
        marks = marks.ljust(2 * lanes)
        if text:
            number, _, unsaid = text.partition(":")
            found[int(number)] = {int(cause) for cause in unsaid.split(",") if cause}
            lane = marks.index("*") // 2
            for above in going[lane]:
                found[above].add(int(number))
            going = [down if marks[2 * at] == "|" else set() for at, down in enumerate(going)]
            going[lane] = {int(number)}
        else:
            start, end = ends(marks, lanes)
            going[end] |= going[start]
    return found


def ends(marks: str, lanes: int) -> tuple[int, int]:
    if "\\" in marks:
        start = marks.index("\\") // 2
        end = start + 1
        while end < lanes - 1 and marks[2 * end + 1] == "_":
            end += 1
        return start, end
    start = marks.index("/") // 2 + 1
    end = start - 1
    while end > 0 and marks[2 * end - 1] == "_":
        end -= 1
    return start, end


def closure(found: Pasts, number: int) -> set[int]:
    return set().union(*({cause, *closure(found, cause)} for cause in found[number]))


@pytest.mark.parametrize("seed", range(300))
def test_following_the_lines_finds_the_past_of_each_node(seed: int) -> None:
    nodes, pasts = history(random.Random(seed))
    regions = sorted({node.region for node in nodes})

    lines = drawn(nodes, pasts, regions)
    found = read(lines, len(regions))
    assert {number: closure(found, number) for number in found} == pasts, "\n".join(lines)

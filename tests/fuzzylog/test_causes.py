"""Edges: everything a transaction comes behind is implied by its chains or named, and nothing twice
(CAUSES-1)."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kvstore.fuzzylog.causes import Causes
from kvstore.types import ShardId, Slot

A, B, C = map(ShardId, range(3))


def observe(causes: Causes, *slots: int) -> None:
    causes.observe(map(Slot, slots))


def test_the_first_transaction_of_a_chain_names_all_that_was_executed() -> None:
    causes = Causes(3)
    observe(causes, 5, 7, 0)
    assert causes.edges([C]) == {A: 5, B: 7}


def test_its_own_chains_need_no_edge() -> None:
    causes = Causes(3)
    observe(causes, 5, 7, 2)
    assert causes.edges([A, C]) == {B: 7}


def test_what_the_last_one_in_the_chain_named_is_implied() -> None:
    causes = Causes(3)
    observe(causes, 5, 7, 0)
    causes.edges([A])
    observe(causes, 6, 7, 0)
    assert causes.edges([A]) == {}
    observe(causes, 7, 8, 0)
    assert causes.edges([A]) == {B: 8}


def test_what_is_not_committed_yet_implies_nothing() -> None:
    """Two in one group: the first may still come to nothing."""
    causes = Causes(3)
    observe(causes, 5, 7, 0)
    assert causes.edges([A]) == causes.edges([A]) == {B: 7}


def test_of_several_chains_one_is_enough() -> None:
    causes = Causes(3)
    observe(causes, 5, 7, 3)
    causes.edges([A])
    observe(causes, 6, 7, 3)
    assert causes.edges([A, B]) == {}, "A's last one came behind slot 3 of C"


@given(st.lists(st.sets(st.sampled_from([A, B, C]), min_size=1), min_size=1, max_size=20), st.data())
def test_chains_and_edges_lead_to_everything(groups: list[set[ShardId]], data: st.DataObject) -> None:
    """Walk back from each transaction: all that was executed when it was submitted is found."""
    causes, ends = Causes(3), [0, 0, 0]
    placed: list[tuple[dict[ShardId, int], dict[ShardId, Slot], list[int]]] = []
    for colors in groups:
        observe(causes, *ends)
        edges = causes.edges(sorted(colors))
        before = list(ends)
        for color in colors:
            ends[color] += 1
        placed.append(({color: ends[color] for color in colors}, edges, before))
    for places, edges, before in placed:
        assert reached(placed, places, edges) >= {
            (shard, slot) for shard in range(3) for slot in range(1, before[shard] + 1)
        }


def reached(
    placed: Sequence[tuple[dict[ShardId, int], dict[ShardId, Slot], list[int]]],
    places: dict[ShardId, int],
    edges: dict[ShardId, Slot],
) -> set[tuple[int, int]]:
    """All slots behind a transaction: along chains, edges, and the other places of what is met."""
    found: set[tuple[int, int]] = set()
    left = [(int(shard), slot - 1) for shard, slot in places.items()]
    left += [(int(shard), int(slot)) for shard, slot in edges.items()]
    while left:
        shard, slot = left.pop()
        if slot < 1 or (shard, slot) in found:
            continue
        found.add((shard, slot))
        met = next(one for one in placed if one[0].get(ShardId(shard)) == slot)
        left += [(shard, slot - 1)]
        left += [(int(other), place) for other, place in met[0].items()]
        left += [(int(other), int(place)) for other, place in met[1].items()]
    return found

"""Merging chains into nodes: by time, then region; each node once (D8)."""

from __future__ import annotations

from kvstore.execution.operations import Piece, Put
from kvstore.fuzzylog.playback import play
from kvstore.types import RegionId, ShardId, Slot, Timestamp

EU, US = map(RegionId, range(2))
A, B = map(ShardId, range(2))


def piece(slot: int, time: int, places: dict[ShardId, Slot] | None = None) -> Piece:
    return Piece(Slot(slot), Timestamp(time), (Put(b"%d" % time, b""),), places or {})


def test_chains_are_merged_by_time_then_region() -> None:
    chains = {(EU, A): [piece(1, 10), piece(2, 30)], (US, A): [piece(1, 10), piece(2, 20)]}
    played = list(play(chains, frozenset([A])))
    assert [(node.time, node.region) for node in played] == [(10, EU), (10, US), (20, US), (30, EU)]


def test_a_node_of_two_chains_is_one() -> None:
    places = {A: Slot(1), B: Slot(4)}
    chains = {(EU, A): [piece(1, 10, places)], (EU, B): [piece(4, 10, places)]}
    (node,) = play(chains, frozenset([A, B]))
    assert node.places == places
    assert len(node.effects) == 2


def test_a_node_that_was_played_for_another_color_is_left_out() -> None:
    """Its piece on A lies below the frontier there, so it does not come."""
    chains: dict[tuple[RegionId, ShardId], list[Piece]] = {
        (EU, A): [],
        (EU, B): [piece(4, 10, {A: Slot(1), B: Slot(4)}), piece(5, 20)],
    }
    assert [node.places for node in play(chains, frozenset([B]))] == [{B: Slot(5)}]


def test_what_is_of_no_wanted_color_comes_without_effects() -> None:
    """Whoever plays sees by it how far the chains were read."""
    chains = {(EU, A): [piece(1, 10)], (EU, B): [piece(1, 20)]}
    played = list(play(chains, frozenset([B])))
    assert [(node.time, len(node.effects)) for node in played] == [(10, 0), (20, 1)]

"""``Log.causes``: which nodes a node comes right behind; and ``regions_of``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

import kvstore
from kvstore import Geo, Node, NodeId

NAMES = ["eu", "us", "ap"]


@pytest.fixture
def geo() -> Iterator[Geo]:
    with Geo(":memory:", regions=NAMES, shards=2) as geo:
        yield geo


def effect(node: Node) -> str:
    """What a node of these tests is called: the value it put."""
    return str(node.effects[0].value if node.effects else node.payload)


def edges(geo: Geo, region: str, leave_out: str = "") -> dict[str, set[str]]:
    """By node, what it comes right behind, as a region has it."""
    nodes = [node for node in geo[region].log.sync() if effect(node) not in leave_out.split()]
    name = {node.id: effect(node) for node in nodes}
    causes = geo[region].log.causes(nodes)
    return {name[node]: {name[cause] for cause in found} for node, found in causes.items()}


def cut_all(geo: Geo) -> None:
    for one, other in (("eu", "us"), ("eu", "ap"), ("us", "ap")):
        geo.cut(one, other)


def meet(geo: Geo, one: str, other: str) -> None:
    """Let two regions have all that either has."""
    geo.heal(one, other)
    geo.settle()
    geo.cut(one, other)


class TestCauses:
    def test_of_writes_on_both_sides_of_a_cut(self, geo: Geo) -> None:
        geo["eu"].put("k", "first")
        geo.settle()
        cut_all(geo)
        geo["eu"].put("k", "here")
        geo["us"].put("k", "there")
        geo["us"].put("l", "there too")
        meet(geo, "eu", "us")
        geo["eu"].put("m", "both")

        expected = {
            "first": set(),
            "here": {"first"},
            "there": {"first"},
            "there too": {"there"},
            "both": {"here", "there too"},
        }
        assert edges(geo, "eu") == expected
        meet(geo, "eu", "ap")
        assert edges(geo, "ap") == expected

    def test_of_what_came_by_way_of_a_third_region_lead_to_the_latest(self, geo: Geo) -> None:
        cut_all(geo)
        geo["eu"].put("a", "one")
        meet(geo, "eu", "us")
        geo["us"].put("b", "two")
        meet(geo, "us", "ap")
        geo["ap"].put("a", "three")

        assert edges(geo, "ap") == {"one": set(), "two": {"one"}, "three": {"two"}}

    def test_lead_past_the_nodes_that_were_not_given(self, geo: Geo) -> None:
        cut_all(geo)
        geo["eu"].put("a", "one")
        meet(geo, "eu", "us")
        geo["us"].put("b", "two")
        meet(geo, "us", "ap")
        geo["ap"].put("a", "three")

        assert edges(geo, "ap", leave_out="two") == {"one": set(), "three": {"one"}}
        assert edges(geo, "ap", leave_out="one") == {"two": set(), "three": {"two"}}

    def test_of_nodes_with_several_colors(self, geo: Geo) -> None:
        cut_all(geo)
        geo["eu"].log.append([0, 1], b"one")
        meet(geo, "eu", "us")
        geo["us"].log.append([1], b"two")
        geo["us"].log.append([0], b"three")
        meet(geo, "us", "eu")

        assert edges(geo, "eu") == {"b'one'": set(), "b'two'": {"b'one'"}, "b'three'": {"b'two'"}}

    def test_of_no_nodes_are_none(self, geo: Geo) -> None:
        assert geo["eu"].log.causes([]) == {}

    @pytest.mark.parametrize("place", [("mars", 0, 1), ("eu", 0, 7), ("eu", 9, 1)])
    def test_of_a_node_that_is_not_here_are_refused(self, geo: Geo, place: tuple[str, int, int]) -> None:
        geo["eu"].put("k", 1)
        (node,) = geo["eu"].log.sync()

        with pytest.raises(kvstore.ForeignSnapshot):
            geo["eu"].log.causes([node, node._replace(id=NodeId(*place))])

    @pytest.mark.parametrize("seed", range(5))
    def test_are_what_a_region_had_when_it_wrote(self, geo: Geo, seed: int) -> None:
        """From the causes follows for each node all that its region had before it; in every region."""
        dice = random.Random(seed)
        cut_all(geo)
        had: dict[str, set[str]] = {}
        for number in range(40):
            one, other = dice.sample(NAMES, 2)
            if dice.random() < 0.4:
                meet(geo, one, other)
                continue
            had[str(number)] = set(map(effect, geo[one].log.sync()))
            with geo[one].batch() as batch:
                for key in dice.sample("abcdef", dice.randint(1, 2)):
                    batch.put(key, str(number))
        for one, other in (("eu", "us"), ("us", "ap"), ("eu", "us")):
            meet(geo, one, other)

        for region in NAMES:
            found = edges(geo, region)
            assert {node: closure(found, node) for node in found} == {node: had[node] for node in found}
            assert all(not closure(found, cause) & found[node] for node in found for cause in found[node])
        assert edges(geo, "eu").keys() == had.keys()


def closure(found: dict[str, set[str]], node: str) -> set[str]:
    return set().union(*({cause, *closure(found, cause)} for cause in found[node]))


def test_playing_some_of_a_nodes_colors_ends() -> None:
    """A chain that is played and has nothing but imports keeps the others' places back."""
    with Geo(":memory:", regions=NAMES, shards=3) as wide:
        wide["us"].log.append([1], b"one")
        wide.settle()
        wide["eu"].log.append([0, 2], b"two")

        played = wide["eu"].log.sync([1, 2])
        assert [node.payload for node in islice(played, 5)] == [b"one", b"two"]
        assert list(wide["eu"].log.sync([1, 2], since=played.frontier)) == []


class TestRegionsOf:
    def test_a_world_are_those_it_was_made_with(self, tmp_path: Path) -> None:
        with Geo(tmp_path / "world", regions=NAMES):
            pass

        assert kvstore.regions_of(tmp_path / "world") == sorted(NAMES)

    def test_anything_else_are_refused(self, tmp_path: Path) -> None:
        kvstore.open(tmp_path / "store").close()
        for path in (tmp_path, tmp_path / "store", tmp_path / "nothing", ":memory:"):
            with pytest.raises(kvstore.NotAStore):
                kvstore.regions_of(path)

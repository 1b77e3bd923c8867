"""What one import brings of several regions is carried out causes first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import kvstore
from kvstore import Geo

NAMES = ["ap", "eu", "us"]


@pytest.fixture
def world() -> Iterator[Geo]:
    with kvstore.Geo(":memory:", regions=NAMES) as world:
        yield world


def apart(world: Geo, *names: str) -> None:
    for name in names:
        for other in NAMES:
            if other != name:
                world.cut(name, other)


def all_together(world: Geo) -> None:
    for one, other in [("ap", "eu"), ("ap", "us"), ("eu", "us")]:
        world.heal(one, other)
    world.settle()


@pytest.mark.parametrize("last", ["ap", "us"])
def test_an_add_that_a_removal_has_seen_stays_removed_where_both_come_at_once(world: Geo, last: str) -> None:
    first = "us" if last == "ap" else "ap"
    apart(world, "eu")
    world[first].set("s").add("x")
    world.settle()
    world[last].set("s").remove("x")
    world.settle()

    all_together(world)

    assert [world[name].set("s").members() for name in NAMES] == [set(), set(), set()]


@pytest.mark.parametrize("last", ["ap", "us"])
def test_a_write_that_the_next_one_has_seen_is_not_lost_where_both_come_at_once(
    world: Geo, last: str
) -> None:
    first = "us" if last == "ap" else "ap"
    apart(world, "eu")
    world[first].put("k", "seen")
    world.settle()
    world[last].put("k", "shown")
    world.settle()

    all_together(world)

    assert [world[name].get("k") for name in NAMES] == ["shown"] * 3
    assert [list(world[name].lost_writes()) for name in NAMES] == [[], [], []]

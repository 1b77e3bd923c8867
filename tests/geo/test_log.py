"""The scenarios T and the invariants I of the FuzzyLog's test list, on ``log.append`` and ``log.sync``.

What has no counterpart is left out: explicit dependencies (T5, T7, T14-T17, T37, T38, T60: edges are
automatic here), asynchronous and polled calls (T21, T29, T32), strong snapshots (T31: every sync is one),
Skeen's protocol and the wire (T33, T34, T39-T58, I9-I11, I24), packets and stores (T63-T66), other
applications (T67, T70, T71, I28, I30), seeds of defects of the original (T72-T78), trimming (I22, I23), and
what needs failing replicas (I4, I5) or is a rate (I25, I26). I6-I8 and I15 follow from I12 and I13.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvstore
from kvstore import Geo
from kvstore.geo.public_log import Node
from kvstore.geo.region import Region

NAMES = ["ap", "eu", "us"]
SHARDS = 4


@pytest.fixture
def world() -> Iterator[Geo]:
    with kvstore.Geo(":memory:", regions=NAMES, shards=SHARDS) as world:
        yield world


def played(region: Region, *colors: int) -> list[bytes | None]:
    return [node.payload for node in region.log.sync(colors or None)]


def cut_all(world: Geo) -> None:
    for one, other in (("ap", "eu"), ("ap", "us"), ("eu", "us")):
        world.cut(one, other)


def heal_all(world: Geo) -> None:
    for one, other in (("ap", "eu"), ("ap", "us"), ("eu", "us")):
        world.heal(one, other)
    world.settle(30)


def write_at_random(world: Geo, seed: int, count: int = 40) -> None:
    dice = random.Random(seed)
    for number in range(count):
        name = dice.choice(NAMES)
        colors = dice.sample(range(SHARDS), dice.choice([1, 1, 2, 3]))
        world[name].log.append(colors, f"{name}{number}".encode())
        if dice.random() < 0.2:
            getattr(world, dice.choice(["cut", "heal"]))(*dice.sample(NAMES, 2))


def test_T1_T2_an_empty_log_is_played_to_its_end(world: Geo) -> None:
    assert played(world["eu"]) == []
    assert played(world["eu"], 2) == []


def test_T3_four_nodes_of_one_chain_in_order_at_rising_places(world: Geo) -> None:
    ids = [world["eu"].log.append([1], bytes([number])) for number in range(4)]

    assert [node.id for node in world["eu"].log.sync([1])] == ids
    assert [place.index for place in ids] == [1, 2, 3, 4]


def test_T4_three_chains_each_in_its_order(world: Geo) -> None:
    for number in range(15):
        world["eu"].log.append([number % 3], bytes([number]))

    nodes = list(world["eu"].log.sync([2, 0, 1]))

    assert len(nodes) == 15
    for color in range(3):
        assert [n.payload for n in nodes if n.colors == (color,)] == [bytes([n]) for n in range(color, 15, 3)]


@pytest.mark.parametrize(("first", "more"), [(10, 11), (2, 2), (300, 1)])
def test_T6_T8_T9_nothing_twice_where_playing_goes_on(world: Geo, first: int, more: int) -> None:
    log = world["eu"].log
    ids = [log.append([0], b"") for _ in range(first)]
    playback = log.sync([0])
    assert [node.id for node in playback] == ids

    ids = [log.append([0], b"") for _ in range(more)]

    assert [node.id for node in log.sync([0], since=playback.frontier)] == ids


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("color", [0, 1, 2])
def test_T10_multis_over_three_chains_are_delivered_once_with_all_their_places(
    world: Geo, name: str, color: int
) -> None:
    ids = [world["eu"].log.append([2, 0, 1], bytes([number])) for number in range(4)]
    world.settle()

    nodes = list(world[name].log.sync([color]))

    assert [node.id for node in nodes] == ids
    assert [node.colors for node in nodes] == [(0, 1, 2)] * 4
    assert [node.payload for node in nodes] == [bytes([number]) for number in range(4)]


@pytest.mark.parametrize("name", ["eu", "us"])
def test_T11_shingled_multis_come_oldest_first(world: Geo, name: str) -> None:
    for low in (2, 1, 0):
        world["eu"].log.append([low, low + 1], bytes([low]))
    world.settle()

    assert played(world[name]) == [b"\x02", b"\x01", b"\x00"]
    assert [played(world[name], color) for color in range(4)] == [
        [b"\x00"], [b"\x01", b"\x00"], [b"\x02", b"\x01"], [b"\x02"],
    ]  # fmt: skip


def test_T12_multis_over_fourteen_chains() -> None:
    with kvstore.Geo(":memory:", regions=["eu", "us"], shards=14) as wide:
        for number in range(5):
            wide["eu"].log.append(range(14), bytes([number]))
        wide.settle()

        assert [played(wide["us"], color) for color in range(14)] == [[bytes([n]) for n in range(5)]] * 14


def test_T13_multis_over_four_chains_have_equal_indices_and_count(world: Geo) -> None:
    ids = [world["eu"].log.append(range(4), b"") for _ in range(31)]

    assert [place.index for place in ids] == list(range(1, 32))
    assert all([n.id for n in world["eu"].log.sync([color])] == ids for color in range(4))


def test_T18_order_through_an_unplayed_chain_holds(world: Geo) -> None:
    for colors, payload in (([0], b"1"), ([0, 1], b"2"), ([1, 2], b"3"), ([2], b"4")):
        world["eu"].log.append(colors, payload)
    world.settle()

    assert played(world["us"], 0, 2) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("size", [0, 6000, 8000, 2 << 20])
def test_T19_T20_payloads_of_any_size(world: Geo, size: int) -> None:
    for colors in ([0], [0, 3]):
        world["eu"].log.append(colors, bytes(size))
    world.settle()

    assert played(world["us"], 0) == [bytes(size)] * 2
    assert played(world["us"], 3) == [bytes(size)]


def test_T22_T23_T62_multis_between_singles_keep_their_places(world: Geo) -> None:
    for number, colors in enumerate([[0], [1], [0, 1], [1], [0], [0, 1, 2]]):
        world["eu"].log.append(colors, bytes([number]))
    world.settle()

    for name in ("eu", "us"):
        assert played(world[name], 0) == [b"\x00", b"\x02", b"\x04", b"\x05"]
        assert played(world[name], 1) == [b"\x01", b"\x02", b"\x03", b"\x05"]
        assert played(world[name], 2) == [b"\x05"]


def test_T24_T25_what_another_chain_shows_the_causes_were_there_before(world: Geo) -> None:
    world["ap"].log.append([0], b"a")
    world.settle()
    world["eu"].log.append([1], b"b")
    world.cut("ap", "us")
    world.settle()
    world["eu"].log.append([2], b"c")
    world.settle()

    assert played(world["us"]) == [b"a", b"b", b"c"]


def test_T26_crossing_appends_while_another_keeps_playing(world: Geo) -> None:
    def write(color: int) -> None:
        for _ in range(100):
            world["eu"].log.append([color], b"")

    threads = [threading.Thread(target=write, args=(color,)) for color in (0, 1)]
    for thread in threads:
        thread.start()
    found: list[Node] = []
    frontier = None
    while len(found) < 200:
        playback = world["eu"].log.sync([0, 1], since=frontier)
        found += playback
        frontier = playback.frontier
    for thread in threads:
        thread.join()

    assert len({node.id for node in found}) == len(found) == 200
    assert list(world["eu"].log.sync([0, 1], since=frontier)) == []


def test_T27_multis_and_singles_of_two_threads(world: Geo) -> None:
    def write(colors: list[int]) -> None:
        for _ in range(31):
            world["eu"].log.append(colors, b"")

    threads = [threading.Thread(target=write, args=(colors,)) for colors in ([0, 1], [0])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(played(world["eu"], 0)) == 62
    assert len(played(world["eu"], 1)) == 31


def test_T30_a_sync_of_several_chains_is_a_consistent_cut(world: Geo) -> None:
    def write() -> None:
        for number in range(100):
            world["eu"].log.append([number % 2], b"")

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        colors = [node.colors[0] for node in world["eu"].log.sync([0, 1])]
        assert colors == [number % 2 for number in range(len(colors))]
    thread.join()


def test_T35_T36_T28_a_playback_ends_where_it_began_to_be_played(world: Geo) -> None:
    log = world["eu"].log
    log.append([0, 1], b"before")
    playback = log.sync([0, 1])
    log.append([0, 1], b"after")

    assert [node.payload for node in playback] == [b"before"]
    assert [node.payload for node in log.sync([1], since=playback.frontier)] == [b"after"]


def test_T59_I1_I3_nodes_have_the_same_places_in_every_region(world: Geo) -> None:
    ids = [world["eu"].log.append([number % SHARDS], b"") for number in range(8)]
    world.settle()

    assert [[node.id for node in world[name].log.sync()] for name in NAMES] == [ids] * 3


def test_T61_I21_two_hundred_nodes_with_crossing_causes_meet(world: Geo) -> None:
    for number in range(100):
        world["eu"].log.append([number % 2, 2], b"eu%d" % number)
        world["us"].log.append([1 - number % 2, 3], b"us%d" % number)
    world.settle(30)

    logs = [list(world[name].log.sync()) for name in NAMES]
    assert len(logs[0]) == 200
    assert logs[0] == logs[1] == logs[2]


@pytest.mark.parametrize("seed", range(3))
def test_I12_I16_any_frontier_resumes_with_exactly_the_complement(world: Geo, seed: int) -> None:
    write_at_random(world, seed)
    heal_all(world)
    whole = [node.id for node in world["us"].log.sync()]

    for stop in range(0, len(whole), 7):
        playback = world["us"].log.sync()
        first = [next(playback).id for _ in range(stop)]
        assert first + [n.id for n in world["us"].log.sync(since=playback.frontier)] == whole


@pytest.mark.parametrize("name", ["eu", "us"])
def test_I12_a_frontier_of_some_colors_goes_on_with_others_and_repeats_nothing(world: Geo, name: str) -> None:
    for number, colors in enumerate([[0], [0, 1], [1], [1, 2], [0, 2], [2]]):
        world["eu"].log.append(colors, bytes([number]))
    world.settle()
    log = world[name].log

    one = log.sync([0])
    first = [node.payload for node in one]
    two = log.sync([1], since=one.frontier)
    second = [node.payload for node in two]

    assert first == [b"\x00", b"\x01", b"\x04"]
    assert second == [b"\x02", b"\x03"]
    assert [node.payload for node in log.sync(since=two.frontier)] == [b"\x05"]


@pytest.mark.parametrize("seed", range(3))
def test_I13_I2_I18_playing_is_in_order_of_chains_and_time(world: Geo, seed: int) -> None:
    write_at_random(world, seed)
    heal_all(world)

    nodes = list(world["ap"].log.sync())

    assert len({node.payload for node in nodes}) == len(nodes) == 40
    assert [(n.time, n.region) for n in nodes] == sorted((n.time, n.region) for n in nodes)
    for name in NAMES:
        for color in range(SHARDS):
            chain = [n.id.index for n in nodes if n.region == name and n.id.color == color]
            assert chain == sorted(chain)


def test_I14_a_sync_delivers_what_was_acknowledged_before_it(world: Geo) -> None:
    for number in range(20):
        place = world["eu"].log.append([number % SHARDS], b"")
        assert list(world["eu"].log.sync([number % SHARDS]))[-1].id == place


def test_I14_also_what_is_not_on_disk_yet(tmp_path: Path) -> None:
    with Geo(tmp_path / "world", regions=["eu", "us"], durability="interval") as world:
        node = world["eu"].log.append([0], b"x")
        assert [played.id for played in world["eu"].log.sync()] == [node]


@pytest.mark.parametrize("name", ["eu", "us"])
def test_I12_a_frontier_that_lags_on_another_color_is_read_through_once(world: Geo, name: str) -> None:
    eu, region = world["eu"], world[name]
    for number in range(600):
        eu.log.append([number % 2], b"")
        if number % 50 == 0:
            eu.log.append([0, 1], b"")
    world.settle()
    playback = region.log.sync([1])
    played = {next(playback).id for _ in range(20)}

    rest = [node.id for node in region.log.sync([0], since=playback.frontier)]

    assert len(set(rest)) == len(rest)
    assert played.isdisjoint(rest)
    everything = {node.id for node in region.log.sync([0, 1]) if 0 in node.colors}
    assert everything == set(rest) | {node for node in played if node.color == 0}


def test_I17_effects_of_a_color_are_the_same_in_every_region(world: Geo) -> None:
    with world["eu"].batch() as batch:
        for number in range(12):
            batch.put(("k", number), number)
        batch.counter("c").add(1)
    world.settle()

    for color in range(SHARDS):
        logs = [list(world[name].log.sync([color])) for name in NAMES]
        assert logs[0] == logs[1] == logs[2]
        shards = {world["eu"].explain(effect.key).shards for node in logs[0] for effect in node.effects}
        assert shards == {(color,)}


def test_I18_what_is_in_a_region_has_its_causes_there_while_links_flap(world: Geo) -> None:
    """``us`` answers what ``eu`` asked: ``ap`` never shows an answer whose question it lacks."""
    for number in range(30):
        world["eu"].put(("asked", number), number)
        (world.cut if number % 3 else world.heal)("eu", "ap")
        if number % 4 == 0:
            world.settle()
        for _, asked in world["us"].scan(prefix=("asked",)):
            world["us"].put(("answered", asked), asked)
        with world["ap"].snapshot() as shown:
            answers = {value for _, value in shown.scan(prefix=("answered",))}
            assert answers <= {value for _, value in shown.scan(prefix=("asked",))}


def test_I19_I20_appends_succeed_with_all_links_cut_and_name_their_own_region(world: Geo) -> None:
    cut_all(world)
    ids = {name: world[name].log.append([0], name.encode()) for name in NAMES}

    assert {name: place.region for name, place in ids.items()} == {name: name for name in NAMES}
    assert [played(world[name]) for name in NAMES] == [[name.encode()] for name in NAMES]


def test_I21_reopened_copies_are_equal(tmp_path: Path) -> None:
    with kvstore.Geo(tmp_path / "world", regions=NAMES, shards=SHARDS) as world:
        write_at_random(world, 7)
        playback = world["us"].log.sync()
        count = len(list(playback))
    with kvstore.Geo(tmp_path / "world", regions=NAMES) as world:
        world.settle(30)
        logs = [list(world[name].log.sync()) for name in NAMES]
        assert logs[0] == logs[1] == logs[2]
        assert len(list(world["us"].log.sync(since=playback.frontier))) == 40 - count


def test_T69_I27_a_member_is_there_while_an_add_is_unseen_by_every_removal(world: Geo) -> None:
    world["eu"].set("s").add("x")
    world.settle()
    cut_all(world)
    world["us"].set("s").remove("x")
    world["ap"].set("s").add("x")
    heal_all(world)
    assert [world[name].set("s").members() for name in NAMES] == [{"x"}] * 3

    world["eu"].set("s").remove("x")
    world.settle()
    assert [world[name].set("s").members() for name in NAMES] == [set()] * 3


def test_T68_I29_no_balance_is_ever_below_zero_and_money_is_kept(world: Geo) -> None:
    dice, spent = random.Random(3), 0
    world["eu"].bounded("a").add(60)
    world["us"].bounded("a").add(40, to="ap")
    world.settle()
    cut_all(world)
    for _ in range(60):
        money, amount = world[dice.choice(NAMES)].bounded("a"), dice.randint(1, 9)
        try:
            money.spend(amount)
            spent += amount
        except (kvstore.InsufficientFunds, kvstore.InsufficientRights):
            assert money.rights() < amount
        assert money.rights() >= 0
    heal_all(world)

    assert [world[name].bounded("a").value() for name in NAMES] == [100 - spent] * 3

"""What a world, a region and a log refuse: by name, at once, and with nothing changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Geo
from kvstore.geo.region import Region


@pytest.fixture
def world() -> Iterator[Geo]:
    with kvstore.Geo(":memory:", regions=["eu", "us"], shards=4) as world:
        yield world
        for name in world.regions():
            assert list(world[name].scan()) == []
            assert list(world[name].log.sync()) == []


@pytest.mark.parametrize("colors", [[4], [-1], [0, 99], ["0"], [True], [None], [1.0]])
def test_an_unknown_color(world: Geo, colors: list[Any]) -> None:
    for call in (lambda: world["eu"].log.append(colors, b""), lambda: world["eu"].log.sync(colors)):
        with pytest.raises(kvstore.UnknownColor) as raised:
            call()
        assert raised.value.color == colors[-1]


@pytest.mark.parametrize("colors", [[], "01", b"01", 3])
def test_colors_that_are_no_list(world: Geo, colors: Any) -> None:
    with pytest.raises(kvstore.UsageError):
        world["eu"].log.append(colors, b"")
    with pytest.raises(kvstore.UsageError):
        world["eu"].log.sync(colors)


@pytest.mark.parametrize("name", ["mars", "", "EU", 5, None, ["eu"]])
def test_an_unknown_region(world: Geo, name: Any) -> None:
    money = world["eu"].bounded("k")
    calls: list[Callable[[], Any]] = [
        lambda: world[name],
        lambda: world.cut("eu", name),
        lambda: world.heal(name, "eu"),
        lambda: world.delay("eu", name, 1),
        lambda: money.grant(1, name),
        lambda: money.rights(name if name is not None else "mars"),
    ]
    for call in calls:
        with pytest.raises(kvstore.UnknownRegion):
            call()


@pytest.mark.parametrize("names", [["eu", "eu"], ["eu", "us", "eu"]])
def test_two_regions_with_one_name(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(kvstore.DuplicateRegion) as raised:
        kvstore.Geo(tmp_path / "world", regions=names)
    assert raised.value.region == "eu"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "names", [[], "eu", b"eu", 5, None, [""], ["a/b"], [".."], ["-x"], ["e u"], ["x" * 65], [5, "eu"], [None]]
)
def test_bad_names(tmp_path: Path, names: Any) -> None:
    with pytest.raises(kvstore.UsageError):
        kvstore.Geo(tmp_path / "world", regions=names)
    assert list(tmp_path.iterdir()) == []


def test_a_frontier_of_another_world(world: Geo) -> None:
    with kvstore.Geo(":memory:", regions=["eu", "us"], shards=4) as other:
        frontier = other["eu"].log.sync().frontier

    with pytest.raises(kvstore.ForeignSnapshot):
        world["eu"].log.sync(since=frontier)


@pytest.mark.parametrize("since", [[], "x", 5, {}, {"world": 1}, {"world": "x", "places": {}}])
def test_what_is_no_frontier(world: Geo, since: Any) -> None:
    with pytest.raises(kvstore.ForeignSnapshot):
        world["eu"].log.sync(since=since)


@pytest.mark.parametrize(
    "places",
    [
        [],
        {"eu": []},
        {"eu": {float("inf"): 1}},
        {"mars": {"0": 1}},
        {"eu": {"x": 1}},
        {"eu": {"9": 1}},
        {"eu": {"-1": 1}},
    ]
    + [{name: {"0": slot}} for name in ("eu", "us") for slot in (-1, -5, True, "1", 1.5, None, 2**63, 2**80)],
    ids=repr,
)
def test_a_malformed_frontier(world: Geo, places: Any) -> None:
    frontier = world["eu"].log.sync().frontier

    with pytest.raises(kvstore.ForeignSnapshot):
        world["us"].log.sync(since={**frontier, "places": places})


def test_causes_of_what_is_no_node(world: Geo) -> None:
    with pytest.raises(kvstore.UsageError):
        world["eu"].log.causes([5])  # type: ignore[list-item]  # so it is


@pytest.mark.parametrize("payload", ["text", None, 5, [b"x"]])
def test_a_payload_of_a_wrong_type(world: Geo, payload: Any) -> None:
    with pytest.raises(kvstore.ValueNotSupported, match="payload"):
        world["eu"].log.append([0], payload)


def test_a_payload_that_is_too_large(world: Geo) -> None:
    with pytest.raises(kvstore.LimitExceeded) as raised:
        world["eu"].log.append([0], bytes((16 << 20) + 1))
    assert (raised.value.size, raised.value.limit) == ((16 << 20) + 1, 16 << 20)


def test_a_world_that_forgets(tmp_path: Path) -> None:
    with pytest.raises(kvstore.UsageError, match="none"):
        kvstore.Geo(tmp_path / "world", regions=["eu"], durability="none")
    assert list(tmp_path.iterdir()) == []


def test_opening_with_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "world"
    with kvstore.Geo(path, regions=["eu", "us"], shards=2) as world:
        world["eu"].put("k", 1)

    for names in (["eu"], ["eu", "us", "ap"], ["eu", "uk"]):
        with pytest.raises(kvstore.WrongShape) as raised:
            kvstore.Geo(path, regions=names)
        assert raised.value.name == "regions"
    with pytest.raises(kvstore.WrongShape) as shards:
        kvstore.Geo(path, regions=["eu", "us"], shards=3)
    assert (shards.value.name, shards.value.found, shards.value.expected) == ("shards", 2, 3)
    with kvstore.Geo(path, regions=["us", "eu"]) as world:
        assert world["eu"]["k"] == 1


def test_a_path_that_is_no_place_for_a_world(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kvstore.open(tmp_path / "store").close()
    before = sorted(tmp_path.rglob("*"))

    for name in ("file", "store"):
        with pytest.raises(kvstore.NotAStore, match=name):
            kvstore.Geo(tmp_path / name, regions=["eu"])
    with pytest.raises(kvstore.NoParent):
        kvstore.Geo(tmp_path / "no" / "world", regions=["eu"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_with_other_things_in_it(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("hi")

    with pytest.raises(kvstore.NotAStore, match="not empty"):
        kvstore.Geo(tmp_path, regions=["eu", "us"])
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_a_folder_of_another_world(tmp_path: Path) -> None:
    kvstore.Geo(tmp_path, regions=["eu", "us"]).close()

    for names in (["EU", "US"], ["eu", "us", "ap"], ["eu"]):
        with pytest.raises(kvstore.WrongShape) as raised:
            kvstore.Geo(tmp_path, regions=names)
        assert raised.value.found == ("eu", "us")
    assert kvstore.regions_of(tmp_path) == ["eu", "us"]


@pytest.mark.parametrize("path", ["/tmp/" + "x" * 300, "/proc/nothing/here", "/proc/nothing"])
def test_a_path_that_the_system_refuses(path: str) -> None:
    with pytest.raises((kvstore.NotAStore, kvstore.NoParent)):
        kvstore.Geo(path, regions=["eu", "us"])


@pytest.mark.parametrize("lifetime", ["x", -1, 0, None])
def test_a_lifetime_out_of_range(tmp_path: Path, lifetime: Any) -> None:
    with pytest.raises(kvstore.LimitExceeded):
        kvstore.Geo(tmp_path / "world", regions=["eu"], snapshot_lifetime=lifetime)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("peers", [None, ["us"], {"us": None}, {"us": object()}])
def test_peers_that_are_no_links(tmp_path: Path, peers: Any) -> None:
    with pytest.raises(kvstore.UsageError):
        kvstore.open_region(tmp_path / "eu", region="eu", peers=peers)
    with pytest.raises(kvstore.UsageError):
        kvstore.open_region(tmp_path / "eu", region=["eu"], peers={}, regions=["eu"])  # type: ignore[arg-type]  # so it is
    kvstore.open_region(tmp_path / "eu", region="eu", peers={}).close()


def test_a_region_is_not_written_as_a_store_that_stands_alone(tmp_path: Path) -> None:
    with kvstore.Geo(tmp_path / "world", regions=["eu", "us"]) as world:
        world["eu"].counter("k").add(2)

    with pytest.raises(kvstore.WrongShape) as raised:
        kvstore.open(tmp_path / "world" / "eu")
    assert raised.value.name == "region"
    with kvstore.open(tmp_path / "world" / "eu", readonly=True) as db:
        assert db["k"] == 2


def test_a_program_that_only_reads_a_region_decodes_its_records(tmp_path: Path) -> None:
    """In a process of its own: here the modules of regions are loaded already."""
    with kvstore.Geo(tmp_path / "world", regions=["eu", "us"]) as world:
        world["eu"].counter("k").add(2)
    program = "import kvstore, sys; print(kvstore.open(sys.argv[1], readonly=True)['k'])"
    arguments = [sys.executable, "-c", program, str(tmp_path / "world" / "eu")]
    assert subprocess.run(arguments, capture_output=True, text=True).stdout == "2\n"


def test_a_world_that_is_open_already(tmp_path: Path) -> None:
    with kvstore.Geo(tmp_path / "world", regions=["eu"]), pytest.raises(kvstore.AlreadyOpen):
        kvstore.Geo(tmp_path / "world", regions=["eu"])


@pytest.mark.parametrize("amount", [1.0, True, "1", None])
def test_amounts_that_are_no_ints(world: Geo, amount: Any) -> None:
    money = world["eu"].bounded("k")
    for call in (money.add, money.spend, lambda n: money.grant(n, "us")):
        with pytest.raises(kvstore.ValueNotSupported):
            call(amount)


@pytest.mark.parametrize("amount", [0, -1, 2**63])
def test_amounts_that_are_out_of_bounds(world: Geo, amount: int) -> None:
    money = world["eu"].bounded("k")
    for call in (money.add, money.spend, lambda n: money.grant(n, "us")):
        with pytest.raises(kvstore.LimitExceeded):
            call(amount)


@pytest.mark.parametrize("member", [{}, {"a": 1}, [1, {}], {1}, object()])
def test_members_that_no_set_holds(world: Geo, member: Any) -> None:
    for call in (world["eu"].set("k").add, world["eu"].set("k").remove):
        with pytest.raises(kvstore.ValueNotSupported):
            call(member)


def test_a_set_that_would_be_too_large() -> None:
    with kvstore.Geo(":memory:", regions=["eu"]) as world:
        eu = world["eu"]
        eu.set("k").add(b"a" * (9 << 20))
        other = b"b" * (9 << 20)

        def add_in_a_batch() -> None:
            with eu.batch() as batch:
                batch.set("k").add(other)

        calls: list[Callable[[], Any]] = [
            lambda: eu.set("k").add(other),
            add_in_a_batch,
            lambda: eu.run(lambda tx: tx.set("k").add(other)),
        ]
        for call in calls:
            with pytest.raises(kvstore.LimitExceeded, match="set at 'k'"):
                call()
        assert len(eu.set("k").members()) == 1


@pytest.mark.parametrize("n", [float("nan"), float("inf")])
def test_what_would_poison_a_counter(world: Geo, n: float) -> None:
    for call in (world["eu"].counter("k").add, lambda n: world["eu"].add("k", n)):
        with pytest.raises(kvstore.LimitExceeded):
            call(n)


def test_a_link_of_a_region_with_itself(world: Geo) -> None:
    for call in (world.cut, world.heal, lambda one, other: world.delay(one, other, 1)):
        with pytest.raises(kvstore.UsageError, match="eu"):
            call("eu", "eu")


@pytest.mark.parametrize("ms", [-1, 3_600_001, float("nan"), float("inf"), "1", None, True])
def test_a_delay_out_of_range(world: Geo, ms: Any) -> None:
    with pytest.raises(kvstore.LimitExceeded):
        world.delay("eu", "us", ms)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", None, True])
def test_a_timeout_out_of_range(world: Geo, timeout: Any) -> None:
    with pytest.raises(kvstore.LimitExceeded):
        world.settle(timeout)


@pytest.mark.parametrize("skew", [-1, 86_401, float("nan"), "1", None])
def test_a_clock_skew_out_of_range(skew: Any) -> None:
    with pytest.raises(kvstore.LimitExceeded):
        kvstore.Geo(":memory:", regions=["eu"], max_clock_skew=skew)


def _uses(region: Region) -> list[Callable[[], Any]]:
    return [
        lambda: region.get("k"),
        lambda: region.put("k", 1),
        lambda: region.counter("k").add(1),
        lambda: region.set("k").members(),
        lambda: region.bounded("k").add(1),
        lambda: region.log.append([0], b""),
        lambda: region.log.sync(),
        lambda: region.batch(),
        lambda: list(region.lost_writes()),
        lambda: region.status(),
    ]


def test_use_after_close() -> None:
    world = kvstore.Geo(":memory:", regions=["eu", "us"])
    region = world["eu"]
    world.close()
    world.close()

    calls = [lambda: world["eu"], lambda: world.cut("eu", "us"), world.settle, *_uses(region)]
    for call in calls:
        with pytest.raises(kvstore.Closed):
            call()

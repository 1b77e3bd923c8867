"""A world of regions: what each may do alone, and what comes out when they meet."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Geo
from kvstore.geo.region import Region

NAMES = ["ap", "eu", "us"]
PAIRS = [("ap", "eu"), ("ap", "us"), ("eu", "us")]


@pytest.fixture
def world() -> Iterator[Geo]:
    with kvstore.Geo(":memory:", regions=NAMES, shards=4) as world:
        yield world
        assert [world[name].verify()["problems"] for name in NAMES] == [[]] * 3


def cut_all(world: Geo) -> None:
    for pair in PAIRS:
        world.cut(*pair)


def heal_all(world: Geo) -> None:
    for pair in PAIRS:
        world.heal(*pair)
    world.settle(30)


def everywhere(world: Geo, look: Callable[[Region], Any]) -> Any:
    """What all regions show alike."""
    shown = [look(world[name]) for name in world.regions()]
    assert all(one == shown[0] for one in shown), shown
    return shown[0]


def lost(region: Region) -> list[tuple[Any, Any, str]]:
    return [(write.key, write.value, write.region) for write in region.lost_writes()]


def on_other_shards(region: Region, key: str, count: int = 3) -> list[str]:
    names = [f"other{number}" for number in range(40)]
    return [name for name in names if region.explain(name).shards != region.explain(key).shards][:count]


def _writes(region: Region, way: str) -> Any:
    return region.batch() if way == "batch" else region.begin()


WRITES: dict[str, tuple[Callable[[Region], Any], Any]] = {
    "bounded": (lambda region: region.bounded("k").add(3), 3),
    "counter": (lambda region: region.counter("k").add(2), 2),
    "set": (lambda region: region.set("k").add("m"), ["m"]),
    "register": (lambda region: region.put("k", "v"), "v"),
}
ORDER = list(WRITES)


class TestLinks:
    def test_a_write_is_at_home_at_once_and_elsewhere_when_settled(self, world: Geo) -> None:
        world["eu"].put("k", 1)
        assert world["eu"]["k"] == 1

        world.settle()

        assert everywhere(world, lambda region: region["k"]) == 1

    def test_settle_goes_over_an_intermediate_region(self, world: Geo) -> None:
        world.cut("ap", "us")
        world["ap"].put("k", 1)
        world.settle()

        assert world["us"]["k"] == 1

    def test_settle_does_not_wait_for_cut_links(self, world: Geo) -> None:
        world.cut("ap", "us")
        world.cut("ap", "eu")
        world["eu"].put("k", 1)
        world.settle(30)

        assert (world["us"].get("k"), world["ap"].get("k")) == (1, None)
        heal_all(world)
        assert world["ap"]["k"] == 1

    def test_settle_names_who_lacks_what(self, world: Geo) -> None:
        for pair in PAIRS:
            world.delay(*pair, 60_000)
        world["eu"].put("k", 1)

        with pytest.raises(kvstore.TimedOut, match="us lacks 1 slots of eu"):
            world.settle(0)

    def test_a_delay_is_undone(self, world: Geo) -> None:
        for pair in PAIRS:
            world.delay(*pair, 5)
        world["eu"].put("k", 1)
        world.settle()
        for pair in PAIRS:
            world.delay(*pair, 0)
        world["us"].put("k", 2)
        world.settle()

        assert everywhere(world, lambda region: region["k"]) == 2

    def test_idle_regions_write_nothing(self, world: Geo) -> None:
        world["eu"].put("k", 1)
        world.settle()
        ends = [world[name].cursor() for name in NAMES]
        world.settle()

        assert [world[name].cursor() for name in NAMES] == ends


class TestRegisters:
    def test_the_last_writer_wins_and_the_others_are_lost_until_overwritten(self, world: Geo) -> None:
        cut_all(world)
        for name in NAMES:
            world[name].put("k", name)
        heal_all(world)

        assert everywhere(world, lambda region: region["k"]) == "us"
        assert everywhere(world, lost) == [("k", "ap", "ap"), ("k", "eu", "eu")]

        world["ap"].put("k", "seen")
        world.settle()
        assert everywhere(world, lambda region: region["k"]) == "seen"
        assert everywhere(world, lost) == []

    @pytest.mark.parametrize("remover_is_last", [True, False])
    def test_a_removal_and_a_put_that_are_concurrent(self, world: Geo, remover_is_last: bool) -> None:
        world["ap"].put("k", 0)
        world.settle()
        cut_all(world)
        works: list[Callable[[], Any]] = [lambda: world["eu"].put("k", 1), lambda: world["us"].delete("k")]
        for work in works if remover_is_last else works[::-1]:
            work()
        heal_all(world)

        assert everywhere(world, lambda region: region.get("k")) == (None if remover_is_last else 1)
        loser = ("k", 1, "eu") if remover_is_last else ("k", None, "us")
        assert everywhere(world, lost) == [loser]

    def test_lost_writes_keep_to_the_prefix(self, world: Geo) -> None:
        cut_all(world)
        for name in NAMES:
            world[name].put(("a", 1), name)
            world[name].put(("b", 1), name)
        heal_all(world)

        assert {write.key for write in world["eu"].lost_writes(prefix=("a",))} == {("a", 1)}

    def test_a_removal_that_another_type_follows_is_not_lost(self, world: Geo) -> None:
        for key, write in (("c", world["eu"].counter("c").add), ("s", world["eu"].set("s").add)):
            world["eu"].put(key, 1)
            world["eu"].delete(key)
            write(1)
        world.settle()

        assert everywhere(world, lost) == []

    def test_conditions_hold_in_a_region(self, world: Geo) -> None:
        eu = world["eu"]
        eu.put("k", 1)
        eu.delete("k")
        eu.put("k", 2, if_absent=True)
        version = eu.version("k")
        eu.put("k", 3, if_version=version)

        for condition in ({"if_absent": True}, {"if_version": version}):
            with pytest.raises(kvstore.Conflict):
                eu.put("k", 4, **condition)
        world.settle()
        assert everywhere(world, lambda region: region["k"]) == 3


class TestCountersAndSets:
    @pytest.mark.parametrize("amounts", [(1, 2, 3), (0.1, 0.2, 0.3), (1e16, 1.5, -1e16), (2**70, 1, -1)])
    def test_a_counter_is_the_same_everywhere(self, world: Geo, amounts: tuple[Any, ...]) -> None:
        cut_all(world)
        for name, amount in zip(NAMES, amounts, strict=True):
            world[name].counter("k").add(amount)
            world[name].add("k", amount)
        heal_all(world)

        assert everywhere(world, lambda region: region["k"]) == pytest.approx(2 * sum(amounts))

    @pytest.mark.parametrize(
        ("amounts", "sum_"),
        [((10**400, 0.5), float("inf")), ((1e308, 1e308), float("inf")), ((10**400, -1e308), float("inf"))],
    )
    def test_a_sum_that_no_number_holds_can_still_be_read(
        self, world: Geo, amounts: tuple[Any, Any], sum_: float
    ) -> None:
        cut_all(world)
        for name, amount in zip(NAMES, amounts, strict=False):
            world[name].counter("k").add(amount)
        heal_all(world)

        assert everywhere(world, lambda region: region.counter("k").value()) == sum_
        world["ap"].put("other", 1)
        world.settle()

    def test_an_add_that_would_have_no_effect_is_refused(self, world: Geo) -> None:
        counter = world["eu"].counter("k")
        counter.add(1e308)
        with pytest.raises(kvstore.LimitExceeded):
            counter.add(1e308)
        assert counter.value() == 1e308

    def test_an_add_wins_over_a_removal_that_has_not_seen_it(self, world: Geo) -> None:
        world["eu"].set("k").add("x")
        world["eu"].set("k").add("y")
        world.settle()
        cut_all(world)
        world["eu"].set("k").add("x")
        world["us"].set("k").remove("x")
        world["us"].set("k").remove("y")
        heal_all(world)

        assert everywhere(world, lambda region: region.set("k").members()) == {"x"}

    def test_deleting_a_set_takes_what_it_saw(self, world: Geo) -> None:
        world["eu"].set("k").add("seen")
        world.settle()
        cut_all(world)
        world["us"].set("k").add(("un", "seen"))
        world["eu"].delete("k")
        heal_all(world)

        assert everywhere(world, lambda region: region.set("k").members()) == {("un", "seen")}


class TestBounded:
    def test_rights_and_funds_are_refused_apart(self, world: Geo) -> None:
        world["eu"].bounded("k").add(10)
        world["eu"].bounded("k").grant(4, "us")
        world.settle()
        cut_all(world)
        us = world["us"].bounded("k")

        assert (us.value(), us.rights(), us.rights("eu")) == (10, 4, 6)
        with pytest.raises(kvstore.InsufficientRights) as rights:
            us.spend(5)
        assert (rights.value.key, rights.value.region) == ("k", "us")
        with pytest.raises(kvstore.InsufficientFunds) as funds:
            us.spend(11)
        assert (funds.value.balance, funds.value.needed) == (10, 11)
        us.spend(4)
        heal_all(world)
        assert everywhere(world, lambda region: region["k"]) == 6

    def test_an_add_to_another_region_is_its_right(self, world: Geo) -> None:
        world["eu"].bounded("k").add(5, to="ap")
        with pytest.raises(kvstore.InsufficientRights):
            world["eu"].bounded("k").spend(1)
        world.settle()
        world["ap"].bounded("k").spend(5)
        world.settle()

        assert everywhere(world, lambda region: region.bounded("k").value()) == 0

    @pytest.mark.parametrize("amount", [1, 7, 10])
    def test_rights_come_in_the_background_over_a_region_between(self, world: Geo, amount: int) -> None:
        world.cut("eu", "us")
        world["eu"].bounded("k").add(10)
        world.settle()
        us = world["us"].bounded("k")
        with pytest.raises(kvstore.InsufficientRights):
            us.spend(amount)
        changes = world["us"].watch(since=0, timeout=20)
        while us.rights() < amount:
            next(changes)

        us.spend(amount)

        world.settle()
        assert everywhere(world, lambda region: region["k"]) == 10 - amount


class TestTypes:
    @pytest.mark.parametrize("found", ORDER)
    @pytest.mark.parametrize("wanted", ORDER)
    def test_a_local_write_of_another_type_is_refused(self, world: Geo, found: str, wanted: str) -> None:
        WRITES[found][0](world["eu"])
        before = world["eu"]["k"]
        if found == wanted:
            WRITES[wanted][0](world["eu"])
            return

        with pytest.raises(kvstore.TypeClash) as raised:
            WRITES[wanted][0](world["eu"])
        assert (raised.value.key, raised.value.found) == ("k", found)
        assert raised.value.hint
        assert world["eu"]["k"] == before

    @pytest.mark.parametrize(
        ("shown", "hidden"), [(a, b) for a in ORDER for b in ORDER if ORDER.index(a) < ORDER.index(b)]
    )
    @pytest.mark.parametrize("first", ["eu", "us"])
    def test_of_a_concurrent_clash_one_is_shown(
        self, world: Geo, shown: str, hidden: str, first: str
    ) -> None:
        second = "us" if first == "eu" else "eu"
        cut_all(world)
        WRITES[shown][0](world[first])
        WRITES[hidden][0](world[second])
        heal_all(world)

        assert everywhere(world, lambda region: region["k"]) == WRITES[shown][1]
        assert everywhere(world, lost) == [("k", WRITES[hidden][1], second)]

    def test_a_procedure_does_not_put_over_a_counter(self, world: Geo) -> None:
        @kvstore.procedure("set it", keys=lambda key: [key])
        def set_it(part: Any, key: Any) -> None:
            part.put(key, "put")

        @kvstore.procedure("count it", keys=lambda key: [key])
        def count_it(part: Any, key: Any) -> None:
            part.add(key, 2)

        world["eu"].call("count it", "k")
        world["us"].call("count it", "k")
        world.settle()
        with pytest.raises(kvstore.ProcedureFailed):
            world["eu"].call("set it", "k")
        world.settle()
        assert everywhere(world, lambda region: region["k"]) == 4
        assert everywhere(world, lost) == []


class TestTransactions:
    def test_a_refused_debit_changes_nothing_on_any_shard(self, world: Geo) -> None:
        eu = world["eu"]
        eu.bounded("k").add(5)
        others = on_other_shards(eu, "k")
        before = list(eu.scan())
        batch = eu.batch()
        for name in others:
            batch.put(name, 1)
        batch.bounded("k").spend(6)
        assert eu.explain(batch).path == "general"
        with pytest.raises(kvstore.InsufficientFunds):
            eu.submit(batch).result(30)
        with pytest.raises(kvstore.InsufficientFunds), eu.batch() as again:
            again.counter(others[0]).add(1)
            again.bounded("k").spend(6)
        assert list(eu.scan()) == before

    def test_a_debit_on_one_shard_takes_one_round(self, world: Geo) -> None:
        eu = world["eu"]
        eu.bounded("k").add(5)
        batch = eu.batch()
        batch.bounded("k").spend(2)

        assert eu.submit(batch).result(30).route.path == "one-shard"
        assert eu["k"] == 3

    @pytest.mark.parametrize("way", ["batch", "transaction"])
    def test_a_debit_counts_what_its_transaction_has_added(self, world: Geo, way: str) -> None:
        eu = world["eu"]
        (other,) = on_other_shards(eu, "k", 1)
        with _writes(eu, way) as writes:
            writes.bounded("k").add(4)
            writes.bounded("k").spend(3)
            writes.put(other, 1)

        assert (eu["k"], eu[other]) == (1, 1)

    @pytest.mark.parametrize(
        ("way", "clear"), [("batch", "delete"), ("transaction", "delete"), ("transaction", "remove")]
    )  # a batch reads nothing: it does not know that the last member goes
    def test_a_put_behind_a_removed_set_is_shown(self, world: Geo, way: str, clear: str) -> None:
        eu = world["eu"]
        eu.set("k").add("x")
        with _writes(eu, way) as writes:
            if clear == "delete":
                writes.delete("k")
            else:
                writes.set("k").remove("x")
            writes.put("k", 1)
            writes.put("k", 2)
        world.settle()

        assert everywhere(world, lambda region: region["k"]) == 2
        assert everywhere(world, lost) == []

    def test_a_transaction_reads_what_it_wrote(self, world: Geo) -> None:
        with world["eu"].begin() as tx:
            tx.set("s").add(1)
            tx.counter("c").add(2)
            tx.bounded("b").add(3)
            assert tx.set("s").members() == {1}
            assert (tx.counter("c").value(), tx.bounded("b").rights(), tx.count()) == (2, 3, 3)
            with tx.savepoint() as point:
                tx.counter("c").add(1)
                point.rollback()
            assert tx["c"] == 2
        world.settle()
        assert everywhere(world, lambda region: list(region.scan())) == [("b", 3), ("c", 2), ("s", [1])]

    def test_transactions_of_a_region_are_strict_while_it_imports(self, world: Geo) -> None:
        def count(name: str) -> None:
            for _ in range(25):
                world[name].run(lambda tx: tx.put(("n", name), tx.get(("n", name), 0) + 1))

        threads = [threading.Thread(target=count, args=(name,)) for name in NAMES * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.settle(30)

        assert everywhere(world, lambda region: [v for _, v in region.scan(prefix=("n",))]) == [50] * 3

    def test_a_transaction_over_shards_appears_whole_elsewhere(self, world: Geo) -> None:
        keys = [("k", number) for number in range(8)]

        def write() -> None:
            for number in range(150):
                with world["eu"].batch() as batch:
                    for key in keys:
                        batch.put(key, number)

        writer = threading.Thread(target=write)
        writer.start()
        while writer.is_alive() or world["us"].get(keys[0]) != 149:
            assert len(set(world["us"].get_many(keys))) == 1
        writer.join()

    def test_an_idempotency_key_counts_once(self, world: Geo) -> None:
        for _ in range(2):
            world["eu"].add("k", 2, idempotency_key="once")
            with world["eu"].batch(idempotency_key="batch") as batch:
                batch.counter("k").add(3)
                batch.bounded("b").add(1)
        world.settle()

        assert everywhere(world, lambda region: (region["k"], region["b"])) == (5, 1)
        with pytest.raises(kvstore.KeyReused):
            world["eu"].add("k", 4, idempotency_key="once")


@pytest.mark.parametrize("durability", ["commit", "interval"])
def test_a_world_on_disk_goes_on_where_it_was(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "world"
    with kvstore.Geo(path, regions=NAMES, durability=durability) as world:
        world["eu"].put("k", 1)
        world.settle()
        assert everywhere(world, lambda region: region.get("k")) == 1
        world.cut("eu", "us")
        world.cut("ap", "us")
        world["us"].counter("c").add(4)
    with kvstore.Geo(path, regions=NAMES, durability=durability) as world:
        world["ap"].counter("c").add(1)
        world.settle()
        assert everywhere(world, lambda region: region["c"]) == 5
        assert [world[name].verify()["ok"] for name in NAMES] == [True] * 3


def write_at_random(region: Region, dice: random.Random) -> None:
    number = dice.randrange(4)
    choices: list[Callable[[], Any]] = [
        lambda: region.put(("r", number), dice.random()),
        lambda: region.delete(("r", number)),
        lambda: region.counter(("c", number)).add(dice.choice([1, -2, 0.25])),
        lambda: region.set(("s", number)).add(dice.randrange(5)),
        lambda: region.set(("s", number)).remove(dice.randrange(5)),
        lambda: region.delete(("s", number)),
        lambda: region.bounded(("b", number)).add(dice.randint(1, 9), to=dice.choice(NAMES)),
        lambda: region.bounded(("b", number)).spend(dice.randint(1, 5)),
        lambda: region.put(("mixed", number), 1),
        lambda: region.set(("mixed", number)).add(1),
        lambda: region.add(("mixed", number), 1),
    ]
    try:
        dice.choice(choices)()
    except (kvstore.InsufficientFunds, kvstore.InsufficientRights, kvstore.TypeClash):
        pass  # refused: nothing happened


def fold(region: Region) -> dict[Any, Any]:
    state: dict[Any, Any] = {}
    for change in region.watch(since=0, timeout=0):
        if change.deleted:
            state.pop(change.key, None)
        else:
            state[change.key] = change.value
    return state


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_written_where_all_meet_and_every_watch_folds_to_its_store(world: Geo, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(250):
        write_at_random(world[dice.choice(NAMES)], dice)
        if dice.random() < 0.1:
            getattr(world, dice.choice(["cut", "heal"]))(*dice.choice(PAIRS))
        if dice.random() < 0.02:
            name = dice.choice(NAMES)
            assert all(value >= 0 for _, value in world[name].scan(prefix=("b",)))
    heal_all(world)

    shown = everywhere(world, lambda region: list(region.scan()))
    everywhere(world, lambda region: list(region.lost_writes()))
    assert all(fold(world[name]) == dict(shown) for name in NAMES)

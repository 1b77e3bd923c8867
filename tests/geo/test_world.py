"""Regions as a user meets them: each works alone, all agree in the end, causes come before effects."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Geo, InsufficientFunds, InsufficientRights, Region, TypeClash
from tests.support.inside import shift_clock
from tests.support.transactions import wait_until

EU, US, AP = "eu", "us", "ap"


@pytest.fixture
def geo() -> Iterator[Geo]:
    with Geo(":memory:", regions=[EU, US, AP], shards=3) as world:
        yield world
        for name in world.regions():
            assert world[name].verify()["ok"]


def cut_all(geo: Geo) -> None:
    for one, other in ((EU, US), (US, AP), (EU, AP)):
        geo.cut(one, other)


def heal_all(geo: Geo) -> None:
    for one, other in ((EU, US), (US, AP), (EU, AP)):
        geo.heal(one, other)
    geo.settle()


def everywhere(geo: Geo, look: Any) -> Any:
    """What all regions show; they have to show the same."""
    shown = [look(geo[name]) for name in geo.regions()]
    assert all(one == shown[0] for one in shown), shown
    return shown[0]


def keys_on(region: Region, count: int, *, apart: bool) -> list[str]:
    """Keys on different shards, or all on one."""
    by_shard: dict[int, str] = {}
    same: list[str] = []
    for number in range(1000):
        key = f"k{number}"
        (shard,) = region.explain(key).shards
        by_shard.setdefault(shard, key)
        if shard == 0:
            same.append(key)
    return list(by_shard.values())[:count] if apart else same[:count]


class TestRegisters:
    def test_a_write_is_there_at_once_at_home_and_then_everywhere(self, geo: Geo) -> None:
        geo[EU].put("k", {"deep": [1, None]})
        assert geo[EU]["k"] == {"deep": [1, None]}
        geo.settle()
        assert everywhere(geo, lambda region: region["k"]) == {"deep": [1, None]}

    def test_the_later_of_two_writes_wins_and_the_other_is_told_of(self, geo: Geo) -> None:
        cut_all(geo)
        geo[EU].put("k", "eu")
        geo[US].put("k", "us")
        geo[AP].put("k", "ap")
        heal_all(geo)

        assert everywhere(geo, lambda region: region["k"]) == "ap"
        lost = everywhere(geo, lambda region: list(region.lost_writes()))
        assert [(write.key, write.value, write.region) for write in lost] == [
            ("k", "eu", EU),
            ("k", "us", US),
        ]
        assert lost[0].time < lost[1].time

    def test_a_write_that_loses_changes_nothing_that_is_shown(self, geo: Geo) -> None:
        cut_all(geo)
        geo[EU].put("k", "earlier")
        geo[US].put("k", "later")
        version, cursor = geo[US].version("k"), geo[US].cursor()
        heal_all(geo)

        assert geo[US].version("k") == version
        assert list(geo[US].watch(since=cursor, timeout=0)) == []
        assert [lost.value for lost in geo[US].lost_writes()] == ["earlier"]

    def test_who_has_seen_them_ends_the_loss(self, geo: Geo) -> None:
        cut_all(geo)
        geo[EU].put("k", 1)
        geo[US].put("k", 2)
        heal_all(geo)
        geo[AP].put("k", 3)
        geo.settle()

        assert everywhere(geo, lambda region: region["k"]) == 3
        assert everywhere(geo, lambda region: list(region.lost_writes())) == []

    def test_one_who_saw_a_write_and_wrote_again_lost_nothing(self, geo: Geo) -> None:
        cut_all(geo)
        geo[EU].put("k", 1)
        geo[US].put("k", "lost")
        geo[EU].put("k", 2)
        heal_all(geo)

        assert everywhere(geo, lambda region: region["k"]) == 2
        lost = everywhere(geo, lambda region: list(region.lost_writes()))
        assert [write.value for write in lost] == ["lost"]

    def test_a_removal_and_a_write_that_do_not_know_of_each_other(self, geo: Geo) -> None:
        geo[EU].put("k", 1)
        geo.settle()
        cut_all(geo)
        geo[US].put("k", 2)
        geo[EU].delete("k")
        heal_all(geo)

        assert everywhere(geo, lambda region: region.get("k")) is None
        assert everywhere(geo, lambda region: [write.value for write in region.lost_writes()]) == [2]
        assert everywhere(geo, lambda region: region.count()) == 0

    def test_losses_are_listed_by_prefix(self, geo: Geo) -> None:
        cut_all(geo)
        for region in (EU, US):
            geo[region].put(("a", 1), region)
            geo[region].put(("b", 1), region)
        heal_all(geo)

        assert [write.key for write in geo[AP].lost_writes(prefix=("b",))] == [("b", 1)]


class TestTypes:
    def test_adds_of_all_regions_count(self, geo: Geo) -> None:
        cut_all(geo)
        assert geo[EU].counter("c").add(2) == 2
        assert geo[US].add("c", 3) == 3
        geo[AP].counter("c").add(-1)
        heal_all(geo)

        assert everywhere(geo, lambda region: region.counter("c").value()) == 4
        assert geo[EU]["c"] == 4

    def test_floats_come_out_the_same_everywhere(self, geo: Geo) -> None:
        cut_all(geo)
        for number in range(20):
            for place, name in enumerate(geo.regions()):
                geo[name].add("c", 0.1 * number + place / 3)
        heal_all(geo)

        everywhere(geo, lambda region: repr(region["c"]))

    def test_an_add_wins_over_a_removal_that_did_not_know_of_it(self, geo: Geo) -> None:
        geo[EU].set("s").add("x")
        geo[EU].set("s").add("y")
        geo.settle()
        cut_all(geo)
        geo[EU].set("s").remove("x")
        geo[EU].set("s").remove("y")
        geo[US].set("s").add("x")
        heal_all(geo)

        assert everywhere(geo, lambda region: region.set("s").members()) == {"x"}
        assert geo[AP]["s"] == ["x"]
        assert "x" in geo[AP].set("s")

    def test_members_are_values_that_can_be_members(self, geo: Geo) -> None:
        members = {1, "1", b"1", None, (1, (2, "x"))}
        for member in members:
            geo[EU].set("s").add(member)
        geo.settle()
        assert geo[US].set("s").members() == members
        with pytest.raises(kvstore.ValueNotSupported):
            geo[EU].set("s").add({"a": 1})

    @pytest.mark.parametrize("second", ["put", "counter", "set", "bounded"])
    @pytest.mark.parametrize("first", ["put", "counter", "set", "bounded"])
    def test_another_type_is_refused_where_it_is_known(self, geo: Geo, first: str, second: str) -> None:
        write = {
            "put": lambda region: region.put("k", 5),
            "counter": lambda region: region.counter("k").add(5),
            "set": lambda region: region.set("k").add(5),
            "bounded": lambda region: region.bounded("k").add(5),
        }
        write[first](geo[EU])
        before = geo[EU]["k"]
        if first == second:
            write[second](geo[EU])
            return
        with pytest.raises(TypeClash) as clash:
            write[second](geo[EU])
        assert clash.value.key == "k"
        assert clash.value.hint
        assert geo[EU]["k"] == before

    def test_after_a_clash_all_show_the_same_and_list_the_rest(self, geo: Geo) -> None:
        cut_all(geo)
        geo[EU].put("k", "register")
        geo[US].set("k").add("member")
        geo[AP].counter("k").add(7)
        heal_all(geo)
        assert everywhere(geo, lambda region: region["k"]) == 7
        lost = everywhere(geo, lambda region: [(write.value, write.region) for write in region.lost_writes()])
        assert lost == [("register", EU), (["member"], US)]

        cut_all(geo)
        geo[US].bounded("k2").add(9)
        geo[AP].counter("k2").add(1)
        heal_all(geo)
        assert everywhere(geo, lambda region: region["k2"]) == 9

    def test_put_then_add_says_what_to_use(self, geo: Geo) -> None:
        geo[EU].put("k", 5)
        with pytest.raises(TypeClash, match="counter"):
            geo[EU].add("k", 1)
        with pytest.raises(TypeClash), geo[EU].begin() as tx:
            tx.add("k", 1)
        with pytest.raises(TypeClash), geo[EU].batch() as batch:
            batch.add("k", 1)

    def test_delete_clears_a_set_and_not_a_counter(self, geo: Geo) -> None:
        geo[EU].set("s").add(1)
        geo[EU].delete("s")
        assert "s" not in geo[EU]
        geo[EU].counter("c").add(1)
        with pytest.raises(TypeClash):
            geo[EU].delete("c")
        geo[EU].put("s", "a register now")


class TestMoney:
    def test_each_region_spends_its_own_rights(self, geo: Geo) -> None:
        geo[EU].bounded("a").add(100)
        geo[EU].bounded("a").add(30, to=US)
        geo.settle()
        cut_all(geo)
        geo[US].bounded("a").spend(30)
        with pytest.raises(InsufficientRights) as short:
            geo[US].bounded("a").spend(1)
        assert (short.value.key, short.value.region) == ("a", US)
        with pytest.raises(InsufficientFunds) as poor:
            geo[US].bounded("a").spend(101)
        assert (poor.value.balance, poor.value.needed) == (100, 101)
        geo[EU].bounded("a").spend(100)
        heal_all(geo)

        assert everywhere(geo, lambda region: region.bounded("a").value()) == 0
        assert geo[AP].bounded("a").rights(EU) == geo[AP].bounded("a").rights(US) == 0

    def test_a_grant_is_gone_here_before_it_arrives_there(self, geo: Geo) -> None:
        geo[EU].bounded("a").add(10)
        geo.settle()
        cut_all(geo)
        geo[EU].bounded("a").grant(8, US)
        assert geo[EU].bounded("a").rights() == 2
        assert geo[US].bounded("a").rights() == 0
        with pytest.raises(InsufficientRights):
            geo[EU].bounded("a").spend(3)
        heal_all(geo)
        geo[US].bounded("a").spend(7)  # one of the eight may have gone back by now: eu ran short

    @pytest.mark.parametrize("is_mesh", [True, False])
    def test_rights_come_to_where_they_are_wanted(self, geo: Geo, is_mesh: bool) -> None:
        """Also by way of a region between, that has none itself."""
        if not is_mesh:
            geo.cut(EU, US)
        geo[EU].bounded("a").add(100)
        geo.settle()
        with pytest.raises(InsufficientRights):
            geo[US].bounded("a").spend(20)

        wait_until(lambda: geo[US].bounded("a").rights() >= 20)
        geo[US].bounded("a").spend(20)
        geo.settle()
        assert everywhere(geo, lambda region: region.bounded("a").value()) == 80

    def test_a_debit_that_is_refused_has_no_effect_on_any_shard(self, geo: Geo) -> None:
        eu = geo[EU]
        source, target = keys_on(eu, 2, apart=True)
        eu.bounded(source).add(10)
        with pytest.raises(InsufficientFunds), eu.batch() as batch:
            batch.bounded(source).spend(11)
            batch.bounded(target).add(11)
            batch.put("note", "moved")
            assert batch.route.path == "general"
        refused = eu.batch()
        refused.bounded(source).spend(11)
        refused.bounded(target).add(11)
        with pytest.raises(InsufficientFunds):
            eu.submit(refused).result()
        with pytest.raises(InsufficientFunds), eu.begin() as tx:
            tx.bounded(target).add(11)
            tx.bounded(source).spend(11)

        assert (eu[source], target in eu, "note" in eu) == (10, False, False)

    def test_a_transfer_is_one_transaction_by_every_way(self, geo: Geo) -> None:
        eu = geo[EU]
        source, target = keys_on(eu, 2, apart=True)
        eu.bounded(source).add(100)

        @eu.transaction
        def transfer(tx: Any, amount: int) -> None:
            tx.bounded(source).spend(amount)
            tx.bounded(target).add(amount, to=US)

        transfer(10)
        with eu.begin() as tx:
            tx.bounded(source).spend(10)
            tx.bounded(target).add(10, to=US)
        assert tx.route.path == "general"
        with eu.batch() as batch:
            batch.bounded(source).spend(10)
            batch.bounded(target).add(10, to=US)
        later = eu.batch()
        later.bounded(source).spend(10)
        later.bounded(target).add(10, to=US)
        assert eu.submit(later).result().route.path == "general"
        geo.settle()

        assert everywhere(geo, lambda region: (region[source], region[target])) == (60, 40)
        geo[US].bounded(target).spend(40)

    def test_debits_on_one_shard_take_one_round(self, geo: Geo) -> None:
        eu = geo[EU]
        source, target = keys_on(eu, 2, apart=False)
        eu.bounded(source).add(5)
        with eu.batch() as batch:
            batch.bounded(source).spend(5)
            batch.bounded(target).add(5)
        assert (batch.route.path, batch.route.rounds) == ("one-shard", 1)
        with eu.begin() as tx:
            tx.bounded(target).spend(2)
            assert tx.route.path == "one-shard", "a debit reads what it is judged by"
            tx.bounded(source).add(2)
        assert (tx.route.path, tx.route.rounds) == ("one-shard", 1)
        with eu.batch() as batch:
            batch.bounded(source).spend(2)
            batch.bounded(target).add(2)
        with pytest.raises(InsufficientFunds), eu.batch() as batch:
            batch.bounded(source).spend(1)
            batch.bounded(target).add(1)
        assert (eu[source], eu[target]) == (0, 5)

    def test_what_is_credited_first_can_be_spent_in_the_same_transaction(self, geo: Geo) -> None:
        source, target = keys_on(geo[EU], 2, apart=True)
        with geo[EU].begin() as tx:
            tx.bounded(source).add(5)
            tx.bounded(source).spend(3)
            tx.bounded(target).add(3)
            assert tx.bounded(source).value() == 2
        assert geo[EU][source] == 2

    def test_threads_never_spend_twice(self, geo: Geo) -> None:
        geo[EU].bounded("a").add(50)
        spent = []

        def work() -> None:
            for _ in range(20):
                try:
                    geo[EU].bounded("a").spend(1)
                    spent.append(1)
                except InsufficientFunds:
                    pass

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(spent) == 50
        assert geo[EU]["a"] == 0

    def test_nothing_bounds_what_an_account_comes_to(self, tmp_path: Path) -> None:
        most = 2**63 - 1
        with Geo(tmp_path / "world", regions=[EU, US], replicas=3) as world:
            for _ in range(3):
                world[EU].bounded("k").add(most, to=US)
            world.settle()
            with pytest.raises(InsufficientRights) as refused:
                world[EU].bounded("k").spend(1)
            assert "0 of the 27670116110564327421" in str(refused.value)
            world[US].bounded("k").spend(most)
            world[US].bounded("k").grant(most, EU)
            world.settle()

        with Geo(tmp_path / "world", regions=[EU, US]) as world:
            assert world[EU].bounded("k").value() == 2 * most
            assert world[EU].bounded("k").rights() >= most, "and what was granted since it was refused"

    def test_a_refusal_that_is_asked_for_again_is_told_again(self, geo: Geo) -> None:
        eu = geo[EU]

        def pay() -> None:
            batch = eu.batch(idempotency_key="a")
            batch.bounded("k").spend(1)
            eu.submit(batch).result(10)

        for _ in range(2):
            with pytest.raises(InsufficientFunds):
                pay()


class TestTransactions:
    def test_one_over_shards_is_seen_whole_or_not_at_all(self, geo: Geo) -> None:
        eu, us = geo[EU], geo[US]
        keys = keys_on(eu, 3, apart=True)

        def write() -> None:
            for number in range(150):
                with eu.batch() as batch:
                    for key in keys:
                        batch.put(key, number)

        writer = threading.Thread(target=write)
        writer.start()
        while writer.is_alive():
            assert len(set(us.get_many(keys))) == 1
        writer.join()
        geo.settle()
        assert us.get_many(keys) == [149] * 3

    def test_reads_decide_writes_as_in_any_store(self, geo: Geo) -> None:
        eu = geo[EU]
        one, other = keys_on(eu, 2, apart=True)
        eu.put(one, 100)
        eu.put(other, 0)

        @eu.transaction(max_retries=1_000, timeout=None)
        def move(tx: Any) -> None:
            tx[one] -= 1
            tx[other] += 1

        threads = [threading.Thread(target=lambda: [move() for _ in range(10)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        geo.settle()
        assert everywhere(geo, lambda region: (region[one], region[other])) == (60, 40)

    def test_conditions_idempotency_keys_and_procedures_work(self, geo: Geo) -> None:
        eu = geo[EU]
        eu.put("k", 1, if_absent=True)
        with pytest.raises(kvstore.Conflict):
            eu.put("k", 2, if_absent=True)
        for _ in range(2):
            eu.add("once", 5, idempotency_key="request 1")

        @kvstore.procedure("geo.count", keys=lambda args: [args])
        def count(part: Any, args: Any) -> int:
            result: int = part.add(args, 2)
            return result

        eu.call("geo.count", "visits")
        geo[US].call("geo.count", "visits")
        geo.settle()
        assert everywhere(geo, lambda region: (region["k"], region["once"], region["visits"])) == (1, 5, 4)

    def test_a_write_that_was_made_is_not_refused_when_it_is_asked_for_again(self, geo: Geo) -> None:
        eu = geo[EU]
        eu.put("k", 1, idempotency_key="put")
        eu.delete("k", idempotency_key="delete")
        eu.counter("k").add(1)

        eu.put("k", 1, idempotency_key="put")
        eu.delete("k", idempotency_key="delete")
        assert eu.counter("k").value() == 1
        with pytest.raises(TypeClash):
            eu.put("k", 1, idempotency_key="another")

    def test_a_watch_shows_imports_too_and_folds_to_the_store(self, geo: Geo) -> None:
        us = geo[US]
        cut_all(geo)
        geo[EU].put("k", "eu")
        us.put("k", "us")
        us.add("c", 1)
        geo[EU].add("c", 2)
        geo[EU].set("s").add("x")
        heal_all(geo)
        us.delete("k")
        state: dict[Any, Any] = {}
        for change in us.watch(since=0, timeout=0):
            state[change.key] = change.value
            if change.deleted:
                del state[change.key]

        assert state == dict(us.scan()) == {"c": 3, "s": ["x"]}


class TestLinks:
    def test_settle_waits_for_paths_and_not_for_cut_links(self, geo: Geo) -> None:
        geo.cut(EU, US)
        geo[EU].put("k", 1)
        geo.settle()
        assert geo[US]["k"] == 1, "by way of ap"
        geo.cut(EU, AP)
        geo[EU].put("k", 2)
        geo.settle()
        assert (geo[EU]["k"], geo[US]["k"]) == (2, 1)

    def test_what_came_to_nothing_is_heard_of_by_way_of_others_too(self, geo: Geo) -> None:
        geo.cut(EU, US)
        geo[EU].put("k", 1)
        with pytest.raises(InsufficientFunds):
            geo[EU].bounded("a").spend(1)
        geo.settle()
        assert geo[US]["k"] == 1

    def test_settle_says_who_lacks_what(self, geo: Geo) -> None:
        for one, other in ((EU, US), (EU, AP)):
            geo.delay(one, other, 60_000)
        geo[EU].put("k", 1)
        with pytest.raises(kvstore.TimedOut, match="us lacks 1 slots of eu"):
            geo.settle(timeout=0.05)
        for one, other in ((EU, US), (EU, AP)):
            geo.delay(one, other, 0)
        geo.settle()

    def test_a_delayed_link_only_takes_longer(self, geo: Geo) -> None:
        geo.delay(EU, US, 20)
        geo.delay(EU, AP, 20)
        geo[EU].put("k", 1)
        geo.settle()
        assert everywhere(geo, lambda region: region["k"]) == 1

    def test_staleness_counts_what_is_known_and_the_seconds(self, geo: Geo) -> None:
        geo[EU].put("k", 1)
        geo.settle()
        assert geo[US].staleness()[EU].nodes == 0
        cut_all(geo)
        before = geo[US].staleness()[EU].seconds
        wait_until(lambda: geo[US].staleness()[EU].seconds > before + 0.05)

    def test_a_clock_that_is_far_ahead_is_told_of(self) -> None:
        with Geo(":memory:", regions=[EU, US], shards=1, max_clock_skew=2) as geo:
            shift_clock(geo[US], 3_600 * 10**9)
            geo[US].put("k", "from the future")
            geo[EU].put("k", "here")
            wait_until(lambda: "ahead" in geo[EU].staleness()[US].problem)
            assert geo[EU]["k"] == "here"
            with pytest.raises(kvstore.TimedOut):
                geo.settle(timeout=0.1)


class TestFolders:
    def test_all_is_there_again_and_goes_on(self, tmp_path: Path) -> None:
        path = tmp_path / "world"
        with Geo(path, regions=[EU, US], shards=2) as geo:
            geo.cut(EU, US)
            geo[EU].put("k", "eu")
            geo[US].bounded("a").add(5)
            geo[EU].counter("c").add(1)
        with Geo(path, regions=[US, EU]) as geo:
            geo.settle()
            for name in geo.regions():
                assert (geo[name]["k"], geo[name]["a"], geo[name]["c"]) == ("eu", 5, 1)
            assert geo.regions() == [US, EU]
            assert {entry.name for entry in path.iterdir()} == {EU, US}

    @pytest.mark.parametrize(("durability", "replicas"), [("interval", 1), ("commit", 3)])
    def test_every_way_to_keep_it_works(self, tmp_path: Path, durability: Any, replicas: int) -> None:
        with Geo(tmp_path / "w", regions=[EU, US], durability=durability, replicas=replicas) as geo:
            for number in range(30):
                geo[EU].put(f"k{number}", number)
                geo[US].add("c", 1)
            geo.settle()
            assert geo[US].count(prefix="k") == 30
            assert geo[EU]["c"] == 30

    def test_a_region_says_what_it_is(self, tmp_path: Path) -> None:
        with Geo(tmp_path / "w", regions=[EU, US]) as geo:
            geo.settle()
            status = geo[EU].status()
            assert (status["region"], status["regions"]) == (EU, [EU, US])
            assert status["staleness"][US]["problem"] == ""
            assert repr(geo[EU]).startswith("<kvstore.Region 'eu'")

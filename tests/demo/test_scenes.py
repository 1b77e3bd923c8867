"""The scenes in random orders; and planted bugs, which the auditor must find.

``KVSTORE_DEMO_SEEDS`` is the number of random orders.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kvstore
from demo import scenes as scenes_of_one_region
from demo.__main__ import main
from demo.bank import Bank, account
from demo.stage import SCENES
from kvstore.geo.typed_keys import BoundedWriter, CounterWriter

SEEDS = int(os.environ.get("KVSTORE_DEMO_SEEDS", "2"))


def run(*options: object) -> Result:
    return CliRunner().invoke(main, ["--fast", *map(str, options)])


def last_line(result: Result) -> str:
    return result.output.splitlines()[-1]


def scenes(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--scene", name)]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_all_scenes_in_a_random_order_keep_every_invariant(seed: int) -> None:
    order = random.Random(seed).sample(list(SCENES), len(SCENES))

    result = run("--seed", seed, "--accounts", 2, *scenes(order))

    assert result.exit_code == 0, result.output
    assert last_line(result).startswith("money conserved: ")


def test_every_scene_is_there() -> None:
    names = ["business", "shards", "contention", "cut", "both-sides", "heal", "causality", "replica", "crash"]

    assert list(SCENES) == names


def test_json_is_one_object_for_each_scene_and_one_for_the_run(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    result = run("--json", "--regions", 2, "--scene", "business", "--scene", "cut", "--path", path)

    *objects, last = result.output.splitlines()
    read = [json.loads(line) for line in objects]
    assert [one.get("scene") for one in read] == ["business", "cut", None]
    assert read[-1]["conserved"] is True
    assert last.startswith("money conserved: ")
    assert sorted(folder.name for folder in path.iterdir() if folder.is_dir()) == ["eu", "us"]
    assert run("--path", path).exit_code == 2, "it is made in a new folder"


@pytest.mark.parametrize(
    "options",
    [
        ("--regions", 1), ("--regions", 9), ("--accounts", 1), ("--accounts", 101), ("--seed", -1),
        ("--scene", "nothing"), ("--months", 0), ("--months", 61), ("--data", "no such folder"),
        ("--seed", "x"), ("--months", 2), ("--scene", "causality", "--regions", 2),
    ],
)  # fmt: skip
def test_a_bad_option_is_refused(options: tuple[str, object]) -> None:
    result = run(*options)

    assert result.exit_code == 2
    assert options[0] in result.output


def test_two_regions_are_enough_for_all_but_one() -> None:
    result = run("--regions", 2, "--accounts", 2)

    assert result.exit_code == 0, result.output
    assert "--scene heal" in result.output
    assert "--scene causality" not in result.output


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    result = run("--scene", "business", "--path", tmp_path / ("x" * 300))

    assert result.exit_code == 3
    assert "\nError: " in result.output


class TestWhatASceneBuildsOn:
    """A scene whose conditions do not hold reports that it proved nothing."""

    @pytest.mark.parametrize("name", ["cut", "both-sides", "heal", "causality"])
    def test_links_that_are_not_cut(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(kvstore.Geo, "cut", lambda *pair: None)
        monkeypatch.setattr(kvstore.Geo, "delay", lambda *pair: None)
        monkeypatch.setattr(Bank, "withdraw", then_settle(Bank.withdraw))
        monkeypatch.setattr(Bank, "transfer", then_settle(Bank.transfer))
        monkeypatch.setattr(Bank, "deposit", then_settle(Bank.deposit))
        monkeypatch.setattr(Bank, "write", then_settle(Bank.write))

        self.nothing_proved(run("--scene", name))

    def test_a_clerk_who_is_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scenes_of_one_region, "CLERKS", 1)
        monkeypatch.setattr(scenes_of_one_region, "EVENINGS_MAX", 50)

        self.nothing_proved(run("--scene", "contention"))

    @staticmethod
    def nothing_proved(result: Result) -> None:
        assert result.exit_code == 1, result.output
        assert "nothing proved: " in result.output
        assert "  proved: " not in result.output


class TestPlantedBugs:
    """Each bug breaks one invariant. The auditor names the invariant, and the run exits with 1."""

    @staticmethod
    def caught(result: Result, invariant: str) -> None:
        assert result.exit_code == 1, result.output
        assert last_line(result) == "MONEY NOT CONSERVED"
        assert invariant in result.output

    def test_an_overdraft(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bank whose balances are plain counters, which can fall below zero."""
        monkeypatch.setattr(BoundedWriter, "add", lambda one, n, to=None: plain(one).add(n))
        monkeypatch.setattr(BoundedWriter, "spend", lambda one, n: plain(one).add(-n))
        monkeypatch.setattr(Bank, "withdraw", ten_times(Bank.withdraw))

        self.caught(run("--json", "--accounts", 2, "--scene", "heal"), "no overdraft")

    def test_a_lost_credit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def transfer(bank: Bank, source: Any, target: Any, cents: int, at: str | None = None) -> Any:
            return bank.withdraw(source, cents, at)

        monkeypatch.setattr(Bank, "transfer", transfer)

        self.caught(run("--json", "--scene", "business"), "money is conserved")

    @pytest.mark.parametrize("name", ["business", "heal"])
    def test_a_transfer_of_two_calls(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        def transfer(bank: Bank, source: Any, target: Any, cents: int, at: str | None = None) -> Any:
            region = bank.geo[at or bank.home_of(source)]
            region.bounded(account(source)).spend(cents)
            region.bounded(account(target)).add(cents, to=bank.home_of(target))
            region.put(("statement", source, cents, "a"), ["transfer", -cents, target])
            region.put(("statement", target, cents, "a"), ["transfer", cents, source])

        monkeypatch.setattr(Bank, "transfer", transfer)

        self.caught(run("--json", "--scene", name), "nodes are whole")

    def test_interest_that_is_paid_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def pay(bank: Bank, number: Any, period: str, per_mille: int) -> int:
            bank.deposit(number, 100)
            return 100

        monkeypatch.setattr(Bank, "pay_interest", pay)

        self.caught(run("--json", "--scene", "business"), "as customers were told")

    def test_a_reply_before_its_letter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def write(bank: Bank, text: str, at: str) -> str:
            bank.geo[at].put(("reply", text), "too early")
            bank.geo[at].put(("letter", text), text)
            return text

        monkeypatch.setattr(Bank, "write", write)

        self.caught(run("--json", "--scene", "causality"), "causality")


def then_settle(work: Callable[..., Any]) -> Callable[..., Any]:
    """Let all regions converge after each call, before it returns."""

    def done(bank: Bank, *arguments: Any) -> Any:
        result = work(bank, *arguments)
        bank.geo.settle()
        return result

    return done


def plain(one: Any) -> CounterWriter[Any]:
    return CounterWriter(one._writer, one._key)


def ten_times(withdraw: Callable[..., Any]) -> Callable[..., Any]:
    def more(bank: Bank, number: Any, cents: int, at: str | None = None) -> Any:
        return withdraw(bank, number, 10 * cents, at)

    return more

"""docs/berka.py: money is conserved, and after ``kill -9`` at any moment a second run completes the first.

The tests use a small generated bank, and the Berka data if it is beside the repository.
``KVSTORE_BERKA_KILLS`` is the number of kills on each, at random moments.
"""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import kvstore

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "berka.py"
BERKA = ROOT.parent / "shared" / "data" / "berka"
KILLS = int(os.environ.get("KVSTORE_BERKA_KILLS", "2"))

Balances = dict[Any, int]


class Bank(NamedTuple):
    """A data set, and the duration of an undisturbed run on it."""

    data: Path
    balances: Balances
    seconds: float


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expected(data: Path) -> Balances:
    """Return the expected balances, computed without a store."""
    balances: Counter[Any] = Counter(
        {("account", int(row["account_id"])): 0 for row in rows(data / "account.csv")}
    )
    for row in rows(data / "order.csv"):
        hellers = int(Decimal(row["amount"]) * 100)
        balances["account", int(row["account_id"])] -= hellers
        balances["ext", row["bank_to"], row["account_to"]] += hellers
    return dict(balances)


def start(data: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(data), str(store)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(data: Path, store: Path) -> str:
    child = start(data, store)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return out


def balances_in(store: Path) -> Balances:
    with kvstore.open(store, readonly=True) as db:
        assert db.verify()["problems"] == []
        return dict(db.scan())


def balances_left_in(store: Path) -> Balances:
    """Return the balances that a killed script left; none if the store was not created yet."""
    try:
        return balances_in(store)
    except kvstore.NotAStore:
        return {}


def undisturbed(data: Path, store: Path) -> Bank:
    begin = time.monotonic()
    run(data, store)
    return Bank(data, expected(data), time.monotonic() - begin)


def make_small_bank(data: Path) -> Path:
    """Generate forty accounts and six hundred orders, some of them with equal amount and target."""
    chance = random.Random(7)
    accounts = ["account_id,district_id,frequency,date"]
    accounts += [f"{number},1,monthly issuance,1993-01-01" for number in range(1, 41)]
    orders = ["order_id,account_id,bank_to,account_to,amount,k_symbol"]
    for number in range(600):
        amount = chance.choice(["2452.0", "3372.7", "0.01", "700.05", "12", "1000000.99"])
        bank, target = chance.choice(["YZ", "ST"]), chance.randrange(10**6, 10**6 + 50)
        orders.append(f"{29401 + number},{chance.randrange(1, 41)},{bank},0{target},{amount},household")
    data.mkdir()
    (data / "account.csv").write_text("\n".join(accounts) + "\n")
    (data / "order.csv").write_text("\n".join(orders) + "\n")
    return data


@pytest.fixture(scope="module", params=["a small bank", "berka"])
def bank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("bank")
    if request.param == "a small bank":
        return undisturbed(make_small_bank(folder / "data"), folder / "store")
    if not BERKA.is_dir():
        pytest.skip("the Berka data is not beside this repository")
    return undisturbed(BERKA, folder / "store")


def test_the_script_is_short() -> None:
    assert len(SCRIPT.read_text().splitlines()) < 40


def test_it_pays_every_order_once(bank: Bank, tmp_path: Path) -> None:
    said = run(bank.data, tmp_path / "store")

    balances = balances_in(tmp_path / "store")
    assert balances == bank.balances
    assert sum(balances.values()) == 0
    assert said == f"{len(balances)} accounts, 0 hellers in all\n"


def test_running_it_again_changes_nothing(bank: Bank, tmp_path: Path) -> None:
    run(bank.data, tmp_path / "store")
    run(bank.data, tmp_path / "store")

    assert balances_in(tmp_path / "store") == bank.balances


@pytest.mark.parametrize("kill", range(KILLS))
def test_killed_at_a_random_moment_and_run_again_it_ends_the_same(
    bank: Bank, tmp_path: Path, kill: int
) -> None:
    moment = random.uniform(0, bank.seconds)
    child = start(bank.data, tmp_path / "store")
    time.sleep(moment)
    child.kill()
    child.communicate()

    assert sum(balances_left_in(tmp_path / "store").values()) == 0, f"half a payment after {moment:.3f} s"
    run(bank.data, tmp_path / "store")

    assert balances_in(tmp_path / "store") == bank.balances, f"killed after {moment:.3f} s"

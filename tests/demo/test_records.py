"""``python -m demo --data``: on a small generated bank, and on the Berka data if it is present."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kvstore
from demo.__main__ import main
from demo.records import Order, Records, read

BERKA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "berka"


def run(data: Path, *options: object) -> Result:
    return CliRunner().invoke(main, ["--fast", "--data", str(data), *map(str, options)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of records: forty accounts in three regions, and two hundred orders."""
    chance, folder = random.Random(7), tmp_path / "data"
    folder.mkdir()
    districts = ["district_id,region", "1,Prague", "2,north Bohemia", "3,south Moravia"]
    accounts = ["account_id,district_id", *(f"{number},{number % 3 + 1}" for number in range(1, 41))]
    orders = ["order_id,account_id,bank_to,account_to,amount,k_symbol"]
    for number in range(200):
        amount, bank = chance.choice(["2452.0", "3372.7", "0.01"]), chance.choice(["YZ", "ST", "QR"])
        orders.append(f"{number},{chance.randrange(1, 31)},{bank},0{chance.randrange(20)},{amount},x")
    for name, lines in (("district", districts), ("account", accounts), ("order", orders)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_every_order_is_paid_as_a_plain_computation_says(data: Path, tmp_path: Path) -> None:
    result = run(data, "--months", 2, "--path", tmp_path / "bank")

    records = read(data)
    total = sum(records.opening.values())
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == f"money conserved: {total // 100}.{total % 100:02d}"
    with kvstore.Geo(tmp_path / "bank", regions=records.regions) as geo:
        for name in geo.regions():
            assert sum(cents for _, cents in geo[name].scan(prefix=("account",))) == total


def test_an_account_that_runs_out_is_refused_as_one_by_one(data: Path) -> None:
    """Each account opens with the money of ten months, so in the eleventh month all orders are refused."""
    result = run(data, "--months", 11)

    assert result.exit_code == 0, result.output
    assert "200 refused" in result.output


def test_a_bug_is_seen(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pay(region: Any, records: Records, month: int, orders: list[Order]) -> set[int]:
        with region.batch() as batch:
            for order in orders:
                batch.bounded(("account", order.source)).spend(order.hellers)
        return set()

    monkeypatch.setattr("demo.records._pay", pay)
    result = run(data, "--months", 1)

    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "MONEY NOT CONSERVED"


@pytest.mark.parametrize("name", ["account", "district", "order"])
def test_a_missing_file_is_named(data: Path, name: str) -> None:
    (data / f"{name}.csv").unlink()

    result = run(data)

    assert result.exit_code == 3
    assert f"{name}.csv: No such file" in result.output


@pytest.mark.parametrize(
    "text",
    [
        "",
        "order_id\n1\n",
        "order_id,account_id,bank_to,account_to,amount\n1,1,A\n",
        "x" * 200_000,
        "order_id,account_id,bank_to,account_to,amount\n1,1,A,1,0.001\n",
    ],
)
def test_files_of_something_else_are_refused(data: Path, text: str) -> None:
    (data / "order.csv").write_text(text + "order_id,account_id,bank_to,account_to,amount\n1,99,A,1,1\n")

    result = run(data)

    assert result.exit_code == 3
    assert "Error: " in result.output


@pytest.mark.parametrize(
    "options", [("--scene", "crash"), ("--regions", 8), ("--accounts", 9), ("--seed", 9)]
)
def test_options_of_the_scenes_are_refused(data: Path, options: tuple[str, object]) -> None:
    result = run(data, *options)

    assert result.exit_code == 2
    assert options[0] in result.output


def test_json_tells_what_was_found(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pay(region: Any, records: Records, month: int, orders: list[Order]) -> set[int]:
        with region.batch() as batch:
            batch.bounded(("account", orders[0].source)).add(1)
        return set()

    monkeypatch.setattr("demo.records._pay", pay)
    result = run(data, "--months", 1, "--json")

    *_, facts, last = result.output.splitlines()
    told = json.loads(facts)
    assert last == "MONEY NOT CONSERVED"
    assert (told["conserved"], told["months"]) == (False, 1)
    assert {found["invariant"] for found in told["findings"]} >= {"as computed", "money is conserved"}
    assert told["total"] > sum(read(data).opening.values()), "it was measured"


@pytest.mark.slow
def test_on_the_berka_data() -> None:
    if not BERKA.is_dir():
        pytest.skip("the Berka data is not beside this repository")
    result = run(BERKA, "--months", 1)

    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith("money conserved: ")

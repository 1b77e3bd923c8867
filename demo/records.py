"""``--data``: the records of a real bank: accounts in their regions, standing orders month by month.

An account's home is the region of its district; the home of another bank's account is selected by a stable
hash of that bank's name. In each month all links are cut, the regions work alone, and the links are healed.
"""

from __future__ import annotations

import csv
import re
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import kvstore
from demo import auditor
from demo.auditor import Finding, audit_orders, overdrafts
from demo.bank import Number, Refused, account
from demo.guided import BROKEN, Outcome
from demo.narration import Narrator

MONTHLY_ORDERS = 10
WITHOUT_ORDERS = 100_000
CHUNK = 1000
"""The number of orders, or of new accounts, in one transaction."""
SETTLE_S = 300.0


class NoRecords(Exception):
    """The folder does not hold the records of a bank."""


class Order(NamedTuple):
    """A standing order; its amount is in whole hellers."""

    number: int
    source: int
    target: tuple[str, str]
    hellers: int


class Records(NamedTuple):
    """The contents of the files."""

    homes: dict[int, str]
    orders: list[Order]
    regions: list[str]

    @property
    def opening(self) -> dict[Number, int]:
        monthly: Counter[int] = Counter()
        for order in self.orders:
            monthly[order.source] += order.hellers
        return {number: MONTHLY_ORDERS * monthly[number] or WITHOUT_ORDERS for number in self.homes}

    def due(self, months: int) -> Iterator[auditor.Order]:
        """Yield every order of every month."""
        for month in range(1, months + 1):
            for order in self.orders:
                yield auditor.Order(month, order.number, order.source, order.target, order.hellers)

    def home_of(self, target: tuple[str, str]) -> str:
        return self.regions[zlib.crc32(target[0].encode()) % len(self.regions)]


def read(folder: Path) -> Records:
    """Read the records. Raises ``NoRecords``, which names the file or folder and the problem."""
    try:
        names = {row["district_id"]: _name(row["region"]) for row in _rows(folder / "district.csv")}
        homes = {int(row["account_id"]): names[row["district_id"]] for row in _rows(folder / "account.csv")}
        orders = [_order(row) for row in _rows(folder / "order.csv")]
    except OSError as error:
        raise NoRecords(f"{error.filename}: {error.strerror}") from error
    except (KeyError, ValueError, ArithmeticError, TypeError, AttributeError, csv.Error) as error:
        raise NoRecords(f"{folder} does not hold the records of a bank: {error!r}") from error
    strangers = [order.number for order in orders if order.source not in homes]
    if strangers or not homes:
        raise NoRecords(f"{folder}: orders of accounts that do not exist: {strangers[:5]}")
    return Records(homes, orders, sorted(set(homes.values())))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _name(region: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", region.strip()).lower()


def _order(row: dict[str, str]) -> Order:
    hellers, rest = divmod(Decimal(row["amount"]) * 100, 1)
    if rest or hellers < 1:
        raise ValueError(f"order {row['order_id']} is over {row['amount']}")
    target = row["bank_to"], row["account_to"]
    return Order(int(row["order_id"]), int(row["account_id"]), target, int(hellers))


# -- the run -------------------------------------------------------------------------------------


def run(path: Path, data: Path, months: int, narrator: Narrator) -> Outcome:
    """Open the accounts, pay the orders of each month, and have the auditor check every region."""
    records = read(data)
    begin = time.monotonic()
    with kvstore.Geo(path, regions=records.regions, shards=4) as geo:
        narrator.opening(
            f"{len(records.homes)} accounts in {len(records.regions)} regions, {len(records.orders)} standing"
            f" orders a month, for {months} months. Each month all links are cut, and healed at its end."
        )
        _open(geo, records)
        refused: set[tuple[int, int]] = set()
        findings: list[Finding] = []
        for month in range(1, months + 1):
            refused |= _month(geo, records, month, narrator, findings)
        findings += audit_orders(geo, records.opening, records.due(months), refused)
        total = sum(cents for _, cents in geo[records.regions[0]].scan(prefix=("account",)))
    narrator.say(f"{time.monotonic() - begin:.1f} s in all; {len(refused)} orders refused.")
    for finding in findings[:5]:
        narrator.say(f"{finding.region}: {finding.invariant}: {finding.detail}")
    outcome = Outcome(total, findings)
    facts: dict[str, Any] = {
        "months": months,
        "orders": months * len(records.orders),
        "refused": len(refused),
        "seconds": time.monotonic() - begin,
        "findings": [found._asdict() for found in findings],
    }
    narrator.close(outcome.verdict, total=total, conserved=outcome.verdict != BROKEN, **facts)
    return outcome


def _open(geo: kvstore.Geo, records: Records) -> None:
    opening = records.opening
    for name in geo.regions():
        own = [number for number, home in records.homes.items() if home == name]
        for first in range(0, len(own), CHUNK):
            batch = geo[name].batch()
            for number in own[first : first + CHUNK]:
                batch.put(("home", number), name)
                batch.bounded(account(number)).add(opening[number])
            geo[name].submit(batch).result()
    _meet(geo)


def _month(
    geo: kvstore.Geo, records: Records, month: int, narrator: Narrator, findings: list[Finding]
) -> set[tuple[int, int]]:
    """Pay a month's orders in each region alone, then heal the links. Return the refused orders."""
    begin = time.monotonic()
    for pair in combinations(geo.regions(), 2):
        geo.cut(*pair)
    due: defaultdict[str, list[Order]] = defaultdict(list)
    for order in records.orders:
        due[records.homes[order.source]].append(order)
    refused = set()
    for name, orders in due.items():
        for first in range(0, len(orders), CHUNK):
            refused |= {
                (month, number) for number in _pay(geo[name], records, month, orders[first : first + CHUNK])
            }
    worked = time.monotonic() - begin
    findings += overdrafts(geo)
    begin = time.monotonic()
    _meet(geo)
    narrator.say(
        f"Month {month}: {len(records.orders)} orders in {worked:.1f} s, all links cut;"
        f" {len(refused)} refused; converged in {time.monotonic() - begin:.1f} s."
    )
    return refused


def _meet(geo: kvstore.Geo) -> None:
    """Converge over one open link at a time: a first tour of the links brings everything to the first region,
    a second tour to all others. With many open links each node would be shipped many times."""
    hub, *others = geo.regions()
    for other in others + others[:-1]:
        for one, two in combinations(geo.regions(), 2):
            geo.cut(one, two)
        geo.heal(hub, other)
        geo.settle(SETTLE_S)
    for other in others:
        geo.heal(hub, other)
    geo.settle(SETTLE_S)


def _pay(region: kvstore.Region, records: Records, month: int, orders: list[Order]) -> set[int]:
    """Pay these orders in sequence, and return the numbers of the refused orders.

    All orders are tried in one transaction. If it is refused, nothing has happened, and each half is tried by
    itself. So exactly the orders are refused that would be refused one by one.
    """
    batch = region.batch()
    for order in orders:
        batch.bounded(account(order.source)).spend(order.hellers)
        batch.bounded(account(order.target)).add(order.hellers, to=records.home_of(order.target))
    batch.put(("paid", month, orders[0].number), [order.number for order in orders])
    try:
        region.submit(batch).result()
    except Refused:
        if len(orders) == 1:
            return {orders[0].number}
        half = len(orders) // 2
        first = _pay(region, records, month, orders[:half])
        return first | _pay(region, records, month, orders[half:])
    return set()

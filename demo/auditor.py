"""The auditor: reads the store from outside, trusts nothing that the bank reports, and repairs nothing.

The invariants of ``look`` hold at every moment in every region, also in a region that is cut off. ``audit``
also compares the store with the customers' books; it needs regions that have converged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import kvstore


class Finding(NamedTuple):
    """A violated invariant."""

    region: str
    invariant: str
    detail: str


class Order(NamedTuple):
    """A standing order: an amount to transfer between two accounts in a month."""

    month: int
    number: int
    source: Any
    target: Any
    cents: int


def look(region: kvstore.Region) -> list[Finding]:
    """Check a snapshot of one region, and return what was found."""
    with region.snapshot() as view:
        balances = _balances(view)
        lines = [(key, line) for key, line in view.scan(prefix=("statement",))]
        letters = {str(key[1]) for key, _ in view.scan(prefix=("letter",))}
        replies = [str(key[1]) for key, _ in view.scan(prefix=("reply",))]
    found = [*_of_balances(balances, lines), *_of_transfers(lines)]
    found += [
        ("causality", f"a reply to {name} without that letter") for name in replies if name not in letters
    ]
    return [Finding(region.name, *what) for what in found]


def _balances(view: kvstore.Snapshot) -> dict[Any, int]:
    """Return the balance of each account in cents."""
    return {key[1]: cents for key, cents in view.scan(prefix=("account",))}


def _of_balances(balances: Mapping[Any, int], lines: list[tuple[Any, Any]]) -> Iterator[tuple[str, str]]:
    stated: Counter[Any] = Counter()
    for key, (_, cents, _) in lines:
        stated[key[1]] += cents
    for number in balances.keys() | stated.keys():
        if balances.get(number, 0) < 0:
            yield "no overdraft", f"account {number} holds {balances[number]}"
        if balances.get(number, 0) != stated[number]:
            holds = balances.get(number, 0)
            yield (
                "balance is statement",
                f"account {number} holds {holds}, its statement says {stated[number]}",
            )


def _of_transfers(lines: list[tuple[Any, Any]]) -> Iterator[tuple[str, str]]:
    """Check that a snapshot shows both sides of each transfer, or neither."""
    sides: defaultdict[Any, list[int]] = defaultdict(list)
    for key, (kind, cents, _) in lines:
        if kind == "transfer":
            sides[key[2:]].append(cents)
    for mark, cents in sides.items():
        if len(cents) != 2 or sum(cents) != 0:
            yield "transfers are whole", f"transfer {mark} has the sides {cents}"


def look_everywhere(geo: kvstore.Geo) -> list[Finding]:
    return [finding for name in geo.regions() for finding in look(geo[name])]


def overdrafts(geo: kvstore.Geo) -> list[Finding]:
    """Return the overdrafts that regions show; there must be none. For banks that keep no statements."""
    found = []
    for name in geo.regions():
        with geo[name].snapshot() as view:
            short = {number: cents for number, cents in _balances(view).items() if cents < 0}
        found += [Finding(name, "no overdraft", f"{number} holds {cents}") for number, cents in short.items()]
    return found


def audit_orders(
    geo: kvstore.Geo, opening: Mapping[Any, int], orders: Iterable[Order], refused: Set[tuple[int, int]]
) -> list[Finding]:
    """Compare every region with a plain computation, order by order; check rights and refusals.

    ``opening``: the balances before the first order. ``refused``: month and number of each refused order.
    """
    expected, found = dict(opening), []
    for order in orders:
        is_refused = (order.month, order.number) in refused
        if (expected[order.source] < order.cents) != is_refused:
            where = f"order {order.number}, month {order.month}"
            found.append(Finding("the bank", "refused if short", where))
        if not is_refused:
            expected[order.source] -= order.cents
            expected[order.target] = expected.get(order.target, 0) + order.cents
    for name in geo.regions():
        found += [Finding(name, *what) for what in _as_computed(geo[name], expected)]
    return [*found, *overdrafts(geo)]


def _as_computed(region: kvstore.Region, expected: Mapping[Any, int]) -> Iterator[tuple[str, str]]:
    with region.snapshot() as view:
        holds = _balances(view)
    for number in holds.keys() | expected.keys():
        if holds.get(number) != expected.get(number):
            yield "as computed", f"{number} holds {holds.get(number)}, not {expected.get(number)}"
        if region.bounded(("account", number)).rights() < 0:
            yield "rights are not negative", f"of {number}"
    if sum(holds.values()) != sum(expected.values()):
        yield "money is conserved", f"{sum(holds.values())} in all, not {sum(expected.values())}"


def audit(geo: kvstore.Geo, told: Mapping[Any, int]) -> list[Finding]:
    """Check all regions after they have converged. ``told``: the balances in the customers' books."""
    found = look_everywhere(geo)
    for name in geo.regions():
        region = geo[name]
        with region.snapshot() as view:
            holds = _balances(view)
        found += [Finding(name, *what) for what in _of_promises(holds, told)]
        found += [Finding(name, *what) for what in _of_rights(region, geo.regions(), holds)]
        found += [Finding(name, *what) for what in _of_log(region, holds)]
    return found


def _of_promises(holds: Mapping[Any, int], told: Mapping[Any, int]) -> Iterator[tuple[str, str]]:
    if sum(holds.values()) != sum(told.values()):
        yield (
            "money is conserved",
            f"{sum(holds.values())} cents in all, customers know of {sum(told.values())}",
        )
    for number in holds.keys() | told.keys():
        if holds.get(number) != told.get(number):
            yield "as customers were told", f"{number} holds {holds.get(number)}, not {told.get(number)}"


def _of_rights(
    region: kvstore.Region, owners: list[str], holds: Mapping[Any, int]
) -> Iterator[tuple[str, str]]:
    with region.begin() as tx:  # a transaction reads one snapshot: regions may grant rights meanwhile
        reads: Any = tx
        shares = {
            number: [reads.bounded(("account", number)).rights(owner) for owner in owners] for number in holds
        }
    for number, rights in shares.items():
        cents = holds[number]
        if min(rights) < 0 or sum(rights) != cents:
            yield "rights are the balance", f"account {number} holds {cents}, its rights are {rights}"


def _of_log(region: kvstore.Region, holds: Mapping[Any, int]) -> Iterator[tuple[str, str]]:
    """Play the region's log: it must produce the balances, node by node, with no reply before its letter."""
    played: Counter[Any] = Counter()
    seen: set[Any] = set()
    for node in region.log.sync():
        change: Counter[Any] = Counter()
        for effect in node.effects:
            match effect.kind, effect.key:
                case "credit" | "spend" as kind, ("account", number):
                    change[number] += effect.value if kind == "credit" else -effect.value
                case "put", ("statement", number, *_):
                    change[number] -= effect.value[1]
                    played[number] += effect.value[1]
                case "put", ("letter", name):
                    seen.add(name)
                case "put", ("reply", name) if name not in seen:
                    yield "causality", f"the log has a reply before its letter {name!r}"
        if any(change.values()):
            yield "nodes are whole", f"{node.id} changes balances by {dict(change)} more than the statements"
    if dict(played) != dict(holds):
        yield "log leads to balances", "the balances that the log produces differ from the accounts"

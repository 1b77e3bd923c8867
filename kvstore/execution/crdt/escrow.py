"""Rights to spend, which keep a bounded counter from falling below zero, whatever links are cut.

A balance is held as rights, and each right belongs to one region (O'Neil, TODS 1986; Balegas et al., SRDS
2015). Only the region that owns a right spends it or gives it away. Its own view of its rights is therefore
never too high, and its decisions are final: other regions apply the effect, and never decide again.

INVARIANTS
    ESCROW-1  rights(region) >= 0 after every node, for every region, in every region.
    ESCROW-2  balance = the sum of all rights + grants that have not arrived; so the balance is never below
        zero either.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from kvstore import values
from kvstore.execution.crdt.cells import Cell, Escrow, Origin, balance, summed
from kvstore.execution.operations import Credit, Grant, Spend
from kvstore.types import RegionId

AMOUNT_MAX = 2**63 - 1
"""Largest amount of one operation; balances are unbounded."""
NOTHING = values.encode(0)


class Unaffordable(NamedTuple):
    """The reason for a refused debit: this region's rights, and the balance as this region sees it."""

    key: bytes
    amount: int
    rights: int
    balance: int


class Funds(NamedTuple):
    """One region's rights to spend from a bounded counter, and the counter's balance."""

    rights: int
    balance: int


def encode_unaffordable(short: Unaffordable) -> bytes:
    return values.encode(list(short))


def decode_unaffordable(encoded: bytes) -> Unaffordable:
    return Unaffordable(*values.decode(encoded))


def rights(escrow: Escrow, region: RegionId) -> int:
    """Return the amount that a region may spend or give away."""
    gained = [row[region] for row in (*escrow.credits.values(), *escrow.grants.values()) if region in row]
    gone = [*escrow.grants.get(region, {}).values(), escrow.spent.get(region, NOTHING)]
    return summed(gained) - summed(gone)


def funds(cell: Cell, region: RegionId) -> Funds:
    escrow = cell.escrow
    return Funds(0, 0) if escrow is None else Funds(rights(escrow, region), balance(escrow))


def shortfall(cell: Cell, debit: Spend | Grant, region: RegionId) -> Unaffordable | None:
    """Return why a debit is refused, or None. Only the debit's own region decides (contracts D5)."""
    found = funds(cell, region)
    if found.rights >= debit.amount:
        return None
    return Unaffordable(debit.key, debit.amount, *found)


def moved(escrow: Escrow | None, effect: Credit | Spend | Grant, origin: Origin) -> Escrow:
    """Return the escrow after a node with this origin made the change."""
    before = Escrow(origin) if escrow is None else escrow
    region = origin.region
    changes: dict[str, Any] = {"last": max(before.last, origin)}
    match effect:
        case Credit(_, amount, owner):
            changes["credits"] = _added(before.credits, region, owner, amount)
        case Grant(_, amount, taker):
            changes["grants"] = _added(before.grants, region, taker, amount)
        case Spend(_, amount):
            changes["spent"] = _raised(before.spent, region, amount)
    after = msgspec.structs.replace(before, **changes)
    left = rights(after, region)
    assert left >= 0, f"ESCROW-1: {effect} in slot {origin.index} leaves region {region} with {left} rights"
    assert balance(after) >= 0, (
        f"ESCROW-2: {effect} in slot {origin.index} leaves a balance of {balance(after)}"
    )
    return after


def _added(
    matrix: dict[RegionId, dict[RegionId, bytes]], giver: RegionId, taker: RegionId, amount: int
) -> dict[RegionId, dict[RegionId, bytes]]:
    return {**matrix, giver: _raised(matrix.get(giver, {}), taker, amount)}


def _raised(sums: dict[RegionId, bytes], region: RegionId, amount: int) -> dict[RegionId, bytes]:
    return {**sums, region: values.encode(values.decode(sums.get(region, NOTHING)) + amount)}

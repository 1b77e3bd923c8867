"""Rights to spend: what keeps a bounded counter above zero in all regions, whoever can reach whom.

A balance is held as rights, and each right is one region's (O'Neil, TODS 1986; Balegas et al., SRDS 2015). A
region spends and gives away only its own, and it alone does so. So its own view of its rights is never too
high, and what it decides is decided for good: others are told of the effect, and never judge again.

INVARIANTS
    ESCROW-1  rights(region) >= 0 after every node, for every region, in every region.
    ESCROW-2  balance = the sum of all rights + what is granted and not arrived; so it is never below zero
        either.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from kvstore import values
from kvstore.execution.crdt.cells import Cell, Escrow, Origin, balance, summed
from kvstore.execution.operations import Credit, Grant, Spend
from kvstore.types import RegionId

AMOUNT_MAX = 2**63 - 1
"""The largest amount of one step; balances are not bounded."""
NOTHING = values.encode(0)


class Unaffordable(NamedTuple):
    """Why a debit was refused: what this region may spend, and what the balance is as it sees it."""

    key: bytes
    amount: int
    rights: int
    balance: int


class Funds(NamedTuple):
    """What one region can spend of a bounded counter, and all that is there."""

    rights: int
    balance: int


def encode_unaffordable(short: Unaffordable) -> bytes:
    return values.encode(list(short))


def decode_unaffordable(encoded: bytes) -> Unaffordable:
    return Unaffordable(*values.decode(encoded))


def rights(escrow: Escrow, region: RegionId) -> int:
    """What this region may spend or give away."""
    gained = [row[region] for row in (*escrow.credits.values(), *escrow.grants.values()) if region in row]
    gone = [*escrow.grants.get(region, {}).values(), escrow.spent.get(region, NOTHING)]
    return summed(gained) - summed(gone)


def funds(cell: Cell, region: RegionId) -> Funds:
    escrow = cell.escrow
    return Funds(0, 0) if escrow is None else Funds(rights(escrow, region), balance(escrow))


def shortfall(cell: Cell, debit: Spend | Grant, region: RegionId) -> Unaffordable | None:
    """Judge a debit of this region where it begins, and nowhere else (contracts D5)."""
    found = funds(cell, region)
    if found.rights >= debit.amount:
        return None
    return Unaffordable(debit.key, debit.amount, *found)


def moved(escrow: Escrow | None, effect: Credit | Spend | Grant, origin: Origin) -> Escrow:
    """The escrow after a node of ``origin``."""
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
    assert rights(after, region) >= 0, "ESCROW-1"
    return after


def _added(
    matrix: dict[RegionId, dict[RegionId, bytes]], giver: RegionId, taker: RegionId, amount: int
) -> dict[RegionId, dict[RegionId, bytes]]:
    return {**matrix, giver: _raised(matrix.get(giver, {}), taker, amount)}


def _raised(sums: dict[RegionId, bytes], region: RegionId, amount: int) -> dict[RegionId, bytes]:
    return {**sums, region: values.encode(values.decode(sums.get(region, NOTHING)) + amount)}

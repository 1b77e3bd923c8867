"""Running one shard's part of a transaction: staged first, written only when all of it succeeded.

INVARIANTS
    EXECUTE-1  Executing is a function of the table, the operations and the slot: no clock, no chance.
    EXECUTE-2  A part that refuses or raises has no effect (contracts A5).
    EXECUTE-3  The version of a record is the slot of the transaction that wrote it, so it only rises.
"""

from __future__ import annotations

from typing import NamedTuple

from kvstore import values
from kvstore.execution.numbers import add_numbers, is_number
from kvstore.execution.operations import (
    DONE,
    REFUSED,
    Add,
    Check,
    CheckRange,
    Delete,
    Expire,
    Operation,
    Outcome,
    Put,
    PutIf,
    Reserve,
)
from kvstore.execution.stored_value import VERSION_BYTES, decoded_value, stored_version
from kvstore.ports import ReadableTable, Table
from kvstore.types import Slot

StagedWrites = dict[bytes, bytes | None]
"""New cell by key; None where the key goes."""


class Executed(NamedTuple):
    """What came of one shard's part of a transaction."""

    effects: StagedWrites
    outcome: Outcome
    plain: bool = True
    """Whether the operations alone tell the effects, so that the log need not keep these (A7)."""


def execute(operations: tuple[Operation, ...], table: ReadableTable, slot: Slot) -> Executed:
    """Return what the operations would change, and their outcome. The table is only read."""
    staged: StagedWrites = {}
    results: list[bytes | bool] = []
    plain = True
    version = slot.to_bytes(VERSION_BYTES, "big")
    for operation in operations:
        if type(operation) is Put:  # first and by exact type: nearly all of them are
            staged[operation.key] = version + operation.value
            continue
        match operation:
            case Delete(key, report):
                if report:
                    results.append(_cell(key, staged, table) is not None)
                plain &= _delete(key, staged, table)
            case Add(key, amount):
                total = _sum(_cell(key, staged, table), amount)
                results.append(total)
                staged[key] = version + total
                plain = False
            case PutIf(key, value, expected):
                plain = False
                if stored_version(_cell(key, staged, table)) != expected:
                    return Executed({}, REFUSED, plain)
                staged[key] = version + value
            case Put() | Expire() | Check() | CheckRange() | Reserve():
                pass  # Put: above; Expire: see outcomes.py; the others: see validation.py
            case _:
                raise AssertionError(f"{type(operation).__name__} is of regions only: see region_shard.py")
    return Executed(staged, Outcome(results=tuple(results)) if results else DONE, plain)


def _delete(key: bytes, staged: StagedWrites, table: ReadableTable) -> bool:
    """Stage it where it changes something; return whether it does."""
    if table.get(key) is None:
        staged.pop(key, None)
        return False
    staged[key] = None
    return True


def plain_effects(operations: tuple[Operation, ...]) -> dict[bytes, bytes | None]:
    """The new values by key, None where the key went, of operations whose effects were plain."""
    effects: dict[bytes, bytes | None] = {}
    for operation in operations:
        match operation:
            case Put(key, value):
                effects[key] = value
            case Delete(key):
                effects[key] = None
    return effects


def apply(effects: StagedWrites, table: Table) -> None:
    """Write what was staged."""
    for key, cell in effects.items():
        if cell is None:
            table.delete(key)
        else:
            table.put(key, cell)


def _cell(key: bytes, staged: StagedWrites, table: ReadableTable) -> bytes | None:
    return staged[key] if key in staged else table.get(key)


def _sum(cell: bytes | None, amount: bytes) -> bytes:
    """The encoded sum; where there is no such number the value stays as it is, so that all replicas
    agree and a participant never refuses (contracts C1)."""
    value = None if cell is None else decoded_value(cell)
    if cell is None or not is_number(value):
        return amount
    total = add_numbers(value, values.decode(amount))
    return cell[VERSION_BYTES:] if total is None else total

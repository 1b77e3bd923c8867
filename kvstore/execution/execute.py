"""The execution of one shard's part of a transaction: staged first, written only if all of it succeeds.

INVARIANTS
    EXECUTE-1  Execution is a function of the table, the operations and the slot: no clock, no randomness.
    EXECUTE-2  A part that refuses or raises has no effect (contracts A5).
    EXECUTE-3  The version of a value is the slot of the transaction that wrote it, so it only increases.
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
"""New stored value by key; None if the key is removed."""


class Executed(NamedTuple):
    """The result of one shard's part of a transaction."""

    effects: StagedWrites
    outcome: Outcome
    plain: bool = True
    """Whether the effects follow from the operations alone, so that the log need not keep them (A7)."""


def execute(operations: tuple[Operation, ...], table: ReadableTable, slot: Slot) -> Executed:
    """Return the writes of the operations, and their outcome. The table is only read."""
    staged: StagedWrites = {}
    results: list[bytes | bool] = []
    plain = True
    version = slot.to_bytes(VERSION_BYTES, "big")
    for operation in operations:
        if type(operation) is Put:  # first and by exact type: nearly all operations are puts
            staged[operation.key] = version + operation.value
            continue
        match operation:
            case Delete(key, report):
                if report:
                    results.append(_cell(key, staged, table) is not None)
                plain &= _delete(key, staged, table)
            case Add(key, amount):
                cell = _cell(key, staged, table)
                assert cell is None or cell[:VERSION_BYTES] <= version, (
                    f"EXECUTE-3: slot {slot} writes over {key!r} of slot {stored_version(cell)}"
                )
                total = _sum(cell, amount)
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
                raise AssertionError(f"{type(operation).__name__} is for regions only: see region_shard.py")
    return Executed(staged, Outcome(results=tuple(results)) if results else DONE, plain)


def _delete(key: bytes, staged: StagedWrites, table: ReadableTable) -> bool:
    """Stage the removal of the key; return whether the table has it."""
    if table.get(key) is None:
        staged.pop(key, None)
        return False
    staged[key] = None
    return True


def plain_effects(operations: tuple[Operation, ...]) -> dict[bytes, bytes | None]:
    """Return the new values by key, None for a removed key, of operations whose effects are plain."""
    effects: dict[bytes, bytes | None] = {}
    for operation in operations:
        match operation:
            case Put(key, value):
                effects[key] = value
            case Delete(key):
                effects[key] = None
    return effects


def apply(effects: StagedWrites, table: Table) -> None:
    """Write the staged writes to the table."""
    for key, cell in effects.items():
        if cell is None:
            table.delete(key)
        else:
            table.put(key, cell)


def _cell(key: bytes, staged: StagedWrites, table: ReadableTable) -> bytes | None:
    return staged[key] if key in staged else table.get(key)


def _sum(cell: bytes | None, amount: bytes) -> bytes:
    """Return the encoded sum, or the value unchanged if there is no such number.

    So all replicas agree, and a participant never refuses (contracts C1).
    """
    value = None if cell is None else decoded_value(cell)
    if cell is None or not is_number(value):
        return amount
    total = add_numbers(value, values.decode(amount))
    return cell[VERSION_BYTES:] if total is None else total

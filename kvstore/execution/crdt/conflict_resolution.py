"""How a node changes a key's cells, in whichever region and order it is applied (contracts D5).

All depends on what a node had seen. A node has seen a write if the write is in the node's causal past: every
earlier write of its own region, and every write of another region that its region had imported (contracts
A1). A node may replace or take back a write that it has seen; a write that it has not seen is kept beside
its own. A removal from a set therefore takes back the adds that it has seen, and needs no list of them: an
add that it did not know of wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import msgspec

from kvstore import values
from kvstore.execution.crdt import escrow
from kvstore.execution.crdt.cells import Cell, Origin, Tally, Write
from kvstore.execution.numbers import add_numbers
from kvstore.execution.operations import (
    Add,
    Credit,
    Delete,
    Grant,
    KeyEffect,
    Put,
    SetAdd,
    SetRemove,
    Spend,
)
from kvstore.types import RegionId, Slot


class WritingNode:
    """The node that makes a change: its origin, and what it had seen.

    ``seen``: last imported slot of each other region's chain of this shard, by region; None for a node of
    the region where it is executed, which has seen every write there.
    """

    __slots__ = ("origin", "seen")

    def __init__(self, origin: Origin, seen: Mapping[RegionId, Slot] | None) -> None:
        self.origin = origin
        self.seen = seen

    def has_seen(self, other: Origin) -> bool:
        """Return whether the write of an origin is in the node's causal past."""
        if self.seen is None or other.region == self.origin.region:
            return True
        return other.index <= self.seen.get(other.region, 0)


def resolve(cell: Cell, effect: KeyEffect, node: WritingNode) -> Cell:
    """Return the cells after the node has made the change."""
    match effect:
        case Put(_, value):
            return _written(cell, value, node)
        case Delete():
            kept = {member: adds for member, tags in cell.members.items() if (adds := _unseen(tags, node))}
            return _written(msgspec.structs.replace(cell, members=kept), None, node)
        case Add(_, amount):
            return _counted(cell, amount, node)
        case SetAdd(_, member):
            tags = (*_unseen(cell.members.get(member, ()), node), node.origin)
            members = {**cell.members, member: tuple(sorted(tags))}
            return msgspec.structs.replace(cell, members=members)
        case SetRemove(_, member):
            return _removed(cell, member, node)
        case Credit() | Spend() | Grant():
            moved = escrow.moved(cell.escrow, effect, node.origin)
            return msgspec.structs.replace(cell, escrow=moved)
        case _:
            assert_never(effect)


def _unseen(tags: tuple[Origin, ...], node: WritingNode) -> tuple[Origin, ...]:
    return tuple(tag for tag in tags if not node.has_seen(tag))


def _written(cell: Cell, value: bytes | None, node: WritingNode) -> Cell:
    """Return the cells after a write: the register keeps the writes that no other write has seen."""
    unseen = [write for write in cell.register if not node.has_seen(write.origin)]
    seen = [write.origin for write in cell.register if write not in unseen]
    assert all(origin.time < node.origin.time or origin == node.origin for origin in seen), (
        f"CELLS-2: a write of {node.origin} has seen {seen}, and is not later"
    )
    writes = sorted([*unseen, Write(node.origin, value)], key=lambda write: write.origin)
    return msgspec.structs.replace(cell, register=tuple(writes))


def _counted(cell: Cell, amount: bytes, node: WritingNode) -> Cell:
    """Return the cells after an addition; a sum that could not be stored is not made (contracts C1)."""
    region = node.origin.region
    before = cell.counter.get(region)
    total = amount if before is None else before.total
    if before is not None:
        total = add_numbers(values.decode(before.total), values.decode(amount)) or total
    return msgspec.structs.replace(cell, counter={**cell.counter, region: Tally(total, node.origin)})


def _removed(cell: Cell, member: bytes, node: WritingNode) -> Cell:
    if member not in cell.members:
        return cell
    members = dict(cell.members)
    left = _unseen(members.pop(member), node)
    if left:
        members[member] = left
    return msgspec.structs.replace(cell, members=members)

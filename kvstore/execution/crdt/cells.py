"""What a key holds in a region: one cell for each type that converges (contracts D5).

A key of a region has a record with four cells, and each converges alone: whatever was written where, and
in whatever order it arrives, it ends up the same in every region. What is *shown* is that of the bounded
counter, else of the counter, else of the set, else of the register. A record is a value like any other, of
an extension type of its own, and is read wherever values are: ``values.decode`` gives what it shows.

    register    the writes that no other write has seen. The latest is shown; the others were lost, until
                somebody who has seen them writes. A removal is a write of nothing.
    counter     by region, the sum of what was added there, in the order of its chain
    set         by member, the adds that no removal has seen
    bounded     rights to spend, by who gave them to whom (``kvstore.execution.crdt.escrow``)

INVARIANTS
    CELLS-1  A record is a function of the *set* of the nodes that it was made of, if that set is closed
        downwards.
    CELLS-2  The write that is shown is later than all that it has seen (contracts D1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from kvstore import values
from kvstore.types import Kind, RegionId, Slot, Timestamp

CELL_EXTENSION = 2
"""The msgpack extension type of a record."""

K = TypeVar("K", RegionId, bytes)
V = TypeVar("V")


class Origin(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """Who wrote, and when: a place in the chain of a region. Later ones sort behind earlier ones."""

    time: Timestamp
    region: RegionId
    index: Slot


class Write(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A write of a register. ``value``: encoded; None where it was removed."""

    origin: Origin
    value: bytes | None


class Tally(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one region added to a counter, encoded, and when it last did."""

    total: bytes
    last: Origin


class Escrow(msgspec.Struct, frozen=True, array_like=True):
    """Of a bounded counter: who may spend how much. Each sum has one region that adds to it; they are encoded
    as values are, as nothing bounds them.

    ``credits``: by who added, by whose right it became. ``grants``: by giver, by taker. ``spent``: by who
    spent it.
    """

    last: Origin
    credits: dict[RegionId, dict[RegionId, bytes]] = {}
    grants: dict[RegionId, dict[RegionId, bytes]] = {}
    spent: dict[RegionId, bytes] = {}


class Cell(msgspec.Struct, frozen=True, array_like=True):
    """A key's record: its cells."""

    register: tuple[Write, ...] = ()
    counter: dict[RegionId, Tally] = {}
    members: dict[bytes, tuple[Origin, ...]] = {}
    escrow: Escrow | None = None

    @property
    def kind(self) -> Kind | None:
        """The type that is shown; None where nothing is."""
        if self.escrow is not None:
            return "bounded"
        if self.counter:
            return "counter"
        if self.members:
            return "set"
        return "register" if self.register and self.register[-1].value is not None else None


NOTHING = Cell()

_encode = msgspec.msgpack.Encoder().encode
_decode_extension = msgspec.msgpack.Decoder(msgspec.msgpack.Ext).decode
_decode = msgspec.msgpack.Decoder(Cell).decode


def encode(cell: Cell) -> bytes:
    """The record as an encoded value; equal records have equal bytes, in whatever order they came to be."""
    if len(cell.counter) > 1 or len(cell.members) > 1 or cell.escrow is not None:
        cell = Cell(cell.register, _sorted(cell.counter), _sorted(cell.members), _sorted_escrow(cell.escrow))
    return _encode(msgspec.msgpack.Ext(CELL_EXTENSION, _encode(cell)))


def _sorted_escrow(escrow: Escrow | None) -> Escrow | None:
    if escrow is None:
        return None
    credits = {giver: _sorted(escrow.credits[giver]) for giver in sorted(escrow.credits)}
    grants = {giver: _sorted(escrow.grants[giver]) for giver in sorted(escrow.grants)}
    return Escrow(escrow.last, credits, grants, _sorted(escrow.spent))


def _sorted(mapping: dict[K, V]) -> dict[K, V]:
    return dict(sorted(mapping.items())) if len(mapping) > 1 else mapping


def decode(payload: bytes) -> Cell:
    """The record whose encoded value this is. Raises ``msgspec.DecodeError``."""
    return _decode(_decode_extension(payload).data)


_EXTENSION_BYTES = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))
"""What msgpack's extensions begin with."""


def is_record(payload: bytes) -> bool:
    """Whether an encoded value is the record of a key, and no value of a user."""
    return payload[0] in _EXTENSION_BYTES and _decode_extension(payload).code == CELL_EXTENSION


def balance(escrow: Escrow) -> int:
    """What a bounded counter comes to: all that was added, less all that was spent."""
    added = (amount for owners in escrow.credits.values() for amount in owners.values())
    return summed(added) - summed(escrow.spent.values())


def summed(amounts: Iterable[bytes]) -> int:
    """The sum of encoded ints."""
    return sum(int(values.decode(amount)) for amount in amounts)


def total(counter: dict[RegionId, Tally]) -> int | float:
    """What a counter comes to: the regions' sums, in the order of the regions: so all agree on floats."""
    sums = [values.decode(counter[region].total) for region in sorted(counter)]
    result: int | float = 0
    try:
        for one in sums:
            result += one
    except OverflowError:
        return _rounded(sums)
    return result if type(result) is int or math.isfinite(result) else _rounded(sums)


def _rounded(numbers: list[int | float]) -> float:
    """Their sum where the way to it is too large for a float; infinite where the sum is as well."""
    from fractions import Fraction  # it is slow to import, and hardly ever needed

    exact = sum(map(Fraction, numbers))
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def shown(cell: Cell) -> Any:
    """The value of what is shown; None where nothing is."""
    match cell.kind:
        case "bounded":
            assert cell.escrow is not None
            return balance(cell.escrow)
        case "counter":
            return total(cell.counter)
        case "set":
            return [values.decode(member) for member in sorted(cell.members)]
        case "register":
            winner = cell.register[-1].value
            assert winner is not None
            return values.decode(winner)
        case None:
            return None


def encode_total(cell: Cell) -> bytes:
    """What its counter comes to, encoded."""
    return values.encode(total(cell.counter))


def shows_same(before: Cell, after: Cell) -> bool:
    """Whether nothing was written to what is shown. What a counter or a set shows is written by all who touch
    those cells; a register only by the latest."""
    kind = after.kind
    if before.kind != kind:
        return False
    match kind:
        case "bounded":
            return before.escrow == after.escrow
        case "counter":
            return before.counter == after.counter
        case "set":
            return before.members == after.members
        case _:
            return before.register[-1] == after.register[-1]


def _value_of(data: bytes | memoryview) -> Any:
    return shown(_decode(data))


values.EXTENSIONS[CELL_EXTENSION] = _value_of

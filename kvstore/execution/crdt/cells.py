"""A key's cells in a region: one cell for each type that converges (contracts D5).

A key of a region has four cells, and each converges independently: wherever its writes were made, and in
whatever order they arrive, a cell becomes equal in every region. The key *shows* its bounded counter, else
its counter, else its set, else its register. The cells of a key are one value with an extension type of
its own, readable wherever values are: ``values.decode`` returns what the cells show.

    register    the writes that no other write has seen. The latest is shown; the others are lost writes,
                which are kept until a write has seen them. A removal is a write of nothing.
    counter     by region, the sum of the region's additions, in the order of its chain
    set         by member, the adds that no removal has seen
    bounded     rights to spend, by giver and receiver (``kvstore.execution.crdt.escrow``)

INVARIANTS
    CELLS-1  A key's cells are a function of the *set* of the nodes that wrote them, if that set is closed
        downwards.
    CELLS-2  The write that is shown is later than all writes that it has seen (contracts D1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from kvstore import values
from kvstore.types import Kind, RegionId, Slot, Timestamp

CELL_EXTENSION = 2
"""The msgpack extension type of a key's cells."""

K = TypeVar("K", RegionId, bytes)
V = TypeVar("V")


class Origin(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """The origin of a write: its time, and its slot in a region's chain. Later origins sort last."""

    time: Timestamp
    region: RegionId
    index: Slot


class Write(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A write of a register. ``value``: encoded value; None for a removal."""

    origin: Origin
    value: bytes | None


class Tally(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The encoded sum of one region's additions to a counter, and the origin of the last."""

    total: bytes
    last: Origin


class Escrow(msgspec.Struct, frozen=True, array_like=True):
    """The rights to spend of a bounded counter. Only one region adds to each sum; the sums are encoded as
    values are, because nothing bounds them.

    ``credits``: by the region that added, then by the owner of the right. ``grants``: by giver, then by
    taker. ``spent``: by the region that spent.
    """

    last: Origin
    credits: dict[RegionId, dict[RegionId, bytes]] = {}
    grants: dict[RegionId, dict[RegionId, bytes]] = {}
    spent: dict[RegionId, bytes] = {}


class Cell(msgspec.Struct, frozen=True, array_like=True):
    """The cells of one key."""

    register: tuple[Write, ...] = ()
    counter: dict[RegionId, Tally] = {}
    members: dict[bytes, tuple[Origin, ...]] = {}
    escrow: Escrow | None = None

    @property
    def kind(self) -> Kind | None:
        """The type that is shown; None if nothing is shown."""
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
    """Return a key's cells as an encoded value; equal cells have equal bytes, whatever their history."""
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
    """Return the cells that an encoded value holds. Raises ``msgspec.DecodeError``."""
    return _decode(_decode_extension(payload).data)


_EXTENSION_BYTES = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))
"""First bytes of msgpack's extensions."""


def is_record(payload: bytes) -> bool:
    """Return whether an encoded value holds a key's cells, rather than a value of a user."""
    return payload[0] in _EXTENSION_BYTES and _decode_extension(payload).code == CELL_EXTENSION


def balance(escrow: Escrow) -> int:
    """Return the balance of a bounded counter: the sum of all credits less all that was spent."""
    added = (amount for owners in escrow.credits.values() for amount in owners.values())
    return summed(added) - summed(escrow.spent.values())


def summed(amounts: Iterable[bytes]) -> int:
    """Return the sum of encoded ints."""
    return sum(int(values.decode(amount)) for amount in amounts)


def total(counter: dict[RegionId, Tally]) -> int | float:
    """Return the value of a counter: the sums added in the order of regions, so that all agree on floats."""
    sums = [values.decode(counter[region].total) for region in sorted(counter)]
    result: int | float = 0
    try:
        for one in sums:
            result += one
    except OverflowError:
        return _rounded(sums)
    return result if type(result) is int or math.isfinite(result) else _rounded(sums)


def _rounded(numbers: list[int | float]) -> float:
    """Return a sum whose partial sums are too large for a float; infinite if the sum is too large as well."""
    from fractions import Fraction  # slow to import, and rarely needed

    exact = sum(map(Fraction, numbers))
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def shown(cell: Cell) -> Any:
    """Return the value that is shown; None if nothing is shown."""
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
    """Return the encoded value of the counter."""
    return values.encode(total(cell.counter))


def shows_same(before: Cell, after: Cell) -> bool:
    """Return whether the cell that is shown was not written.

    Every change of a counter or a set writes what is shown; of a register, only its latest write does.
    """
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

"""Counters, sets and bounded counters of a region, a batch or a transaction (contracts D5).

Each object is a view of one key and holds no state. A write through it raises ``TypeClash`` if the key shows
another type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from kvstore import keys, values
from kvstore.errors import (
    InsufficientFunds,
    InsufficientRights,
    LimitExceeded,
    UnknownRegion,
    ValueNotSupported,
)
from kvstore.execution.crdt import cells
from kvstore.execution.crdt.cells import Cell
from kvstore.execution.crdt.escrow import AMOUNT_MAX, Unaffordable, rights
from kvstore.execution.numbers import check_amount
from kvstore.execution.operations import Add, Credit, Grant, KeyEffect, SetAdd, SetRemove, Spend
from kvstore.keys import Key
from kvstore.types import Kind, RegionId


class TypedWriter(Protocol):
    """The target of typed writes: a region, a batch or a transaction."""

    @property
    def regions(self) -> RegionNames: ...

    def write_typed(self, key: Key, kind: Kind, effect: KeyEffect) -> Any:
        """Write the effect, which holds the encoded key. Raises ``TypeClash`` if the key has another type."""


class TypedReader(TypedWriter, Protocol):
    """A target of typed writes that can be read: a region or a transaction."""

    def read_typed(self, key: Key, kind: Kind) -> Cell:
        """Return the record of a key. Raises ``TypeClash`` if the key shows another type."""


class RegionNames:
    """The names of all regions by number, and the number of this one."""

    __slots__ = ("_ask_for", "names", "own")

    def __init__(
        self, names: tuple[str, ...], own: RegionId, ask_for: Callable[[Unaffordable], None]
    ) -> None:
        """``ask_for`` is called with every debit that was refused although the balance covers it."""
        self.names = names
        self.own = own
        self._ask_for = ask_for

    def number(self, name: str) -> RegionId:
        """Return the number of a region. Raises ``UnknownRegion``."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise UnknownRegion(f"there is no region {name!r}; there are {known}", region=name)
        return RegionId(self.names.index(name))

    def refusal(self, short: Unaffordable) -> InsufficientFunds | InsufficientRights:
        """Return the error of a refused debit; if only rights are missing, ask the neighbours for them."""
        key, region = keys.decode(short.key), self.names[self.own]
        if short.balance < short.amount:
            message = f"{key!r} holds {short.balance}, not {short.amount}, as {region} sees it"
            return InsufficientFunds(message, key=key, balance=short.balance, needed=short.amount)
        self._ask_for(short)
        message = f"{region} may spend {short.rights} of the {short.balance} at {key!r}, not {short.amount}"
        hint = "retry after other regions have granted rights, or spend in the region that has them"
        return InsufficientRights(message, hint=hint, key=key, region=region)


W = TypeVar("W", bound=TypedWriter)


class _Typed(Generic[W]):
    """A view of one key."""

    __slots__ = ("_encoded", "_key", "_writer")

    def __init__(self, writer: W, key: Key) -> None:
        self._writer = writer
        self._key = key
        self._encoded = keys.encode(key)


class CounterWriter(_Typed[W]):
    """A counter that can be written."""

    __slots__ = ()

    def add(self, n: int | float = 1) -> Any:
        """Add to the counter; in a region, return the new value. The adds of all regions count."""
        return self._writer.write_typed(self._key, "counter", Add(self._encoded, check_amount(n)))


class Counter(CounterWriter[TypedReader]):
    """A counter that can be read and written."""

    __slots__ = ()

    def value(self) -> int | float:
        """Return the sum as this region sees it; 0 if nothing was added."""
        return cells.total(self._writer.read_typed(self._key, "counter").counter)


class SetWriter(_Typed[W]):
    """An observed-remove set that can be written."""

    __slots__ = ()

    def add(self, member: Any) -> None:
        """Add a member, which is a value without maps. Raises ``ValueNotSupported``, ``LimitExceeded``."""
        encoded = _encode_member(member)
        self._writer.write_typed(self._key, "set", SetAdd(self._encoded, encoded))

    def remove(self, member: Any) -> None:
        """Remove a member. A concurrent add in another region wins."""
        encoded = _encode_member(member)
        self._writer.write_typed(self._key, "set", SetRemove(self._encoded, encoded))


class Set(SetWriter[TypedReader]):
    """An observed-remove set that can be read and written."""

    __slots__ = ()

    def members(self) -> set[Any]:
        """Return the members as this region sees them; lists are returned as tuples."""
        found = self._writer.read_typed(self._key, "set").members
        return {_hashable(values.decode(member)) for member in found}

    def __contains__(self, member: Any) -> bool:
        return _encode_member(member) in self._writer.read_typed(self._key, "set").members


class BoundedWriter(_Typed[W]):
    """A bounded counter that can be written."""

    __slots__ = ()

    def add(self, n: int, to: str | None = None) -> None:
        """Add to the balance; this region, or the region ``to``, gets the right to spend the amount."""
        amount, regions = check_whole(n), self._writer.regions
        owner = regions.own if to is None else regions.number(to)
        self._writer.write_typed(self._key, "bounded", Credit(self._encoded, amount, owner))

    def spend(self, n: int) -> None:
        """Take from the balance, out of this region's rights. No other region's write can undo a debit.

        Raises:
            InsufficientFunds: the balance, as this region sees it, is less than ``n``.
            InsufficientRights: the balance covers ``n``, but other regions hold the rights; the neighbours
            are
                asked for them.
        """
        self._writer.write_typed(self._key, "bounded", Spend(self._encoded, check_whole(n)))

    def grant(self, n: int, to: str) -> None:
        """Give rights of this region to another. Raises the errors of ``spend``, and ``UnknownRegion``."""
        amount, taker = check_whole(n), self._writer.regions.number(to)
        self._writer.write_typed(self._key, "bounded", Grant(self._encoded, amount, taker))


class Bounded(BoundedWriter[TypedReader]):
    """A balance that is never below zero in any region, whichever regions are cut off."""

    __slots__ = ()

    def value(self) -> int:
        """Return the balance as this region sees it."""
        escrow = self._writer.read_typed(self._key, "bounded").escrow
        return 0 if escrow is None else cells.balance(escrow)

    def rights(self, region: str | None = None) -> int:
        """Return the amount that this region, or the given one, may spend, as this region sees it."""
        regions = self._writer.regions
        number = regions.own if region is None else regions.number(region)
        escrow = self._writer.read_typed(self._key, "bounded").escrow
        return 0 if escrow is None else rights(escrow, number)


def check_whole(n: int) -> int:
    """Return ``n``, an amount of a bounded counter. Raises ``ValueNotSupported``, ``LimitExceeded``."""
    if type(n) is not int:
        message = f"an amount is an int, in the smallest unit, not {n!r}"
        raise ValueNotSupported(message, hint="count money in cents", place="n")
    if not 1 <= n <= AMOUNT_MAX:
        limit = 1 if n < 1 else AMOUNT_MAX
        raise LimitExceeded(f"an amount is an int from 1 to {AMOUNT_MAX}, not {n}", limit=limit)
    return n


def _encode_member(member: Any) -> bytes:
    encoded = values.encode(member)
    _hashable(values.decode(encoded))
    return encoded


def _hashable(member: Any) -> Any:
    if isinstance(member, list):
        return tuple(map(_hashable, member))
    if isinstance(member, dict):
        raise ValueNotSupported("a member of a set must not contain a map", place="member")
    return member

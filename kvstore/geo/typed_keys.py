"""Counters, sets and bounded counters: what a region, a batch or a transaction offers (contracts D5).

Each is a view of one key, and holds nothing but the key. Writing through it raises ``TypeClash`` where the
key shows something else.
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
    """Where typed writes go."""

    @property
    def regions(self) -> RegionNames: ...

    def write_typed(self, key: Key, kind: Kind, effect: KeyEffect) -> Any:
        """Write the effect, which has the encoded key. Raises ``TypeClash``."""


class TypedReader(TypedWriter, Protocol):
    """Where typed values are read, too."""

    def read_typed(self, key: Key, kind: Kind) -> Cell:
        """The record of a key. Raises ``TypeClash`` where it shows another type."""


class RegionNames:
    """The regions by number and by name, and which one this is."""

    __slots__ = ("_ask_for", "names", "own")

    def __init__(
        self, names: tuple[str, ...], own: RegionId, ask_for: Callable[[Unaffordable], None]
    ) -> None:
        """``ask_for``: told of every debit that was refused for want of rights only."""
        self.names = names
        self.own = own
        self._ask_for = ask_for

    def number(self, name: str) -> RegionId:
        """Raises ``UnknownRegion``."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise UnknownRegion(f"there is no region {name!r}; there are {known}", region=name)
        return RegionId(self.names.index(name))

    def refusal(self, short: Unaffordable) -> InsufficientFunds | InsufficientRights:
        """The error of a debit that was refused; where it is for want of rights, some are asked for."""
        key, region = keys.decode(short.key), self.names[self.own]
        if short.balance < short.amount:
            message = f"{key!r} holds {short.balance}, not {short.amount}, as {region} sees it"
            return InsufficientFunds(message, key=key, balance=short.balance, needed=short.amount)
        self._ask_for(short)
        message = f"{region} may spend {short.rights} of the {short.balance} at {key!r}, not {short.amount}"
        hint = "try again when rights were granted, or spend where they are"
        return InsufficientRights(message, hint=hint, key=key, region=region)


W = TypeVar("W", bound=TypedWriter)


class _Typed(Generic[W]):
    """One key of a writer."""

    __slots__ = ("_encoded", "_key", "_writer")

    def __init__(self, writer: W, key: Key) -> None:
        self._writer = writer
        self._key = key
        self._encoded = keys.encode(key)


class CounterWriter(_Typed[W]):
    """A counter, to be added to."""

    __slots__ = ()

    def add(self, n: int | float = 1) -> Any:
        """Add to it; a region returns the new value. Adds of all regions count, in any order."""
        return self._writer.write_typed(self._key, "counter", Add(self._encoded, check_amount(n)))


class Counter(CounterWriter[TypedReader]):
    """A counter."""

    __slots__ = ()

    def value(self) -> int | float:
        """What it comes to here; 0 where nothing was added."""
        return cells.total(self._writer.read_typed(self._key, "counter").counter)


class SetWriter(_Typed[W]):
    """A set, to be changed."""

    __slots__ = ()

    def add(self, member: Any) -> None:
        """Add a member: a value without maps in it."""
        encoded = _encode_member(member)
        self._writer.write_typed(self._key, "set", SetAdd(self._encoded, encoded))

    def remove(self, member: Any) -> None:
        """Take it out. An add elsewhere that is not known here yet wins."""
        encoded = _encode_member(member)
        self._writer.write_typed(self._key, "set", SetRemove(self._encoded, encoded))


class Set(SetWriter[TypedReader]):
    """An observed-remove set."""

    __slots__ = ()

    def members(self) -> set[Any]:
        """All that is in it here; lists come back as tuples."""
        found = self._writer.read_typed(self._key, "set").members
        return {_hashable(values.decode(member)) for member in found}

    def __contains__(self, member: Any) -> bool:
        return _encode_member(member) in self._writer.read_typed(self._key, "set").members


class BoundedWriter(_Typed[W]):
    """A bounded counter, to be changed."""

    __slots__ = ()

    def add(self, n: int, to: str | None = None) -> None:
        """Add to the balance; the right to spend it is this region's, or that of the region ``to``."""
        amount, regions = check_whole(n), self._writer.regions
        owner = regions.own if to is None else regions.number(to)
        self._writer.write_typed(self._key, "bounded", Credit(self._encoded, amount, owner))

    def spend(self, n: int) -> None:
        """Take from the balance, out of this region's rights. It can never be undone by what others do.

        Raises:
            InsufficientFunds: the balance, as it is seen here, does not cover it.
            InsufficientRights: it would, but the rights are other regions'; some are asked for.
        """
        self._writer.write_typed(self._key, "bounded", Spend(self._encoded, check_whole(n)))

    def grant(self, n: int, to: str) -> None:
        """Give rights of this region to another. Raises as ``spend`` does, and ``UnknownRegion``."""
        amount, taker = check_whole(n), self._writer.regions.number(to)
        self._writer.write_typed(self._key, "bounded", Grant(self._encoded, amount, taker))


class Bounded(BoundedWriter[TypedReader]):
    """A bounded counter: a balance that is never below zero, in any region, whoever is cut off."""

    __slots__ = ()

    def value(self) -> int:
        """The balance as it is seen here."""
        escrow = self._writer.read_typed(self._key, "bounded").escrow
        return 0 if escrow is None else cells.balance(escrow)

    def rights(self, region: str | None = None) -> int:
        """What this region, or another, may spend, as it is seen here."""
        regions = self._writer.regions
        number = regions.own if region is None else regions.number(region)
        escrow = self._writer.read_typed(self._key, "bounded").escrow
        return 0 if escrow is None else rights(escrow, number)


def check_whole(n: int) -> int:
    """An amount of a bounded counter. Raises ``ValueNotSupported`` and ``LimitExceeded``."""
    if type(n) is not int:
        message = f"an amount is an int, in the smallest unit, not {n!r}"
        raise ValueNotSupported(message, hint="of money count the cents", place="n")
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
        raise ValueNotSupported("a member of a set has no maps in it", place="member")
    return member

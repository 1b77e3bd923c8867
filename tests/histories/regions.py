"""Histories made up from a seed, of regions that learn from each other late, and always in causal order.

Sessions stay in their region and see what has arrived there, so that they disagree with others for a while:
causally consistent, and mostly nothing more. Where writes of a key meet, the higher stamp wins everywhere.
Each fault is what a wrong replica would show, on keys in use and in sessions that go on afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.histories.history import Operation, Outcome, Transaction, read, write

_REGIONS = 3
_KEYS = 6


class Stamped(NamedTuple):
    """A value and its stamp: larger than that of all the region had seen."""

    stamp: int
    region: int
    value: int


class Shipped(NamedTuple):
    """What one transaction wrote, and how much of each region's log its region had then."""

    needs: list[int]
    writes: dict[int, Stamped]


@dataclass
class Region:
    """What has arrived, its own included."""

    state: dict[int, Stamped] = field(default_factory=dict)
    has: list[int] = field(default_factory=lambda: [0] * _REGIONS)
    log: list[Shipped] = field(default_factory=list)
    stamp: int = 0

    def apply(self, source: int, shipped: Shipped) -> None:
        self.has[source] += 1
        for key, stamped in shipped.writes.items():
            self.stamp = max(self.stamp, stamped.stamp)
            self.state[key] = max(stamped, self.state.get(key, stamped))


class Regions:
    """All regions, and what has been recorded. Session n is in region n modulo their number."""

    def __init__(self, seed: int, sessions: int = 6) -> None:
        self.chance = random.Random(seed)
        self.sessions = sessions
        self.history: list[Transaction] = []
        self._regions = [Region() for _ in range(_REGIONS)]
        self._value = 0

    def keys(self, count: int) -> list[int]:
        return self.chance.sample(range(_KEYS), count)

    def see(self, session: int, key: int) -> Operation:
        """A read of what has arrived."""
        stamped = self._regions[session % _REGIONS].state.get(key)
        return read(key, stamped and stamped.value)

    def new(self, key: int) -> Operation:
        """A write of the next value, that has not been done."""
        self._value += 1
        return write(key, self._value)

    def record(self, session: int, *operations: Operation, outcome: Outcome = Outcome.OK) -> None:
        """Record a transaction, and do what it writes."""
        self.history.append(Transaction(session, operations, outcome=outcome))
        writes = {operation.key: operation.value for operation in operations if operation.kind == "write"}
        if outcome is Outcome.OK and writes:
            number = session % _REGIONS
            region = self._regions[number]
            stamped = {key: Stamped(region.stamp + 1, number, value) for key, value in writes.items()}
            region.log.append(Shipped(list(region.has), stamped))
            region.apply(number, region.log[-1])

    def transact(self) -> None:
        """One random transaction of any session; some fail."""
        session = self.chance.randrange(self.sessions)
        operations: list[Operation] = []
        for key in self.chance.sample(range(_KEYS), self.chance.randint(1, 4)):
            operations.append(self.new(key) if self.chance.random() < 0.5 else self.see(session, key))
        self.record(
            session, *operations, outcome=self.chance.choices([Outcome.OK, Outcome.FAILED], [9, 1])[0]
        )

    def ship(self) -> None:
        """The next of one region's log arrives in another, if all it needs is there."""
        source, target = self.chance.sample(range(_REGIONS), 2)
        log, region = self._regions[source].log, self._regions[target]
        if region.has[source] < len(log):
            shipped = log[region.has[source]]
            if all(has >= needs for has, needs in zip(region.has, shipped.needs, strict=True)):
                region.apply(source, shipped)


CausalFault = Callable[[Regions, int], None]


def simulate_regions(seed: int, count: int, fault: CausalFault | None = None) -> list[Transaction]:
    """A history of so many transactions without times, with a fault in a random session at a random place."""
    regions = Regions(seed)
    faulty = regions.chance.randrange(count // 4, count) if fault else None
    for number in range(count):
        if fault and number == faulty:
            fault(regions, regions.chance.randrange(regions.sessions))
        regions.transact()
        for _ in range(regions.chance.randint(0, 4)):
            regions.ship()
    return regions.history


def own_write_forgotten(regions: Regions, session: int) -> None:
    """A session writes a key twice and then reads the first."""
    (x,) = regions.keys(1)
    first, second = regions.new(x), regions.new(x)
    regions.record(session, first)
    regions.record(session, second)
    regions.record(session, read(x, first.value))


def dependency_missing(regions: Regions, session: int) -> None:
    """A session writes x and then y; another reads y, and then x as it was before."""
    x, y = regions.keys(2)
    other = (session + 1) % regions.sessions
    before, cause, effect = regions.new(x), regions.new(x), regions.new(y)
    for change in (before, cause, effect):
        regions.record(session, change)
    regions.record(other, read(y, effect.value))
    regions.record(other, read(x, before.value))


def fractured(regions: Regions, session: int) -> None:
    """One transaction writes two keys, and another session sees one of the writes."""
    x, y = regions.keys(2)
    before = regions.new(y)
    regions.record(session, before)
    both = regions.new(x), regions.new(y)
    regions.record(session, *both)
    regions.record((session + 1) % regions.sessions, read(x, both[0].value), read(y, before.value))


def nothing_there(regions: Regions, session: int) -> None:
    """A session writes a key and then finds it empty."""
    (x,) = regions.keys(1)
    regions.record(session, regions.new(x))
    regions.record(session, read(x, None))


def circle(regions: Regions, session: int) -> None:
    """Two transactions read what the other wrote."""
    x, y = regions.keys(2)
    one, other = regions.new(x), regions.new(y)
    regions.record(session, one, read(y, other.value))
    regions.record((session + 1) % regions.sessions, other, read(x, one.value))


def no_agreement(regions: Regions, session: int) -> None:
    """Two sessions write the same key; of two new ones that know both, each takes another for the last."""
    x, y, z = regions.keys(3)
    writers = [session, (session + 1) % regions.sessions]
    writes = [(regions.new(x), regions.new(key)) for key in (y, z)]
    for writer, pair in zip(writers, writes, strict=True):
        for change in pair:
            regions.record(writer, change)
    told = [read(key, sign.value) for key, (_, sign) in zip((y, z), writes, strict=True)]
    for reader, (last, _) in enumerate(writes, regions.sessions):
        regions.record(reader, *told)
        regions.record(reader, read(x, last.value))


def never_written(regions: Regions, session: int) -> None:
    (x,) = regions.keys(1)
    regions.record(session, read(x, regions.new(x).value))


def failed_write_seen(regions: Regions, session: int) -> None:
    (x,) = regions.keys(1)
    never = regions.new(x)
    regions.record(session, never, outcome=Outcome.FAILED)
    regions.record((session + 1) % regions.sessions, read(x, never.value))


def half_seen(regions: Regions, session: int) -> None:
    """A session sees a write that its transaction replaced by another."""
    (x,) = regions.keys(1)
    first, second = regions.new(x), regions.new(x)
    regions.record(session, first, second)
    regions.record((session + 1) % regions.sessions, read(x, first.value))

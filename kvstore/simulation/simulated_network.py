"""A network that loses, repeats, delays and reorders, in virtual time and from a seed (contracts E).

Every pair of nodes has a link in each direction. A link that is cut loses everything; one that is clogged
keeps everything until it is opened. What the links do beyond that is chance, drawn from the simulator's seed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

Micros = int
"""Virtual time, in microseconds."""


class Endpoint(NamedTuple):
    """Who sends or receives: a host, a sequencer, a coordinator, or a client."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


Direction = tuple[Endpoint, Endpoint]
"""From the first to the second."""


@dataclass
class SimulatedNetwork:
    """How messages fare. ``arrivals`` is asked for each message, once."""

    chance: random.Random
    loss: float = 0.0
    repeats: float = 0.0
    fastest: Micros = 200
    slowest: Micros = 1_500
    stragglers: float = 0.0
    """Share of messages that take up to a hundred times as long."""
    cut: set[Direction] = field(default_factory=set)
    clogged: dict[Direction, list[object]] = field(default_factory=dict)
    """What waits in each link that is clogged."""
    counts: Counter[str] = field(default_factory=Counter)
    """How many messages met which fault."""

    def arrivals(self, link: Direction) -> list[Micros]:
        """After how long a message arrives: never, once, or twice."""
        if link in self.cut:
            self.counts["cut"] += 1
            return []
        chance = self.chance
        if self.loss and chance.random() < self.loss:
            self.counts["lost"] += 1
            return []
        if self.repeats and chance.random() < self.repeats:
            self.counts["repeated"] += 1
            return [self._delay(), self._delay()]
        return [self._delay()]

    def _delay(self) -> Micros:
        delay = self.chance.randint(self.fastest, self.slowest)
        if self.stragglers and self.chance.random() < self.stragglers:
            self.counts["late"] += 1
            return delay * self.chance.randint(2, 100)
        return delay

    def cut_off(self, some: set[Endpoint], others: set[Endpoint], *, both_ways: bool = True) -> None:
        """Cut every link from these nodes to those, and back."""
        for one in some:
            for other in others - {one}:
                self.cut.add((one, other))
                if both_ways:
                    self.cut.add((other, one))

    def clog(self, link: Direction) -> None:
        """From now on everything waits in this link."""
        self.clogged.setdefault(link, [])

    def unclog(self, link: Direction) -> list[object]:
        """Open the link; return what waited in it."""
        return self.clogged.pop(link, [])

    def heal(self) -> None:
        """No link is cut, and nothing is lost, repeated or late any more."""
        self.cut.clear()
        self.loss = self.repeats = self.stragglers = 0.0

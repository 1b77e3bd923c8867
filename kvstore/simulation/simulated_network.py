"""A network that loses, repeats, delays and reorders, in virtual time and from a seed (contracts E).

Every pair of nodes has a link in each direction. A link that is cut loses all messages; a link that is
clogged keeps all messages until it is opened. All other faults are random, drawn from the simulator's seed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

Micros = int
"""Virtual time, in microseconds."""


class Endpoint(NamedTuple):
    """A sender or receiver: a host, a sequencer, a coordinator, a client or a region."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


Direction = tuple[Endpoint, Endpoint]
"""A link, from the first endpoint to the second."""


@dataclass
class SimulatedNetwork:
    """Decides the fate of each message. The simulator calls ``arrivals`` once for each message."""

    chance: random.Random
    loss: float = 0.0
    repeats: float = 0.0
    fastest: Micros = 200
    slowest: Micros = 1_500
    stragglers: float = 0.0
    """Share of messages that take up to a hundred times as long."""
    cut: set[Direction] = field(default_factory=set)
    clogged: dict[Direction, list[object]] = field(default_factory=dict)
    """Messages that wait in each clogged link."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of messages, by fault."""

    def arrivals(self, link: Direction) -> list[Micros]:
        """Return the delays after which a message arrives: none, one or two."""
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
        """Cut every link from these nodes to the others, and, unless told otherwise, back."""
        for one in some:
            for other in others - {one}:
                self.cut.add((one, other))
                if both_ways:
                    self.cut.add((other, one))

    def clog(self, link: Direction) -> None:
        """Keep all messages of this link until ``unclog``."""
        self.clogged.setdefault(link, [])

    def unclog(self, link: Direction) -> list[object]:
        """Open the link; return the messages that waited in it."""
        return self.clogged.pop(link, [])

    def heal(self) -> None:
        """Open all cut links; lose, repeat and delay no more messages. Clogged links stay clogged."""
        self.cut.clear()
        self.loss = self.repeats = self.stragglers = 0.0

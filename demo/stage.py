"""What a scene has: a bank, its customers, chance, and somebody to tell what happens."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import kvstore
from demo.auditor import Finding, audit, look_everywhere
from demo.bank import Bank, Number
from demo.customers import Customers

OPENING_CENTS = 100_000
SETTLE_S = 60.0
NAMES = ["Ada", "Bert", "Carla", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jan", "Kim", "Lea"]


class Stage:
    """A world with a bank in it; a context manager."""

    def __init__(
        self,
        path: Path,
        regions: list[str],
        folder: Path,
        chance: random.Random,
        say: Callable[[str], None],
        *,
        shards: int = 4,
        replicas: int = 1,
    ) -> None:
        """Make the bank at ``path``. ``folder``: where scenes that break things make worlds of their own."""
        self.path = path
        self.folder = folder
        self.chance = chance
        self.say = say
        self.geo = kvstore.Geo(path, regions=regions, shards=shards, replicas=replicas)
        self.bank = Bank(self.geo)
        self.customers = Customers(self.bank)
        self.regions = self.geo.regions()
        self.findings: list[Finding] = []
        self.unmet: list[str] = []
        """What should have been so for a scene to show anything."""
        self.looks = 0
        self._closed = threading.Lock()
        """Held while the bank is closed: nobody looks then."""

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Close the bank meanwhile, and open it again."""
        with self._closed:
            self.geo.close()
            try:
                yield
            finally:
                self.geo = self.bank.geo = kvstore.Geo(self.path, regions=self.regions)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self.geo.close()

    def open_accounts(self, count: int) -> None:
        for number in range(1, count + 1):
            home = self.regions[number % len(self.regions)]
            self.customers.open_account(number, NAMES[number % len(NAMES)], home, OPENING_CENTS)
        self.geo.settle(SETTLE_S)

    def business(self, rounds: int, regions: list[str] | None = None) -> None:
        """Deposits, withdrawals and transfers at the counters of these regions."""
        everybody = list(self.customers.homes)
        for _ in range(rounds):
            at = self.chance.choice(regions or self.regions)
            own = self.chance.choice(self.customers.of(at))
            other = self.chance.choice([number for number in everybody if number != own])
            self._one(own, other, self.chance.randrange(1, 20_000))

    def _one(self, own: Number, other: Number, cents: int) -> None:
        match self.chance.randrange(6):
            case 0:
                self.customers.deposit(own, cents)
            case 1:
                self.customers.withdraw(own, cents)
            case _:
                self.customers.transfer(own, other, cents)

    def look(self) -> None:
        """Have the auditor look at this moment of every region."""
        with self._closed:
            self.looks += 1
            self.findings.extend(look_everywhere(self.geo))

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Have the auditor look again and again meanwhile."""
        done = threading.Event()

        def work() -> None:
            while not done.is_set():
                self.look()
                done.wait(0.05)

        auditor = threading.Thread(target=work, name="auditor")
        auditor.start()
        try:
            yield
        finally:
            done.set()
            auditor.join()

    def expect(self, holds: bool, what: str) -> None:
        """What the scene builds on: where it does not hold, nothing is proved."""
        if not holds:
            self.unmet.append(what)

    def lines(self, region: str) -> set[kvstore.Key]:
        """All lines of all statements that a region shows."""
        return {key for key, _ in self.geo[region].scan(prefix=("statement",))}

    def cut_off(self, region: str) -> None:
        for other in self.regions:
            if other != region:
                self.geo.cut(region, other)

    def heal_all(self) -> None:
        for one, other in combinations(self.regions, 2):
            self.geo.delay(one, other, 0)
            self.geo.heal(one, other)

    def close_scene(self) -> list[Finding]:
        """Heal everything, let the regions settle, and have all books audited. What was found since."""
        self.heal_all()
        self.geo.settle(SETTLE_S)
        self.findings += audit(self.geo, self.customers.balances)
        found, self.findings = self.findings, []
        return found


class Scene(NamedTuple):
    """One part of the run. ``play`` returns what was proved, line by line. ``regions``: how many it needs."""

    name: str
    title: str
    what: str
    play: Callable[[Stage], list[str]]
    regions: int


SCENES: dict[str, Scene] = {}
"""By name, in the order of the guided run."""


def scene(
    name: str, title: str, what: str, *, regions: int = 2
) -> Callable[[Callable[[Stage], list[str]]], Scene]:
    """Make a function a scene."""

    def register(play: Callable[[Stage], list[str]]) -> Scene:
        SCENES[name] = Scene(name, title, what, play, regions)
        return SCENES[name]

    return register


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}" if cents >= 0 else f"-{money(-cents)}"


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"

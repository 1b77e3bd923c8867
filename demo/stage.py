"""The stage of the scenes: a bank, its customers, random choices, and a narrator."""

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
    """A bank in several regions; a context manager that closes it."""

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
        """Create the bank at ``path``. ``folder``: where scenes create banks that they damage."""
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
        """Conditions that the scene needs and that did not hold."""
        self.looks = 0
        self._closed = threading.Lock()
        """Held while the bank is closed, so that the auditor does not read it then."""

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Close the bank for the length of the block, and open it again."""
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
        """Make random deposits, withdrawals and transfers in these regions."""
        customers = list(self.customers.homes)
        for _ in range(rounds):
            at = self.chance.choice(regions or self.regions)
            own = self.chance.choice(self.customers.of(at))
            other = self.chance.choice([number for number in customers if number != own])
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
        """Have the auditor check a snapshot of every region."""
        with self._closed:
            self.looks += 1
            self.findings.extend(look_everywhere(self.geo))

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Have the auditor check every region repeatedly during the block."""
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
        """Record a condition that the scene needs: if it does not hold, the scene proves nothing."""
        if not holds:
            self.unmet.append(what)

    def lines(self, region: str) -> set[kvstore.Key]:
        """Return the keys of all statement lines that a region shows."""
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
        """Heal all links, let the regions settle, and audit. Return the findings since the last scene."""
        self.heal_all()
        self.geo.settle(SETTLE_S)
        self.findings += audit(self.geo, self.customers.balances)
        found, self.findings = self.findings, []
        return found


class Scene(NamedTuple):
    """A part of the run. ``play`` returns the proved claims. ``regions``: the least number of regions."""

    name: str
    title: str
    what: str
    play: Callable[[Stage], list[str]]
    regions: int


SCENES: dict[str, Scene] = {}
"""All scenes by name, in the order of the guided run."""


def scene(
    name: str, title: str, what: str, *, regions: int = 2
) -> Callable[[Callable[[Stage], list[str]]], Scene]:
    """Return a decorator that registers a function as a scene."""

    def register(play: Callable[[Stage], list[str]]) -> Scene:
        SCENES[name] = Scene(name, title, what, play, regions)
        return SCENES[name]

    return register


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}" if cents >= 0 else f"-{money(-cents)}"


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"

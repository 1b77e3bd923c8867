"""A bank in several regions. To build something of your own, begin here.

Every account is a bounded counter in whole cents, so it is never below zero, whichever regions are cut off.
Its home is the region that holds the right to spend it. Whatever changes a balance also writes the account's
statement, in the same transaction: nobody ever sees one without the other, in any region.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import kvstore

Number = int | tuple[str, str]
"""An account of this bank, or of another: its bank, and its number there."""

Refused = (kvstore.InsufficientFunds, kvstore.InsufficientRights)
"""A transfer that cannot be: not enough money, or not enough rights in this region. Nothing happened."""


class Entry(NamedTuple):
    """A line of a statement."""

    kind: str
    cents: int
    other: Any


class Evened(NamedTuple):
    """What was moved, and how often the function ran: again where something had changed."""

    cents: int
    runs: int


class UnknownAccount(LookupError):
    """The regions asked have not heard of the account."""


def account(number: Number) -> kvstore.Key:
    return "account", number


class Bank:
    """The bank. ``at`` is the region where a customer stands; by default the home of the account."""

    def __init__(self, geo: kvstore.Geo) -> None:
        self.geo = geo

    # -- accounts ------------------------------------------------------------------------------

    def open_account(self, number: Number, customer: str, home: str, cents: int) -> kvstore.Commit:
        """Open an account with so many cents in it, at least one."""
        batch = self.geo[home].batch()
        batch.put(("customer", number), [customer, home])
        batch.put(("home", number), home)
        batch.bounded(account(number)).add(cents)
        batch.put(_line(number), ["opened", cents, None])
        return self.geo[home].submit(batch).result()

    def home_of(self, number: Number, at: str | None = None) -> str:
        """The region that an account belongs to, as this region knows it. Raises ``UnknownAccount``."""
        for region in self.geo.regions() if at is None else [at]:
            home = self.geo[region].get(("home", number))
            if home is not None:
                return str(home)
        raise UnknownAccount(f"nobody at {at or 'the bank'} has heard of account {number}")

    def balance(self, number: Number, at: str | None = None) -> int:
        return self._branch(number, at).bounded(account(number)).value()

    def statement(self, number: Number, at: str | None = None) -> Iterator[Entry]:
        """Everything that changed the balance, oldest first."""
        for _, line in self._branch(number, at).scan(prefix=("statement", number)):
            yield Entry(*line)

    # -- money ---------------------------------------------------------------------------------

    def deposit(self, number: Number, cents: int, at: str | None = None) -> kvstore.Commit:
        """Pay in. It can be done anywhere; the home gets the right to spend it."""
        region = self._branch(number, at)
        batch = region.batch()
        batch.bounded(account(number)).add(cents, to=self.home_of(number, region.name))
        batch.put(_line(number), ["deposit", cents, None])
        return region.submit(batch).result()

    def withdraw(self, number: Number, cents: int, at: str | None = None) -> kvstore.Commit:
        """Pay out. Raises what is in ``Refused``."""
        region = self._branch(number, at)
        batch = region.batch()
        batch.bounded(account(number)).spend(cents)
        batch.put(_line(number), ["withdrawal", -cents, None])
        return region.submit(batch).result()

    def transfer(self, source: Number, target: Number, cents: int, at: str | None = None) -> kvstore.Commit:
        """Spend here and add there, in one transaction: all of it, or nothing. Raises as ``withdraw``."""
        region = self._branch(source, at)
        home = self.home_of(target, region.name)
        batch = region.batch()
        batch.bounded(account(source)).spend(cents)
        batch.bounded(account(target)).add(cents, to=home)
        mark = _mark()
        batch.put(_line(source, mark), ["transfer", -cents, target])
        batch.put(_line(target, mark), ["transfer", cents, source])
        return region.submit(batch).result()

    def even_out(self, source: Number, target: Number) -> Evened:
        """Move half of what ``source`` has more than ``target``. What is read decides what is written, so
        it is a function that the store runs again when something changed in between."""
        region, mark = self._branch(source), _mark()
        home = self.home_of(target, region.name)
        runs = count(1)

        def body(tx: Any) -> Evened:
            run = next(runs)
            one, other = tx.bounded(account(source)), tx.bounded(account(target))
            cents: int = (one.value() - other.value()) // 2
            if cents <= 0:
                return Evened(0, run)
            one.spend(cents)
            other.add(cents, to=home)
            tx.put(_line(source, mark), ["transfer", -cents, target])
            tx.put(_line(target, mark), ["transfer", cents, source])
            return Evened(cents, run)

        return region.transaction(max_retries=200, timeout=60)(body)()

    def pay_interest(self, number: Number, period: str, per_mille: int) -> int:
        """Add the interest of a period; asked again, it pays nothing more and says what it paid."""
        region = self._branch(number)

        def body(tx: Any) -> int:
            cents: int = tx.bounded(account(number)).value() * per_mille // 1000
            if cents:
                tx.bounded(account(number)).add(cents)
                tx.put(_line(number), ["interest", cents, period])
            return cents

        paid: int = region.run(body, idempotency_key=("interest", number, period))
        return paid

    def share(self, number: Number, cents: int, region: str) -> None:
        """Let another region spend so much of the account, even while it is cut off."""
        self._branch(number).bounded(account(number)).grant(cents, region)

    # -- letters -------------------------------------------------------------------------------

    def write(self, text: str, at: str) -> str:
        """Pin a letter to the bank's board; its name."""
        name = uuid.uuid4().hex
        self.geo[at].put(("letter", name), text)
        return name

    def reply(self, letter: str, text: str, at: str) -> None:
        """Answer a letter that can be seen in this region. Raises ``KeyError`` where it cannot."""
        read = self.geo[at]["letter", letter]
        self.geo[at].put(("reply", letter), [text, read])

    def _branch(self, number: Number, at: str | None = None) -> kvstore.Region:
        return self.geo[self.home_of(number) if at is None else at]


def _mark() -> tuple[int, str]:
    """A name that nothing else has, later ones behind earlier ones."""
    return time.time_ns(), uuid.uuid4().hex


def _line(number: Number, mark: tuple[int, str] | None = None) -> kvstore.Key:
    """The key of a new line of a statement. Both sides of a transfer have the same mark."""
    return ("statement", number, *(mark or _mark()))

"""A bank in several regions: a starting point for an application of your own.

Every account is a bounded counter in whole cents, so it is never below zero, whichever regions are cut off.
The account's home is the region that holds the right to spend it. Each transaction that changes a balance
also writes the account's statement, so no region ever shows a balance that its statement does not explain.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import kvstore

Number = int | tuple[str, str]
"""An account of this bank (a number), or of another bank (the bank's name, and the number there)."""

Refused = (kvstore.InsufficientFunds, kvstore.InsufficientRights)
"""Raised when money, or rights of this region, do not cover a debit. Nothing was changed."""


class Entry(NamedTuple):
    """One line of a statement."""

    kind: str
    cents: int
    other: Any


class Evened(NamedTuple):
    """The amount moved, and how often the function ran: once more after each conflict."""

    cents: int
    runs: int


class UnknownAccount(LookupError):
    """The account is not known in the regions that were searched."""


def account(number: Number) -> kvstore.Key:
    return "account", number


class Bank:
    """The bank. ``at`` is the region that serves the customer; the default is the account's home."""

    def __init__(self, geo: kvstore.Geo) -> None:
        self.geo = geo

    # -- accounts ------------------------------------------------------------------------------

    def open_account(self, number: Number, customer: str, home: str, cents: int) -> kvstore.Commit:
        """Open an account with a first deposit of ``cents``, at least 1."""
        batch = self.geo[home].batch()
        batch.put(("customer", number), [customer, home])
        batch.put(("home", number), home)
        batch.bounded(account(number)).add(cents)
        batch.put(_line(number), ["opened", cents, None])
        return self.geo[home].submit(batch).result()

    def home_of(self, number: Number, at: str | None = None) -> str:
        """Return the account's home, as recorded in region ``at``. Raises ``UnknownAccount``."""
        for region in self.geo.regions() if at is None else [at]:
            home = self.geo[region].get(("home", number))
            if home is not None:
                return str(home)
        raise UnknownAccount(f"{at or 'the bank'} has no record of account {number}")

    def balance(self, number: Number, at: str | None = None) -> int:
        return self._branch(number, at).bounded(account(number)).value()

    def statement(self, number: Number, at: str | None = None) -> Iterator[Entry]:
        """Yield the lines of the account's statement, oldest first."""
        for _, line in self._branch(number, at).scan(prefix=("statement", number)):
            yield Entry(*line)

    # -- money ---------------------------------------------------------------------------------

    def deposit(self, number: Number, cents: int, at: str | None = None) -> kvstore.Commit:
        """Deposit in any region; the account's home gets the right to spend the amount."""
        region = self._branch(number, at)
        batch = region.batch()
        batch.bounded(account(number)).add(cents, to=self.home_of(number, region.name))
        batch.put(_line(number), ["deposit", cents, None])
        return region.submit(batch).result()

    def withdraw(self, number: Number, cents: int, at: str | None = None) -> kvstore.Commit:
        """Withdraw. Raises the errors in ``Refused``."""
        region = self._branch(number, at)
        batch = region.batch()
        batch.bounded(account(number)).spend(cents)
        batch.put(_line(number), ["withdrawal", -cents, None])
        return region.submit(batch).result()

    def transfer(self, source: Number, target: Number, cents: int, at: str | None = None) -> kvstore.Commit:
        """Move the amount in one atomic transaction. Raises the errors in ``Refused``."""
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
        """Move half of the difference from ``source`` to ``target``. The reads decide the writes, so this
        is a transaction function, which the store runs again after a conflict."""
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
        """Pay the interest of a period once; a repeated call pays nothing, and returns the first amount."""
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
        """Grant another region the right to spend ``cents`` of the account, even while it is cut off."""
        self._branch(number).bounded(account(number)).grant(cents, region)

    # -- letters -------------------------------------------------------------------------------

    def write(self, text: str, at: str) -> str:
        """Post a letter on the bank's board, and return its name."""
        name = uuid.uuid4().hex
        self.geo[at].put(("letter", name), text)
        return name

    def reply(self, letter: str, text: str, at: str) -> None:
        """Reply to a letter. Raises ``KeyError`` if region ``at`` does not have the letter."""
        read = self.geo[at]["letter", letter]
        self.geo[at].put(("reply", letter), [text, read])

    def _branch(self, number: Number, at: str | None = None) -> kvstore.Region:
        return self.geo[self.home_of(number) if at is None else at]


def _mark() -> tuple[int, str]:
    """Return a unique mark; later marks sort after earlier marks."""
    return time.time_ns(), uuid.uuid4().hex


def _line(number: Number, mark: tuple[int, str] | None = None) -> kvstore.Key:
    """Return the key of a new statement line. Both sides of a transfer share one mark."""
    return ("statement", number, *(mark or _mark()))

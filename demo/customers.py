"""The customers: they record the bank's answers in their own books, which the bank never reads."""

from __future__ import annotations

import threading
from collections import Counter

import kvstore
from demo.bank import Bank, Evened, Number, Refused


class Customers:
    """All customers, and the books that the auditor compares the bank with."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._lock = threading.Lock()
        self.balances: Counter[Number] = Counter()
        """The balance of each account by the answers of the bank, in cents."""
        self.homes: dict[Number, str] = {}
        self.done = 0
        self.refused = 0
        self._interest: set[tuple[Number, str]] = set()

    @property
    def total(self) -> int:
        """The sum of all deposits, less all withdrawals, in cents."""
        return sum(self.balances.values())

    def of(self, home: str) -> list[Number]:
        """Return the accounts whose home is this region."""
        return [number for number, region in self.homes.items() if region == home]

    def open_account(self, number: Number, customer: str, home: str, cents: int) -> None:
        self._bank.open_account(number, customer, home, cents)
        self.homes[number] = home
        self._write({number: cents})

    def deposit(self, number: Number, cents: int, at: str | None = None) -> kvstore.Commit:
        commit = self._bank.deposit(number, cents, at)
        self._write({number: cents})
        return commit

    def withdraw(self, number: Number, cents: int, at: str | None = None) -> kvstore.Commit | None:
        """Withdraw, and return the commit; None if the bank refused."""
        try:
            commit = self._bank.withdraw(number, cents, at)
        except Refused:
            self._note_refusal()
            return None
        self._write({number: -cents})
        return commit

    def transfer(
        self, source: Number, target: Number, cents: int, at: str | None = None
    ) -> kvstore.Commit | None:
        """Transfer, and return the commit; None if the bank refused."""
        try:
            commit = self._bank.transfer(source, target, cents, at)
        except Refused:
            self._note_refusal()
            return None
        self._write({source: -cents, target: cents})
        return commit

    def even_out(self, source: Number, target: Number) -> Evened:
        try:
            evened = self._bank.even_out(source, target)
        except Refused:
            self._note_refusal()
            return Evened(0, 1)
        self._write({source: -evened.cents, target: evened.cents})
        return evened

    def take_interest(self, number: Number, period: str, per_mille: int) -> int:
        """Request the interest of a period, and record it once, however often it is requested."""
        cents = self._bank.pay_interest(number, period, per_mille)
        if (number, period) not in self._interest:
            self._interest.add((number, period))
            self._write({number: cents})
        return cents

    def _write(self, changes: dict[Number, int]) -> None:
        with self._lock:
            self.done += 1
            self.balances.update(changes)

    def _note_refusal(self) -> None:
        with self._lock:
            self.refused += 1

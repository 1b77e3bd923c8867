"""The customers: they ask the bank, and write down what they were told. The bank never sees their books."""

from __future__ import annotations

import threading
from collections import Counter

import kvstore
from demo.bank import Bank, Evened, Number, Refused


class Customers:
    """Everybody who has an account. What they write down is what the bank has to answer for."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._lock = threading.Lock()
        self.balances: Counter[Number] = Counter()
        """By account, what it must hold if the bank did what it said, and nothing else."""
        self.homes: dict[Number, str] = {}
        self.done = 0
        self.refused = 0
        self._interest: set[tuple[Number, str]] = set()

    @property
    def total(self) -> int:
        """All that was brought to the bank, and not taken away."""
        return sum(self.balances.values())

    def of(self, home: str) -> list[Number]:
        """The accounts of a region."""
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
        """None when the bank refused."""
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
        """None when the bank refused."""
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
        """The interest of a period is owed once, however often one asks."""
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

"""Histories made up from a seed: what clients see of a correct store, or of one that fails once.

Transactions take effect one after another, a moment apart, and each is called some time before and returns
some time after its moment, so several are open at any time. A fault is planted among them, on keys in use.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.histories.evidence import Shape
from tests.histories.history import Operation, Outcome, Transaction, append, read, write

MOMENT = 1000
_WRITES_PER_KEY = 60
"""Then the key is left alone and another takes its place: no list becomes long."""

_NEVER = 10**18


class Simulation:
    """The store, and what has been recorded. Values are unique numbers.

    ``spread`` is how many moments before its own a transaction may be called, and how many after it return.
    """

    def __init__(self, seed: int, shape: Shape, keys: int = 6, spread: int = 3) -> None:
        self.chance = random.Random(seed)
        self.history: list[Transaction] = []
        self._shape = shape
        self._spread = spread * MOMENT
        self._keys = list(range(keys))
        self._next_key = keys
        self._state: dict[int, Any] = {}
        self._written: dict[int, int] = {}
        self._value = 0
        self._free_at: list[int] = []
        """By process: from when it may call again."""

    def keys(self, count: int) -> list[int]:
        return self.chance.sample(self._keys, count)

    def see(self, key: int) -> Operation:
        """A read of what is there."""
        return read(key, self._state.get(key))

    def see_with(self, change: Operation) -> Operation:
        """A read of what would be there after a write that was not applied."""
        return read(change.key, self._changed(change))

    def new(self, key: int) -> Operation:
        """A write of the next value, not applied."""
        self._value += 1
        return append(key, self._value) if self._shape == "list" else write(key, self._value)

    def apply(self, *changes: Operation) -> None:
        for change in changes:
            self._state[change.key] = self._changed(change)
            self._written[change.key] = self._written.get(change.key, 0) + 1
            if self._written[change.key] == _WRITES_PER_KEY:
                self._keys[self._keys.index(change.key)] = self._next_key
                self._next_key += 1

    def _changed(self, change: Operation) -> Any:
        before = self._state.get(change.key)
        return (*(before or ()), change.value) if change.kind == "append" else change.value

    def record(
        self, called: int, returned: int, *operations: Operation, outcome: Outcome = Outcome.OK
    ) -> None:
        """Record a transaction of any process that has nothing else to do in that time."""
        process = next((number for number, at in enumerate(self._free_at) if at < called), len(self._free_at))
        is_unknown = outcome is Outcome.UNKNOWN
        self._free_at[process : process + 1] = [_NEVER if is_unknown else returned]
        told = None if is_unknown else returned
        self.history.append(Transaction(process, operations, called, told, outcome))

    def transact(self, moment: int) -> None:
        """One random transaction. Some fail, and of some the outcome is unknown."""
        outcome = self.chance.choices([Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN], [90, 5, 5])[0]
        happens = outcome is Outcome.OK or (outcome is Outcome.UNKNOWN and self.chance.random() < 0.5)
        before, operations = dict(self._state), []
        for key in self.chance.choices(self._keys, k=self.chance.randint(1, 4)):
            change = self.new(key) if self.chance.random() < 0.5 else None
            operations.append(change or self.see(key))
            if change:
                self.apply(change)
        if not happens:
            self._state = before
        called = moment - self.chance.randint(1, self._spread)
        returned = moment + self.chance.randint(1, self._spread)
        self.record(called, returned, *operations, outcome=outcome)


Fault = Callable[[Simulation, int], None]


def simulate(
    seed: int, count: int, shape: Shape, fault: Fault | None = None, *, keys: int = 6, spread: int = 3
) -> list[Transaction]:
    """A history of so many transactions by the time of their calls, with a fault at a random place."""
    simulation = Simulation(seed, shape, keys, spread)
    faulty = simulation.chance.randrange(count // 4, count) if fault else None
    for number in range(count):
        if fault and number == faulty:
            fault(simulation, number * MOMENT - MOMENT // 2)
        simulation.transact(number * MOMENT)
    return sorted(simulation.history, key=lambda one: one.called or 0)

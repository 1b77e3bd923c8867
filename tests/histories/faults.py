"""What a wrong store does to its clients, one function for each anomaly, to be planted in a ``Simulation``.

Each makes a few transactions up that are open at the same time, on keys that others use, and leaves the
store as it would have left it. Transactions that write a register mostly read it first, so that no other
order of the writes can excuse them.
"""

from __future__ import annotations

from tests.histories.history import Outcome
from tests.histories.simulation import Simulation

_OPEN = 200
"""For how long before and after the moment they are open: less than any two moments are apart."""


def dirty_write(store: Simulation, moment: int) -> None:
    """Two transactions write two keys each, and each is the last at one of them."""
    x, y = store.keys(2)
    one, other = (store.new(x), store.new(y)), (store.new(x), store.new(y))
    store.apply(one[0], other[0], other[1], one[1])
    for operations in (one, other, (store.see(x), store.see(y))):
        store.record(moment - _OPEN, moment + _OPEN, *operations)


def aborted_read(store: Simulation, moment: int) -> None:
    (x,) = store.keys(1)
    never = store.new(x)
    store.record(moment - _OPEN, moment + _OPEN, never, outcome=Outcome.FAILED)
    store.record(moment - _OPEN, moment + _OPEN, store.see_with(never))


def intermediate_read(store: Simulation, moment: int) -> None:
    (x,) = store.keys(1)
    first, last = store.new(x), store.new(x)
    store.record(moment - _OPEN, moment + _OPEN, first, last)
    store.record(moment - _OPEN, moment + _OPEN, store.see_with(first))
    store.apply(first, last)


def circular_information_flow(store: Simulation, moment: int) -> None:
    """Two transactions see what the other wrote."""
    x, y = store.keys(2)
    one, other = store.new(x), store.new(y)
    store.record(moment - _OPEN, moment + _OPEN, one, store.see_with(other))
    store.record(moment - _OPEN, moment + _OPEN, other, store.see_with(one))
    store.apply(one, other)


def lost_update(store: Simulation, moment: int) -> None:
    """Two transactions read the same version and write the next."""
    (x,) = store.keys(1)
    seen, one, other = store.see(x), store.new(x), store.new(x)
    store.record(moment - _OPEN, moment + _OPEN, seen, one)
    store.record(moment - _OPEN, moment + _OPEN, seen, other)
    store.apply(one, other)


def write_skew(store: Simulation, moment: int) -> None:
    """Two transactions read two keys, and each writes another one of them."""
    x, y = store.keys(2)
    seen = store.see(x), store.see(y)
    one, other = store.new(x), store.new(y)
    store.record(moment - _OPEN, moment + _OPEN, *seen, one)
    store.record(moment - _OPEN, moment + _OPEN, *seen, other)
    store.apply(one, other)


def stale_read(store: Simulation, moment: int) -> None:
    """A write has returned, and a read that is called then does not see it."""
    (x,) = store.keys(1)
    stale, change = store.see(x), store.new(x)
    store.record(moment - _OPEN, moment - _OPEN // 2, stale, change)
    store.record(moment, moment + _OPEN, stale)
    store.apply(change)


def future_read(store: Simulation, moment: int) -> None:
    """A read has returned what was asked for only later."""
    (x,) = store.keys(1)
    change = store.new(x)
    store.record(moment - _OPEN, moment - _OPEN // 2, store.see_with(change))
    store.record(moment, moment + _OPEN, change)
    store.apply(change)


def unwritten_read(store: Simulation, moment: int) -> None:
    (x,) = store.keys(1)
    store.record(moment - _OPEN, moment + _OPEN, store.see_with(store.new(x)))


def fractured_read(store: Simulation, moment: int) -> None:
    """Of a transaction that writes two keys a reader sees one."""
    x, y = store.keys(2)
    one, other = store.new(x), store.new(y)
    store.record(moment - _OPEN, moment + _OPEN, store.see(y), one, other)
    store.record(moment - _OPEN, moment + _OPEN, store.see_with(one), store.see(y))
    store.apply(one, other)

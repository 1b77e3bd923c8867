"""A run of 200 transactions of every kind, and the store's content after each of them."""

from __future__ import annotations

from typing import Any

from kvstore import Database, Key

TRANSACTIONS = 200
LARGE = 6000
"""Bytes of a value that is larger than an LMDB page, and so has pages of its own."""

Content = dict[Key, Any]
Operation = tuple[str, Key, Any]
"""Name (``put``, ``add`` or ``delete``), key, and value or amount."""


def _operations(number: int) -> list[Operation]:
    """Return a transaction: a put, a large put, an add, a delete, or a batch over several shards."""
    place: Key = ("k", number % 17)
    match number % 6:
        case 0:
            return [("put", place, number)]
        case 1:
            return [("put", ("large", number % 5), bytes([number % 256]) * LARGE)]
        case 2:
            return [("add", ("sum", number % 3), number)]
        case 3:
            return [("delete", ("k", (number - 3) % 17), None)]
        case _:
            there = [("put", ("batch", copy), [number, "x" * (number % 300)]) for copy in range(5)]
            return [*there, ("add", "batches", 1), ("delete", place, None)]


PLAN = [_operations(number) for number in range(TRANSACTIONS)]


def idempotency_key(number: int) -> Key | None:
    """Return the transaction's idempotency key; half of the transactions of each kind have one."""
    return ("transaction", number) if number // 6 % 2 else None


def perform(db: Database, number: int) -> None:
    """Do transaction ``number``; return when it is acknowledged."""
    operations, key = PLAN[number], idempotency_key(number)
    if len(operations) == 1:
        _do(db, *operations[0], key)
        return
    with db.batch(idempotency_key=key) as batch:
        for operation in operations:
            _do(batch, *operation)


def _do(target: Any, what: str, key: Key, value: Any, idempotency_key: Key | None = None) -> None:
    also: dict[str, Any] = {} if idempotency_key is None else {"idempotency_key": idempotency_key}
    if what == "delete":
        target.delete(key, **also)
    else:
        getattr(target, what)(key, value, **also)


def _states() -> list[Content]:
    states: list[Content] = [{}]
    for operations in PLAN:
        content = dict(states[-1])
        for what, key, value in operations:
            if what == "delete":
                content.pop(key, None)
            else:
                content[key] = value if what == "put" else content.get(key, 0) + value
        states.append(content)
    return states


STATES = _states()
"""Content of the store by number of transactions done."""


def position(db: Database, first: int, last: int) -> int:
    """Return how many transactions, from ``first`` to ``last``, give the store's present content."""
    found = dict(db.scan())
    places = [number for number in range(first, last + 1) if STATES[number] == found]
    if not places:
        near = [number for number, state in enumerate(STATES) if state == found]
        raise AssertionError(f"neither of the states {first} to {last}, but {near or _unlike(found, last)}")
    return places[-1]


def _unlike(found: Content, last: int) -> str:
    keys = [key for key in found.keys() | STATES[last].keys() if found.get(key) != STATES[last].get(key)]
    return f"something else, which differs from state {last} at {keys[:5]}"

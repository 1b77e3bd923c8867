"""Writing to an environment and looking at it, for the tests that hold every environment to the port."""

from __future__ import annotations

from collections.abc import Callable

from kvstore.ports import Environment, Head, RecordLog

T, BELOW, ABOVE = b"abd", b"abc", b"abe"
"""A table's name and its nearest neighbours."""
EMPTY: Head = (1, 0, 0)
ALL = 1 << 20


def write(environment: Environment, **items: str) -> None:
    """Commit these items into table ``T``."""
    batch = environment.begin()
    for key, value in items.items():
        environment.table(T).put(key.encode(), value.encode())
    batch.commit()


def items(environment: Environment) -> list[tuple[bytes, bytes]]:
    """What a new view shows in table ``T``."""
    view = environment.view()
    try:
        return view.table(T).scan(b"", b"\xff", limit=ALL)
    finally:
        view.close()


def append(environment: Environment, head: Head, *records: bytes) -> Head:
    """Commit these records to the end of log ``T``, and return where it ends then."""
    batch = environment.begin()
    log = environment.log(T, head)
    for record in records:
        log.append(log.last + 1, record)
    batch.commit()
    return log.head


def log_in_view(environment: Environment, head: Head, read: Callable[[RecordLog], object]) -> object:
    """What ``read`` says of log ``T`` in a new view."""
    view = environment.view()
    try:
        return read(view.log(T, head))
    finally:
        view.close()


def problems(environment: Environment) -> list[str]:
    """What is found damaged in a new view."""
    view = environment.view()
    try:
        return list(view.problems())
    finally:
        view.close()


def record_count(environment: Environment) -> int:
    """How many records a new view has."""
    view = environment.view()
    try:
        return view.record_count()
    finally:
        view.close()

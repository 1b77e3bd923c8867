"""Writing to an environment and reading it, for the tests that check every environment against the port."""

from __future__ import annotations

from collections.abc import Callable

from kvstore.ports import Environment, Head, RecordLog

T, BELOW, ABOVE = b"abd", b"abc", b"abe"
"""Name of a table, and the nearest names below and above it."""
EMPTY: Head = (1, 0, 0)
ALL = 1 << 20


def write(environment: Environment, **items: str) -> None:
    """Commit these items into table ``T``."""
    batch = environment.begin()
    for key, value in items.items():
        environment.table(T).put(key.encode(), value.encode())
    batch.commit()


def items(environment: Environment) -> list[tuple[bytes, bytes]]:
    """Return the items that a new view shows in table ``T``."""
    view = environment.view()
    try:
        return view.table(T).scan(b"", b"\xff", limit=ALL)
    finally:
        view.close()


def append(environment: Environment, head: Head, *records: bytes) -> Head:
    """Append these records to log ``T`` and commit; return the log's new head."""
    batch = environment.begin()
    log = environment.log(T, head)
    for record in records:
        log.append(log.last + 1, record)
    batch.commit()
    return log.head


def log_in_view(environment: Environment, head: Head, read: Callable[[RecordLog], object]) -> object:
    """Return ``read(log)`` of log ``T`` in a new view."""
    view = environment.view()
    try:
        return read(view.log(T, head))
    finally:
        view.close()


def problems(environment: Environment) -> list[str]:
    """Return the problems of a new view."""
    view = environment.view()
    try:
        return list(view.problems())
    finally:
        view.close()


def record_count(environment: Environment) -> int:
    """Return the number of records in a new view."""
    view = environment.view()
    try:
        return view.record_count()
    finally:
        view.close()

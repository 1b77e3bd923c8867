"""What clients asked of a store and what they were told: the types of a history, and its recorder.

A history says nothing of how the store works. It has one ``Transaction`` for each that a client tried,
with the times of call and return, so a checker can say whether the answers can have come from a store
that does one transaction after another.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["append", "read", "write"]


class Operation(NamedTuple):
    """One operation inside a transaction, as the client saw it.

    A key is either a list, which is appended to and read whole, or a register, which is written and read.
    What is read of a list is a tuple; a key that nobody wrote yet reads as ``None``, or as the empty tuple.
    """

    kind: Kind
    key: Any
    value: Any

    def __str__(self) -> str:
        return f"{self.kind} {self.key} {_shortened(self.value)}"


def append(key: Hashable, value: Hashable) -> Operation:
    return Operation("append", key, value)


def read(key: Hashable, value: Any) -> Operation:
    return Operation("read", key, tuple(value) if isinstance(value, list) else value)


def write(key: Hashable, value: Hashable) -> Operation:
    return Operation("write", key, value)


def _shortened(value: Any) -> str:
    """A value for the reader of a message: of a long list only its end, where the news is."""
    if isinstance(value, tuple) and len(value) > 8:
        return f"(... {len(value) - 6} more, {', '.join(map(repr, value[-6:]))})"
    return repr(value)


class Outcome(enum.Enum):
    """What the client was told. ``UNKNOWN`` may have happened, may happen later, or never."""

    OK = "ok"
    FAILED = "fail"
    UNKNOWN = "info"


@dataclass(frozen=True, slots=True)
class Transaction:
    """What one client tried, in order.

    ``process`` is the client: it does one after another. ``called`` and ``returned`` are in nanoseconds of
    any one clock, or in any other unit that only grows. Without times both are ``None`` for the whole
    history, and only the order of each process is known. An unknown outcome has no ``returned``.
    """

    process: int
    operations: tuple[Operation, ...]
    called: int | None = None
    returned: int | None = None
    outcome: Outcome = Outcome.OK

    def __post_init__(self) -> None:
        assert self.outcome is not Outcome.UNKNOWN or self.returned is None, "a return says what came of it"

    def __str__(self) -> str:
        return f"process {self.process}: {', '.join(map(str, self.operations))}"


History = Sequence[Transaction]
"""Where there are no times, the transactions of one process stand in its order."""


def is_timed(history: History) -> bool:
    """Whether real time is known: of each transaction when it was called, of each finished one its return."""
    return all(
        one.called is not None and (one.returned is not None or one.outcome is Outcome.UNKNOWN)
        for one in history
    )


@dataclass
class Record:
    """What a client notes while its transaction runs. It notes a write before it is asked for."""

    operations: list[Operation] = field(default_factory=list)

    def append(self, key: Hashable, value: Hashable) -> None:
        self.operations.append(append(key, value))

    def read(self, key: Hashable, value: Any) -> None:
        self.operations.append(read(key, value))

    def write(self, key: Hashable, value: Hashable) -> None:
        self.operations.append(write(key, value))


class _Running(NamedTuple):
    process: int
    called: int
    record: Record


class Recorder:
    """Writes down what many threads do.

    A transaction ends unknown with one of the exceptions ``unknown``, and with anything that is no
    ``Exception``, such as Ctrl-C; with any other exception it failed. An exception goes on to the caller.
    Stamps are those of ``clock``, in nanoseconds, except that no two are equal: they tell what was first.
    """

    def __init__(
        self,
        unknown: tuple[type[BaseException], ...] = (),
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._unknown = unknown
        self._clock = clock
        self._lock = threading.Lock()
        self._last_stamp = -1
        self._last_process = -1
        self._process: dict[Hashable, int] = {}
        self._running: dict[Hashable, _Running] = {}
        self._finished: list[Transaction] = []

    @contextmanager
    def transaction(self, client: Hashable) -> Iterator[Record]:
        """One transaction of a client, which is named by whatever its thread likes.

        A client has one process number until an outcome is unknown. What it asked for then may still
        happen beside what it does next, so it goes on as another process.

        Raises:
            RuntimeError: the client has another transaction open.
        """
        record = self._begin(client)
        outcome = Outcome.UNKNOWN
        try:
            yield record
            outcome = Outcome.OK
        except Exception as error:
            outcome = Outcome.UNKNOWN if isinstance(error, self._unknown) else Outcome.FAILED
            raise
        finally:
            self._end(client, outcome)

    def history(self) -> list[Transaction]:
        """All transactions by the time of their call. Those that still run are unknown."""
        with self._lock:
            running = [self._ended(one, None, Outcome.UNKNOWN) for one in self._running.values()]
            return sorted(self._finished + running, key=lambda one: one.called or 0)

    def _begin(self, client: Hashable) -> Record:
        with self._lock:
            if client in self._running:
                raise RuntimeError(f"client {client!r} has a transaction open already")
            if client not in self._process:
                self._last_process += 1
                self._process[client] = self._last_process
            record = Record()
            self._running[client] = _Running(self._process[client], self._stamp(), record)
            return record

    def _end(self, client: Hashable, outcome: Outcome) -> None:
        with self._lock:
            returned = self._stamp()
            running = self._running.pop(client)
            if outcome is Outcome.UNKNOWN:
                del self._process[client]
            self._finished.append(
                self._ended(running, None if outcome is Outcome.UNKNOWN else returned, outcome)
            )

    @staticmethod
    def _ended(running: _Running, returned: int | None, outcome: Outcome) -> Transaction:
        operations = tuple(running.record.operations)
        return Transaction(running.process, operations, running.called, returned, outcome)

    def _stamp(self) -> int:
        """Under the lock. Where the clock stands still or goes back, one more than the last."""
        self._last_stamp = max(self._last_stamp + 1, self._clock())
        return self._last_stamp

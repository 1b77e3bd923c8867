"""Reading the learner's last commit from any thread, without a round (contracts A3).

Closing an LMDB environment while another thread reads in it would end the process, so ``close`` waits
until no read is under way and lets none begin.

The learner's environment may fail while it is read. A read that begins then waits for what comes of it:
another replica takes over and it reads there, or reads are refused.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from kvstore.errors import Closed, Error, Failed, LimitExceeded, SnapshotExpired
from kvstore.execution.reentrancy import refuse_nested
from kvstore.ports import CommitView, Environment

EXPIRED = "expired"
TAKES_OVER_S = 60.0
"""So long a read waits for another replica to take over. It takes some commits of the others."""
READERS_MAX = 1000
"""Reads and snapshots open at once; LMDB's own table has some more places for other processes."""


T = TypeVar("T")


class Readers:
    """Who reads one environment at this moment, and the cuts that are open on it.

    A read marks itself in ``_active`` before it looks whether it may, and unmarks itself in a
    ``finally``: so a close at the same moment does not miss it. An interrupt between ``reading`` and
    its block leaves a mark that lives as long as the traceback, so nobody waits for his own marks.
    """

    def __init__(self, environment: Environment, renew: Callable[[], None] | None = None) -> None:
        """``renew`` is called before each read, and may ``replace`` the environment."""
        self.environment = environment
        self._renew = renew
        self._active: dict[object, int] = {}
        """Marks, and whose they are: thread idents."""
        self._refusal: Callable[[], Error] | None = None
        self._transactions: weakref.WeakSet[ReadTransaction] = weakref.WeakSet()
        self._transactions_lock = threading.Lock()
        self._next_expiry = float("inf")
        self._retired: dict[Environment, set[object]] = {}
        """Environments that were replaced, and the marks of reads that may still be in them."""

    def get(self, table: bytes, key: bytes) -> bytes | None:
        """One record of the last commit."""
        if self._renew is not None:
            self._renew()
        mark = object()
        try:
            self._active[mark] = threading.get_ident()
            refuse_nested()
            if self._refusal is not None:
                raise self._refusal()
            try:
                return self.environment.read(table, key)
            except Failed:
                return self._where_it_goes_on(lambda environment: environment.read(table, key))
        finally:
            self._active.pop(mark, None)

    @contextmanager
    def reading(self) -> Iterator[Environment]:
        """Keep the environment open for the length of the block. Raises what ``refuse`` was told."""
        if self._renew is not None:
            self._renew()
        mark = object()
        try:
            self._active[mark] = threading.get_ident()
            self.check()
            yield self.environment
        finally:
            self._active.pop(mark, None)

    def _where_it_goes_on(self, begin: Callable[[Environment], T]) -> T:
        """Begin a read; where the environment fails, do so in the one that takes its place."""
        while True:
            environment = self.environment
            try:
                return begin(environment)
            except Failed:
                self._await_end_of(environment)

    def _await_end_of(self, failed: Environment) -> None:
        deadline = time.monotonic() + TAKES_OVER_S
        while self.environment is failed:
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"{failed.location} failed, and no other replica took over")
            time.sleep(0.0005)

    @contextmanager
    def viewing(self) -> Iterator[CommitView]:
        """A view of the last commit, for the length of the block."""
        with self.reading():
            view = self._where_it_goes_on(lambda environment: environment.view())
            try:
                yield view
            finally:
                view.close()

    def record_count(self) -> int:
        """Records in the environment, of every kind."""
        with self.viewing() as view:
            return view.record_count()

    def check(self) -> None:
        """Raise what a read would raise that does not even begin."""
        refuse_nested()
        if self._refusal is not None:
            raise self._refusal()

    def replace(self, environment: Environment) -> None:
        """Read this one from now on; the old one goes when nobody reads in it any more."""
        old, self.environment = self.environment, environment
        self.retire(old)

    def retire(self, environment: Environment) -> None:
        """Close it when nobody who reads now reads any more."""
        self._retired[environment] = set(self._active)
        self._close_retired()

    def _close_retired(self) -> None:
        for environment, marks in list(self._retired.items()):
            with self._transactions_lock:
                in_use = any(transaction.environment is environment for transaction in self._transactions)
            idle = not in_use and marks.isdisjoint(list(self._active))
            if idle and self._retired.pop(environment, None) is not None:  # one of us closes it
                _end(environment)

    def refuse(self, error: Callable[[], Error]) -> None:
        """From now on every new read raises this."""
        self._refusal = error

    def begin(self, lifetime: float) -> ReadTransaction:
        """A view of the last commit, for at most ``lifetime`` seconds.

        It counts as long as it is open and somebody has it: one that was lost to an interrupt, too, is
        gone with its last reference.
        """
        with self.reading():
            if len(self._transactions) >= READERS_MAX:
                message = f"{READERS_MAX} snapshots are open already; close some"
                raise LimitExceeded(message, limit=READERS_MAX)
            transaction = self._where_it_goes_on(
                lambda environment: ReadTransaction(self, environment, lifetime)
            )
            with self._transactions_lock:
                self._transactions.add(transaction)
                self._next_expiry = min(self._next_expiry, transaction.expiry)
            return transaction

    def over(self, transaction: ReadTransaction) -> None:
        """The cut was closed; it counts no more."""
        with self._transactions_lock:
            self._transactions.discard(transaction)
        if self._retired:
            self._close_retired()

    def expire(self) -> None:
        """Close the cuts that are too old, even if nobody uses them: they pin the file's pages."""
        if self._retired:
            self._close_retired()
        now = time.monotonic_ns()
        if now < self._next_expiry:
            return
        for transaction in self._open_transactions():
            transaction.expire(now)
        with self._transactions_lock:
            self._next_expiry = min(
                (transaction.expiry for transaction in self._transactions), default=float("inf")
            )

    def _open_transactions(self) -> list[ReadTransaction]:
        with self._transactions_lock:
            return list(self._transactions)

    def forget(self) -> None:
        """In a forked child: never touch the parent's views again, not even to free them.

        Ending a view would give its place in LMDB's shared reader table to somebody else, so the
        views are kept alive past the end of the child.
        """
        for transaction in list(self._transactions):
            transaction.forget()

    @property
    def open_count(self) -> int:
        return len(self._active) + len(self._transactions)

    @property
    def oldest_age(self) -> int:
        """Nanoseconds; 0 when no cut is open."""
        return max((transaction.age for transaction in self._open_transactions()), default=0)

    def close(self) -> None:
        """End all read transactions with ``Closed``, wait until no read is under way, and let none begin."""
        self.refuse(lambda: Closed("the database was closed"))
        while True:
            # Looked at first: whoever is active may still add a cut.
            unwatched = set(self._active.values()) <= {threading.get_ident()}
            for transaction in self._open_transactions():
                transaction.close("the database was closed")
            if unwatched:
                self._close_retired()
                return
            time.sleep(0.0005)


def _end(environment: Environment) -> None:
    """Close what was replaced: another file stands in its place, or it failed and keeps its mark of that."""
    if environment.failure is None:
        environment.retire()
    else:
        environment.close()


def keep_for_ever(thing: object) -> None:
    """Never let this be freed, not even when the interpreter ends."""
    import ctypes  # only a forked child that inherited an open store comes here

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class ReadTransaction:
    """One commit held open. Its lock keeps two threads, and its end, from meeting in the view."""

    def __init__(self, readers: Readers, environment: Environment, lifetime: float) -> None:
        self.environment = environment
        self._view: CommitView | None = environment.view()
        self._readers = readers
        self._lock = threading.Lock()
        self._lifetime = lifetime
        self._taken = time.monotonic_ns()
        self.expiry = self._taken + lifetime * 1e9
        self.ended = ""
        """Why it can no longer be read; empty while it can."""

    def get(self, table: bytes, key: bytes) -> bytes | None:
        with self._lock:
            return self._open_view().table(table).get(key)

    def scan(
        self, table: bytes, start: bytes, stop: bytes, *, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes]]:
        with self._lock:
            return self._open_view().table(table).scan(start, stop, reverse=reverse, limit=limit)

    def _open_view(self) -> CommitView:
        if self._view is None or time.monotonic_ns() >= self.expiry:
            self._end(EXPIRED)
            self.check()
        assert self._view is not None
        return self._view

    def check(self) -> None:
        """Raise ``SnapshotExpired`` or ``Closed`` when it has ended."""
        if self.ended == EXPIRED:
            message = f"the snapshot is older than {self._lifetime} s"
            raise SnapshotExpired(message, age=self.age, lifetime=int(self._lifetime * 1e9))
        if self.ended:
            raise Closed(self.ended)

    def expire(self, now: int) -> None:
        """Close it if it is too old and not in use at this moment."""
        if now >= self.expiry and self._lock.acquire(blocking=False):
            try:
                self._end(EXPIRED)
            finally:
                self._lock.release()

    def close(self, reason: str = "the snapshot was closed") -> None:
        with self._lock:
            self._end(reason)

    def _end(self, reason: str) -> None:
        self.ended = self.ended or reason
        view, self._view = self._view, None
        if view is not None:
            view.close()
        self._readers.over(self)

    def forget(self) -> None:
        """In a forked child: the view belongs to the parent."""
        view, self._view = self._view, None
        self.ended = "the snapshot was taken before the fork"
        keep_for_ever(view)

    @property
    def age(self) -> int:
        """Nanoseconds since it was taken."""
        return time.monotonic_ns() - self._taken

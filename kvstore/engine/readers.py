"""Reading the learner's last commit from any thread, without a round (contracts A3).

Closing an LMDB environment while another thread reads it would crash the process, so ``close`` refuses
new reads and waits until no read is under way.

The learner's environment may fail while it is read. A read that begins then waits until another replica
takes over and reads there, or until reads are refused.
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
"""Longest wait of a read for another replica to take over, in seconds; a failover takes a few commits."""
READERS_MAX = 1000
"""Most read transactions open at once; LMDB's reader table has further places for other processes."""


T = TypeVar("T")


class Readers:
    """The reads under way in one environment, and its open read transactions.

    A read marks itself in ``_active`` before it checks whether reads are refused, and removes its mark in
    a ``finally``, so a concurrent close does not miss it. An interrupt between ``reading`` and its block
    leaves a mark that lives as long as the traceback, so a closing thread ignores its own marks.
    """

    def __init__(self, environment: Environment, renew: Callable[[], None] | None = None) -> None:
        """``renew`` is called before each read, and may call ``replace``."""
        self.environment = environment
        self._renew = renew
        self._active: dict[object, int] = {}
        """Marks of the reads under way, with the ident of each read's thread."""
        self._refusal: Callable[[], Error] | None = None
        self._transactions: weakref.WeakSet[ReadTransaction] = weakref.WeakSet()
        self._transactions_lock = threading.Lock()
        self._next_expiry = float("inf")
        self._retired: dict[Environment, set[object]] = {}
        """Replaced environments, with the marks of reads that may still use them."""

    def get(self, table: bytes, key: bytes) -> bytes | None:
        """Return one record of the last commit, or None."""
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
        """Keep the environment open for the length of the block. Raises the error given to ``refuse``."""
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
        """Begin a read; if the environment has failed, begin it in the environment that takes over."""
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
        """Open a view of the last commit for the length of the block."""
        with self.reading():
            view = self._where_it_goes_on(lambda environment: environment.view())
            try:
                yield view
            finally:
                view.close()

    def record_count(self) -> int:
        """Return the number of records of every kind in the environment."""
        with self.viewing() as view:
            return view.record_count()

    def check(self) -> None:
        """Raise the error that refuses reads, if they are refused."""
        refuse_nested()
        if self._refusal is not None:
            raise self._refusal()

    def replace(self, environment: Environment) -> None:
        """Read from this environment, and retire the old one."""
        old, self.environment = self.environment, environment
        self.retire(old)

    def retire(self, environment: Environment) -> None:
        """Close the environment when all reads that may use it have ended."""
        self._retired[environment] = set(self._active)
        self._close_retired()

    def _close_retired(self) -> None:
        for environment, marks in list(self._retired.items()):
            with self._transactions_lock:
                in_use = any(transaction.environment is environment for transaction in self._transactions)
            idle = not in_use and marks.isdisjoint(list(self._active))
            if idle and self._retired.pop(environment, None) is not None:  # only one thread closes it
                _end(environment)

    def refuse(self, error: Callable[[], Error]) -> None:
        """Raise this error from every new read."""
        self._refusal = error

    def begin(self, lifetime: float) -> ReadTransaction:
        """Open a read transaction on the last commit, for at most ``lifetime`` seconds.

        The transaction counts towards ``READERS_MAX`` until it is closed or its last reference is gone, as
        after an interrupt. Raises ``LimitExceeded`` when ``READERS_MAX`` are open.
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
        """Remove a read transaction that was closed."""
        with self._transactions_lock:
            self._transactions.discard(transaction)
        if self._retired:
            self._close_retired()

    def expire(self) -> None:
        """Close read transactions that have expired, used or not: they pin the file's pages."""
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
        """Abandon the parent's views in a forked child, without freeing them.

        Ending a view would free the parent's place in LMDB's shared reader table, so the views are kept
        alive past the end of the child.
        """
        for transaction in list(self._transactions):
            transaction.forget()

    @property
    def open_count(self) -> int:
        return len(self._active) + len(self._transactions)

    @property
    def oldest_age(self) -> int:
        """Age of the oldest read transaction in nanoseconds; 0 when none is open."""
        return max((transaction.age for transaction in self._open_transactions()), default=0)

    def close(self) -> None:
        """End all read transactions with ``Closed``, wait until no read is under way, and let none begin."""
        self.refuse(lambda: Closed("the database was closed"))
        while True:
            # Checked first: an active read may still add a read transaction.
            unwatched = set(self._active.values()) <= {threading.get_ident()}
            for transaction in self._open_transactions():
                transaction.close("the database was closed")
            if unwatched:
                self._close_retired()
                return
            time.sleep(0.0005)


def _end(environment: Environment) -> None:
    """Close an environment that was replaced: by another file, or because it failed and stays unclean."""
    if environment.failure is None:
        environment.retire()
    else:
        environment.close()


def keep_for_ever(thing: object) -> None:
    """Keep an object from being freed, even when the interpreter ends."""
    import ctypes  # needed only in a forked child with an inherited open store

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class ReadTransaction:
    """One commit held open. A lock keeps two threads from using the view, or one from closing it in use."""

    def __init__(self, readers: Readers, environment: Environment, lifetime: float) -> None:
        self.environment = environment
        self._view: CommitView | None = environment.view()
        self._readers = readers
        self._lock = threading.Lock()
        self._lifetime = lifetime
        self._taken = time.monotonic_ns()
        self.expiry = self._taken + lifetime * 1e9
        self.ended = ""
        """Reason why the transaction can no longer be read; empty while it can."""

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
        """Raise ``SnapshotExpired`` or ``Closed`` if the transaction has ended."""
        if self.ended == EXPIRED:
            message = f"the snapshot is older than {self._lifetime} s"
            raise SnapshotExpired(message, age=self.age, lifetime=int(self._lifetime * 1e9))
        if self.ended:
            raise Closed(self.ended)

    def expire(self, now: int) -> None:
        """Close the transaction if it has expired and is not in use at this moment."""
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
        """End the transaction in a forked child, where the view belongs to the parent."""
        view, self._view = self._view, None
        self.ended = "the snapshot was taken before the fork"
        keep_for_ever(view)

    @property
    def age(self) -> int:
        """Nanoseconds since the transaction was opened."""
        return time.monotonic_ns() - self._taken

"""Every exception that leaves the store, grouped by what the caller can do about it.

* ``Error``
    * ``UsageError``: the call was wrong; nothing happened
        * ``KeyInvalid``, ``ValueNotSupported``, ``LimitExceeded``, ``NotFound``, ``TypeClash``
        * ``Finished``, ``Closed``, ``Forked``, ``ReadOnly``
        * ``UnknownProcedure``, ``KeyNotDeclared``, ``NestedCall``, ``BodyRefused``
        * ``KeyReused``, ``UnknownColor``, ``UnknownRegion``, ``DuplicateRegion``
        * ``ForeignSnapshot``, ``BadLine``
    * ``OpenError``: the store could not be opened; nothing happened
        * ``NoParent``, ``NotAStore``, ``WrongFormat``, ``WrongShape``, ``Locked``, ``AlreadyOpen``
    * ``RetryLater``: nothing was decided; the call may succeed later
        * ``Conflict``, ``TimedOut``, ``SnapshotExpired``, ``CursorTrimmed``, ``Behind``
        * ``HomeUnreachable``, ``InsufficientRights``
    * ``Damage``: the disk, not the call, is at fault
        * ``Corrupt``, ``Failed``, ``DiskFull``
    * ``Abort``, ``OutcomeUnknown``, ``ProcedureFailed``, ``InsufficientFunds``

Facts are attributes, passed by keyword: ``Conflict("...", key=("a",), attempts=3).attempts == 3``.
A broken invariant of the store's own code is not an ``Error`` but an ``AssertionError``.
"""

from __future__ import annotations

import errno
import inspect
from typing import Any, ClassVar


class Error(Exception):
    """Base class of all errors of the store. ``hint`` says in one sentence what to do."""

    hint: str = ""
    facts: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that carry this error's facts; an attribute that was not given is ``None``."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.facts = (*cls.facts, *inspect.get_annotations(cls))

    def __init__(self, message: str = "", *, hint: str = "", **facts: Any) -> None:
        unknown = facts.keys() - set(self.facts)
        assert not unknown, f"{type(self).__name__} has no {sorted(unknown)}"
        super().__init__(message)
        if hint:
            self.hint = hint
        for name in self.facts:
            setattr(self, name, facts.get(name))

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        return f"{message} ({self.hint})" if self.hint and message else message or self.hint


class UsageError(Error):
    """The call was wrong; nothing happened."""


class KeyInvalid(UsageError, TypeError):
    """A key, or a part of a key, has a type or form that keys cannot have."""

    hint = "keys are non-empty str, bytes or tuples of str, bytes, int, float, bool, None, UUID"
    key: Any


class ValueNotSupported(UsageError, TypeError):
    """A value could not be read back unchanged; ``place`` names the part at fault."""

    hint = "values are what msgpack carries: None, bool, int, float, str, bytes, list, dict"
    place: str


class LimitExceeded(UsageError, ValueError):
    """A size or a number is out of bounds; ``limit`` is the bound."""

    key: Any
    size: int
    limit: int


class NotFound(UsageError, KeyError):
    """The key has no value. Also a ``KeyError``."""

    hint = "get(key, default) returns the default instead of raising"
    key: Any

    __str__ = Error.__str__


class TypeClash(UsageError):
    """The operation does not fit the type of the stored value."""

    key: Any
    found: Any


class Finished(UsageError):
    """A transaction or batch was used after its end."""

    hint = "begin a new transaction or batch"


class Closed(UsageError):
    """The database, snapshot or iterator was used after it was closed."""

    hint = "open it again"


class Forked(UsageError):
    """A database handle was used in a child process that was forked after it was opened."""

    hint = "open the store in the child, after the fork, or use another start method"
    path: str
    pid: int


class ReadOnly(UsageError):
    """A write was attempted through a read-only handle."""

    hint = "open without readonly=True"
    path: str


class UnknownProcedure(UsageError):
    """No procedure is registered under this name."""

    hint = "import the module that registers it before opening"
    name: str


class KeyNotDeclared(UsageError):
    """A procedure touched a key that it had not declared."""

    key: Any
    shard: int


class NestedCall(UsageError):
    """The store was called from inside a function that the store runs."""

    hint = "use the transaction that was passed to the function"


class BodyRefused(UsageError):
    """An async function or a generator cannot be the body of a transaction."""

    hint = "write a plain function"


class KeyReused(UsageError):
    """The idempotency key was used before, for another request."""

    hint = "use one idempotency key for one request"
    idempotency_key: Any


class UnknownColor(UsageError):
    """The log has no such color."""

    color: Any


class UnknownRegion(UsageError):
    """No region has this name."""

    region: str


class DuplicateRegion(UsageError):
    """Two regions share one name."""

    region: str


class ForeignSnapshot(UsageError):
    """The position or image belongs to another store."""


class BadLine(UsageError):
    """A line of an input file cannot be read; nothing of its chunk was stored."""

    file: str
    line: int


class OpenError(Error):
    """The store could not be opened; nothing happened."""

    path: str


class NoParent(OpenError):
    """The folder that should hold the store does not exist."""

    hint = "create the parent folder first"


class NotAStore(OpenError):
    """There is no store at this path, and a new store may not or cannot be created there."""


class WrongFormat(OpenError):
    """The store was written in a format that this version does not read."""

    found: Any
    expected: Any


class WrongShape(OpenError):
    """The store was created with a different number of shards or replicas, or a different placement."""

    hint = "leave the argument out to open the store as it is"
    name: str
    found: Any
    expected: Any


class Locked(OpenError):
    """Another process has the store open for writing; ``pid`` is that process."""

    hint = "close it there, or open with readonly=True"
    pid: int


class AlreadyOpen(OpenError):
    """This process has the store open already."""

    hint = "share the one handle; it may be used from any number of threads"


class RetryLater(Error):
    """Nothing was decided; the call may succeed later."""


class Conflict(RetryLater):
    """A condition did not hold, or a record that was read has changed; ``key`` is its key."""

    key: Any
    attempts: int


class TimedOut(RetryLater, TimeoutError):
    """The timeout expired before there was an outcome."""

    waited: float


class SnapshotExpired(RetryLater):
    """The snapshot is older than its lifetime, which is bounded because old views keep pages from reuse."""

    hint = "take a new snapshot, or open with a longer snapshot_lifetime"
    age: int
    lifetime: int


class CursorTrimmed(RetryLater):
    """The log no longer reaches back to this cursor; ``oldest`` is the oldest usable cursor."""

    hint = "continue from the error's oldest, or from 0, which begins with the current state"
    cursor: Any
    oldest: Any


class Behind(RetryLater):
    """The region has not yet applied what the session has seen. Reserved: no call raises it yet."""

    region: str


class HomeUnreachable(RetryLater):
    """The home region of the key cannot be reached. Reserved: no call raises it yet."""

    region: str
    key: Any


class InsufficientRights(RetryLater):
    """The balance covers the debit, but the region's own rights do not."""

    key: Any
    region: str


class Damage(Error):
    """The disk, not the call, is at fault."""


class Corrupt(Damage):
    """Stored bytes are damaged or missing; ``record`` names the file or record."""

    hint = "verify() lists all damage; restore the named replica from a backup"
    record: str


class Failed(Damage):
    """An environment failed while running; the store refuses work until it is opened again."""

    hint = "close the store and open it again"


class DiskFull(Damage, OSError):
    """There is no room for the next commit. Nothing changed, and reads continue."""

    hint = "free some space; no reopening is needed"
    path: str
    free: int
    needed: int

    def __init__(self, message: str = "", *, hint: str = "", **facts: Any) -> None:
        super().__init__(message, hint=hint, **facts)
        self.errno = errno.ENOSPC

    __str__ = Error.__str__


class Abort(Error):
    """Raised by a transaction's own function to roll back; the transaction is never retried."""


class OutcomeUnknown(Error):
    """The commit failed at a point where it may or may not have taken effect."""

    hint = "open the store again and read; a request with an idempotency key can be repeated"


class ProcedureFailed(Error):
    """A stored procedure raised; its part on that shard had no effect."""

    name: str
    shard: int


class InsufficientFunds(Error):
    """The balance that this region sees does not cover the spending."""

    key: Any
    balance: int
    needed: int

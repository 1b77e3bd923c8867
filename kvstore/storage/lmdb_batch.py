"""The open batch of an LMDB environment: writes are buffered in memory and applied in one call.

Nothing is written to LMDB before a scan or the commit. py-lmdb lets other threads run during each of
its calls, and beside a computing thread each call may then wait 5 ms to continue; one call for the
whole batch waits once. Sorted writes are also faster, and a record written twice is stored once.
"""

from __future__ import annotations

from typing import Any, Protocol

from kvstore.errors import OutcomeUnknown
from kvstore.storage.lmdb_file import count_record, rows_of
from kvstore.storage.records import COUNT_KEY, Row

_UNWRITTEN: Any = object()


class BatchOwner(Protocol):
    """The part of an environment that its batch uses."""

    location: str
    raw: Any
    is_worth_closing: bool
    failure: BaseException | None

    def begin_txn(self, *, write: bool) -> Any: ...

    def count(self, txn: Any) -> int: ...

    def fail(self, error: BaseException) -> None: ...


class LmdbBatch:
    """The batch of an environment, reused for each batch. ``put`` buffers a value; None removes a key."""

    __slots__ = ("_environment", "_reading", "_writing", "_written", "put")

    def __init__(self, environment: BatchOwner) -> None:
        self._environment = environment
        self._written: dict[bytes, bytes | None] = {}
        self._reading: Any = None
        self._writing: Any = None
        self.put = self._written.__setitem__

    def get(self, key: bytes) -> bytes | None:
        """Return the value as this batch sees it; None if the key is missing."""
        value = self._written.get(key, _UNWRITTEN)
        if value is _UNWRITTEN:
            value = self._txn().get(key)
        return value  # type: ignore[no-any-return]  # LMDB's buffers are off, so it is bytes

    def delete(self, key: bytes) -> None:
        self._written[key] = None

    def is_written(self, key: bytes) -> bool:
        return key in self._written

    def rows(self, position: bytes, *, reverse: bool, limit: int) -> list[Row]:
        """Return up to ``limit`` rows as this batch sees them, applying the buffered writes first."""
        if self._written:
            self._apply()
        return rows_of(self._txn(), position, reverse=reverse, limit=limit)

    def committed_rows(self, position: bytes, *, reverse: bool, limit: int) -> list[Row]:
        """Return up to ``limit`` rows without the writes that are still buffered."""
        return rows_of(self._txn(), position, reverse=reverse, limit=limit)

    def _txn(self) -> Any:
        """Return the transaction through which this batch reads records that are not buffered."""
        if self._writing is not None:
            return self._writing
        if self._reading is None:
            self._reading = self._environment.begin_txn(write=False)
        return self._reading

    def _apply(self) -> Any:
        """Apply the buffered writes in key order and return the write transaction."""
        txn, written = self._writing, self._written
        if txn is None:
            txn = self._writing = self._environment.begin_txn(write=True)
        if None in written.values():
            for key in [key for key, value in written.items() if value is None]:
                del written[key]
                txn.delete(key)
        txn.cursor().putmulti(sorted(written.items()))
        written.clear()
        return txn

    def commit(self) -> None:
        """Make the batch visible and durable. Raises ``OutcomeUnknown``; the environment has then failed."""
        environment = self._environment
        assert environment.failure is None, (
            f"LMDB-2: {environment.location}: {len(self._written)} records after {environment.failure!r}"
        )
        try:
            txn = self._apply()
            txn.put(COUNT_KEY, count_record(environment.count(txn), txn.id()))
            self._writing = None
            txn.commit()
        except BaseException as error:
            environment.fail(error)
            self.abort()
            message = f"{environment.location}: the commit failed: {error}"
            raise OutcomeUnknown(message) from error
        environment.is_worth_closing = True
        if self._reading is not None:
            self._reading.abort()
            self._reading = None
        environment.raw = None

    def abort(self) -> None:
        if self._writing is not None:
            self._writing.abort()
            self._writing = None
        self._written.clear()
        if self._reading is not None:
            self._reading.abort()
            self._reading = None
        self._environment.raw = None

"""The interface of storage to the rooms above it (architecture, section 4).

Each host has one environment. All roles of a host write through its one open batch, so one commit, and
one fsync, covers all of them. Two implementations keep this contract, ``lmdb`` and ``memory``;
``tests/storage/test_conformance.py`` checks both.

THE DURABILITY CONTRACT
    PORT-1  A batch sees its own writes at once; views see them only after the batch's commit.
    PORT-2  A commit is all or nothing, even across a crash; when ``commit`` returns, the commit is as
        durable as the environment's ``durability`` says.
    PORT-3  A view shows one commit for as long as it is open.
    PORT-4  Reading a record that was changed by anything but this port raises ``Corrupt``; a key is
        reported missing only if the neighbours of the gap prove it (contracts B4).

Names of logs and tables are exactly ``NAME_BYTES`` long, so that no two key ranges overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from kvstore.types import RequestId

NAME_BYTES = 3


Row: TypeAlias = tuple[bytes, bytes]
"""A key of a table and its value."""
Head: TypeAlias = tuple[int, int, int]
"""First index, last index and last checksum of a log; ``last == first - 1`` when it is empty."""


class RecordLog(Protocol):
    """A contiguous, append-only run of records, each chained to its predecessor's checksum."""

    def append(self, index: int, record: bytes) -> None:
        """Append a record; ``index`` is asserted to be ``last + 1``."""

    def read(self, first: int, count_max: int) -> list[tuple[int, bytes]]:
        """Return up to ``count_max`` pairs of index and record from ``first`` on. Raises ``Corrupt``."""

    def replace(self, index: int, record: bytes) -> None:
        """Replace the record at ``index``, and chain the records after it anew."""

    def replace_from(self, index: int, records: list[bytes]) -> None:
        """Replace the record at ``index`` and all records after it by ``records``."""

    def reset(self, first: int) -> None:
        """Remove every record; the next index is ``first``."""

    def truncate_before(self, index: int, count_max: int) -> int:
        """Remove up to ``count_max`` records below ``index`` and return the number removed."""

    def check_end(self) -> None:
        """Raise ``Corrupt`` unless the last record has the checksum that the head holds."""

    @property
    def first(self) -> int: ...

    @property
    def last(self) -> int: ...

    @property
    def head(self) -> Head:
        """Summary of the log that its owner stores outside the data it covers."""


class ReadableTable(Protocol):
    """An ordered map of bytes to bytes."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value, or None if the neighbours prove the key missing. Raises ``Corrupt``."""

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Return up to ``limit`` items with ``start <= key < stop``, in order. Raises ``Corrupt``.

        A list, not an iterator: a suspended iterator would keep a view open.
        """


class Table(ReadableTable, Protocol):
    """A table as the open batch sees it."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None:
        """Remove the key, if present."""


class CommitView(Protocol):
    """The state after one commit. Close it promptly: an old view keeps space from being reused."""

    def table(self, name: bytes) -> ReadableTable: ...

    def log(self, name: bytes, head: Head) -> RecordLog:
        """Return the log as of this commit; its writing methods must not be called."""

    def problems(self) -> Iterator[str]:
        """Walk every record of every log and table and yield a sentence for each problem."""

    def record_count(self) -> int: ...

    def close(self) -> None: ...


class WriteBatch(Protocol):
    """The one open batch of an environment, bound to the thread that began it."""

    def commit(self) -> None:
        """Make the batch visible and durable. Raises ``OutcomeUnknown``; the environment has then failed."""

    def abort(self) -> None: ...


class Link(Protocol):
    """A channel to one other region. It may lose, delay, repeat and reorder messages, but not change them."""

    def start(self, deliver: Callable[[bytes], None]) -> None:
        """Pass every incoming message to ``deliver``, on any thread. Called once."""

    def send(self, message: bytes) -> None:
        """Send the message, or lose it; never wait for the other side."""

    def close(self) -> None:
        """Stop delivering messages."""


class Leases(Protocol):
    """How long a caller may hold locks between the halves of its transaction (contracts C2)."""

    def begin(self, preliminary: RequestId) -> None:
        """Start the lease of a preliminary whose caller has been given the votes."""

    def end(self, preliminary: RequestId) -> None:
        """Forget the preliminary: it is being concluded. Do nothing if it has no lease."""

    def expired(self) -> list[RequestId]:
        """Return the preliminaries whose lease has expired."""

    def all(self) -> list[RequestId]:
        """Return all preliminaries that have a lease, expired or not."""


class Environment(Protocol):
    """A host's storage: one folder, or one memory disk."""

    @property
    def location(self) -> str: ...

    @property
    def failure(self) -> BaseException | None:
        """The error after which this environment refuses to write; None while it accepts writes."""

    @property
    def suspicion(self) -> str | None:
        """A sentence that says why an environment that could be opened is suspect; None if it is not."""

    def begin(self) -> WriteBatch:
        """Open the batch on this thread and return it. Raises ``Failed``."""

    def expect(self, payload_bytes: int, records: int) -> None:
        """Reserve room for the next batch. Raises ``DiskFull``, with nothing changed."""

    def log(self, name: bytes, head: Head) -> RecordLog:
        """Return the log of this name, read and written through the open batch.

        ``head`` is what the log's owner stored of it, outside the data it covers.
        """

    def table(self, name: bytes) -> Table:
        """Return the table of this name, read and written through the open batch."""

    def read(self, name: bytes, key: bytes) -> bytes | None:
        """Return the value of a table's key as of the last commit; None if missing. Raises ``Corrupt``."""

    def view(self) -> CommitView:
        """Return a view of the last commit. Raises ``LimitExceeded`` if too many views are open."""

    def sync(self) -> None:
        """Make every commit so far durable, whatever ``durability`` is."""

    def copy_to(self, folder: str) -> None:
        """Write a compact copy of the last commit to ``folder``, as the files of another environment."""

    def size_bytes(self) -> int: ...

    def fail(self, error: BaseException) -> None:
        """Refuse all further writes."""

    def retire(self) -> None:
        """Close the environment, whose file was replaced, without touching the new file's marks."""

    def close(self) -> None: ...

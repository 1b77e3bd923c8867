"""What storage must offer to those above it (architecture, section 4).

One environment per host. Everything a host's roles write goes through its one open batch, so one
commit, and one fsync, covers all of them. Two implementations keep this contract, ``lmdb`` and
``memory``; ``tests/storage/test_conformance.py`` holds both to it.

THE DURABILITY CONTRACT
    PORT-1  What a batch wrote is visible to the batch at once, and to views only after its commit.
    PORT-2  A commit is all or nothing, also over a crash; when it returns it is as durable as the
        environment's ``durability`` says.
    PORT-3  A view shows one commit for as long as it is open.
    PORT-4  A record that was changed by anything but this port raises ``Corrupt``; a missing answer is
        given only when the neighbours of the gap prove it (contracts B4).

Names of logs and tables are exactly ``NAME_BYTES`` long, so that no two overlap.
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
        """Write the record after the last one; ``index`` is asserted to be next."""

    def read(self, first: int, count_max: int) -> list[tuple[int, bytes]]:
        """Return up to ``count_max`` records from ``first`` on. Raises ``Corrupt``."""

    def replace(self, index: int, record: bytes) -> None:
        """Put another record in the place of one, and chain those after it anew."""

    def replace_from(self, index: int, records: list[bytes]) -> None:
        """Put these in the place of one and of all that come after it."""

    def reset(self, first: int) -> None:
        """Forget every record; the next one is ``first``."""

    def truncate_before(self, index: int, count_max: int) -> int:
        """Forget up to ``count_max`` records below ``index`` and return how many went."""

    def check_end(self) -> None:
        """Raise ``Corrupt`` unless the last record is the one the head was taken from."""

    @property
    def first(self) -> int: ...

    @property
    def last(self) -> int: ...

    @property
    def head(self) -> Head:
        """What its owner keeps of it, outside the data it covers."""


class ReadableTable(Protocol):
    """An ordered map of bytes to bytes."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value, or None when the neighbours prove there is none. Raises ``Corrupt``."""

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
        """Remove the key, if it is there."""


class CommitView(Protocol):
    """What one commit left: closed promptly, because an old view keeps space from being reused."""

    def table(self, name: bytes) -> ReadableTable: ...

    def log(self, name: bytes, head: Head) -> RecordLog:
        """The log as of this commit; its writing methods may not be called."""

    def problems(self) -> Iterator[str]:
        """Walk every record of every log and table and yield a sentence for each damage."""

    def record_count(self) -> int: ...

    def close(self) -> None: ...


class WriteBatch(Protocol):
    """The one open batch of an environment, bound to the thread that began it."""

    def commit(self) -> None:
        """Make it visible and durable. Raises ``OutcomeUnknown``; then the environment failed."""

    def abort(self) -> None: ...


class Link(Protocol):
    """A way to one other region. It may lose, delay, repeat and reorder messages, but not change them."""

    def start(self, deliver: Callable[[bytes], None]) -> None:
        """Hand every message that comes to ``deliver``, on any thread; called once."""

    def send(self, message: bytes) -> None:
        """Send it, or lose it; never waits for the other side."""

    def close(self) -> None:
        """Deliver nothing any more."""


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
        """Why this environment refuses to write; None while it does not."""

    @property
    def suspicion(self) -> str | None:
        """What speaks against this environment although it could be opened."""

    def begin(self) -> WriteBatch:
        """Open the batch on this thread. Raises ``Failed``."""

    def expect(self, payload_bytes: int, records: int) -> None:
        """Ask for room for the next batch. Raises ``DiskFull``; then nothing changed."""

    def log(self, name: bytes, head: Head) -> RecordLog:
        """The log of this name, seen and written through the open batch.

        ``head`` is where its owner recorded it to begin and end, kept outside the data it covers.
        """

    def table(self, name: bytes) -> Table:
        """The table of this name, seen and written through the open batch."""

    def read(self, name: bytes, key: bytes) -> bytes | None:
        """One record of a table as of the last commit. Raises ``Corrupt``."""

    def view(self) -> CommitView:
        """A view of the last commit. Raises ``LimitExceeded`` when too many are open."""

    def sync(self) -> None:
        """Make every commit so far durable, whatever ``durability`` is."""

    def copy_to(self, folder: str) -> None:
        """Write a compact copy of the last commit as another environment's files."""

    def size_bytes(self) -> int: ...

    def fail(self, error: BaseException) -> None:
        """Refuse all further writes."""

    def retire(self) -> None:
        """Close it; another file stands in its place, whose marks are not to be touched."""

    def close(self) -> None: ...

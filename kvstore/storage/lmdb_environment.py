"""The durable environment: one LMDB 0.9 file per host (architecture, section 4; contracts A5, B3, B4).

INVARIANTS
    LMDB-1  One batch is open at a time, and only on the thread that began it.
    LMDB-2  After a failed commit nothing is written until the environment is opened again.
    LMDB-3  With ``interval`` no page of the last synced root is overwritten before the next root is
        safe: a read transaction pins the root, and the side file holds its meta page.
    LMDB-4  The count record holds the number of its commit, so a root that is not the last is detected.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import lmdb

from kvstore.errors import Corrupt, Damage, Failed, LimitExceeded
from kvstore.storage import data_file, side_file
from kvstore.storage.disk_space import DiskSpace, refused
from kvstore.storage.lmdb_batch import LmdbBatch
from kvstore.storage.lmdb_file import READERS_MAX, count_record, open_lmdb, rows_of
from kvstore.storage.records import (
    COUNT_KEY,
    RESIDUE,
    TABLE,
    Beside,
    Head,
    Row,
    StoredLog,
    StoredTable,
    fetch,
    problems,
)
from kvstore.storage.soundness import (
    CLOSED_MARK,
    DATA_FILE,
    FAILED_MARK,
    SYNCED_ROOT,
    check_before_mapping,
    meta_pages,
)

Durability = Literal["commit", "interval", "none"]

OPENING_RECORDS = 16
"""Number of records for which there must be space before a file is opened for writing."""


class LmdbEnvironment:
    """One folder with one LMDB file. Opened once per process; views may be used from any thread."""

    damage = (lmdb.Error,)

    def __init__(self, folder: Path, *, durability: Durability = "commit", readonly: bool = False) -> None:
        """Open the environment, creating its file unless ``readonly``.

        Raises:
            Corrupt: the file is missing or cut short, or its roots are inconsistent.
            DiskFull: there is not enough space to open the file for writing.
            WrongFormat: the file was written by another version of LMDB.
        """
        self.folder = folder
        self.location = str(folder)
        self.durability = durability
        self.readonly = readonly
        self.failure: BaseException | None = None
        self.raw: Any = None
        self._pin: lmdb.Transaction | None = None
        data = folder / DATA_FILE
        self.suspicion: str | None = None
        self.is_worth_closing = False
        """Whether ``close`` may write the closed mark: it was there, or there was a commit since."""
        self._distrusted = False
        self._missed = 0
        """Number of records that another program removed, judged by the count; later counts include it."""
        if data.exists():
            self.suspicion = check_before_mapping(folder, readonly=readonly)
        elif readonly:
            raise Corrupt(f"{data} is missing", record=str(data))
        self._space = DiskSpace(data)
        self.expect = self._space.expect
        if not readonly:
            self._space.expect(0, OPENING_RECORDS)
            self._forget_close()
        self._lmdb = open_lmdb(folder, sync=durability == "commit", readonly=readonly)
        try:
            self._main = self._lmdb.open_db(None)
            self._space.map_bytes = self._lmdb.info()["map_size"]
            self._batch = LmdbBatch(self)
            self._start(readonly=readonly)
        except BaseException:
            self._lmdb.close()
            raise

    def _forget_close(self) -> None:
        """Remove the closed mark before mapping: if a damaged page ends the process, the file is examined."""
        self.is_worth_closing = (self.folder / CLOSED_MARK).exists()
        with refused(self.location):
            side_file.remove(self.folder / CLOSED_MARK)

    def _start(self, *, readonly: bool) -> None:
        with translated(self), self._lmdb.begin() as txn:
            stored = txn.get(COUNT_KEY)
            number = txn.id()
            entries = self.count(txn)
        if entries and stored != count_record(entries, number):
            self._explain_root(stored, entries, number)
        if not readonly:
            with refused(self.location):
                self._start_writing(entries)

    def _start_writing(self, entries: int) -> None:
        self._lmdb.reader_check()
        if not entries or self._missed:
            self._write_count()
        if self.durability == "interval":
            self.sync()
        else:
            # An older synced root does not cover the commits from here on: it must not be restored.
            self._lmdb.sync(True)
            side_file.remove(self.folder / SYNCED_ROOT)

    def _explain_root(self, stored: Any, entries: int, number: int) -> None:
        """Raise ``Corrupt``, or note that another program wrote, and keep its removed records counted."""
        sound = stored is not None and crc32(stored, crc32(COUNT_KEY)) == RESIDUE
        ours = sound and int.from_bytes(stored[8:16], "big") == number
        if not sound or (self.suspicion is None and not ours):
            record = f"{self.location}: root of commit {number}"
            raise Corrupt(f"{record} is not what the last commit wrote", record=record)
        count = int.from_bytes(stored[:8], "big")
        self._missed = count - entries
        self.suspicion = (
            self.suspicion or f"{self.location}: {count} records were written, {entries} are there"
        )

    def _write_count(self) -> None:
        with self._lmdb.begin(write=True) as txn:
            if txn.get(COUNT_KEY) is None:
                txn.put(COUNT_KEY, b"")  # counts itself
            txn.put(COUNT_KEY, count_record(self.count(txn), txn.id()))

    def count(self, txn: lmdb.Transaction) -> int:
        """Return the number of records that there should be, as ``txn`` sees it."""
        entries: int = txn.stat(self._main)["entries"] + self._missed
        return entries

    def begin(self) -> LmdbBatch:
        if self.failure is not None:
            raise Failed(f"{self.location} failed earlier: {self.failure}") from self.failure
        assert self.raw is None, f"LMDB-1: {self.location}: a second batch begins while one is open"
        self.raw = self._batch
        return self._batch

    def begin_txn(self, *, write: bool) -> lmdb.Transaction:
        """Return a new transaction of LMDB.

        Raises ``LimitExceeded`` if too many snapshots are open, and ``Failed`` if a commit failed in such
        a way that LMDB refuses reads as well.
        """
        try:
            return self._lmdb.begin(write=write)
        except lmdb.ReadersFullError as error:
            message = f"{self.location}: {READERS_MAX} snapshots are open already; close some"
            raise LimitExceeded(message, limit=READERS_MAX) from error
        except lmdb.PanicError as error:
            raise Failed(f"{self.location} failed: {error}") from error

    def rows(self, position: bytes, *, reverse: bool, limit: int) -> list[Row]:
        with translated(self):
            return self._batch.rows(position, reverse=reverse, limit=limit)

    def beside(self, key: bytes) -> Beside:
        if self._batch.is_written(key):
            return [], []  # this batch itself removed the key
        with translated(self):
            below = self._batch.committed_rows(key, reverse=True, limit=1)
            return below, self._batch.committed_rows(key, reverse=False, limit=1)

    def distrust(self) -> None:
        """Note damage: ``close`` leaves no mark, so that the next opening examines the whole file (B4)."""
        self._distrusted = True

    def log(self, name: bytes, head: Head) -> StoredLog:
        return StoredLog(self, name, head)

    def table(self, name: bytes) -> StoredTable:
        return StoredTable(self, name)

    def read(self, name: bytes, key: bytes) -> bytes | None:
        full = TABLE + name + key
        txn = self.begin_txn(write=False)
        try:
            value: Any = txn.get(full)
            if value is not None and crc32(value, crc32(full)) == RESIDUE:
                found: bytes = value[:-4]
                return found
            return fetch(LmdbView(self, txn), full)
        except lmdb.Error as error:
            self.distrust()
            raise Corrupt(f"{self.location}: LMDB: {error}", record=self.location) from error
        finally:
            txn.abort()

    def view(self) -> LmdbView:
        return LmdbView(self, self.begin_txn(write=False))

    def sync(self) -> None:
        """Make every commit so far durable; with ``interval``, save the current root as synced (B3).

        No commit may run meanwhile. Raises ``Failed`` if the disk refuses the sync.
        """
        if self.durability == "commit" or self.readonly:
            return
        try:
            self._lmdb.sync(True)
            if self.durability == "interval":
                self._pin_synced_root()
        except (lmdb.Error, OSError) as error:
            self.fail(error)
            raise Failed(f"{self.location}: sync failed: {error}") from error

    def _pin_synced_root(self) -> None:
        pin = self._lmdb.begin()
        meta = data_file.newest_meta(self.folder / DATA_FILE)
        number = pin.id()
        assert number in (meta.transaction, 0), (
            f"LMDB-3: root {meta.transaction} is on disk, and root {number} is pinned: a commit ran meanwhile"
        )
        root = {"boot": data_file.boot_id(), "meta": meta.raw.hex()}
        side_file.write(self.folder / SYNCED_ROOT, root)
        if self._pin is not None:
            self._pin.abort()
        self._pin = pin

    def fail(self, error: BaseException) -> None:
        """Refuse all further writes, and leave a mark so that the next opening verifies first."""
        self.failure = error
        try:
            side_file.write(self.folder / FAILED_MARK, {"reason": str(error)})
        except OSError:
            # The disk that just failed may refuse the mark too; the failure itself is reported.
            return

    def copy_to(self, folder: str) -> None:
        with refused(folder):
            self._lmdb.copy(folder, compact=True)
            copy = open_lmdb(Path(folder), sync=True, readonly=False)
            try:
                with copy.begin(write=True) as txn:
                    # A compact copy numbers its commits anew, and the count record has a number (LMDB-4).
                    stored: Any = txn.get(COUNT_KEY)
                    txn.put(COUNT_KEY, count_record(int.from_bytes(stored[:8], "big"), txn.id()))
            finally:
                copy.close()

    def size_bytes(self) -> int:
        return (self.folder / DATA_FILE).stat().st_size

    def close(self) -> None:
        """Close the files; everything committed is synced first unless the environment failed.

        Raises ``Failed`` or ``DiskFull`` if the disk refuses the sync; the environment is closed then too.
        """
        assert self.raw is None, f"LMDB-1: {self.location}: closed while a batch is open"
        clean = not self.readonly and self.failure is None
        try:
            if clean and self.durability != "commit":
                with refused(self.location):
                    self._lmdb.sync(True)
        except Damage as error:
            self.fail(error)
            raise
        finally:
            if self._pin is not None:
                self._pin.abort()
            self._lmdb.close()
        if clean and self.is_worth_closing and not self._distrusted:
            self._mark_closed()

    def retire(self) -> None:
        self.is_worth_closing = False
        self.durability = "commit"  # a replaced file needs no sync
        self.close()

    def _mark_closed(self) -> None:
        metas = meta_pages(self.folder / DATA_FILE).hex()
        try:
            side_file.write(self.folder / CLOSED_MARK, {"metas": metas})
            side_file.remove(self.folder / SYNCED_ROOT)
        except OSError:
            # A full disk: without the mark the next opening treats this as an unclean end.
            return


class LmdbView:
    """A view of one commit. Only one thread may use it at a time."""

    __slots__ = ("_environment", "location", "raw")
    damage = (lmdb.Error,)

    def __init__(self, environment: LmdbEnvironment, txn: lmdb.Transaction) -> None:
        self._environment = environment
        self.location = environment.location
        self.raw: Any = txn

    def distrust(self) -> None:
        self._environment.distrust()

    def rows(self, position: bytes, *, reverse: bool, limit: int) -> list[Row]:
        with translated(self):
            return rows_of(self.raw, position, reverse=reverse, limit=limit)

    def beside(self, key: bytes) -> Beside:
        below = self.rows(key, reverse=True, limit=1)
        return below, self.rows(key, reverse=False, limit=1)

    def table(self, name: bytes) -> StoredTable:
        return StoredTable(self, name)

    def log(self, name: bytes, head: Head) -> StoredLog:
        return StoredLog(self, name, head)

    def problems(self) -> Iterator[str]:
        return problems(self)

    def record_count(self) -> int:
        with translated(self):
            return int.from_bytes((self.raw.get(COUNT_KEY) or b"")[:8], "big")

    def close(self) -> None:
        self.raw.abort()


@contextmanager
def translated(owner: LmdbEnvironment | LmdbView) -> Iterator[None]:
    """Translate LMDB's errors about a damaged file into ``Corrupt``."""
    try:
        yield
    except lmdb.Error as error:
        owner.distrust()
        raise Corrupt(f"{owner.location}: LMDB: {error}", record=owner.location) from error

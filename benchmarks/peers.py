"""The measured stores, behind one interface: kvstore and sqlite3. The third peer is in ``floor.py``.

Every peer holds equal items and runs equal workloads. A write to a ``durable`` peer is on disk when the call
returns; the other peers leave the time of the write to the operating system:

    peer       durable                     relaxed
    kvstore    durability="commit"         durability="none"
    sqlite3    WAL, synchronous=FULL       WAL, synchronous=NORMAL
    floor      LMDB, sync=True             LMDB, sync=False
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, Protocol

import msgpack

import kvstore

SHARDS = 4
IN_FLIGHT = 100
"""The number of submitted puts in flight; the other peers commit this number of puts at once."""


class Item(NamedTuple):
    """One record. The encoded forms are for the floor, which does not encode."""

    key: str
    value: bytes
    encoded_key: bytes
    encoded_value: bytes


class Peer(Protocol):
    """An open store, for any number of threads."""

    def put(self, item: Item) -> None:
        """Write one record in one commit."""

    def put_pipelined(self, items: Sequence[Item]) -> None:
        """Write each record as a transaction of its own, IN_FLIGHT of them to a commit."""

    def put_batch(self, items: Sequence[Item]) -> None:
        """Write all records in one transaction."""

    def get(self, item: Item) -> None: ...

    def scan(self, prefix: str) -> int:
        """Read every record whose key begins with the prefix, in key order; return their number."""

    def close(self) -> None: ...


class Store:
    """The store of this project."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.db = kvstore.open(folder / "kvstore", shards=SHARDS, durability="commit" if durable else "none")

    def put(self, item: Item) -> None:
        self.db.put(item.key, item.value)

    def put_pipelined(self, items: Sequence[Item]) -> None:
        db, in_flight = self.db, deque[Future[kvstore.Commit]]()
        for item in items:
            if len(in_flight) == IN_FLIGHT:
                in_flight.popleft().result()
            batch = db.batch()
            batch.put(item.key, item.value)
            in_flight.append(db.submit(batch))
        for future in in_flight:
            future.result()

    def put_batch(self, items: Sequence[Item]) -> None:
        with self.db.batch() as batch:
            for item in items:
                batch.put(item.key, item.value)

    def get(self, item: Item) -> None:
        self.db.get(item.key)

    def scan(self, prefix: str) -> int:
        return sum(1 for _ in self.db.scan(prefix=prefix))

    def shards_of(self, item: Item) -> tuple[int, ...]:
        return self.db.explain(item.key).shards

    def close(self) -> None:
        self.db.close()


class Sqlite:
    """A table in sqlite3, with one connection for each thread."""

    CREATE = "CREATE TABLE IF NOT EXISTS kv (k TEXT PRIMARY KEY, v BLOB)"
    PUT = "INSERT INTO kv VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v"

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._path = folder / "kv.sqlite3"
        self._synchronous = "FULL" if durable else "NORMAL"
        self._of_thread = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._connection().execute(self.CREATE)

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if found is None:
            found = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
            found.execute("PRAGMA journal_mode = WAL")
            found.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._of_thread.connection = found
            self._opened.append(found)
        return found

    def put(self, item: Item) -> None:
        self._connection().execute(self.PUT, (item.key, msgpack.packb(item.value)))

    def put_pipelined(self, items: Sequence[Item]) -> None:
        for first in range(0, len(items), IN_FLIGHT):
            self.put_batch(items[first : first + IN_FLIGHT])

    def put_batch(self, items: Sequence[Item]) -> None:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(self.PUT, [(item.key, msgpack.packb(item.value)) for item in items])
        connection.execute("COMMIT")

    def get(self, item: Item) -> None:
        row = self._connection().execute("SELECT v FROM kv WHERE k = ?", (item.key,)).fetchone()
        msgpack.unpackb(row[0])

    def scan(self, prefix: str) -> int:
        bounds = (prefix, prefix + "\U0010ffff")
        rows = self._connection().execute("SELECT k, v FROM kv WHERE k >= ? AND k < ? ORDER BY k", bounds)
        return sum(1 for _, value in rows if msgpack.unpackb(value) is not None)

    def close(self) -> None:
        for connection in self._opened:
            connection.close()

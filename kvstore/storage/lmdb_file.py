"""One LMDB file: opening it, reading its rows, and its count record."""

from __future__ import annotations

import struct
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import lmdb

from kvstore.errors import Corrupt, Failed
from kvstore.storage.records import COUNT_KEY, Row

MAP_BYTES_MAX = 1 << 40
"""Address space, not disk space, to reserve: one TiB, halved until the system grants it."""
MAP_BYTES_MIN = 1 << 26
READERS_MAX = 1024
SPARE_READERS = 32
"""Number of read transactions that py-lmdb keeps ready; beginning a ready transaction costs a microsecond."""
_COUNT = struct.Struct(">QQ")
_COUNT_KEY_CRC = crc32(COUNT_KEY)


def open_lmdb(folder: Path, *, sync: bool, readonly: bool) -> lmdb.Environment:
    """Open the file in this folder with as much address space as the system grants.

    Raises ``Failed`` if the system grants none, and ``Corrupt`` if LMDB cannot open the file.
    """
    map_bytes = MAP_BYTES_MAX
    while True:
        try:
            return lmdb.open(
                str(folder),
                map_size=map_bytes,
                sync=sync,
                readonly=readonly,
                create=not readonly,
                max_readers=READERS_MAX,
                max_spare_txns=SPARE_READERS,
                lib_version=0,
            )
        except (lmdb.MemoryError, lmdb.DiskError) as error:
            # The address space may be bounded (ulimit -v): take what the system grants.
            if map_bytes == MAP_BYTES_MIN:
                raise Failed(f"{folder}: the system grants no address space: {error}") from error
            map_bytes //= 2
        except lmdb.Error as error:
            raise Corrupt(f"{folder}: LMDB cannot open it: {error}", record=str(folder)) from error


def count_record(entries: int, transaction: int) -> bytes:
    """Return the value of ``COUNT_KEY``: the number of records, and the commit that left them."""
    payload = _COUNT.pack(entries, transaction)
    return payload + crc32(payload, _COUNT_KEY_CRC).to_bytes(4, "little")


def rows_of(txn: Any, position: bytes, *, reverse: bool, limit: int) -> list[Row]:
    """Return up to ``limit`` rows upwards from the first key >= ``position``, or downwards below it."""
    cursor = txn.cursor()
    found = cursor.set_range(position) if position else cursor.first()
    if not reverse:
        return list(islice(cursor.iternext(), limit)) if found else []
    found = cursor.prev() if found else cursor.last()
    return list(islice(cursor.iterprev(), limit)) if found else []

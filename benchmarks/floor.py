"""The floor: py-lmdb alone, which writes the records that the store writes and nothing else.

Each transaction writes one log record, and one state record for each key; each commit writes one record of
shard and client. Every record has a checksum and the size of the store's own. The floor does not encode, runs
no protocol, verifies no checksum and shares no commit between threads: no such store on LMDB can be faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import lmdb
import msgspec

from benchmarks.peers import IN_FLIGHT, Item
from kvstore.eris.client_window import ClientWindow
from kvstore.eris.messages import MultiStamp, Request, Stamped
from kvstore.eris.shard_state import ShardRecord
from kvstore.execution.operations import DONE, Operation, Put
from kvstore.keys import encode
from kvstore.types import ClientId, Epoch, RequestId, SequenceNumber, ShardId, Slot, Timestamp, ViewNumber

MAP_BYTES = 1 << 36
LOG, STATE, RECORD = b"\x02\x00\x00\x00", b"\x03\x00\x00\x00", b"\x03\xff\xff\x80\x00\x00"
VERSION = (1 << 20).to_bytes(8, "big")
CHAIN_AND_KIND = 5
"""Bytes of a log record before the encoded transaction."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Floor:
    """One LMDB environment with one unnamed tree."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        path = folder / "floor"
        path.mkdir(parents=True)
        self._env = lmdb.open(str(path), map_size=MAP_BYTES, sync=durable, max_spare_txns=32, lib_version=0)
        self._slot = 0
        self._around = bytes(_log_bytes_around_a_put())
        self._record_of_one = bytes(_record_bytes(requests=1))
        self._record_of_many = bytes(_record_bytes(requests=IN_FLIGHT))

    def put(self, item: Item) -> None:
        with self._env.begin(write=True) as txn:
            self._log(txn, self._around + item.encoded_key + item.encoded_value)
            self._state(txn, item)
            _seal(txn, RECORD, self._record_of_one)

    def put_pipelined(self, items: Sequence[Item]) -> None:
        for first in range(0, len(items), IN_FLIGHT):
            with self._env.begin(write=True) as txn:
                for item in items[first : first + IN_FLIGHT]:
                    self._log(txn, self._around + item.encoded_key + item.encoded_value)
                    self._state(txn, item)
                _seal(txn, RECORD, self._record_of_many)

    def put_batch(self, items: Sequence[Item]) -> None:
        body = b"".join([item.encoded_key + item.encoded_value for item in items])
        with self._env.begin(write=True) as txn:
            self._log(txn, self._around + body)
            for item in items:
                self._state(txn, item)
            _seal(txn, RECORD, self._record_of_one)

    def _log(self, txn: lmdb.Transaction, payload: bytes) -> None:
        self._slot += 1
        _seal(txn, LOG + self._slot.to_bytes(8, "big"), payload)

    def _state(self, txn: lmdb.Transaction, item: Item) -> None:
        _seal(txn, STATE + item.encoded_key, VERSION + item.encoded_value)

    def get(self, item: Item) -> None:
        with self._env.begin() as txn:
            txn.get(STATE + item.encoded_key)

    def scan(self, prefix: str) -> int:
        count, cut = 0, len(VERSION)
        start = STATE + encode(prefix)[:-1]
        with self._env.begin() as txn:
            cursor = txn.cursor()
            cursor.set_range(start)
            for key, value in cursor.iternext():
                if not key.startswith(start):
                    break
                _decode(value[cut:-4])
                count += 1
        return count

    def close(self) -> None:
        self._env.close()


def _seal(txn: lmdb.Transaction, key: bytes, payload: bytes) -> None:
    txn.put(key, payload + crc32(payload, crc32(key)).to_bytes(4, "little"))


def _log_bytes_around_a_put() -> int:
    """Return the number of bytes that the store logs besides the key and the value of a put."""
    operations: dict[ShardId, tuple[Operation, ...]] = {ShardId(0): (Put(b"", b""),)}
    # Numbers as large as in a store of some age, so that their encoding is as long.
    request = Request(ClientId(3), RequestId(1 << 17), RequestId(1 << 17), operations)
    stamp = MultiStamp(Epoch(3), 0, Timestamp(1 << 60), {ShardId(0): SequenceNumber(1 << 17)})
    return CHAIN_AND_KIND + len(_encode(Stamped(stamp, request)))


def _record_bytes(*, requests: int) -> int:
    """Return the size in bytes of a shard's record that remembers this number of requests."""
    outcomes = {RequestId((1 << 17) + number): DONE for number in range(requests)}
    epoch, slot, clock = Epoch(3), Slot(1 << 17), Timestamp(1 << 60)
    windows = {ClientId(3): ClientWindow(RequestId(1 << 17), outcomes)}
    head = (1, slot, 1 << 31)
    return len(_encode(ShardRecord(epoch, epoch, ViewNumber(0), slot, slot, slot, clock, head, windows)))

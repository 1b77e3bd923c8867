"""The stored outcomes of requests with an idempotency key (contracts C4).

The key's record shard keeps the digest and the participants of the request; every participant keeps its
own part of the outcome under the key. A retry, even after a crash, therefore finds the first outcome,
and no data passes between shards.

    outcomes   key of the token -> OutcomeRecord
    expiry     time as 8 bytes big-endian, then the key -> empty: the order of removal, oldest first
"""

from __future__ import annotations

import msgspec

from kvstore.execution.operations import IdempotencyToken, Outcome
from kvstore.ports import Table
from kvstore.types import ShardId, Slot, Timestamp

EXPIRED_AT_ONCE_MAX = 1000
"""Most outcomes that one Expire removes on one shard: a bound on the work of its batch."""
_TIME_BYTES = 8


class OutcomeRecord(msgspec.Struct, frozen=True, array_like=True):
    """One participant's memory of a request. Only the record shard keeps digest and participants."""

    slot: Slot
    outcome: Outcome
    time: Timestamp
    digest: bytes = b""
    participants: tuple[ShardId, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(OutcomeRecord).decode


def remember(
    token: IdempotencyToken,
    record: OutcomeRecord,
    *,
    is_record_shard: bool,
    outcomes: Table,
    expiry: Table,
) -> None:
    """Store this shard's part of the outcome; digest and participants only on the record shard."""
    if not is_record_shard:
        record = msgspec.structs.replace(record, digest=b"", participants=())
    outcomes.put(token.key, _encode(record))
    expiry.put(record.time.to_bytes(_TIME_BYTES, "big") + token.key, b"")


def expire(before: Timestamp, *, outcomes: Table, expiry: Table) -> None:
    """Remove outcomes stored before this time, oldest first, at most ``EXPIRED_AT_ONCE_MAX``."""
    stop = before.to_bytes(_TIME_BYTES, "big")
    for entry, _ in expiry.scan(b"", stop, limit=EXPIRED_AT_ONCE_MAX):
        expiry.delete(entry)
        time, key = int.from_bytes(entry[:_TIME_BYTES], "big"), entry[_TIME_BYTES:]
        stored = outcomes.get(key)
        if stored is not None and decode_record(stored).time == time:  # not a newer outcome
            outcomes.delete(key)

"""What became of requests that carried an idempotency key (contracts C4).

The key's home shard keeps the digest of the request and who took part; every participant keeps its
own part of the outcome under the key. So a retry, even after a crash, finds the first outcome, and
nothing has to flow between shards.

    outcomes   key of the token -> OutcomeRecord
    expiry     time as 8 bytes big-endian, then the key -> empty: what to forget, oldest first
"""

from __future__ import annotations

import msgspec

from kvstore.execution.operations import IdempotencyToken, Outcome
from kvstore.ports import Table
from kvstore.types import ShardId, Slot, Timestamp

EXPIRED_AT_ONCE_MAX = 1000
"""Records one Expire forgets on one shard: bounds the work of its batch."""
_TIME_BYTES = 8


class OutcomeRecord(msgspec.Struct, frozen=True, array_like=True):
    """One participant's memory of a request. Only the home shard's copy has a digest."""

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
    """Store this shard's part of the outcome; the digest and participants only at home."""
    if not is_record_shard:
        record = msgspec.structs.replace(record, digest=b"", participants=())
    outcomes.put(token.key, _encode(record))
    expiry.put(record.time.to_bytes(_TIME_BYTES, "big") + token.key, b"")


def expire(before: Timestamp, *, outcomes: Table, expiry: Table) -> None:
    """Forget what was stored before this time, the oldest first, up to a bound."""
    stop = before.to_bytes(_TIME_BYTES, "big")
    for entry, _ in expiry.scan(b"", stop, limit=EXPIRED_AT_ONCE_MAX):
        expiry.delete(entry)
        time, key = int.from_bytes(entry[:_TIME_BYTES], "big"), entry[_TIME_BYTES:]
        stored = outcomes.get(key)
        if stored is not None and decode_record(stored).time == time:  # not one that came since
            outcomes.delete(key)

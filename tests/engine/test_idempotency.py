"""Deleting expired outcomes in several passes, and a retry between two passes (contracts C4)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import kvstore
from kvstore import Database, Key, keys
from kvstore.database.database import DAY_NS
from kvstore.engine.request import ClientRequest
from kvstore.execution.operations import Expire
from kvstore.execution.outcomes import EXPIRED_AT_ONCE_MAX
from kvstore.types import ShardId, Timestamp
from tests.support.inside import manifest_of

SECONDS = 0.2


@pytest.fixture
def db() -> Iterator[Database]:
    with kvstore.open(":memory:", shards=2, idempotency_days=SECONDS / 86_400) as opened:
        yield opened


def token_at(db: Database, shard: int, name: str = "") -> Key:
    """Return an idempotency key that this shard owns."""
    tokens: Iterator[Key] = ((name, number) for number in range(1000))
    return next(token for token in tokens if db._routing.shard_of_bytes(keys.encode(token)) == shard)


def key_at(db: Database, shard: int) -> Key:
    return next((number,) for number in range(1000) if db.explain((number,)).shards == (shard,))


def crowd(db: Database, shard: int) -> None:
    """Store more outcomes on this shard than one pass deletes."""
    futures = []
    for number in range(EXPIRED_AT_ONCE_MAX + 10):
        batch = db.batch()
        batch.put(key_at(db, shard), number)
        futures.append(db.submit(batch, idempotency_key=token_at(db, shard, f"crowd {number}")))
    for future in futures:
        future.result()


def one_pass(db: Database) -> None:
    """Do one pass of the loop of ``_expire``; another thread may run between two passes."""
    before = Timestamp(time.time_ns() - int(manifest_of(db).idempotency_days * DAY_NS))
    db._send(ClientRequest({ShardId(shard): (Expire(before),) for shard in (0, 1)}, 0, 1), None)


def test_a_retry_while_its_home_still_remembers_is_answered_or_done_anew(db: Database) -> None:
    home, other = 0, 1
    crowd(db, home)
    token, key = token_at(db, home, "late"), key_at(db, other)
    db.put(key, "first", idempotency_key=token)
    time.sleep(1.5 * SECONDS)

    one_pass(db)

    db.put(key, "first", idempotency_key=token)


def test_an_outcome_that_is_younger_than_the_limit_survives_the_next_pass(db: Database) -> None:
    home, other = 0, 1
    crowd(db, other)
    token, key = token_at(db, home, "late"), key_at(db, other)
    db.put(key, "first", idempotency_key=token)
    time.sleep(1.5 * SECONDS)

    one_pass(db)
    db.put(key, "second", idempotency_key=token)
    one_pass(db)

    db.put(key, "second", idempotency_key=token)

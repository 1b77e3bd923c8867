"""Idempotency keys: a retry gets the outcome of the first request, even after a crash (contracts C4).

Before a request with a key is submitted, the key's record is looked up in the learner's last commit.
A latch per key keeps two threads of this process from submitting one request at once.
"""

from __future__ import annotations

import threading
from hashlib import blake2b
from typing import Any

from kvstore import keys, values
from kvstore.engine.readers import Readers
from kvstore.eris.messages import Answer, encode
from kvstore.eris.shard_state import EXPIRY, OUTCOMES, table_name
from kvstore.errors import KeyReused
from kvstore.execution.operations import Call, IdempotencyToken, Operation
from kvstore.execution.outcomes import OutcomeRecord, decode_record
from kvstore.types import RequestId, ShardId

DIGEST_BYTES = 16


class Claim:
    """One request's claim to its key, for the length of a ``with`` block unless it is handed over."""

    __slots__ = ("_idempotency", "handed_over", "over", "token")

    def __init__(self, idempotency: Idempotency, token: IdempotencyToken) -> None:
        self._idempotency = idempotency
        self.token = token
        self.over = threading.Event()
        self.handed_over = False
        """Whether another thread releases the claim, when the request is done."""

    def release(self) -> None:
        """Release the key. Does nothing for a claim that was never taken or is released already."""
        self._idempotency.release(self)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.handed_over:
            self.release()


class Idempotency:
    """The keys of one store."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._claims: dict[bytes, Claim] = {}

    def claim(self, token: IdempotencyToken) -> Claim:
        return Claim(self, token)

    def take(self, claim: Claim) -> Answer | None:
        """Wait until no other request with this key is under way; return the first answer, or None.

        Raises:
            KeyReused: the key was used for another request.
        """
        while (holder := self._claims.setdefault(claim.token.key, claim)) is not claim:
            holder.over.wait()
        return self.first_answer(claim.token)

    def release(self, claim: Claim) -> None:
        if self._claims.get(claim.token.key) is claim:
            del self._claims[claim.token.key]
        claim.over.set()

    def first_answer(self, token: IdempotencyToken) -> Answer | None:
        """Return the answer of the first request with this key, or None if there was no request.

        Raises:
            KeyReused: the key was used for another request.
        """
        record_shard = self._record(token, token.record_shard)
        if record_shard is None:
            return None
        if record_shard.digest != token.digest:
            message = "this idempotency key was used before, for another request"
            raise KeyReused(message, idempotency_key=keys.decode(token.key))
        parts = {shard: self._record(token, shard) for shard in record_shard.participants}
        found = {shard: part for shard, part in parts.items() if part is not None}
        if found.keys() != parts.keys():
            return None  # the key has expired: shards delete their parts one by one
        slots = {shard: part.slot for shard, part in found.items()}
        outcomes = {shard: part.outcome for shard, part in found.items()}
        return Answer(RequestId(0), slots, outcomes)

    def _record(self, token: IdempotencyToken, shard: ShardId) -> OutcomeRecord | None:
        stored = self._readers.get(table_name(shard, OUTCOMES), token.key)
        return None if stored is None else decode_record(stored)

    def has_expired(self, shard: ShardId, before: int) -> bool:
        """Return whether the shard still holds an outcome from before this time, in nanoseconds."""
        stop = before.to_bytes(8, "big")
        transaction = self._readers.begin(lifetime=60)
        try:
            return bool(transaction.scan(table_name(shard, EXPIRY), b"", stop, reverse=False, limit=1))
        finally:
            transaction.close()


def digest(request: Call | dict[ShardId, tuple[Operation, ...]]) -> bytes:
    """Return the digest of a request: of its operations, or of a procedure's name and arguments."""
    what = (request.name, request.arguments) if isinstance(request, Call) else sorted(request.items())
    return blake2b(encode(what), digest_size=DIGEST_BYTES).digest()


def digest_of_function(what: bytes) -> bytes:
    """Return the digest of a function's encoded name and arguments."""
    return blake2b(what, digest_size=DIGEST_BYTES).digest()


def result_of(answer: Answer, token: IdempotencyToken) -> Any:
    """Return the result of the function for which the key was first used."""
    result = answer.outcomes[token.record_shard].results[0]
    assert isinstance(result, bytes)
    return values.decode(result)

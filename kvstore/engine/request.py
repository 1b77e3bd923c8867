"""What a caller asks of the cluster, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from kvstore.eris.client import SecondHalf
from kvstore.eris.messages import Answer
from kvstore.execution.operations import Call, IdempotencyToken, Operations
from kvstore.types import RequestId, Timestamp


class Conclusion(NamedTuple):
    """The end of a general transaction: the request's writes commit its preliminary, or it is aborted."""

    preliminary: RequestId
    commits: bool


class ClientRequest(msgspec.Struct, frozen=True):
    """One request, as its caller made it.

    Attributes:
        operations: by shard; of a general transaction, those of its preliminary.
        size: bytes of keys and values.
        weight: number of operations.
        second_half: what a general transaction does once its locks are held.
        conclusion: which preliminary this request ends, and how.
        after: the latest timestamp in an import (contracts D1); 0 for every other request.
    """

    operations: Operations
    size: int
    weight: int
    call: Call | None = None
    second_half: SecondHalf | None = None
    conclusion: Conclusion | None = None
    token: IdempotencyToken | None = None
    after: Timestamp = Timestamp(0)


class PendingRequest:
    """A request that was queued, and then its answer or its error."""

    __slots__ = ("answer", "completion", "done", "error", "number", "on_done", "request", "sent", "wake")

    def __init__(
        self, request: ClientRequest, completion: Callable[[PendingRequest], None] | None = None
    ) -> None:
        """``completion`` is called on the thread of the futures once the request is done."""
        self.request = request
        self.completion = completion
        self.number: RequestId | None = None
        """The id that the client gave the request; None before it was sent."""
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.sent = False
        """Whether the request left the queue: it is answered, or waits for locks until it is done."""
        self.done = False
        self.on_done: Callable[[], None] | None = None
        """Called on the leader's thread when the request is done."""
        self.wake: threading.Lock | None = None
        """Held while the caller sleeps; released to wake it."""

    def finish(self) -> None:
        """Mark the request done; the caller is still to be woken."""
        self.done = True
        if self.on_done is not None:
            self.on_done()

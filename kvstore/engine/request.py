"""A caller's request to the cluster, and its outcome."""

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
    """How a general transaction ends: its preliminary is committed with the request's writes, or aborted."""

    preliminary: RequestId
    commits: bool


class ClientRequest(msgspec.Struct, frozen=True):
    """One request, as its caller made it.

    Attributes:
        operations: operations by shard; for a general transaction, the operations of its preliminary.
        size: bytes of keys and values.
        weight: number of operations.
        second_half: what a general transaction does once its locks are held.
        conclusion: the preliminary that this request ends, and how.
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
    """A request on its way through the queue and the cluster, and its answer or error."""

    __slots__ = ("answer", "completion", "done", "error", "number", "on_done", "request", "sent", "wake")

    def __init__(
        self, request: ClientRequest, completion: Callable[[PendingRequest], None] | None = None
    ) -> None:
        """``completion`` is called on the thread that completes futures, once the request is done."""
        self.request = request
        self.completion = completion
        self.number: RequestId | None = None
        """Id that the client gave the request; None until the request is sent."""
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.sent = False
        """Whether the request has left the queue; from then on it is answered or waits for locks."""
        self.done = False
        self.on_done: Callable[[], None] | None = None
        """Callback for the end of the request, called on the leader's thread."""
        self.wake: threading.Lock | None = None
        """Lock that is held while the caller sleeps, and released to wake the caller."""

    def finish(self) -> None:
        """Mark the request done, without waking its caller."""
        self.done = True
        if self.on_done is not None:
            self.on_done()

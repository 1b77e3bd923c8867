"""Many threads, one batch at a time: whoever finds nobody leading leads one group (contracts C3).

A caller puts its request into the queue. If no group is under way it leads: it takes what is queued,
processes it as one group, and wakes whom it answered. Otherwise it sleeps until it is answered, or
until a leader that leaves hands over to it. Leadership lasts one group, so no caller works for others
for long; one whose own request waits for locks at the end of it sleeps like any other. Requests that were
submitted without waiting are led by a writer thread, which starts with the first of them, and their
futures are completed on a thread of its own, so callbacks may use the store.

INVARIANTS
    GROUP-1  Only the holder of ``_leading`` processes, finishes or wakes.
    GROUP-2  A request that is queued is led by a thread: whoever leaves the lead wakes the first in the
        queue.
    GROUP-3  SIGINT never interrupts a group: on the main thread it is kept until the group has ended.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from kvstore.engine.interrupts import MAIN_THREAD, Deferred, uninterrupted
from kvstore.eris.client import SecondHalf
from kvstore.eris.messages import Answer
from kvstore.errors import Closed
from kvstore.execution.operations import Call, IdempotencyToken, Operation
from kvstore.types import RequestId, ShardId, Timestamp

GROUP_BYTES_MAX = 8 << 20
GROUP_OPERATIONS_MAX = 2000
"""About 10 ms of work: a group is never longer, so that nobody waits long for its end (C5)."""
OUTSTANDING_MAX = 10_000
OUTSTANDING_BYTES_MAX = 64 << 20
"""Submitted and not yet answered; beyond either bound ``submit`` waits."""
ROOM_S = 0.1
"""``submit`` looks for room again after so long; an interrupt waits until then at most."""
WAKE_S = 1.0
"""A safety net: a sleeper looks again after so long. Where that was needed, ``woken_by_timer`` counts it."""


class PendingRequest:
    """One request on its way: what it asks, and then its answer or its error."""

    __slots__ = (
        "aborts",
        "after",
        "answer",
        "call",
        "concludes",
        "done",
        "error",
        "future",
        "on_done",
        "operations",
        "refusal",
        "request",
        "route",
        "second_half",
        "sent",
        "size",
        "token",
        "wake",
        "weight",
    )  # fmt: skip

    def __init__(
        self,
        operations: dict[ShardId, tuple[Operation, ...]],
        size: int,
        weight: int,
        call: Call | None = None,
    ) -> None:
        """``size`` in bytes of keys and values, ``weight`` in operations."""
        self.operations = operations
        self.size = size
        self.weight = weight
        self.call = call
        self.second_half: SecondHalf | None = None
        """Of a general transaction, whose ``operations`` are those of its preliminary."""
        self.concludes: RequestId | None = None
        """The preliminary that it ends: by writing ``operations``, or without any if ``aborts``."""
        self.aborts = False
        self.request: RequestId | None = None
        """Its id, once it was sent."""
        self.token: IdempotencyToken | None = None
        self.after = Timestamp(0)
        """Of an import, the latest time in it (contracts D1)."""
        self.future: Future[Any] | None = None
        self.route: Any = None
        """What the future's result says of the path; only for the one who submitted."""
        self.refusal: Callable[[Answer], Exception | None] | None = None
        """What the future's exception is where the answer refuses something."""
        self.on_done: Callable[[], None] | None = None
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.sent = False
        """Whether it left the queue: it is answered, or waits for locks, until it is done."""
        self.done = False
        self.wake: threading.Lock | None = None

    def finish(self) -> None:
        """Mark it done; whoever waits for that is still to be woken."""
        self.done = True
        if self.on_done is not None:
            self.on_done()


class GroupCommit:
    """The queue in front of a cluster.

    ``process`` takes the requests of a group and returns those that are done, of earlier groups too: a
    request that waits for locks is done later. It never raises.
    """

    def __init__(
        self,
        process: Callable[[list[PendingRequest]], list[PendingRequest]],
        finish: Callable[[PendingRequest], None],
    ) -> None:
        self._process = process
        self._finish_future = finish
        self._queue: deque[PendingRequest] = deque()
        self._leading = threading.Lock()
        self._handed_over = False
        """Whether the last leader woke a thread that is to lead next."""
        self.woken_by_timer = 0
        """Sleepers that only their timer woke to what should have woken them: 0, unless GROUP-2 is broken."""
        self._closed = False
        self._ended = False
        self._submitted = threading.Event()
        self._room = threading.Condition()
        self._outstanding = 0
        self._outstanding_bytes = 0
        self._writer: threading.Thread | None = None
        self._completer: threading.Thread | None = None
        self._completed: SimpleQueue[list[PendingRequest] | None] = SimpleQueue()

    # -- callers that wait -------------------------------------------------------------------

    def run(self, pending: PendingRequest, deadline: float | None = None) -> bool:
        """Return when the request is done: answered, or failed with ``pending.error``.

        Returns False when it was sent and is not done at the deadline, by ``time.monotonic``.
        """
        if self._closed:
            raise Closed("the database was closed")
        queued = self._lead(pending)
        if pending.done:
            return True
        pending.wake = threading.Lock()
        pending.wake.acquire()
        if not queued:
            self._queue.append(pending)
        try:
            return self._wait(pending, pending.wake, deadline)
        except BaseException:
            self._withdraw(pending)
            raise

    def _wait(self, pending: PendingRequest, wake: threading.Lock, deadline: float | None) -> bool:
        by_timer = False
        while not pending.done:
            nap = WAKE_S
            if deadline is not None and pending.sent:
                nap = min(WAKE_S, deadline - time.monotonic())
                if nap <= 0:
                    return False
            if not self._lead(None, by_timer=by_timer) or pending.sent:
                by_timer = not wake.acquire(timeout=nap) and nap == WAKE_S
        if by_timer and not wake.acquire(timeout=WAKE_S):  # its wake-up may be a moment behind its answer
            self.woken_by_timer += 1
        return True

    def _withdraw(self, pending: PendingRequest) -> None:
        """The caller was interrupted while it waited: its request has committed or is taken back."""
        with self._lead_between_groups():
            if not pending.done:
                pending.finish()  # no group is under way: it is queued and will be passed over, or is sent

    def _lead(self, own: PendingRequest | None, *, by_timer: bool = False) -> bool:
        """Lead one group, with ``own`` queued before it; return False where another thread leads."""
        if threading.get_ident() != MAIN_THREAD:
            return self._lead_group(own, by_timer)
        with Deferred():
            return self._lead_group(own, by_timer)

    def _lead_group(self, own: PendingRequest | None, by_timer: bool) -> bool:
        if not self._leading.acquire(blocking=False):
            return False
        try:
            if by_timer and self._queue and not self._handed_over:
                self.woken_by_timer += 1
            if own is not None:
                self._queue.append(own)
            self._one_group()
        finally:
            self._leave()
        return True

    @contextmanager
    def _lead_between_groups(self) -> Iterator[None]:
        """Wait for the lead, and hold it for the block."""
        with uninterrupted():
            self._leading.acquire()
            try:
                yield
            finally:
                self._leave()

    def _leave(self) -> None:
        """Let go of the lead and wake the first in the queue, also one that came a moment ago (GROUP-2)."""
        queue = self._queue
        while queue and queue[0].done:
            queue.popleft()
        self._handed_over = bool(queue)
        self._leading.release()
        if queue:
            self._wake_first()

    def _wake_first(self) -> None:
        """Wake the first in the queue to lead; one that does not wait is led by the writer thread."""
        try:
            wake = self._queue[0].wake
        except IndexError:
            return  # another thread has led it meanwhile
        self._handed_over = True
        if wake is not None:
            self._poke(wake)

    def _one_group(self) -> None:
        group = self._take()
        if group:
            self._finish(self._refuse(group) if self._ended else self._process(group))

    @staticmethod
    def _refuse(group: list[PendingRequest]) -> list[PendingRequest]:
        for pending in group:
            pending.error = Closed("the database was closed")
        return group

    def _take(self) -> list[PendingRequest]:
        queue, group = self._queue, []
        size = weight = 0
        while queue and size < GROUP_BYTES_MAX and weight < GROUP_OPERATIONS_MAX:
            pending = queue.popleft()
            if not pending.done:
                size += pending.size
                weight += pending.weight
                pending.sent = True
                group.append(pending)
        return group

    def _finish(self, group: list[PendingRequest]) -> None:
        futures = []
        for pending in group:
            if pending.done:
                continue  # its caller was interrupted, and is gone
            pending.finish()
            if pending.future is not None:
                futures.append(pending)
            elif pending.wake is not None:
                self._poke(pending.wake)
        if futures:
            with self._room:  # before their callbacks, which may want to submit
                self._outstanding -= len(futures)
                self._outstanding_bytes -= sum(pending.size for pending in futures)
                self._room.notify_all()
            self._completed.put(futures)

    @staticmethod
    def _poke(wake: threading.Lock) -> None:
        if wake.locked():
            wake.release()

    # -- callers that do not wait ------------------------------------------------------------

    def submit(self, pending: PendingRequest) -> None:
        """Queue the request for the writer thread; its future completes when it is done."""
        while not self._queue_if_room(pending):
            with uninterrupted(), self._room:
                if self._is_full() and not self._closed:
                    self._room.wait(ROOM_S)

    def _queue_if_room(self, pending: PendingRequest) -> bool:
        """Count and queue the request in one step, which no interrupt divides (GROUP-3)."""
        with uninterrupted():
            with self._room:
                if self._closed:
                    raise Closed("the database was closed")
                if self._is_full():
                    return False
                self._start_threads()
                self._outstanding += 1
                self._outstanding_bytes += pending.size
                self._queue.append(pending)
            if not self._submitted.is_set():
                self._submitted.set()
        return True

    def _is_full(self) -> bool:
        return self._outstanding >= OUTSTANDING_MAX or self._outstanding_bytes >= OUTSTANDING_BYTES_MAX

    def _start_threads(self) -> None:
        """Start the writer and the thread of the futures, with the first request that needs them."""
        if self._completer is None or not self._completer.is_alive():
            self._completer = threading.Thread(target=self._complete, name="kvstore-futures", daemon=True)
            self._completer.start()
        if self._writer is None or not self._writer.is_alive():
            self._writer = threading.Thread(target=self._write, name="kvstore-writer", daemon=True)
            self._writer.start()

    def _write(self) -> None:
        while not self._closed:
            self._submitted.wait()
            self._submitted.clear()
            while self._queue:
                with self._lead_between_groups():
                    self._one_group()

    def _complete(self) -> None:
        while (group := self._completed.get()) is not None:
            for pending in group:
                self._finish_future(pending)

    # -- the end -----------------------------------------------------------------------------

    def exclusively(self, work: Callable[[], None]) -> None:
        """Run ``work`` between two groups."""
        with self._lead_between_groups():
            work()

    def without_requests(self, work: Callable[[], list[PendingRequest]]) -> None:
        """Lead a group that nobody asked for; ``work`` returns the requests that it finished."""

        def lead() -> None:
            if not self._ended:
                self._finish(work())

        self.exclusively(lead)

    def close(self, settle: Callable[[], list[PendingRequest]]) -> None:
        """Refuse new requests, finish what is queued and sent, and stop the threads.

        ``settle`` ends what waits, and returns it.
        """
        with self._room:
            self._closed = True
            self._room.notify_all()
        while self._queue:
            self.exclusively(self._one_group)
        self.without_requests(settle)
        self.exclusively(self._end)
        self._submitted.set()
        self._completed.put(None)
        for thread in (self._writer, self._completer):
            if thread is not None and thread.is_alive() and thread is not threading.current_thread():
                thread.join()

    def _end(self) -> None:
        self._ended = True

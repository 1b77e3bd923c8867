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

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from kvstore.engine.cluster import Cluster
from kvstore.engine.commit_signal import CommitSignal
from kvstore.engine.interrupts import run_uninterrupted, uninterrupted
from kvstore.engine.readers import Readers
from kvstore.engine.request import PendingRequest
from kvstore.errors import Closed, Error, Failed
from kvstore.execution.reentrancy import function_running, refuse_nested

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


_log = logging.getLogger("kvstore")


class GroupCommit:
    """The queue in front of a cluster, which it owns: it hands the cluster a group at a time.

    ``Cluster.process`` returns the requests that are done, of earlier groups too: a request that waits for
    locks is done later.
    """

    def __init__(self, cluster: Cluster, readers: Readers, committed: CommitSignal) -> None:
        self._cluster = cluster
        self._readers = readers
        self._committed = committed
        self._refusal: Callable[[], Error] | None = None
        self._queue: deque[PendingRequest] = deque()
        self._leading = threading.Lock()
        self._handed_over = False
        """Whether the last leader woke a thread that is to lead next."""
        self.woken_by_timer = 0
        """Sleepers that only their timer woke to what should have woken them: 0, unless GROUP-2 is broken."""
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
        """Return when the request is done: answered, or failed, and then its error is raised.

        Returns False when the request was sent and still waits for locks at the deadline, a time of
        ``time.monotonic``.
        """
        if function_running() is not None:
            refuse_nested()
        if self._refusal is not None:
            raise self._refusal()
        queued = run_uninterrupted(self._lead, pending)
        done = pending.done or self._sleep(pending, queued, deadline)
        if pending.error is not None:
            raise pending.error
        return done

    def _sleep(self, pending: PendingRequest, queued: bool, deadline: float | None) -> bool:
        """Wait until the request is done, or its deadline; lead whenever the lead is free."""
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
            if not run_uninterrupted(self._lead, None, by_timer) or pending.sent:
                by_timer = not wake.acquire(timeout=nap) and nap == WAKE_S
        if by_timer and not wake.acquire(timeout=WAKE_S):  # its wake-up may be a moment behind its answer
            self.woken_by_timer += 1
        return True

    def _withdraw(self, pending: PendingRequest) -> None:
        """The caller was interrupted while it waited: its request has committed or is taken back."""
        with self._lead_between_groups():
            if not pending.done:
                pending.finish()  # no group is under way: it is queued and will be passed over, or is sent

    def _lead(self, own: PendingRequest | None, by_timer: bool = False) -> bool:
        """Lead one group, with ``own`` queued before it; return False where another thread leads."""
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
        queue, group = self._queue, []
        assert len(queue) < 2 or self._leading.locked(), (
            f"GROUP-1: nobody leads, and {len(queue)} are in the queue"
        )
        size = weight = 0
        while queue and size < GROUP_BYTES_MAX and weight < GROUP_OPERATIONS_MAX:
            pending = queue.popleft()
            if not pending.done:
                size += pending.request.size
                weight += pending.request.weight
                pending.sent = True
                group.append(pending)
        if group and self._ended:
            for pending in group:
                pending.error = Closed("the database was closed")
            self._finish(group)
        elif group:
            self._finish(self._publish(self._cluster.process(group)))

    def _publish(self, done: list[PendingRequest]) -> list[PendingRequest]:
        """Show readers and watchers what was committed, before the callers are woken; return ``done``."""
        cluster, readers = self._cluster, self._readers
        if cluster.learner_failed:
            failure = cluster.failure
            readers.refuse(lambda: Failed(f"the store failed: {failure}"))
        if readers.environment is not cluster.learner.environment:
            self.follow_learner()
        readers.expire()
        self._committed.announce()
        return done

    def follow_learner(self) -> None:
        """Read from the learner's environment from now on; open snapshots stay where they are."""
        cluster = self._cluster
        if self._readers.environment is not cluster.learner.environment:
            self._readers.replace(cluster.learner.environment)
            number, why = list(cluster.failed_learners.items())[-1]
            message = "%s: replica %d failed: %s; replica %d is the learner now"
            _log.warning(message, cluster.opened.directory.path, number, why, cluster.learner.number)

    def _finish(self, group: list[PendingRequest]) -> None:
        """Mark the requests done, wake their callers, and hand over those with a completion."""
        completed = []
        for pending in group:
            if pending.done:
                continue  # its caller was interrupted, and is gone
            pending.done = True
            if pending.on_done is not None:
                pending.on_done()
            if pending.completion is not None:
                completed.append(pending)
            elif pending.wake is not None:
                self._poke(pending.wake)
        if completed:
            with self._room:  # before their callbacks, which may want to submit
                self._outstanding -= len(completed)
                self._outstanding_bytes -= sum(pending.request.size for pending in completed)
                self._room.notify_all()
            self._completed.put(completed)

    @staticmethod
    def _poke(wake: threading.Lock) -> None:
        if wake.locked():
            wake.release()

    # -- callers that do not wait ------------------------------------------------------------

    def submit(self, pending: PendingRequest) -> None:
        """Queue the request for the writer thread; its future completes when it is done."""
        while not self._queue_if_room(pending):
            with uninterrupted(), self._room:
                if self._is_full() and self._refusal is None:
                    self._room.wait(ROOM_S)

    def _queue_if_room(self, pending: PendingRequest) -> bool:
        """Count and queue the request in one step, which no interrupt divides (GROUP-3)."""
        with uninterrupted():
            with self._room:
                if self._refusal is not None:
                    raise self._refusal()
                if self._is_full():
                    return False
                self._start_threads()
                self._outstanding += 1
                self._outstanding_bytes += pending.request.size
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
        while self._refusal is None:
            self._submitted.wait()
            self._submitted.clear()
            while self._queue:
                with self._lead_between_groups():
                    self._one_group()

    def _complete(self) -> None:
        while (group := self._completed.get()) is not None:
            for pending in group:
                assert pending.completion is not None, "only requests with a completion come here"
                pending.completion(pending)

    # -- the end -----------------------------------------------------------------------------

    def exclusively(self, work: Callable[[], object]) -> None:
        """Run ``work`` between two groups."""
        with self._lead_between_groups():
            work()

    def without_requests(self, work: Callable[[], list[PendingRequest]]) -> None:
        """Lead a group of no requests; ``work`` returns the requests that it finished."""
        with self._lead_between_groups():
            if not self._ended:
                self._finish(self._publish(work()))

    def refuse(self, error: Callable[[], Error]) -> None:
        """Refuse every new request with this error: the store is closed, or belongs to another process."""
        self._refusal = error

    def close(self) -> None:
        """Refuse new requests, finish what is queued and sent, and stop the threads."""
        with self._room:
            self.refuse(lambda: Closed("the database was closed"))
            self._room.notify_all()
        while self._queue:
            self.exclusively(self._one_group)
        with self._lead_between_groups():
            self._finish(self._cluster.settle())
        self.exclusively(self._end)
        self._submitted.set()
        self._completed.put(None)
        for thread in (self._writer, self._completer):
            if thread is not None and thread.is_alive() and thread is not threading.current_thread():
                thread.join()

    def _end(self) -> None:
        self._ended = True

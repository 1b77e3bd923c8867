"""Group commit: one group at a time, led by a caller that finds no other leader (contracts C3).

A caller puts its request into the queue. If no group is under way the caller leads: it takes the queued
requests, processes them as one group, and wakes the callers of the finished requests. Otherwise the
caller sleeps until its request is done, or until a leaving leader hands over the lead. The lead lasts one
group, so no caller works for others for long; a leader whose own request waits for locks then sleeps
too. Requests that were submitted without waiting are led by a writer thread, which starts with the first
such request, and their futures are completed on another thread, so callbacks may use the store.

INVARIANTS
    GROUP-1  Only the holder of ``_leading`` processes, finishes or wakes.
    GROUP-2  Every queued request is led by a thread: a leaving leader wakes the first in the queue.
    GROUP-3  SIGINT never interrupts a group: on the main thread it is deferred until the group has ended.
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
"""Most operations in a group: about 10 ms of work, which bounds every caller's wait (C5)."""
OUTSTANDING_MAX = 10_000
OUTSTANDING_BYTES_MAX = 64 << 20
"""Most bytes of requests submitted and not yet answered; beyond either bound ``submit`` waits."""
ROOM_S = 0.1
"""Seconds between two looks of ``submit`` for room; an interrupt waits at most that long."""
WAKE_S = 1.0
"""Longest sleep of a caller, in seconds: a safety net; ``woken_by_timer`` counts its uses."""


_log = logging.getLogger("kvstore")


class GroupCommit:
    """The queue in front of a cluster, which it owns and hands one group at a time.

    ``Cluster.process`` returns requests of earlier groups too: a request that waits for locks is done
    later than its group.
    """

    def __init__(self, cluster: Cluster, readers: Readers, committed: CommitSignal) -> None:
        self._cluster = cluster
        self._readers = readers
        self._committed = committed
        self._refusal: Callable[[], Error] | None = None
        self._queue: deque[PendingRequest] = deque()
        self._leading = threading.Lock()
        self._handed_over = False
        """Whether the last leader woke the thread that leads next."""
        self.woken_by_timer = 0
        """Sleepers that only their timer woke; 0 unless GROUP-2 is broken."""
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
        """Wait until the request is done; return True, or raise the request's error.

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
        """Wait until the request is done or the deadline has passed; lead whenever the lead is free."""
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
        if by_timer and not wake.acquire(timeout=WAKE_S):  # the wake-up follows the answer
            self.woken_by_timer += 1
        return True

    def _withdraw(self, pending: PendingRequest) -> None:
        """Withdraw the request of an interrupted caller, unless it is done already."""
        with self._lead_between_groups():
            if not pending.done:
                pending.finish()  # no group is under way: a queued request is now skipped

    def _lead(self, own: PendingRequest | None, by_timer: bool = False) -> bool:
        """Queue ``own`` and lead one group; return False, without queueing it, if another thread leads."""
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
        """Wait for the lead, and hold the lead for the block."""
        with uninterrupted():
            self._leading.acquire()
            try:
                yield
            finally:
                self._leave()

    def _leave(self) -> None:
        """Release the lead and wake the first in the queue, even if it was queued only now (GROUP-2)."""
        queue = self._queue
        while queue and queue[0].done:
            queue.popleft()
        self._handed_over = bool(queue)
        self._leading.release()
        if queue:
            self._wake_first()

    def _wake_first(self) -> None:
        """Wake the caller of the first request to lead; a submitted request is led by the writer thread."""
        try:
            wake = self._queue[0].wake
        except IndexError:
            return  # another thread has led this request meanwhile
        self._handed_over = True
        if wake is not None:
            self._poke(wake)

    def _one_group(self) -> None:
        queue, group = self._queue, []
        assert len(queue) < 2 or self._leading.locked(), (
            f"GROUP-1: no thread leads, and {len(queue)} are in the queue"
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
        """Show the commit to readers and watches before the callers are woken; return ``done``."""
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
        """Read from the present learner's environment; open snapshots stay on the old one."""
        cluster = self._cluster
        if self._readers.environment is not cluster.learner.environment:
            self._readers.replace(cluster.learner.environment)
            number, why = list(cluster.failed_learners.items())[-1]
            message = "%s: replica %d failed: %s; replica %d is the learner now"
            _log.warning(message, cluster.opened.directory.path, number, why, cluster.learner.number)

    def _finish(self, group: list[PendingRequest]) -> None:
        """Mark the requests done, wake their callers, and pass requests with a completion to its thread."""
        completed = []
        for pending in group:
            if pending.done:
                continue  # withdrawn: its caller was interrupted
            pending.done = True
            if pending.on_done is not None:
                pending.on_done()
            if pending.completion is not None:
                completed.append(pending)
            elif pending.wake is not None:
                self._poke(pending.wake)
        if completed:
            with self._room:  # before the callbacks, which may submit
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
        """Queue the request for the writer thread; its future completes when the request is done."""
        while not self._queue_if_room(pending):
            with uninterrupted(), self._room:
                if self._is_full() and self._refusal is None:
                    self._room.wait(ROOM_S)

    def _queue_if_room(self, pending: PendingRequest) -> bool:
        """Count and queue the request without interruption (GROUP-3); return False if the queue is full."""
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
        """Start the writer and the thread of the futures, unless they are running."""
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
                assert pending.completion is not None, "only requests with a completion are passed here"
                pending.completion(pending)

    # -- the end -----------------------------------------------------------------------------

    def exclusively(self, work: Callable[[], object]) -> None:
        """Run ``work`` between two groups, while holding the lead."""
        with self._lead_between_groups():
            work()

    def without_requests(self, work: Callable[[], list[PendingRequest]]) -> None:
        """Lead a group without requests: finish the requests that ``work`` returns."""
        with self._lead_between_groups():
            if not self._ended:
                self._finish(self._publish(work()))

    def refuse(self, error: Callable[[], Error]) -> None:
        """Raise this error for every new request: the store is closed, or belongs to another process."""
        self._refusal = error

    def close(self) -> None:
        """Refuse new requests, finish the queued and sent requests, and stop the threads."""
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

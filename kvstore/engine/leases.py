"""Leases: a caller may hold locks between the halves of its transaction for one second (contracts C2).

When the lease expires, the store ends the transaction for the caller, by an Abort through the sequencer.
The watching thread runs only while leases are held, so that it does not keep an abandoned store alive.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from kvstore.types import RequestId

LEASE_S = 1.0


class TimedLeases:
    """Leases of one second, measured by the machine's clock (``ports.Leases``)."""

    def __init__(self, expire: Callable[[], None]) -> None:
        """Call ``expire``, on a thread of this object, when leases may have expired."""
        self._expire = expire
        self._held: dict[RequestId, float] = {}
        self._deadlines: deque[tuple[float, RequestId]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, preliminary: RequestId) -> None:
        """Start the lease of a preliminary whose caller has been given the votes."""
        deadline = time.monotonic() + LEASE_S
        with self._lock:
            self._held[preliminary] = deadline
            self._deadlines.append((deadline, preliminary))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="kvstore-leases", daemon=True)
                self._thread.start()

    def end(self, preliminary: RequestId) -> None:
        """Forget the preliminary: it is being concluded. Do nothing if it has no lease."""
        self._held.pop(preliminary, None)

    def expired(self) -> list[RequestId]:
        """Return the preliminaries whose lease has expired."""
        now = time.monotonic()
        return [preliminary for preliminary, deadline in list(self._held.items()) if deadline <= now]

    def all(self) -> list[RequestId]:
        """Return all preliminaries that have a lease, expired or not."""
        return list(self._held)

    def _watch(self) -> None:
        while (deadline := self._next_deadline()) is not None:
            time.sleep(max(0.0, deadline - time.monotonic()))
            if self.expired():
                self._expire()
            if self.expired():
                time.sleep(LEASE_S)  # the disk has no room for the Abort: try again later

    def _next_deadline(self) -> float | None:
        """Return the next deadline; None, when no lease is held, ends the thread."""
        with self._lock:
            while self._deadlines and self._deadlines[0][1] not in self._held:
                self._deadlines.popleft()
            if self._deadlines:
                return self._deadlines[0][0]
            self._thread = None
            return None

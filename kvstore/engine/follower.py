"""A follower: a thread that processes the batches of one host one after another (contracts A4)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from kvstore.engine.host import Host, Inbox
from kvstore.eris.effects import Send

BEHIND_MAX = 8
"""Most batches that a follower may have queued; the leader waits before it queues another."""

Report = Callable[["Follower", list[Send] | None], None]
"""Callback for a finished batch, with the sends that follow its commit, or None for a failed batch."""


class Follower:
    """One follower's thread. After a failed batch the follower processes no further batch."""

    def __init__(self, host: Host, report: Report) -> None:
        self.host = host
        self.failure: BaseException | None = None
        self._report = report
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._room = threading.BoundedSemaphore(BEHIND_MAX)
        name = f"kvstore-follower-{host.number}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def give(self, inbox: Inbox) -> None:
        """Queue one batch; wait while ``BEHIND_MAX`` batches are queued."""
        self._room.acquire()
        self._work.put(lambda: self._take(inbox))

    def sync(self) -> None:
        """Queue a sync of all batches queued so far."""
        self._work.put(self._sync)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def _take(self, inbox: Inbox) -> None:
        sends = None if self.failure else self._batch(inbox)
        self._room.release()
        self._report(self, sends)

    def _sync(self) -> None:
        try:
            self.host.environment.sync()
        except Exception as error:
            self.failure = self.failure or error

    def _batch(self, inbox: Inbox) -> list[Send] | None:
        host = self.host
        try:
            host.begin()
        except Exception as error:
            self.failure = error
            return None
        try:
            sends = host.handle(inbox) + host.finish()
        except Exception as error:
            host.abort()
            self.failure = error
            return None
        try:
            host.commit()
        except Exception as error:
            self.failure = error
            return None
        return sends

    def stop(self) -> None:
        """Finish the queued batches and end the thread."""
        self._work.put(None)
        self._thread.join()

"""The driver of one region's exchange with the others: threads, links and the clock around ``Neighbours``.

One thread talks to the neighbours: it passes received messages to the machine, and carries out its effects.
The other thread imports, one run at a time, as any other caller of the store does (contracts D3), and grants
rights. A region whose links are all cut keeps reading and writing; it only receives no messages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from queue import Empty, SimpleQueue

import msgspec

from kvstore.engine.request import ClientRequest, PendingRequest
from kvstore.engine.store import WritingStore
from kvstore.errors import DiskFull, Error, Failed, LimitExceeded, RetryLater, WrongFormat
from kvstore.fuzzylog.exchange_effects import (
    AnswerPull,
    ExchangeEffect,
    Importable,
    Refused,
    SendTo,
    Stopped,
    Wanted,
)
from kvstore.fuzzylog.messages import Identity, LinkMessage, Pull, Vector, Want, decode, encode
from kvstore.fuzzylog.neighbours import Neighbours, Staleness
from kvstore.fuzzylog.old_copies import OldCopyCheck
from kvstore.fuzzylog.shipping import Shipping
from kvstore.geo.chains import RegionLog
from kvstore.geo.own_chains import StoredChains
from kvstore.ports import CommitView, Link
from kvstore.types import RegionId, ShardId, Timestamp

__all__ = ["ReplicationAgent", "Staleness"]

LOOK_EVERY_S = 0.25
"""The period with which the importing thread looks for work that did not wake it, in seconds."""
TRY_AGAIN_S = 0.5
"""The pause after an error that may pass, in seconds."""

_log = logging.getLogger("kvstore")


class ReplicationAgent:
    """One region among the others. ``_lock`` guards ``neighbours``, which both threads and callers use."""

    def __init__(
        self, store: WritingStore, identity: Identity, links: Mapping[str, Link], max_clock_skew: float
    ) -> None:
        self._store = store
        self.identity = identity
        self._links = dict(links)
        self.own = RegionId(identity.names.index(identity.region))
        with self._store.readers.viewing() as view:
            importer = self.log(view).importer(int(max_clock_skew * 1e9))
        self.chains = StoredChains(identity.shards, self._store.readers.viewing, self.log)
        self.neighbours = Neighbours(
            identity, links, self.chains, importer, opened=_physical(), location=store.directory.path
        )
        self._lock = threading.RLock()
        self._inbox: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()
        self._importable = threading.Event()
        self._wanted: SimpleQueue[tuple[Want, ...]] = SimpleQueue()
        """Requests of neighbours for rights, for the thread that writes."""
        self._has_committed = False
        """Whether there was a commit that the machine may not know of."""
        self._closed = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for peer, link in self._links.items():
            link.start(lambda message, peer=peer: self._inbox.put((peer, message)))  # type: ignore[misc]  # bound
        self._store.commits_seen.listener = self._on_commit
        for work in (self._talk, self._import):
            thread = threading.Thread(target=work, name=f"kvstore-{self.identity.region}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def log(self, view: CommitView) -> RegionLog:
        """Return all chains as of this view; of the own chains, what may leave the region (contracts D2)."""
        return RegionLog(
            view, self.identity.shards, self.own, len(self.identity.names), self._store.synced_end()
        )

    def close(self) -> None:
        """End both threads, after the import that is under way."""
        self._closed = True
        self._store.commits_seen.listener = None
        self._inbox.put(None)
        self._importable.set()
        for thread in self._threads:
            thread.join()
        with ExitStack() as closing:  # closes every link, even if one raises
            for link in self._links.values():
                closing.callback(link.close)

    # -- state ---------------------------------------------------------------------------------

    @property
    def shipping(self) -> Shipping:
        return self.neighbours.shipping

    @property
    def old_copy(self) -> OldCopyCheck:
        return self.neighbours.old_copy

    @property
    def problems(self) -> dict[str, Error]:
        """Why a neighbour is not listened to, by neighbour."""
        with self._lock:
            return dict(self.neighbours.problems)

    @property
    def failure(self) -> Error | None:
        """The error after which nothing is imported any more."""
        return self.neighbours.failure

    def applied(self) -> Vector:
        """Return how far each chain is applied here, the own ones included, on disk or not."""
        end = self.chains.executed()
        with self._lock:
            return {**self.shipping.importer.applied(), self.own: end}

    def staleness(self) -> dict[str, Staleness]:
        with self._lock:
            return self.neighbours.staleness(_physical())

    def has_heard_all(self) -> bool:
        """Return whether every neighbour has sent its identity."""
        return self.neighbours.has_heard_all()

    def pull_soon(self) -> None:
        """Pull from all neighbours now."""
        with self._lock:
            self.neighbours.pull_soon()
        self._inbox.put(None)

    def want(self, shard: ShardId, key: bytes, amount: int) -> None:
        """Ask the neighbours for rights, with the next pull."""
        with self._lock:
            self.neighbours.want(shard, key, amount)
        self._inbox.put(None)

    # -- talking -------------------------------------------------------------------------------

    def _on_commit(self) -> None:
        if not self._has_committed:
            self._has_committed = True
            self._inbox.put(None)

    def _talk(self) -> None:
        while not self._closed:
            try:
                received = self._inbox.get(timeout=self._seconds_to_tick())
            except Empty:
                received = None
            try:
                for message in (received, *self._also_here()):
                    if message is not None:
                        self._take(*message)
                self._tick()
            except Exception as error:
                self._after(error)

    def _seconds_to_tick(self) -> float:
        return max(0, self.neighbours.next_tick() - time.monotonic_ns()) / 1e9

    def _also_here(self) -> list[tuple[str, bytes] | None]:
        return [self._inbox.get_nowait() for _ in range(self._inbox.qsize())]  # no other thread gets any

    def _tick(self) -> None:
        now = time.monotonic_ns()
        with self._lock:
            if self._has_committed:
                self.neighbours.on_commit(now)
            if self.neighbours.next_tick() <= now:
                self._has_committed = False  # until then further commits need not wake this thread
            effects = self.neighbours.tick(now)
        self._carry_out(effects)

    def _take(self, peer: str, encoded: bytes) -> None:
        with self._lock:
            try:
                message = decode(encoded)
            except (msgspec.DecodeError, TypeError) as error:
                problem = WrongFormat(f"{peer} sent bytes that are not a message: {error}", path=peer)
                effects = self.neighbours.refuse(peer, problem)
            else:
                effects = self.neighbours.handle(peer, message, time.monotonic_ns())
            self._carry_out(effects)  # a neighbour that is refused is told before ``problems`` shows it

    def _carry_out(self, effects: Iterable[ExchangeEffect]) -> None:
        for effect in effects:
            match effect:
                case SendTo(peer, message):
                    self._send(peer, message)
                case AnswerPull(peer, pull):
                    self._answer(peer, pull)
                case Importable():
                    self._importable.set()
                case Wanted(wants):
                    self._wanted.put(wants)
                    self._importable.set()
                case Refused(_, problem):
                    _log.warning("%s: %s", self.identity.region, problem)
                case Stopped(problem):
                    _log.error("%s", problem)

    def _send(self, peer: str, message: LinkMessage) -> None:
        try:
            self._links[peer].send(encode(message))
        except Exception as error:
            with self._lock:
                is_new = self.neighbours.link_failed(peer, repr(error))
            if is_new:
                _log.warning("%s: the link to %s failed: %r", self.identity.region, peer, error)

    def _answer(self, peer: str, pull: Pull) -> None:
        physical = _physical()
        with self._store.readers.viewing() as view:
            log = self.log(view)
            with self._lock:
                answer = self.neighbours.begin_answer(pull, log.ends(), physical)
            read = answer.read(log)  # imports go on meanwhile
        with self._lock:
            effects = self.neighbours.finish_answer(peer, answer, read)
        self._carry_out(effects)

    # -- importing, and granting rights --------------------------------------------------------

    def _import(self) -> None:
        while not (self._closed or self.failure):
            self._importable.wait(timeout=LOOK_EVERY_S)
            self._importable.clear()
            try:
                while not self._wanted.empty():
                    self._grant(self._wanted.get())
                while self._import_one():
                    pass
            except Exception as error:
                self._after(error)

    def _after(self, error: Exception) -> None:
        """Wait after an error that may pass; stop importing after any other, which ``staleness`` and
        ``settle`` report. Ignore an error of a store that is being closed."""
        if self._closed:
            return
        name = self.identity.region
        if isinstance(error, DiskFull | RetryLater | LimitExceeded):
            _log.warning("%s waits: %s", name, error)
            time.sleep(TRY_AGAIN_S)
        elif self.failure is None:
            failure = error if isinstance(error, Error) else Failed(f"{name} ships no more: {error!r}")
            with self._lock:
                self.neighbours.failure = failure
            _log.error("%s imports no more: %s", name, failure)

    def _import_one(self) -> bool:
        with self._lock:
            run = self.neighbours.next_run(_physical())
        if run is None or self._closed:
            return False
        request = ClientRequest(run.operations, run.size, sum(run.ends.values()), after=run.after)
        pending = PendingRequest(request)
        self._store.run(pending)
        with self._lock:
            effects = self.neighbours.imported(run, time.monotonic_ns())
        self._carry_out(effects)
        return True

    def _grant(self, wants: Iterable[Want]) -> None:
        """Grant rights that neighbours want, as ordinary transactions."""
        for want in wants:
            with self._lock:
                operations = self.neighbours.grant(want)
            if operations is not None:
                self._store.run(PendingRequest(ClientRequest(operations, len(want.key) + 8, 1)))


def _physical() -> Timestamp:
    return Timestamp(time.time_ns())

"""The driver of one region: it ships, pulls and imports, on threads of its own.

One thread talks to the neighbours: it says when there is news, pulls, and answers pulls. The other imports,
one run at a time, as any other caller of the store (contracts D3), and grants rights. A region whose links
are all cut notices nothing but that no messages come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import msgspec

from kvstore.engine.request import ClientRequest, PendingRequest
from kvstore.engine.store import WritingStore
from kvstore.eris.log_tail import executed
from kvstore.eris.shard_state import REGISTERS, table_name
from kvstore.errors import (
    Corrupt,
    DiskFull,
    DuplicateRegion,
    Error,
    Failed,
    LimitExceeded,
    RetryLater,
    WrongFormat,
    WrongShape,
)
from kvstore.execution.crdt import escrow, type_check
from kvstore.execution.crdt.cells import Cell
from kvstore.execution.operations import Grant, Operations
from kvstore.execution.stored_value import value_of
from kvstore.fuzzylog.importing import Importer, Run
from kvstore.fuzzylog.messages import (
    Identity,
    LinkMessage,
    News,
    Pull,
    Shipment,
    Tails,
    Vector,
    Want,
    decode,
    encode,
)
from kvstore.fuzzylog.rebalancing import Rebalancing
from kvstore.fuzzylog.shipping import Shipping
from kvstore.geo.chains import RegionLog
from kvstore.ports import CommitView, Link
from kvstore.types import RegionId, ShardId, Timestamp

PULL_EVERY_S = 0.25
"""A neighbour is asked so often whatever it says: what was lost on the way is asked for again."""
NEWS_EVERY_S = 0.002
"""Commits are told of together, so often at most."""
WAITING_MAX = 4096
"""Items that wait to be imported; while there are more, nothing more is pulled."""
TRY_AGAIN_S = 0.5

_log = logging.getLogger("kvstore")


class Staleness(NamedTuple):
    """How far one region is behind another: slots that are known of and not applied; and for how many seconds
    what is shown may be out of date. ``problem``: why nothing comes, if not because nothing does."""

    nodes: int
    seconds: float
    problem: str = ""


class ReplicationAgent:
    """One region among the others. ``_lock`` guards ``shipping`` and ``rebalancing``, which both threads and
    callers use."""

    def __init__(
        self, store: WritingStore, identity: Identity, links: Mapping[str, Link], max_clock_skew: float
    ) -> None:
        self._store = store
        self.identity = identity
        self._links = dict(links)
        self.own = RegionId(identity.names.index(identity.region))
        with self._store.readers.viewing() as view:
            log = self.log(view)
            copies = {region: slots for region, slots in log.ends().items() if region != self.own}
            importer = Importer(self.own, copies, log.tails(), int(max_clock_skew * 1e9))
        self.shipping = Shipping(identity, importer)
        self.rebalancing = Rebalancing(self.own, len(identity.names))
        self.problems: dict[str, Error] = {}
        """By neighbour, why it is not listened to."""
        self.unreachable: dict[str, str] = {}
        """By neighbour whose link failed, what it said; what was to be sent counts as lost."""
        self.heard: set[str] = set()
        self.failure: Error | None = None
        """Why nothing is imported any more."""
        self._is_old = False
        """Whether others hold more of the own chains than is here, or something else."""
        self._compared: set[str] = set()
        """Neighbours whose copies of the own chains were looked at."""
        self._lock = threading.RLock()
        self._inbox: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()
        self._importable = threading.Event()
        self._wanted: SimpleQueue[tuple[Want, ...]] = SimpleQueue()
        """Who wants rights, for the thread that writes."""
        self._changed = False
        self._closed = False
        self._told: Vector = {}
        self._more: set[str] = set()
        self._news: set[str] = set()
        self._pulls: dict[str, Pull] = {}
        """By neighbour, its last pull that is not answered yet."""
        self._asked: dict[str, float] = {}
        """By neighbour, when it was asked what it has not answered yet."""
        self._next_pull = 0.0
        self._opened = time.time()
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
        """All chains as of this view, the own ones as far as they may leave the region (contracts D2)."""
        return RegionLog(
            view, self.identity.shards, self.own, len(self.identity.names), self._store.synced_end()
        )

    def close(self) -> None:
        """End both threads; an import that is under way is finished."""
        self._closed = True
        self._store.commits_seen.listener = None
        self._inbox.put(None)
        self._importable.set()
        for thread in self._threads:
            thread.join()
        with ExitStack() as closing:  # all of them, whatever one of them says
            for link in self._links.values():
                closing.callback(link.close)

    # -- what others ask -----------------------------------------------------------------------

    def applied(self) -> Vector:
        """How far each chain is applied here, the own ones included, on disk or not."""
        with self._store.readers.viewing() as view:
            end = tuple(executed(view, self.identity.shards))
        with self._lock:
            return {**self.shipping.importer.applied(), self.own: end}

    def staleness(self) -> dict[str, Staleness]:
        now = time.time()
        with self._lock:
            self.shipping.refresh()
            return {
                name: self._staleness(RegionId(number), name, now)
                for number, name in enumerate(self.identity.names)
                if number != self.own
            }

    def _staleness(self, region: RegionId, name: str, now: float) -> Staleness:
        fresh = self.shipping.fresh.get(region)
        since = self._opened if fresh is None else fresh / 1e9
        problem = str(self.problems.get(name) or self.failure or self.unreachable.get(name, ""))
        held = self.shipping.importer.held.get(region)
        if held is not None:
            ahead = held / 1e9 - now
            problem = f"its clock is {ahead:.1f} s ahead: what it wrote since is held back until then"
        return Staleness(self.shipping.behind(region), max(0.0, now - since), problem)

    def has_heard_all(self) -> bool:
        """Whether every neighbour has said who it is."""
        return self.heard >= self._links.keys()

    def pull_soon(self) -> None:
        """Ask all neighbours at once."""
        self._next_pull = 0.0
        self._inbox.put(None)

    def want(self, shard: ShardId, key: bytes, amount: int) -> None:
        """Ask the neighbours for rights, with the next pull."""
        with self._lock:
            self.rebalancing.want(shard, key, amount)
        self.pull_soon()

    # -- talking -------------------------------------------------------------------------------

    def _on_commit(self) -> None:
        if not self._changed:
            self._changed = True
            self._inbox.put(None)

    def _talk(self) -> None:
        while not self._closed:
            try:
                received = self._inbox.get(timeout=max(0.0, self._next_pull - time.monotonic()))
            except Empty:
                received = None
            try:
                for message in (received, *self._also_here()):
                    if message is not None:
                        self._take(*message)
                self._answer_pulls()
                self._pull_news()
                self._tell()
                if time.monotonic() >= self._next_pull:
                    self._pull_from(self._links)  # also while much waits: for what may come so
            except Exception as error:
                self._after(error)

    def _also_here(self) -> list[tuple[str, bytes] | None]:
        return [self._inbox.get_nowait() for _ in range(self._inbox.qsize())]  # nobody else takes any

    def _answer_pulls(self) -> None:
        """One answer for all pulls of a neighbour that have come: it pulls on while answers take long."""
        pulls, self._pulls = self._pulls, {}
        for peer, pull in pulls.items():
            self._answer(peer, pull)

    def _pull_news(self) -> None:
        """Pull from those that have news, but while an answer is under way only when that has come."""
        recently = time.monotonic() - PULL_EVERY_S
        ready = {peer for peer in self._news if self._asked.get(peer, 0.0) < recently}
        if ready:
            self._news -= ready
            if self._may_pull():
                self._pull_from(ready)
            else:
                self._more |= ready

    def _tell(self) -> None:
        """Say that there is news, if something was committed that others may lack."""
        if not self._changed:
            return
        time.sleep(NEWS_EVERY_S)
        self._changed = False
        with self._store.readers.viewing() as view:
            ends = self.log(view).ends()
        if ends != self._told:
            self._told = ends
            self._send_all(self._links, News(self.own))

    def _pull_from(self, peers: Mapping[str, Link] | set[str]) -> None:
        self._next_pull = time.monotonic() + PULL_EVERY_S
        with self._store.readers.viewing() as view:
            end = tuple(self.log(view).end)
        with self._lock:
            pull = self.shipping.pull(end, self.rebalancing.wants(self._funds))
        self._asked.update(dict.fromkeys(peers, time.monotonic()))
        self._send_all(peers, pull)

    def _send_all(self, peers: Mapping[str, Link] | set[str], message: LinkMessage) -> None:
        encoded = encode(message)
        for peer in peers:
            try:
                self._links[peer].send(encoded)
            except Exception as error:
                if peer not in self.unreachable:
                    _log.warning("%s: the link to %s failed: %r", self.identity.region, peer, error)
                self.unreachable[peer] = repr(error)

    def _take(self, peer: str, encoded: bytes) -> None:
        self.unreachable.pop(peer, None)
        try:
            message = decode(encoded)
        except (msgspec.DecodeError, TypeError) as error:
            self._refuse(peer, WrongFormat(f"{peer} sent what is no message: {error}", path=peer))
            return
        if isinstance(message, News):
            self._news.add(peer)
            return
        if not self._is_known(peer, message.identity):
            if isinstance(message, Pull):  # so that it hears why
                self._send_all({peer}, Shipment(self.identity, {}, {}, {}))
        elif isinstance(message, Pull):
            self._on_pull(peer, message)
        else:
            self._on_shipment(peer, message)
        self.heard.add(peer)

    def _is_known(self, peer: str, other: Identity) -> bool:
        """Whether a neighbour is who it should be, of the same world and shape."""
        own = self.identity
        if other.format != own.format:
            problem: Error = WrongFormat(f"{peer} speaks format {other.format}, not {own.format}", path=peer)
        elif other.region != peer:
            message = f"the neighbour {peer!r} says that it is {other.region!r}"
            problem = DuplicateRegion(message, region=other.region)
        elif other.shards != own.shards:
            problem = _wrong_shape(peer, "shards", other.shards, own.shards)
        elif other.placement != own.placement:
            problem = _wrong_shape(peer, "placement", other.placement, own.placement)
        elif other.names != own.names:
            problem = _wrong_shape(peer, "regions", other.names, own.names)
        elif other.world != own.world:
            problem = _wrong_shape(peer, "world", other.world, own.world)
        else:
            self.problems.pop(peer, None)
            return True
        self._refuse(peer, problem)
        return False

    def _refuse(self, peer: str, problem: Error) -> None:
        if peer not in self.problems:
            _log.warning("%s: %s", self.identity.region, problem)
        self.problems[peer] = problem

    def _on_pull(self, peer: str, pull: Pull) -> None:
        if not self._has_own(pull.received) or not self._is_own(peer, pull.tails):
            return
        if pull.wants:
            self._wanted.put(pull.wants)
            self._importable.set()
        self._pulls[peer] = pull

    def _answer(self, peer: str, pull: Pull) -> None:
        now = Timestamp(time.time_ns())
        with self._store.readers.viewing() as view:
            log = self.log(view)
            with self._lock:
                answer = self.shipping.begin(pull, log.ends(), now)
            read = answer.read(log)  # imports go on meanwhile
        with self._lock:
            shipment = self.shipping.finish(answer, read)
        self._send_all({peer}, shipment)

    def _may_pull(self) -> bool:
        with self._lock:
            waiting = sum(len(chain.items) for chain in self.shipping.importer.chains.values())
        return waiting < WAITING_MAX

    def _on_shipment(self, peer: str, shipment: Shipment) -> None:
        self._asked.pop(peer, None)
        if not self._has_own(shipment.ends):
            return
        with self._lock:
            has_more = self.shipping.take(shipment)
        self._importable.set()
        if has_more and shipment.chains:
            if self._may_pull():
                self._pull_from({peer})
            else:
                self._more.add(peer)

    def _has_own(self, others: Vector) -> bool:
        """Whether all that others hold of this region's own chains is here: else it was opened from an old
        copy, and writes over what has left it. Then nothing more leaves it (contracts D2)."""
        theirs = others.get(self.own)
        if theirs is None or self._is_old:
            return not self._is_old
        with self._store.readers.viewing() as view:
            own = executed(view, self.identity.shards)
        if all(mine >= other for mine, other in zip(own, theirs, strict=True)):
            return True
        self._leave(self.lost_tail())
        return False

    def _is_own(self, peer: str, tails: Tails) -> bool:
        """Whether a neighbour's copies of the own chains are copies of these: if not, this region was opened
        from an old copy and written to, or it is another one of that name."""
        if peer not in self._compared and not self._is_old:
            self._compared.add(peer)
            if not self.holds(tails):
                self._leave(self.other_tail())
        return not self._is_old

    def holds(self, tails: Tails) -> bool:
        """Whether the nodes of the own chains among these are here."""
        with self._store.readers.viewing() as view:
            return self.log(view).has(tails.get(self.own, {}))

    def _leave(self, why: Corrupt) -> None:
        """Nothing more leaves this region, and nothing comes."""
        self._is_old = True
        self.failure = why
        _log.error("%s", why)

    def lost_tail(self) -> Corrupt:
        name = self.identity.region
        message = f"other regions hold more of {name} than it does itself: its store is older than it was"
        return Corrupt(message, record=self._store.directory.path)

    def other_tail(self) -> Corrupt:
        name = self.identity.region
        message = (
            f"other regions hold another {name}: its store was put back and written to, or is not theirs"
        )
        return Corrupt(message, record=self._store.directory.path)

    # -- rights --------------------------------------------------------------------------------

    def _grant(self, wants: Iterable[Want]) -> None:
        """Give rights that others want, as ordinary nodes; nobody waits for them here."""
        for want in wants:
            cell = self._cell(want.shard, want.key)
            rights = escrow.funds(cell, self.own).rights
            with self._lock:
                amount = self.rebalancing.grant(want, rights, escrow.funds(cell, want.taker).rights)
            if amount > 0:
                operations: Operations = {want.shard: (Grant(want.key, amount, want.taker),)}
                self._store.run(PendingRequest(ClientRequest(operations, len(want.key) + 8, 1)))

    def _funds(self, shard: ShardId, key: bytes) -> escrow.Funds:
        return escrow.funds(self._cell(shard, key), self.own)

    def _cell(self, shard: ShardId, key: bytes) -> Cell:
        return type_check.cell_of(value_of(self._store.readers.get(table_name(shard, REGISTERS), key)))

    # -- importing -----------------------------------------------------------------------------

    def _import(self) -> None:
        while not (self._closed or self.failure):
            self._importable.wait(timeout=PULL_EVERY_S)
            self._importable.clear()
            try:
                while not self._wanted.empty():
                    self._grant(self._wanted.get())
                while self._import_one():
                    if self._more and self._may_pull():
                        more, self._more = self._more, set()
                        self._pull_from(more)
            except Exception as error:
                self._after(error)

    def _after(self, error: Exception) -> None:
        """What may pass is tried again; anything else ends it, and is told by ``staleness`` and ``settle``. A
        store that is being closed raises, too, and nobody needs to know."""
        if self._closed:
            return
        name = self.identity.region
        if isinstance(error, DiskFull | RetryLater | LimitExceeded):
            _log.warning("%s waits: %s", name, error)
            time.sleep(TRY_AGAIN_S)
        elif self.failure is None:
            self.failure = error if isinstance(error, Error) else Failed(f"{name} ships no more: {error!r}")
            _log.error("%s imports no more: %s", name, self.failure)

    def _import_one(self) -> bool:
        with self._lock:
            run = self.shipping.importer.next_run(Timestamp(time.time_ns()))
        if run is None or self._closed:
            return False
        self._submit(run)
        with self._lock:
            self.shipping.importer.imported(run)
        return True

    def _submit(self, run: Run) -> None:
        request = ClientRequest(run.operations, run.size, sum(run.ends.values()), after=run.after)
        self._store.run(PendingRequest(request))


def _wrong_shape(peer: str, name: str, found: Any, expected: Any) -> WrongShape:
    message = f"{peer} has {name}={found!r}, not {expected!r}"
    hint = "all regions are created with the same names, shards and placement"
    return WrongShape(message, hint=hint, path=peer, name=name, found=found, expected=expected)

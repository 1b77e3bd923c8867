"""One region's exchange with its neighbours, as a state machine without clock, thread, disk or link.

The machine decides which messages are sent and which are accepted: when a neighbour is asked for chains, how
many requests are outstanding, how much may wait to be imported, and whether the region's own store is an old
copy (``old_copies.py``). The driver passes what arrives, and the time, and carries out the effects. What the
region's store holds comes in through the port ``OwnChains``.

``now`` is a monotonic time in nanoseconds; it drives timers only. ``physical`` is the machine's clock, which
may jump; it goes into messages and decides what is too far ahead of it (contracts D3).

INVARIANTS
    NEIGHBOUR-1  Chains and pulls of a neighbour whose identity does not fit have no effect here.
    NEIGHBOUR-2  Of what a neighbour answers, each item of a chain is taken once, behind its predecessor.
    NEIGHBOUR-3  A pull asks for a chain from where it ends here, never from beyond what has come.
    NEIGHBOUR-4  A region that is an old copy sends no part of a chain, and takes none (contracts D2).
    NEIGHBOUR-5  News causes no second pull from a neighbour while the first may still be answered.
    NEIGHBOUR-6  Messages come from, and failures belong to, the neighbours that have a link.
    NEIGHBOUR-7  The ends that News is sent for never go back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice, pairwise
from typing import NamedTuple

from kvstore.errors import Error
from kvstore.execution.crdt.escrow import Funds
from kvstore.execution.operations import Grant, Operations, Segment
from kvstore.fuzzylog.exchange_effects import (
    AnswerPull,
    ExchangeEffect,
    Importable,
    Refused,
    SendTo,
    Stopped,
    Wanted,
)
from kvstore.fuzzylog.identity_check import misfit
from kvstore.fuzzylog.importing import Importer, Run, dominates
from kvstore.fuzzylog.messages import Identity, LinkMessage, News, Pull, Shipment, Tails, Vector, Want
from kvstore.fuzzylog.old_copies import OldCopyCheck, OwnChains
from kvstore.fuzzylog.rebalancing import Rebalancing
from kvstore.fuzzylog.shipping import PullAnswer, Shipping
from kvstore.types import RegionId, ShardId, Timestamp

PULL_EVERY_NS = 250_000_000
"""The time between two pulls from all neighbours, which find what was lost on the way."""
NEWS_EVERY_NS = 2_000_000
"""The time for which commits are gathered before neighbours get News of them."""
WAITING_MAX = 4096
"""Items that wait to be imported; while there are more, only the pulls from all neighbours go on."""


class Staleness(NamedTuple):
    """How far one region is behind another: slots that are known of and not applied; and for how many seconds
    what is shown may be out of date. ``problem``: why nothing comes, if not because nothing does."""

    nodes: int
    seconds: float
    problem: str = ""


class Neighbours:
    """One region among the others. The driver calls one method at a time."""

    def __init__(
        self,
        identity: Identity,
        neighbours: Iterable[str],
        chains: OwnChains,
        importer: Importer,
        *,
        opened: Timestamp,
        location: str,
        pull_every: int = PULL_EVERY_NS,
    ) -> None:
        """``opened``: the physical time of the opening; ``location``: of the store, for error messages."""
        self.identity = identity
        self.own = importer.own
        self.shipping = Shipping(identity, importer)
        self.rebalancing = Rebalancing(self.own, len(identity.names))
        self.problems: dict[str, Error] = {}
        """Why a neighbour is not listened to, by neighbour."""
        self.unreachable: dict[str, str] = {}
        """The error of a link that failed, by neighbour."""
        self.heard: set[str] = set()
        """Neighbours that have said who they are."""
        self.failure: Error | None = None
        """The error after which nothing is imported any more."""
        self.is_old = False
        """Whether neighbours hold more of the own chains than this store, or other nodes in their place."""
        self._neighbours = sorted(neighbours)
        self._chains = chains
        self.old_copy = OldCopyCheck(self.own, identity.region, chains, location)
        self._opened = opened
        self._pull_every = pull_every
        self._next_pull = 0
        """Time of the next pull from all neighbours."""
        self._news_due: int | None = None
        """Time of the next News, if something was committed since the last."""
        self._told: Vector = {}
        """Ends of all chains when News was sent last."""
        self._pulls: dict[str, Pull] = {}
        """The last pull of a neighbour that is not answered yet, by neighbour."""
        self._asked: dict[str, int] = {}
        """Time of the last pull from a neighbour that it has not answered, by neighbour."""
        self._have_more: set[str] = set()
        """Neighbours that are known to have more, and are to be pulled from."""
        self._postponed: set[str] = set()
        """Neighbours that have more, and are pulled from when less waits to be imported."""

    # -- messages ------------------------------------------------------------------------------

    def handle(self, neighbour: str, message: LinkMessage, now: int) -> list[ExchangeEffect]:
        """Process a message of a neighbour."""
        assert neighbour in self._neighbours, f"NEIGHBOUR-6: {neighbour} is none of {self._neighbours}"
        self.unreachable.pop(neighbour, None)
        if isinstance(message, News):
            self._have_more.add(neighbour)
            return []
        problem = misfit(self.identity, neighbour, message.identity)
        if problem is not None:
            effects = self.refuse(neighbour, problem)
            if isinstance(message, Pull):  # its sender learns the reason from the identity of the answer
                effects.append(SendTo(neighbour, Shipment(self.identity, {}, {}, {})))
        else:
            self.problems.pop(neighbour, None)
            effects = self._accept(neighbour, message)
        self.heard.add(neighbour)
        return effects

    def refuse(self, neighbour: str, problem: Error) -> list[ExchangeEffect]:
        """Stop listening to a neighbour until its identity fits, for this reason."""
        assert neighbour in self._neighbours, f"NEIGHBOUR-6: {neighbour} is none of {self._neighbours}"
        is_known = neighbour in self.problems
        self.problems[neighbour] = problem
        return [] if is_known else [Refused(neighbour, problem)]

    def _accept(self, neighbour: str, message: Pull | Shipment) -> list[ExchangeEffect]:
        assert neighbour not in self.problems, f"NEIGHBOUR-1: {self.problems[neighbour]}"
        return (
            self._on_pull(neighbour, message)
            if isinstance(message, Pull)
            else self._on_shipment(neighbour, message)
        )

    def _on_pull(self, neighbour: str, pull: Pull) -> list[ExchangeEffect]:
        if (stopped := self._stopped_by(neighbour, pull.received, pull.tails)) is not None:
            return stopped
        assert not self.is_old, f"NEIGHBOUR-4: a pull of {neighbour} is kept in spite of {self.failure}"
        self._pulls[neighbour] = pull
        return [Wanted(pull.wants)] if pull.wants else []

    def _on_shipment(self, neighbour: str, shipment: Shipment) -> list[ExchangeEffect]:
        self._asked.pop(neighbour, None)
        if (stopped := self._stopped_by(neighbour, shipment.ends)) is not None:
            return stopped
        before = {key: len(chain.items) for key, chain in self.shipping.importer.chains.items()}
        has_more = self.shipping.take(shipment)
        self._check_order(shipment, before)
        if has_more and shipment.chains:
            self._have_more.add(neighbour)
        return [Importable()]

    def _check_order(self, shipment: Shipment, before: Mapping[tuple[RegionId, ShardId], int]) -> None:
        """Assert that what a shipment brought continues its chains."""
        for shard, segments in shipment.chains.items():
            for segment in segments:
                chain = self.shipping.importer.chains.get((segment.region, shard))
                if chain is None:  # of the own region
                    continue
                new = len(chain.items) - before[segment.region, shard]
                slots = [item.last for item in islice(reversed(chain.items), new + 1)]
                slots += [chain.copied] if new == len(chain.items) else []
                assert all(later > earlier for later, earlier in pairwise(slots)), (
                    f"NEIGHBOUR-2: region {segment.region}'s chain {shard} goes on with {slots[::-1]}"
                )

    def _stopped_by(
        self, neighbour: str, ends: Vector, tails: Tails | None = None
    ) -> list[ExchangeEffect] | None:
        """Return the effects of what a neighbour holds if it shows, or has shown, that this store is old."""
        if self.is_old:
            return []
        problem = self.old_copy.check_ends(ends)
        if problem is None and tails is not None:
            problem = self.old_copy.check_tails(neighbour, tails)
        if problem is None:
            return None
        self.is_old, self.failure = True, problem
        self._pulls.clear()
        return [Stopped(problem)]

    # -- time, and commits ---------------------------------------------------------------------

    def on_commit(self, now: int) -> None:
        """Send News soon, because the store has committed."""
        if self._news_due is None:
            self._news_due = now + NEWS_EVERY_NS

    def next_tick(self) -> int:
        """Return the time at which ``tick`` is due at the latest; earlier after ``handle``."""
        return self._next_pull if self._news_due is None else min(self._next_pull, self._news_due)

    def tick(self, now: int) -> list[ExchangeEffect]:
        """Do what is due: answer pulls, one answer for all that a neighbour has sent; pull; send News."""
        effects: list[ExchangeEffect] = [AnswerPull(*asked) for asked in self._pulls.items()]
        self._pulls = {}
        effects += self._pull_more(now)
        effects += self._send_news(now)
        if now >= self._next_pull:  # also while much waits: it may wait for what comes so
            self._next_pull = now + self._pull_every
            effects += self._pull_from(self._neighbours, now)
        return effects

    def pull_soon(self) -> None:
        """Pull from all neighbours at the next tick."""
        self._next_pull = 0

    def _pull_more(self, now: int) -> list[ExchangeEffect]:
        ready = sorted(name for name in self._have_more if not self._is_asked(name, now))
        self._have_more.difference_update(ready)
        if ready and not self._may_pull():
            self._postponed.update(ready)
            return []
        for name in ready:
            assert not self._is_asked(name, now), f"NEIGHBOUR-5: {name} was asked at {self._asked[name]}"
        return self._pull_from(ready, now)

    def _is_asked(self, neighbour: str, now: int) -> bool:
        """Return whether an answer of the neighbour may be under way."""
        return neighbour in self._asked and now - self._asked[neighbour] <= self._pull_every

    def _may_pull(self) -> bool:
        return sum(len(chain.items) for chain in self.shipping.importer.chains.values()) < WAITING_MAX

    def _send_news(self, now: int) -> list[ExchangeEffect]:
        if self._news_due is None or now < self._news_due:
            return []
        self._news_due = None
        ends = self._chains.ends()
        if ends == self._told:
            return []
        assert dominates(ends, self._told), f"NEIGHBOUR-7: the ends {ends} are behind {self._told}"
        self._told = ends
        return [SendTo(name, News(self.own)) for name in self._neighbours]

    def _pull_from(self, neighbours: Iterable[str], now: int) -> list[ExchangeEffect]:
        names = list(neighbours)
        if not names:
            return []
        pull = self.shipping.pull(self._chains.end(), self.rebalancing.wants(self._own_funds))
        come = self.shipping.importer.received()
        asked = {region: slots for region, slots in pull.received.items() if region != self.own}
        assert dominates(come, asked), f"NEIGHBOUR-3: asked for {asked}, and {come} has come"
        self._asked.update(dict.fromkeys(names, now))
        return [SendTo(name, pull) for name in names]

    def _own_funds(self, shard: ShardId, key: bytes) -> Funds:
        return self._chains.funds(shard, key, self.own)

    def link_failed(self, neighbour: str, error: str) -> bool:
        """Note that a message could not be sent: it counts as lost. Return whether that is new."""
        assert neighbour in self._neighbours, f"NEIGHBOUR-6: {neighbour} is none of {self._neighbours}"
        is_new = neighbour not in self.unreachable
        self.unreachable[neighbour] = error
        return is_new

    # -- answers -------------------------------------------------------------------------------

    def begin_answer(self, pull: Pull, on_disk: Vector, physical: Timestamp) -> PullAnswer:
        """Return what the neighbour lacks; ``on_disk``: the ends of the commit that it is then read from."""
        return self.shipping.begin(pull, on_disk, physical)

    def finish_answer(
        self, neighbour: str, answer: PullAnswer, read: Mapping[RegionId, dict[ShardId, Segment]]
    ) -> list[ExchangeEffect]:
        """Send what was read, by region and shard; nothing, if the store was found to be old meanwhile."""
        if self.is_old:
            return []
        return [SendTo(neighbour, self._shipment(answer, read))]

    def _shipment(self, answer: PullAnswer, read: Mapping[RegionId, dict[ShardId, Segment]]) -> Shipment:
        assert not self.is_old, f"NEIGHBOUR-4: an old copy sends no part of a chain: {self.failure}"
        return self.shipping.finish(answer, read)

    # -- imports, and rights -------------------------------------------------------------------

    def next_run(self, physical: Timestamp) -> Run | None:
        """Return what is to be imported next, or None."""
        if self.failure is not None:
            return None
        assert not self.is_old, (
            f"NEIGHBOUR-4: an old copy imports none of {self.shipping.importer.received()}"
        )
        return self.shipping.importer.next_run(physical)

    def imported(self, run: Run, now: int) -> list[ExchangeEffect]:
        """Note that the run is committed; pull what had to wait until less was waiting."""
        self.shipping.importer.imported(run)
        if not self._postponed or not self._may_pull():
            return []
        postponed, self._postponed = sorted(self._postponed), set()
        return self._pull_from(postponed, now)

    def want(self, shard: ShardId, key: bytes, amount: int) -> None:
        """Ask all neighbours for rights, with a pull at the next tick."""
        self.rebalancing.want(shard, key, amount)
        self.pull_soon()

    def grant(self, want: Want) -> Operations | None:
        """Return the transaction that gives a neighbour rights, or None if it gets none."""
        rights = self._own_funds(want.shard, want.key).rights
        takers = self._chains.funds(want.shard, want.key, want.taker).rights
        amount = self.rebalancing.grant(want, rights, takers)
        return {want.shard: (Grant(want.key, amount, want.taker),)} if amount > 0 else None

    # -- how far behind ------------------------------------------------------------------------

    def has_heard_all(self) -> bool:
        """Return whether every neighbour has said who it is."""
        return self.heard.issuperset(self._neighbours)

    def staleness(self, physical: Timestamp) -> dict[str, Staleness]:
        """Return how far this region is behind each other one, by name."""
        self.shipping.refresh()
        return {
            name: self._staleness(RegionId(number), name, physical)
            for number, name in enumerate(self.identity.names)
            if number != self.own
        }

    def _staleness(self, region: RegionId, name: str, physical: Timestamp) -> Staleness:
        since = self.shipping.fresh.get(region, self._opened)
        problem = str(self.problems.get(name) or self.failure or self.unreachable.get(name, ""))
        held = self.shipping.importer.held.get(region)
        if held is not None:
            ahead = (held - physical) / 1e9
            problem = f"its clock is {ahead:.1f} s ahead: what it wrote since is held back until then"
        return Staleness(self.shipping.behind(region), max(0.0, (physical - since) / 1e9), problem)

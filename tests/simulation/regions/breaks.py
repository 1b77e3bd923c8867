"""Deliberate breaks of the rules between regions: each has to be seen by the judges, or they sleep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import msgspec

from kvstore.engine.cluster import Cluster
from kvstore.execution.crdt import escrow, region_shard
from kvstore.execution.crdt.cells import balance
from kvstore.execution.operations import Operations, Segment, Spend
from kvstore.fuzzylog import importing
from kvstore.fuzzylog.importing import Importer, Run
from kvstore.fuzzylog.messages import Pull
from kvstore.fuzzylog.old_copies import OldCopyCheck
from kvstore.fuzzylog.shipping import Shipping
from kvstore.geo.chains import RegionLog
from kvstore.simulation.simulated_region import SimulatedRegion
from kvstore.types import RegionId, ShardId, Timestamp

Break = Callable[[], Any]


@contextmanager
def causes_ignored() -> Iterator[None]:
    """What a node comes behind is not looked at (contracts D3)."""
    with mock.patch.object(importing._Walk, "_is_ready", return_value=True):
        yield


@contextmanager
def pieces_one_by_one() -> Iterator[None]:
    """A run is imported shard by shard, not as one transaction over all its colors (contracts D3)."""
    whole = Importer.next_run

    def by_shard(self: Importer, now: Timestamp) -> Run | None:
        run = whole(self, now)
        if run is None or len(run.operations) == 1:
            return run
        shard = min(run.operations)
        operations: Operations = {shard: run.operations[shard]}
        return run._replace(
            operations=operations, ends={key: end for key, end in run.ends.items() if key[1] == shard}
        )

    with mock.patch.object(Importer, "next_run", by_shard):
        yield


@contextmanager
def stamps_without_after() -> Iterator[None]:
    """A region's clock does not go ahead of what it imported (contracts D1)."""
    ask = Cluster._ask

    def without(self: Cluster, pending: Any) -> Any:
        if pending.request.after:  # 1: it is an import all the same
            pending.request = msgspec.structs.replace(pending.request, after=Timestamp(1))
        return ask(self, pending)

    with mock.patch.object(Cluster, "_ask", without):
        yield


@contextmanager
def judged_at_playback() -> Iterator[None]:
    """A withdrawal is accepted wherever it begins, and judged by each region when it plays it (D5)."""
    moved = escrow.moved

    def judged(before: Any, effect: Any, origin: Any) -> Any:
        covered = before is not None and balance(before) >= effect.amount
        return before if type(effect) is Spend and not covered else moved(before, effect, origin)

    with (
        mock.patch.object(region_shard, "shortfall", return_value=None),
        mock.patch.object(escrow, "rights", return_value=0),
        mock.patch.object(escrow, "moved", judged),
    ):
        yield


@contextmanager
def shipped_before_synced() -> Iterator[None]:
    """A region ships what a power failure can still take back (contracts D2)."""

    def log(self: SimulatedRegion) -> RegionLog:
        return RegionLog(self.view, self.world.shards, self.number, len(self.world.names))

    with mock.patch.object(SimulatedRegion, "log", log):
        yield


@contextmanager
def order_of_arrival() -> Iterator[None]:
    """What is imported is carried out region by region, and not by its times (contracts D8)."""

    def unordered(self: region_shard.RegionShard, segments: Any, slot: Any) -> Any:
        staged = region_shard.Staged(self._state, self._hidden)
        for segment in segments:
            for node, effects in self._copy(segment, slot):
                for effect in effects:
                    staged.resolve(effect, node)
        return staged.write(slot)

    with mock.patch.object(region_shard.RegionShard, "_import", unordered):
        yield


@contextmanager
def answer_taken_twice() -> Iterator[None]:
    """What a neighbour's answer brings is taken although it has come before (NEIGHBOUR-2)."""

    def receive(self: Importer, region: RegionId, part: list[tuple[ShardId, Segment]]) -> None:
        if all(segment.first <= self.chains[region, shard].received + 1 for shard, segment in part):
            for shard, segment in part:
                self.chains[region, shard].items.extend(segment.items)

    with mock.patch.object(Importer, "_receive", receive):
        yield


@contextmanager
def asked_beyond_what_is_known() -> Iterator[None]:
    """A pull asks from where neighbours said that chains end, not from where they end here (NEIGHBOUR-3)."""
    pull = Shipping.pull

    def beyond(self: Shipping, own_end: Any, wants: Any = ()) -> Pull:
        asked = pull(self, own_end, wants)
        known = {region: slots for region, slots in self.known.items() if region != self.own}
        return msgspec.structs.replace(asked, received={**asked.received, **known})

    with mock.patch.object(Shipping, "pull", beyond):
        yield


@contextmanager
def old_copy_goes_on() -> Iterator[None]:
    """A region that was put back from an older state does not notice that it is old (NEIGHBOUR-4)."""
    with (
        mock.patch.object(OldCopyCheck, "check_ends", return_value=None),
        mock.patch.object(OldCopyCheck, "check_tails", return_value=None),
    ):
        yield


BREAKS: dict[str, tuple[Break, int]] = {
    "causes-ignored": (causes_ignored, 0),
    "pieces-one-by-one": (pieces_one_by_one, 1),
    "stamps-without-after": (stamps_without_after, 0),
    "judged-at-playback": (judged_at_playback, 0),
    "shipped-before-synced": (shipped_before_synced, 0),
    "order-of-arrival": (order_of_arrival, 23),
    "answer-taken-twice": (answer_taken_twice, 0),
    "asked-beyond-what-is-known": (asked_beyond_what_is_known, 0),
    "old-copy-goes-on": (old_copy_goes_on, 3),
}
"""By name, how it is planted, and the first seed that shows it."""

"""What the exchange with neighbours reads of its region's store (``fuzzylog.old_copies.OwnChains``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from kvstore.eris.log_tail import executed
from kvstore.eris.shard_state import REGISTERS, table_name
from kvstore.execution.crdt import escrow, type_check
from kvstore.execution.crdt.escrow import Funds
from kvstore.execution.stored_value import value_of
from kvstore.fuzzylog.messages import Vector
from kvstore.geo.chains import RegionLog
from kvstore.ports import CommitView
from kvstore.types import RegionId, ShardId, Slot, Timestamp


class StoredChains:
    """A region's chains as its store holds them; each call opens a view of the last commit."""

    def __init__(
        self,
        shards: int,
        viewing: Callable[[], AbstractContextManager[CommitView]],
        log: Callable[[CommitView], RegionLog],
    ) -> None:
        """``log`` returns the chains that a view shows, the own ones as far as they may leave the region."""
        self._shards = shards
        self._viewing = viewing
        self._log = log

    def executed(self) -> tuple[Slot, ...]:
        with self._viewing() as view:
            return tuple(executed(view, self._shards))

    def end(self) -> tuple[Slot, ...]:
        with self._viewing() as view:
            return tuple(self._log(view).end)

    def ends(self) -> Vector:
        with self._viewing() as view:
            return self._log(view).ends()

    def has(self, tails: Mapping[ShardId, tuple[Slot, Timestamp]]) -> bool:
        with self._viewing() as view:
            return self._log(view).has(tails)

    def funds(self, shard: ShardId, key: bytes, region: RegionId) -> Funds:
        with self._viewing() as view:
            record = view.table(table_name(shard, REGISTERS)).get(key)
        return escrow.funds(type_check.cell_of(value_of(record)), region)

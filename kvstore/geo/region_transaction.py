"""Batches and transactions of a region: as elsewhere, with counters, sets and bounded counters.

What a debit needs is judged where its rights lie. A transaction that debits on one shard and changes
something on others is general: the debit is judged when all locks are held, so all of it happens or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kvstore import keys, values
from kvstore.database.batch import Batch
from kvstore.database.reconnaissance import LockedReads, Reconnaissance
from kvstore.database.routing import Route, Routing, route_of
from kvstore.database.transaction import Shards, Transaction, Written, effect_size
from kvstore.errors import LimitExceeded
from kvstore.execution.crdt import cells
from kvstore.execution.crdt.cells import Cell, Origin
from kvstore.execution.crdt.conflict_resolution import WritingNode, resolve
from kvstore.execution.crdt.escrow import shortfall
from kvstore.execution.crdt.type_check import cell_of, kind_of, refuse_kind, refuse_other
from kvstore.execution.numbers import check_amount, check_number
from kvstore.execution.operations import (
    ESCROW,
    KEY_EFFECTS,
    Add,
    Delete,
    Grant,
    KeyEffect,
    Operation,
    Operations,
    Put,
    Reserve,
    SetAdd,
    Spend,
)
from kvstore.execution.stored_value import value_of
from kvstore.geo.typed_keys import (
    Bounded,
    BoundedWriter,
    Counter,
    CounterWriter,
    RegionNames,
    Set,
    SetWriter,
)
from kvstore.keys import Key
from kvstore.types import Kind, ShardId, Slot, Timestamp


def _debits(operations: Iterable[Operation]) -> bool:
    return any(type(operation) in (Spend, Grant) for operation in operations)


def has_debit(transaction: Transaction) -> bool:
    """Whether it may be refused for want of rights."""
    return any(_debits(written.operations) for written in transaction.written.values())


def debits_to_check(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Of what is written to one key, or on one shard, what a preliminary has to judge: a debit, and what it
    builds on."""
    found = tuple(operation for operation in operations if type(operation) in ESCROW)
    return found if _debits(found) else ()


class RegionBatch(Batch):
    """Writes to any keys, committed as one. A debit makes it general where it is not all on one shard."""

    __slots__ = ("_kinds", "_sizes", "regions")

    def __init__(
        self,
        routing: Routing,
        read: Callable[[ShardId, bytes], bytes | None],
        commit: Callable[[Batch], None],
        idempotency_key: Key | None,
        regions: RegionNames,
    ) -> None:
        super().__init__(routing, read, commit, idempotency_key)
        self.regions = regions
        self._kinds: dict[bytes, Kind | None] = {}
        """What type the keys show that were looked at, and what this batch makes of them."""
        self._sizes: dict[bytes, int] = {}

    def put(self, key: Key, value: object) -> None:
        """Set the key. Raises ``TypeClash`` if it shows a counter or a set."""
        self.write_typed(key, "register", Put(keys.encode(key), values.encode(value)))

    def delete(self, key: Key) -> None:
        """Remove the value or the set there."""
        self.write_typed(key, "register", Delete(keys.encode(key)))

    def add(self, key: Key, n: int | float = 1) -> None:
        """Add to the counter. Raises ``TypeClash`` if the key shows something else."""
        self.write_typed(key, "counter", Add(keys.encode(key), check_amount(n)))

    def counter(self, key: Key) -> CounterWriter[RegionBatch]:
        """The counter at this key, to be added to."""
        return CounterWriter(self, key)

    def set(self, key: Key) -> SetWriter[RegionBatch]:
        """The set at this key, to be changed."""
        return SetWriter(self, key)

    def bounded(self, key: Key) -> BoundedWriter[RegionBatch]:
        """The bounded counter at this key, to be changed."""
        return BoundedWriter(self, key)

    def write_typed(self, key: Key, kind: Kind, effect: KeyEffect) -> None:
        """Add an effect to the batch."""
        encoded = effect.key
        if encoded not in self._kinds:
            payload = value_of(self._read(self._routing.shard(key, encoded), encoded))
            self._kinds[encoded], self._sizes[encoded] = kind_of(payload), len(payload or b"")
        refuse_kind(key, self._kinds[encoded], kind, deletes=type(effect) is Delete)
        if type(effect) is SetAdd:
            check_room(key, self._sizes[encoded], effect)
            self._sizes[encoded] += len(effect.member)
        self._append(key, encoded, effect, effect_size(effect))
        self._kinds[encoded] = None if type(effect) is Delete else kind

    def first_half(self) -> Operations:
        """What a preliminary locks and judges, where it is general."""
        halves: Operations = {}
        for shard, part in self.operations.items():
            keys_of = dict.fromkeys(operation.key for operation in part if isinstance(operation, KEY_EFFECTS))
            halves[shard] = (*map(Reserve, keys_of), *debits_to_check(part))
        return halves

    @property
    def route(self) -> Route:
        """How it will run, or ran."""
        debited = {shard for shard, part in self.operations.items() if _debits(part)}
        return route_of(debited, set(self.operations)) if debited else super().route


class RegionTransaction(Transaction):
    """A transaction of a region."""

    def __init__(
        self,
        reads: Reconnaissance | LockedReads,
        routing: Routing,
        commit: Callable[[Transaction], Route] | None = None,
        *,
        regions: RegionNames,
    ) -> None:
        super().__init__(reads, routing, commit)
        self.regions = regions

    def put(self, key: Key, value: Any) -> None:
        """Set the key. Raises ``TypeClash`` if it shows a counter or a set."""
        self._check()
        self.write_typed(key, "register", Put(keys.encode(key), values.encode(value)))

    __setitem__ = put

    def delete(self, key: Key) -> None:
        """Remove the value or the set there; a missing one is fine."""
        self._check()
        self.write_typed(key, "register", Delete(keys.encode(key)))

    def add(self, key: Key, n: int | float = 1) -> None:
        """Add to the counter. Raises ``TypeClash`` if the key shows something else."""
        self._check()
        self.write_typed(key, "counter", Add(keys.encode(key), check_amount(n)))

    def counter(self, key: Key) -> Counter:
        """The counter at this key."""
        return Counter(self, key)

    def set(self, key: Key) -> Set:
        """The set at this key."""
        return Set(self, key)

    def bounded(self, key: Key) -> Bounded:
        """The bounded counter at this key. A debit is judged against what this transaction sees, at once,
        and again when it is committed."""
        return Bounded(self, key)

    @property
    def read_shards(self) -> Shards:
        """Those that were read, and those where a debit is judged: by what is there."""
        debited = {written.shard for written in self.written.values() if _debits(written.operations)}
        return self.reads.shards | debited

    def write_typed(self, key: Key, kind: Kind, effect: KeyEffect) -> None:
        """Write an effect over what is there."""
        self._check()
        encoded, written = effect.key, self.written.get(effect.key)
        shown = self._shown(key, encoded)
        refuse_other(key, shown, kind, deletes=type(effect) is Delete)
        if type(effect) is Add:
            check_sum(key, shown, effect)
        if type(effect) is SetAdd:
            check_room(key, len(shown or b""), effect)
        before = cell_of(shown)
        if type(effect) is Spend or type(effect) is Grant:
            short = shortfall(before, effect, self.regions.own)
            if short is not None:
                raise self.regions.refusal(short)
        after = resolve(before, effect, _unstamped(self.regions))
        value = cells.encode(after) if after.kind else None
        self._write(key, effect, value, behind=_behind(written, effect))

    def _shown(self, key: Key, encoded: bytes) -> bytes | None:
        written = self.written.get(encoded)
        if written is not None:
            return written.value
        return value_of(self.reads.read_untracked(self._routing.shard(key, encoded), encoded))

    def read_typed(self, key: Key, kind: Kind) -> Cell:
        """The record; from now on the transaction depends on it."""
        payload = self._payload(key)
        refuse_other(key, payload, kind)
        return cell_of(payload)


def _behind(written: Written | None, effect: KeyEffect) -> Written | None:
    """What stays of what was written to the key before: a removal takes its place, a put that of a put. But
    a set that was removed before a put is not removed by the put."""
    if written is None or type(effect) is Delete:
        return None
    *kept, last = written.operations
    if type(effect) is not Put or type(last) is not Put:
        return written
    size = written.size - effect_size(last)
    return written._replace(operations=tuple(kept), size=size) if kept else None


def _unstamped(regions: RegionNames) -> WritingNode:
    """A node that has no place yet, and sees all that is there."""
    return WritingNode(Origin(Timestamp(2**62), regions.own, Slot(0)), None)


def check_sum(key: Key, payload: bytes | None, effect: Add) -> None:
    """Raise ``LimitExceeded`` where a counter would come to what cannot be stored."""
    check_number(key, _shown_number(payload), values.decode(effect.amount))


def check_room(key: Key, size: int, effect: SetAdd) -> None:
    """Raise ``LimitExceeded`` where a set would be larger than a value may be: a change writes all of it."""
    size += len(effect.member)
    if size > values.VALUE_BYTES_MAX:
        message = f"the set at {key!r} would have {size} bytes, over the limit of {values.VALUE_BYTES_MAX}"
        hint = "use several keys"
        raise LimitExceeded(message, hint=hint, key=key, size=size, limit=values.VALUE_BYTES_MAX)


def _shown_number(payload: bytes | None) -> bytes | None:
    """The number that a counter shows, encoded."""
    return None if payload is None else values.encode(values.decode(payload))

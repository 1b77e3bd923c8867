"""Batches and transactions of a region, with counters, sets and bounded counters.

A debit is judged on the shard that holds its key. A transaction that debits on one shard and writes on others
is
general: the debit is judged while all locks are held, so the transaction happens as a whole or not at all.
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
    """Return whether a transaction may be refused for lack of funds or rights."""
    return any(_debits(written.operations) for written in transaction.written.values())


def debits_to_check(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return the operations on a key or a shard that a preliminary judges: debits, and the operations on
    bounded counters that precede them; nothing if there is no debit."""
    found = tuple(operation for operation in operations if type(operation) in ESCROW)
    return found if _debits(found) else ()


class RegionBatch(Batch):
    """Writes to any keys, committed atomically. A batch with a debit that spans shards is general."""

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
        """The type that each key will show after this batch, for the keys that were read."""
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
        """Return the counter at this key, for writing."""
        return CounterWriter(self, key)

    def set(self, key: Key) -> SetWriter[RegionBatch]:
        """Return the set at this key, for writing."""
        return SetWriter(self, key)

    def bounded(self, key: Key) -> BoundedWriter[RegionBatch]:
        """Return the bounded counter at this key, for writing."""
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
        """Return what the preliminary of a general batch locks and judges, by shard."""
        halves: Operations = {}
        for shard, part in self.operations.items():
            keys_of = dict.fromkeys(operation.key for operation in part if isinstance(operation, KEY_EFFECTS))
            halves[shard] = (*map(Reserve, keys_of), *debits_to_check(part))
        return halves

    @property
    def route(self) -> Route:
        """How the batch will run, or ran."""
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
        """Return the counter at this key."""
        return Counter(self, key)

    def set(self, key: Key) -> Set:
        """Return the set at this key."""
        return Set(self, key)

    def bounded(self, key: Key) -> Bounded:
        """Return the bounded counter at this key.

        A debit is judged against the transaction's snapshot at once, and again when it commits.
        """
        return Bounded(self, key)

    @property
    def read_shards(self) -> Shards:
        """The shards that the transaction read, and those on which a debit is judged."""
        debited = {written.shard for written in self.written.values() if _debits(written.operations)}
        return self.reads.shards | debited

    def write_typed(self, key: Key, kind: Kind, effect: KeyEffect) -> None:
        """Apply an effect to what the transaction sees at the key."""
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
        """Return the record of a key; the transaction's commit validates this read."""
        payload = self._payload(key)
        refuse_other(key, payload, kind)
        return cell_of(payload)


def _behind(written: Written | None, effect: KeyEffect) -> Written | None:
    """Return the earlier writes to a key that stay in front of this effect, or None.

    A removal replaces all earlier writes, and a put replaces an earlier put. A removal in front of a put
    stays, because a put does not remove a set.
    """
    if written is None or type(effect) is Delete:
        return None
    *kept, last = written.operations
    if type(effect) is not Put or type(last) is not Put:
        return written
    size = written.size - effect_size(last)
    return written._replace(operations=tuple(kept), size=size) if kept else None


def _unstamped(regions: RegionNames) -> WritingNode:
    """Return a node without a place, which has seen every write at the key."""
    return WritingNode(Origin(Timestamp(2**62), regions.own, Slot(0)), None)


def check_sum(key: Key, payload: bytes | None, effect: Add) -> None:
    """Raise ``LimitExceeded`` if the sum of a counter would be a number that cannot be stored."""
    check_number(key, _shown_number(payload), values.decode(effect.amount))


def check_room(key: Key, size: int, effect: SetAdd) -> None:
    """Raise ``LimitExceeded`` if a set would exceed the limit of a value: a change writes the whole set."""
    size += len(effect.member)
    if size > values.VALUE_BYTES_MAX:
        message = f"the set at {key!r} would have {size} bytes, over the limit of {values.VALUE_BYTES_MAX}"
        hint = "use several keys"
        raise LimitExceeded(message, hint=hint, key=key, size=size, limit=values.VALUE_BYTES_MAX)


def _shown_number(payload: bytes | None) -> bytes | None:
    """Return the encoded number that a counter shows."""
    return None if payload is None else values.encode(values.decode(payload))

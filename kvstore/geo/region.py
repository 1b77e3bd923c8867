"""One region: a database that takes reads and writes alone, and hears of the others when it can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from kvstore import keys, values
from kvstore.database.batch import Batch
from kvstore.database.commit import TransactionRunner
from kvstore.database.database import Database
from kvstore.database.snapshot import Snapshot
from kvstore.database.transaction import effect_size
from kvstore.engine.request import ClientRequest
from kvstore.engine.store import WritingStore
from kvstore.eris.client import SecondHalf
from kvstore.eris.messages import Answer
from kvstore.eris.shard_state import HIDDEN, table_name
from kvstore.execution.crdt import cells
from kvstore.execution.crdt.cells import Cell, Origin
from kvstore.execution.crdt.escrow import Unaffordable, decode_unaffordable
from kvstore.execution.crdt.type_check import cell_of, refuse_other
from kvstore.execution.operations import Add, KeyEffect, SetAdd
from kvstore.execution.stored_value import VERSION_BYTES, value_of
from kvstore.geo.convergence import await_resolved
from kvstore.geo.public_log import Log
from kvstore.geo.region_commit import RegionTransactionRunner
from kvstore.geo.region_transaction import RegionBatch, RegionTransaction, check_room, check_sum
from kvstore.geo.replication import ReplicationAgent, Staleness
from kvstore.geo.typed_keys import Bounded, Counter, RegionNames, Set
from kvstore.keys import Key
from kvstore.types import Kind, ShardId


class LostWrite(NamedTuple):
    """A write that others have not seen and that is not shown: a concurrent one won. ``value`` is None for a
    removal; ``time`` in nanoseconds."""

    key: Key
    value: Any
    region: str
    time: int


class Region(Database):
    """A region of a world. What it writes is there at once; the others hear of it, whole and causes first.

    ``add`` adds to a counter. ``put``, ``delete``, ``add`` and the typed writes raise ``TypeClash`` where the
    key shows another type.
    """

    _has_types = True

    def __init__(self, store: WritingStore, snapshot_lifetime: float, exchange: ReplicationAgent) -> None:
        super().__init__(store, snapshot_lifetime)
        self.regions = RegionNames(exchange.identity.names, exchange.own, self._ask_for)
        self.name = exchange.identity.region
        self.exchange = exchange
        self._hidden = [table_name(ShardId(shard), HIDDEN) for shard in range(self._routing.shards)]

    # -- writing -----------------------------------------------------------------------------

    def _type_check(self, key: Key, wanted: Kind, *, deletes: bool = False) -> Callable[[], None] | None:
        return lambda: refuse_other(key, self._shown(key), wanted, deletes=deletes)

    def _shown(self, key: Key) -> bytes | None:
        return value_of(self._cell(key))

    def counter(self, key: Key) -> Counter:
        """The counter at this key: adds of all regions count."""
        return Counter(self, key)

    def set(self, key: Key) -> Set:
        """The set at this key: of an add and a removal that do not know of each other the add wins."""
        return Set(self, key)

    def bounded(self, key: Key) -> Bounded:
        """The bounded counter at this key: never below zero."""
        return Bounded(self, key)

    def read_typed(self, key: Key, kind: Kind) -> Cell:
        """The record of a key. Raises ``TypeClash``."""
        payload = self._shown(key)
        refuse_other(key, payload, kind)
        return cell_of(payload)

    def write_typed(self, key: Key, kind: Kind, effect: KeyEffect) -> Any:
        """Carry out one effect; for the views of keys."""
        shown = self._shown(key)
        refuse_other(key, shown, kind)
        if type(effect) is Add:
            check_sum(key, shown, effect)
        if type(effect) is SetAdd:
            check_room(key, len(shown or b""), effect)
        shard = self._routing.shard(key, effect.key)
        request = ClientRequest({shard: (effect,)}, len(effect.key) + effect_size(effect), 1)
        answer = self._send(request, None)
        refused = self._refusal(answer)
        if refused is not None:
            raise refused
        if type(effect) is Add:
            (total,) = answer.outcomes[shard].results
            assert isinstance(total, bytes)
            return values.decode(total)
        return None

    def batch(self, *, idempotency_key: Key | None = None) -> RegionBatch:
        """Collect writes; they are committed together at the end of the ``with`` block."""
        self._writing_store().readers.check()
        return RegionBatch(self._routing, self._read, self._commit, idempotency_key, self.regions)

    def _commit(self, batch: Batch) -> None:
        request = self._request_of(batch)
        if request.operations:
            refused = self._refusal(self._send(request, batch.idempotency_key))
            if refused is not None:
                raise refused

    def _request_of(self, batch: Batch) -> ClientRequest:
        assert isinstance(batch, RegionBatch)
        is_general, locked = batch.route.path == "general", batch.first_half()
        request = super()._request_of(batch)
        if not is_general:
            return request
        return msgspec.structs.replace(request, second_half=SecondHalf(request.operations), operations=locked)

    def _refusal(self, answer: Answer) -> Exception | None:
        """The error of a debit that was refused; then nothing of its transaction happened."""
        for outcome in answer.outcomes.values():
            if outcome.unaffordable:
                return self.regions.refusal(decode_unaffordable(outcome.unaffordable))
        return None

    def _ask_for(self, short: Unaffordable) -> None:
        """Have the neighbours grant the rights that were lacking."""
        self.exchange.want(self._routing.shard_of_encoded(short.key), short.key, short.amount)

    def begin(self) -> RegionTransaction:
        """A transaction that ends with its ``commit`` or ``rollback``, or with its ``with`` block."""
        transaction = super().begin()
        assert isinstance(transaction, RegionTransaction)
        return transaction

    def _attempts_of(self, store: WritingStore) -> TransactionRunner:
        store.readers.check()
        return RegionTransactionRunner(store, self._routing, self.snapshot, self.regions)

    # -- the other regions -------------------------------------------------------------------

    def staleness(self) -> dict[str, Staleness]:
        """By region, how far this one is behind it."""
        self._writing_store().readers.check()
        return self.exchange.staleness()

    def lost_writes(self, prefix: Key | None = None) -> Iterator[LostWrite]:
        """Writes that a concurrent one has won over, until somebody who has seen them writes the key; and
        cells that another type hides, for as long as it does."""
        low, high = keys.key_range(prefix=prefix, start=None, stop=None)
        with self.snapshot() as shown:
            hidden = shown.of_tables(self._hidden)
            rows = [*self._records(shown, low, high, VERSION_BYTES), *self._records(hidden, low, high, 0)]
        found = [(key, cells.decode(payload)) for key, payload in sorted(rows)]
        for encoded, cell in found:
            key = keys.decode(encoded)
            for origin, value in _lost(cell):
                yield LostWrite(key, value, self.regions.names[origin.region], int(origin.time))

    @staticmethod
    def _records(view: Snapshot, low: bytes, high: bytes, skip: int) -> Iterator[tuple[bytes, bytes]]:
        for rows in view.rows(low, high, False, None):
            yield from ((key, cell[skip:]) for key, cell in rows)

    @property
    def log(self) -> Log:
        """The log as a graph: this region's chains and its copies of the others'."""
        store = self._writing_store()

        def wait(seconds: float) -> None:
            await_resolved(store, seconds)
            if store.synced_end() is not None:
                store.sync()  # only what is on disk is played

        return Log(self.exchange, self._readers, store.run, wait)

    def status(self) -> dict[str, Any]:
        """As of every database; with the region, and how far it is behind the others."""
        behind = {name: stale._asdict() for name, stale in self.staleness().items()}
        return {
            **super().status(),
            "region": self.name,
            "regions": list(self.regions.names),
            "staleness": behind,
        }

    def close(self) -> None:
        """Stop shipping, and close the store; a second time is fine."""
        try:
            self.exchange.close()
        finally:
            super().close()

    def __repr__(self) -> str:
        return f"<kvstore.Region {self.name!r} of {self._store.directory.path!r}>"


def _lost(cell: Cell) -> Iterator[tuple[Origin, Any]]:
    """What is in a record and not shown."""
    kind = cell.kind
    shown = cell.register[-1:] if kind in (None, "register") else ()
    for write in cell.register:
        is_shown = write in shown or (write.value is None and write == cell.register[-1])
        if not is_shown:  # of a removal that was not taken back nothing is hidden
            yield write.origin, None if write.value is None else values.decode(write.value)
    if cell.members and kind != "set":
        last = max(tag for tags in cell.members.values() for tag in tags)
        yield last, [values.decode(member) for member in sorted(cell.members)]
    if cell.counter and kind != "counter":
        yield max(tally.last for tally in cell.counter.values()), cells.total(cell.counter)

"""One region: a database that reads and writes on its own, and exchanges its log with the other regions."""

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
    """A write that the key does not show, because a concurrent write won.

    ``value`` is None for a removal; ``region`` and ``time``, in nanoseconds, are those of the lost write.
    """

    key: Key
    value: Any
    region: str
    time: int


class Region(Database):
    """A region of a world: a database whose writes reach the other regions as whole transactions, causes
    first.

    ``add`` adds to a counter. ``put``, ``delete``, ``add`` and the typed writes raise ``TypeClash`` if the
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
        """Return the counter at this key. The adds of all regions count."""
        return Counter(self, key)

    def set(self, key: Key) -> Set:
        """Return the set at this key. If an add and a removal of a member are concurrent, the add wins."""
        return Set(self, key)

    def bounded(self, key: Key) -> Bounded:
        """Return the bounded counter at this key. It is never below zero."""
        return Bounded(self, key)

    def read_typed(self, key: Key, kind: Kind) -> Cell:
        """Return the record of a key. Raises ``TypeClash`` if the key shows another type."""
        payload = self._shown(key)
        refuse_other(key, payload, kind)
        return cell_of(payload)

    def write_typed(self, key: Key, kind: Kind, effect: KeyEffect) -> Any:
        """Write one effect, for the typed views of keys; return a counter's new value, or None."""
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
        """Return a batch; its writes are committed together at the end of the ``with`` block."""
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
        """Return the error of a refused debit, or None. A refused debit undoes its whole transaction."""
        for outcome in answer.outcomes.values():
            if outcome.unaffordable:
                return self.regions.refusal(decode_unaffordable(outcome.unaffordable))
        return None

    def _ask_for(self, short: Unaffordable) -> None:
        """Ask the neighbours for the missing rights."""
        self.exchange.want(self._routing.shard_of_encoded(short.key), short.key, short.amount)

    def begin(self) -> RegionTransaction:
        """Begin a transaction; it ends with ``commit``, ``rollback``, or its ``with`` block."""
        transaction = super().begin()
        assert isinstance(transaction, RegionTransaction)
        return transaction

    def _attempts_of(self, store: WritingStore) -> TransactionRunner:
        store.readers.check()
        return RegionTransactionRunner(store, self._routing, self.snapshot, self.regions)

    # -- the other regions -------------------------------------------------------------------

    def staleness(self) -> dict[str, Staleness]:
        """Return how far this region is behind each other region, by name."""
        self._writing_store().readers.check()
        return self.exchange.staleness()

    def lost_writes(self, prefix: Key | None = None) -> Iterator[LostWrite]:
        """Yield the writes that lost against a concurrent write, and those that a value of another type
        hides.

        A lost write is no longer yielded once a region that has seen it writes the key.
        """
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
        """The log as a graph: this region's chains, and its copies of the other regions' chains."""
        store = self._writing_store()

        def wait(seconds: float) -> None:
            await_resolved(store, seconds)
            if store.synced_end() is not None:
                store.sync()  # only nodes on disk are played

        return Log(self.exchange, self._readers, store.run, wait)

    def status(self) -> dict[str, Any]:
        """Return the status of the database, with the region's name, all names, and the staleness."""
        behind = {name: stale._asdict() for name, stale in self.staleness().items()}
        return {
            **super().status(),
            "region": self.name,
            "regions": list(self.regions.names),
            "staleness": behind,
        }

    def close(self) -> None:
        """Stop the exchange with other regions, and close the store. A second call does nothing."""
        try:
            self.exchange.close()
        finally:
            super().close()

    def __repr__(self) -> str:
        return f"<kvstore.Region {self.name!r} of {self._store.directory.path!r}>"


def _lost(cell: Cell) -> Iterator[tuple[Origin, Any]]:
    """Yield the writes in a record that it does not show, with their origins."""
    kind = cell.kind
    shown = cell.register[-1:] if kind in (None, "register") else ()
    for write in cell.register:
        is_shown = write in shown or (write.value is None and write == cell.register[-1])
        if not is_shown:  # a removal that won is shown as an absent key
            yield write.origin, None if write.value is None else values.decode(write.value)
    if cell.members and kind != "set":
        last = max(tag for tags in cell.members.values() for tag in tags)
        yield last, [values.decode(member) for member in sorted(cell.members)]
    if cell.counter and kind != "counter":
        yield max(tally.last for tally in cell.counter.values()), cells.total(cell.counter)

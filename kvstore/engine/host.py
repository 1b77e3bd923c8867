"""A host: one environment, one replica of every shard, one batch at a time.

Everything the roles write between ``begin`` and ``commit`` is one commit, so a transaction over many
shards costs one fsync, and no commit ever falls between two pieces of a transaction (contracts A2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kvstore.engine.log_retention import LogRetention
from kvstore.eris.coordinator_replication import RecordKeeper
from kvstore.eris.coordinator_state import CoordinatorRecord
from kvstore.eris.effects import (
    CancelTimer,
    Dropped,
    Effect,
    ReplicaAddress,
    Send,
    SetTimer,
)
from kvstore.eris.executor import Executor
from kvstore.eris.log import BodyIndex, TransactionLog
from kvstore.eris.messages import ReplicaMessage
from kvstore.eris.replica import Replica
from kvstore.eris.shard_state import HOST_TABLE, ShardTables, log_name
from kvstore.execution.procedure_context import Owns
from kvstore.ports import Environment, WriteBatch
from kvstore.types import HostId, RegionId, ShardId, Slot

MANIFEST_KEY = b"manifest"

Inbox = list[tuple[ShardId, ReplicaMessage]]


class Host:
    """Replica ``number`` of every shard, over one environment.

    After a failed batch the replicas' memory is ahead of the disk: the host must be discarded and
    built anew from an environment that was opened again (contracts A5).
    """

    def __init__(
        self,
        number: HostId,
        environment: Environment,
        *,
        shards: int,
        replicas: int,
        retention: int,
        owns: Owns,
        is_ahead: bool = True,
        region: RegionId | None = None,
    ) -> None:
        """``is_ahead``: whether the learner executes a transaction before a quorum has logged it. In one
        process no reader sees the result before the quorum has (contracts A4)."""
        self.number = number
        self._owns = owns
        self._is_ahead = is_ahead
        self._region = region
        self.environment = environment
        self.dropped: dict[str, int] = {}
        self.timers: list[tuple[ReplicaAddress, SetTimer | CancelTimer]] = []
        """Timer effects of the replicas, for the driver; a driver that loses no message may ignore them."""
        self._bodies = BodyIndex()
        self._touched: set[ShardId] = set()
        self.executor = Executor()
        self._table = environment.table(HOST_TABLE)
        self.keeper = RecordKeeper(number, self._table)
        self._batch: WriteBatch = environment.begin()
        try:
            self.replicas = [self._load(ShardId(shard), replicas) for shard in range(shards)]
            self.executor.restore()
            self._retention = LogRetention(self._table, self.replicas, self._bodies, retention)
        finally:
            self._batch.abort()

    def _load(self, shard: ShardId, replicas: int) -> Replica:
        tables = ShardTables(shard, self.environment)
        record = tables.load()
        log = self.environment.log(log_name(shard), record.head)
        log.check_end()
        return Replica(
            address=ReplicaAddress(shard, self.number),
            replicas=replicas,
            record=record,
            log=TransactionLog(shard, log, tables.effects, self._bodies),
            tables=tables,
            executor=self.executor,
            owns=self._owns,
            is_ahead=self._is_ahead,
            region=None if self._region is None else tables.region_execution(self._region),
        )

    def begin(self) -> None:
        """Open the batch on this thread."""
        self._batch = self.environment.begin()

    def handle(self, inbox: Iterable[tuple[ShardId, ReplicaMessage]]) -> list[Send]:
        """Hand messages to their replicas; return the sends that leave after the commit."""
        outbox: list[Send] = []
        replicas, touched = self.replicas, self._touched
        for shard, message in inbox:
            touched.add(shard)
            for effect in replicas[shard].handle(message):
                if type(effect) is Send:
                    outbox.append(effect)
                else:
                    self._note(replicas[shard], effect)
        return outbox

    def fire(self, shard: ShardId, name: str) -> list[Send]:
        """Fire a replica's timer within a batch; return the sends that leave after the commit."""
        replica = self.replicas[shard]
        self._touched.add(shard)
        outbox: list[Send] = []
        for effect in replica.on_timer(name):
            if type(effect) is Send:
                outbox.append(effect)
            else:
                self._note(replica, effect)
        return outbox

    def _note(self, replica: Replica, effect: Effect) -> None:
        """Count a drop; keep a timer effect for the driver."""
        if type(effect) is Dropped:
            self.dropped[effect.reason] = self.dropped.get(effect.reason, 0) + 1
        else:
            assert type(effect) is SetTimer or type(effect) is CancelTimer
            self.timers.append((replica.address, effect))

    def acknowledge(self, slots: Mapping[ShardId, Iterable[Slot]]) -> list[Send]:
        """Return acknowledgements, in the present view, that the replicas' logs hold these slots."""
        outbox: list[Send] = []
        for shard, some in slots.items():
            replica = self.replicas[shard]
            for slot in some:
                for effect in replica.acknowledge(slot, replica.log.read(slot, 1)[0].stamped):
                    assert type(effect) is Send
                    outbox.append(effect)
        return outbox

    def touch_all(self) -> None:
        """Make the next ``finish`` write the records of all shards."""
        self._touched.update(replica.address.shard for replica in self.replicas)

    def finish(self) -> list[Send]:
        """Write the records of all touched shards; return further sends. The batch can then be committed."""
        outbox: list[Send] = []
        executor = self.executor
        if executor.behind:
            outbox += (effect for effect in executor.catch_up() if type(effect) is Send)
        if executor.arriving is not None or executor.ready:
            executor.settle_arriving()
            outbox += (effect for effect in executor.run_ready() if type(effect) is Send)
        if executor.touched:
            self._touched |= executor.touched
            executor.touched.clear()
            for shard in self._touched:
                record = self.replicas[shard].record
                record.waiting, record.copies = executor.waiting(shard), executor.copies(shard)
        self._retention.trim(self._touched)
        for shard in self._touched:
            replica = self.replicas[shard]
            for effect in replica.end_batch():
                assert type(effect) is Send
                outbox.append(effect)
        self._touched.clear()
        self._bodies.forget()
        return outbox

    def commit(self) -> None:
        """Make the batch visible and durable. Raises ``OutcomeUnknown``; then discard the host."""
        self._batch.commit()

    def abort(self) -> None:
        self._batch.abort()

    def coordinator_record(self) -> CoordinatorRecord:
        """Return this environment's copy of the coordinator's record; call within a batch."""
        return self.keeper.record()

    def save_coordinator_record(self, record: CoordinatorRecord) -> None:
        self.keeper.keep(record)

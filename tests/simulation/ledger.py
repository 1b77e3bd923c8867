"""What is on the disks of a simulated store, as of every commit, for all checkers at once.

The ledger follows each replica's durable log and record. Checkers are told what changed, and ask it for the
rest: what stands in a slot, and what is known to be stable there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kvstore.eris.effects import Send
from kvstore.eris.log import read_body
from kvstore.eris.messages import Answer, Stamped
from kvstore.eris.shard_state import HOST_TABLE, ShardRecord, decode_record, log_name, record_key
from kvstore.simulation.simulated_host import SimulatedHost
from kvstore.simulation.simulator import CoordinatorNode, Simulator
from kvstore.storage.memory_environment import MemoryView
from kvstore.types import ClientId, Epoch, ShardId, Slot, TransactionId
from tests.simulation.workload import Asked

LOG_MAX = 1 << 20


class Violation(AssertionError):
    """A promise was broken."""


def require(holds: bool, what: str) -> None:
    """Raise ``Violation`` unless it holds."""
    if not holds:
        raise Violation(what)


class Replica(NamedTuple):
    """One replica, by its host and shard."""

    host: int
    shard: ShardId


class Changed(NamedTuple):
    """What one commit changed in one replica's log."""

    replica: Replica
    before: ShardRecord
    after: ShardRecord
    slots: list[Slot]


@dataclass
class Shadow:
    """A replica's durable log and record."""

    record: ShardRecord = field(default_factory=ShardRecord)
    encoded: bytes = b""
    life: int = 0
    log: dict[Slot, Stamped | None] = field(default_factory=dict)
    names: dict[TransactionId, Slot] = field(default_factory=dict)
    """Where each transaction stands that ever was in it; look into the log whether it still is."""


class Checker:
    """Watches over one property. Every method may raise ``Violation``."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def changed(self, change: Changed) -> None:
        """A commit changed a replica."""

    def sent(self, host: SimulatedHost, sends: list[Send]) -> None:
        """A host sends this after a commit."""

    def spoke(self, sends: list[Send]) -> None:
        """A coordinator sends this."""

    def answered(self, asked: Asked, answer: Answer) -> None:
        """A client was answered."""

    def settled(self) -> None:
        """All is over, and every host is well."""


class Ledger:
    """The observer of a simulator that keeps the books, and hands them to the checkers."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.shadows: defaultdict[Replica, Shadow] = defaultdict(Shadow)
        self.stable: dict[ShardId, dict[Slot, Stamped | None]] = {s: {} for s in simulator.shards()}
        """By shard, what was ever known to stand at a quorum."""
        self.checkers: list[Checker] = []
        self._clients_from: dict[Epoch, ClientId] = {}
        self._decoded: dict[bytes, Stamped | None] = {}

    def shadow(self, host: int, shard: ShardId) -> Shadow:
        return self.shadows[Replica(host, shard)]

    # -- what the simulator tells --------------------------------------------------------------

    def committed(self, host: SimulatedHost, sends: list[Send]) -> None:
        view = MemoryView("ledger", host.folder.committed)
        for shard in self.simulator.shards():
            change = self._follow(host, shard, view)
            if change is not None:
                for checker in self.checkers:
                    checker.changed(change)
        for checker in self.checkers:
            checker.sent(host, sends)

    def spoke(self, coordinator: CoordinatorNode, sends: list[Send]) -> None:
        for checker in self.checkers:
            checker.spoke(sends)

    def answered(self, asked: Asked, answer: Answer) -> None:
        for checker in self.checkers:
            checker.answered(asked, answer)

    def settled(self) -> None:
        for checker in self.checkers:
            checker.settled()

    # -- following -----------------------------------------------------------------------------

    def _follow(self, host: SimulatedHost, shard: ShardId, view: MemoryView) -> Changed | None:
        shadow = self.shadow(host.number, shard)
        encoded = view.table(HOST_TABLE).get(record_key(shard)) or b""
        if encoded == shadow.encoded and host.life == shadow.life:
            return None
        before, after = shadow.record, decode_record(encoded) if encoded else ShardRecord()
        first = self._first_to_read(shadow, after, host.life)
        shadow.record, shadow.encoded, shadow.life = after, encoded, host.life
        self._clients_from[after.last_normal_epoch] = after.clients_from
        for cut in range(max(before.stable + 1, first), after.head[0]):
            shadow.log.pop(Slot(cut), None)  # with an image: it may have been another thing there
        slots = list(self._read(shadow, shard, view, first))
        return Changed(Replica(host.number, shard), before, after, slots)

    @staticmethod
    def _first_to_read(shadow: Shadow, after: ShardRecord, life: int) -> Slot:
        """Logs grow at their end, but for what was dropped, what an epoch begins with, and images."""
        before = shadow.record
        is_other = before.diverged and not after.diverged  # an image, of which the drops may be known already
        if life != shadow.life or after.head[1] < before.head[1] or is_other:
            return Slot(1)
        if after.last_normal_epoch == before.last_normal_epoch and after.perm_drops == before.perm_drops:
            return Slot(before.head[1] + 1)
        return Slot(min(before.stable, before.base) + 1)

    def _read(self, shadow: Shadow, shard: ShardId, view: MemoryView, first: Slot) -> Iterator[Slot]:
        head = shadow.record.head
        for gone in [slot for slot in shadow.log if slot > head[1]]:
            del shadow.log[gone]
        if first > head[1]:
            return
        log = view.log(log_name(shard), head)
        for index, record in log.read(max(first, head[0]), LOG_MAX):
            stamped = self._decode(record, view)
            slot = Slot(index)
            if slot not in shadow.log or shadow.log[slot] != stamped:
                shadow.log[slot] = stamped
                for name in stamped.stamp.ids() if stamped is not None else ():
                    shadow.names[name] = slot
                yield slot

    def _decode(self, record: bytes, view: MemoryView) -> Stamped | None:
        if record[:1] == b"\x01":
            return read_body(record, lambda shard, slot: self._referred(view, shard, slot))
        if record not in self._decoded:
            self._decoded[record] = read_body(record, lambda shard, slot: b"")
        return self._decoded[record]

    @staticmethod
    def _referred(view: MemoryView, shard: ShardId, slot: Slot) -> bytes:
        stored = view.table(HOST_TABLE).get(record_key(shard))
        assert stored is not None
        return view.log(log_name(shard), decode_record(stored).head).read(slot, 1)[0][1]

    # -- questions -----------------------------------------------------------------------------

    def executed(self, shard: ShardId) -> Iterator[tuple[Slot, Stamped]]:
        """The first copies of all requests in what is stable of a shard, in order; what came when its client
        had ended is void."""
        seen: set[tuple[int, int]] = set()
        for slot, stamped in sorted(self.stable[shard].items(), key=lambda item: item[0]):
            if stamped is not None:
                request = stamped.request
                key = request.client, request.request
                if key not in seen and request.client >= self._clients_from[stamped.stamp.epoch]:
                    yield slot, stamped
                seen.add(key)

"""What clients do in regions: registers that are read and written, counters, sets, money, and the log.

Each session stays in its region and does one thing after another. What it was told counts when it is on disk:
a region that loses its power takes back what was not, from those who had seen it as well.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kvstore import keys, values
from kvstore.database.routing import Routing
from kvstore.engine.request import ClientRequest, Conclusion, PendingRequest
from kvstore.eris.client import SecondHalf
from kvstore.eris.shard_state import REGISTERS, table_name
from kvstore.execution.crdt.escrow import decode_unaffordable
from kvstore.execution.operations import (
    Add,
    Append,
    Check,
    Credit,
    Delete,
    Grant,
    KeyEffect,
    Operation,
    Operations,
    Outcome,
    Put,
    Reserve,
    SetAdd,
    SetRemove,
    Spend,
)
from kvstore.execution.stored_value import value_of
from kvstore.simulation.simulated_region import RegionSimulator, SimulatedRegion
from kvstore.types import RegionId, ShardId
from tests.histories.history import Operation as Seen
from tests.histories.history import Outcome as HistoryOutcome
from tests.histories.history import Transaction, read, write
from tests.simulation.regions.ledger import Ledger

REGISTER_KEYS, COUNTER_KEYS, SET_KEYS, ACCOUNTS = 8, 3, 3, 4
NEVER = 0
"""A version that no key has."""


@dataclass
class Session:
    """A client of one region."""

    region: SimulatedRegion
    process: int
    busy: bool = False
    under_way: tuple[Seen, ...] = ()
    """What it has asked for and was not told."""
    unsynced: list[Transaction] = field(default_factory=list)


class Workload:
    """All sessions of all regions."""

    def __init__(
        self, simulator: RegionSimulator, ledger: Ledger, chance: random.Random, transactions: int
    ) -> None:
        self.simulator = simulator
        self.ledger = ledger
        self.chance = chance
        self.left = transactions
        self.done = 0
        self.history: list[Transaction] = []
        self.counts: Counter[str] = Counter()
        self.routing = Routing(simulator.shards, None)
        self.credited: dict[RegionId, int] = {}
        self.read_only = {region.number for region in simulator.regions if chance.random() < 0.15}
        self._value = 0
        self._processes = 0
        self._groups: dict[RegionId, list[PendingRequest]] = {}
        self.sessions = [
            self._session(region) for region in simulator.regions for _ in range(chance.randint(1, 3))
        ]
        for region in simulator.regions:
            region.on_sync.append(lambda region=region: self._synced(region))  # type: ignore[misc]  # bound

    def _session(self, region: SimulatedRegion) -> Session:
        self._processes += 1
        return Session(region, self._processes)

    def start(self) -> None:
        for session in self.sessions:
            self._later(session)

    def is_over(self) -> bool:
        return self.left <= 0 and not any(session.busy for session in self.sessions)

    def crashed(self, region: SimulatedRegion) -> None:
        """What was not on disk did not happen, or not yet, and those who saw it are gone."""
        self._groups.pop(region.number, None)
        for session in self.sessions:
            if session.region is region:
                self._forget(session)
                self._processes += 1
                session.process, session.busy, session.under_way = self._processes, False, ()
                session.unsynced.clear()

    def _forget(self, session: Session) -> None:
        """What it asked for may happen all the same: it may be on disk, and have waited for locks then."""
        asked = [*(one.operations for one in session.unsynced), session.under_way]
        for operations in asked:
            writes = tuple(operation for operation in operations if operation.kind == "write")
            if writes:
                self._processes += 1
                self.history.append(Transaction(self._processes, writes, outcome=HistoryOutcome.UNKNOWN))

    def _synced(self, region: SimulatedRegion) -> None:
        for session in self.sessions:
            if session.region is region:
                self.history += session.unsynced
                session.unsynced.clear()

    # -- one step ------------------------------------------------------------------------------

    def _later(self, session: Session) -> None:
        self.simulator.after(self.chance.randint(200, 6_000), lambda: self._step(session))

    def _step(self, session: Session) -> None:
        if self.left <= 0:
            return
        region = session.region
        if region.cluster is not None and not region.is_put_back and not session.busy:
            self.left -= 1
            self.done += 1
            does = self.chance.choices(
                [self._transact, self._add, self._change_set, self._pay, self._append, self._hold],
                [10, 2, 2, 5, 2, 1],
            )[0]
            (self._read if session.region.number in self.read_only else does)(session)
        self._later(session)

    def _key(self, kind: str, number: int) -> tuple[ShardId, bytes]:
        encoded = keys.encode((kind, self.chance.randrange(number)))
        return self.routing.shard_of_encoded(encoded), encoded

    def _submit(
        self,
        session: Session,
        effects: list[tuple[ShardId, KeyEffect]],
        done: Callable[[PendingRequest], None],
    ) -> None:
        operations: Operations = {}
        for shard, effect in effects:
            operations[shard] = (*operations.get(shard, ()), effect)
        self._send(session, PendingRequest(ClientRequest(operations, 0, 1)), done)

    def _send(
        self, session: Session, pending: PendingRequest, done: Callable[[PendingRequest], None]
    ) -> None:
        """With whatever others of the region send at about the same time."""
        session.busy = True
        life = session.region.life

        def answered() -> None:
            if life == session.region.life:
                session.busy = False
                done(pending)

        pending.on_done = answered
        group = self._groups.setdefault(session.region.number, [])
        group.append(pending)
        if len(group) == 1:
            self.simulator.after(self.chance.randint(0, 800), lambda: self._commit(session.region, life))

    def _commit(self, region: SimulatedRegion, life: int) -> None:
        if life == region.life:
            region.process(self._groups.pop(region.number))

    # -- registers -----------------------------------------------------------------------------

    def _shown(self, region: SimulatedRegion, shard: ShardId, key: bytes) -> object:
        payload = value_of(region.view.table(table_name(shard, REGISTERS)).get(key))
        return None if payload is None else values.decode(payload)

    def _reads(self, session: Session, count: int) -> list[Seen]:
        """Reads of one moment."""
        found = {self._key("register", REGISTER_KEYS) for _ in range(count)}
        return [read(key, self._shown(session.region, shard, key)) for shard, key in sorted(found)]

    def _read(self, session: Session) -> None:
        self._note(session, self._reads(session, 3))

    def _note(self, session: Session, operations: list[Seen]) -> None:
        session.under_way = ()
        session.unsynced.append(Transaction(session.process, tuple(operations)))

    def _transact(self, session: Session) -> None:
        """Reads of one moment, and writes that are committed together."""
        seen = self._reads(session, self.chance.randint(0, 3))
        effects: dict[bytes, tuple[ShardId, KeyEffect]] = {}
        written: list[Seen] = []
        for _ in range(self.chance.randint(1, 3)):
            shard, key = self._key("register", REGISTER_KEYS)
            self._value += 1
            effects[key] = shard, Put(key, values.encode(self._value))
            written = [change for change in written if change.key != key] + [write(key, self._value)]
        session.under_way = (*seen, *written)
        self._submit(session, list(effects.values()), lambda _: self._note(session, seen + written))

    def _hold(self, session: Session) -> None:
        """A general transaction that holds its locks for a while, and then ends one way or the other."""
        session.busy = True
        shard, key = self._key("register", REGISTER_KEYS)
        other, second = self._key("general", 4)
        locked: dict[ShardId, list[Operation]] = {shard: [Check(key, NEVER)]}
        locked.setdefault(other, []).append(Reserve(second))
        self._value += 1
        value = values.encode(self._value)
        writes: dict[ShardId, list[Operation]] = {shard: []}
        writes.setdefault(other, []).append(Put(second, value))
        ends = {at: tuple(part) for at, part in writes.items()}
        half = SecondHalf(ends, keeps_locks=True)
        operations = {at: tuple(part) for at, part in locked.items()}
        pending = PendingRequest(ClientRequest(operations, 0, 1, second_half=half))
        self._send(session, pending, lambda held: self._conclude(session, held, ends))

    def _conclude(self, session: Session, held: PendingRequest, writes: Operations) -> None:
        if held.answer is None or held.answer.committed is not None:
            return
        session.busy = True
        life, preliminary = session.region.life, held.answer.request
        commits = self.chance.random() < 0.7

        def conclude() -> None:
            if life == session.region.life:
                session.busy = False
                conclusion = Conclusion(preliminary, commits)
                request = ClientRequest(writes if commits else {}, 0, 1, conclusion=conclusion)
                pending = PendingRequest(request)
                self.counts["held"] += 1
                self._send(session, pending, lambda _: None)

        self.simulator.after(self.chance.randint(500, 30_000), conclude)

    # -- what converges ------------------------------------------------------------------------

    def _add(self, session: Session) -> None:
        shard, key = self._key("counter", COUNTER_KEYS)
        amount = values.encode(self.chance.choice([1, 5, -2, 0.1]))
        self._submit(session, [(shard, Add(key, amount))], lambda _: None)

    def _change_set(self, session: Session) -> None:
        shard, key = self._key("set", SET_KEYS)
        member = values.encode(self.chance.randrange(4))
        adds = self.chance.random() < 0.7
        effects: list[tuple[ShardId, KeyEffect]] = [
            (shard, SetAdd(key, member) if adds else SetRemove(key, member))
        ]
        if self.chance.random() < 0.2:
            effects.append((shard, Delete(key)))
        self._submit(session, effects, lambda _: None)

    def _append(self, session: Session) -> None:
        """A node of several colors."""
        colors = self.chance.sample(
            range(self.simulator.shards), self.chance.randint(1, self.simulator.shards)
        )
        lowest = min(colors)
        operations: Operations = {
            ShardId(color): (Append(b"payload" if color == lowest else None),) for color in sorted(colors)
        }
        self._send(session, PendingRequest(ClientRequest(operations, 0, 1)), lambda _: None)

    # -- money ---------------------------------------------------------------------------------

    def _pay(self, session: Session) -> None:
        """Money comes in, is spent, moved to another account, or its rights to another region."""
        shard, key = self._key("account", ACCOUNTS)
        own, amount = session.region.number, self.chance.randint(1, 40)
        match self.chance.choice(["credit", "spend", "spend", "move", "grant"]):
            case "credit":
                owner = RegionId(self.chance.randrange(len(self.simulator.names)))
                self._debit(session, [(shard, Credit(key, amount, owner))])
            case "spend":
                self._debit(session, [(shard, Spend(key, amount))])
            case "grant":
                taker = RegionId(self.chance.randrange(len(self.simulator.names)))
                if taker != own:
                    self._debit(session, [(shard, Grant(key, amount, taker))])
            case _:
                other, second = self._key("account", ACCOUNTS)
                if second != key:
                    self._move(session, (shard, key), (other, second), amount)

    def _debit(self, session: Session, effects: list[tuple[ShardId, KeyEffect]]) -> None:
        def done(pending: PendingRequest) -> None:
            assert pending.answer is not None
            refused = [outcome for outcome in pending.answer.outcomes.values() if outcome.refused]
            self.counts["refused" if refused else "paid"] += 1
            for outcome in refused:
                self._ask_for_rights(session.region, outcome)

        self._submit(session, effects, done)

    def _ask_for_rights(self, region: SimulatedRegion, refused: Outcome) -> None:
        if refused.unaffordable:
            short = decode_unaffordable(refused.unaffordable)
            if short.amount <= short.balance:
                region.want(self.routing.shard_of_encoded(short.key), short.key, short.amount)

    def _move(
        self, session: Session, source: tuple[ShardId, bytes], target: tuple[ShardId, bytes], amount: int
    ) -> None:
        """From one account to another: general, where they are on two shards."""
        spend, credit = Spend(source[1], amount), Credit(target[1], amount, session.region.number)
        if source[0] == target[0]:
            self._debit(session, [(source[0], spend), (target[0], credit)])
            return
        locked: Operations = {source[0]: (Reserve(source[1]), spend), target[0]: (Reserve(target[1]),)}
        half = SecondHalf({source[0]: (spend,), target[0]: (credit,)})
        pending = PendingRequest(ClientRequest(locked, 0, 1, second_half=half))

        def done(pending: PendingRequest) -> None:
            assert pending.answer is not None
            self.counts["moved" if pending.answer.committed else "refused"] += 1

        self._send(session, pending, done)

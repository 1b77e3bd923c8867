"""What clients of a simulated store do, and what they saw of it: a history for the checkers.

On every shard there are some registers, which only ever get values that nobody wrote before, and counters. A
lane is one client doing one transaction after another; a client has one lane or several, so its requests
overlap. What it reads it first peeks at on any host, as reconnaissance does: that may be old, and the
transaction then finds out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from kvstore import keys, values
from kvstore.eris.client import SecondHalf
from kvstore.eris.log_tail import shard_record
from kvstore.eris.messages import Answer
from kvstore.eris.shard_state import REGISTERS, table_name
from kvstore.errors import Corrupt
from kvstore.execution.operations import Add, Check, Operation, Put, Reserve
from kvstore.execution.stored_value import decoded_value, stored_version
from kvstore.simulation.simulator import ClientNode, Simulator
from kvstore.storage.memory_environment import MemoryView
from kvstore.types import RequestId, ShardId
from tests.histories.history import Operation as Seen
from tests.histories.history import Outcome, Transaction, read, write

REGISTERS_PER_SHARD, COUNTERS_PER_SHARD = 4, 2
THINK_US = 3_000
ONE = values.encode(1)

Place = tuple[ShardId, str]
"""A key and where it is."""
Cell = tuple[object, int | None]
"""A value and its version; both None where there is nothing."""


@dataclass
class Asked:
    """A transaction that was sent."""

    process: int
    client: ClientNode
    request: RequestId
    seen: list[Seen]
    called: int
    counters: list[Place] = field(default_factory=list)


class Workload:
    """So many transactions, by so many lanes."""

    def __init__(self, simulator: Simulator, chance: random.Random, transactions: int, lanes: int) -> None:
        self.simulator = simulator
        self.chance = chance
        self.left = transactions
        self.done = 0
        self.lanes = lanes
        self.history: list[Transaction] = []
        self.on_answer: list[Callable[[Asked, Answer], None]] = []
        self._running: dict[tuple[int, RequestId], Asked] = {}
        self._value = 0
        self._stamp = 0
        self._process = 0

    def start(self) -> None:
        """Begin all lanes, with as many clients as chance wants."""
        free = self.lanes
        while free:
            lanes = self.chance.randint(1, min(3, free))
            free -= lanes
            self._start_client(lanes)

    def _start_client(self, lanes: int) -> None:
        client = self.simulator.start_client(self._told_by(len(self.simulator.clients) + 1))
        for _ in range(lanes):
            self._process += 1
            self._think(client, self._process)

    def _told_by(self, number: int) -> Callable[[Answer], None]:
        return lambda answer: self._take(number, answer)

    def is_over(self) -> bool:
        return not self.left and not self._running

    def running(self) -> list[tuple[int, RequestId]]:
        """What is not answered, by client and request."""
        return list(self._running)

    def crash_client(self) -> None:
        """One client is gone, with all that it had under way; another comes, with as many lanes."""
        living = sorted({asked.client.role.client for asked in self._running.values()})
        if not living:
            return
        gone = self.chance.choice(living)
        self.simulator.clients[gone].is_up = False
        lost = [key for key, asked in self._running.items() if asked.client.role.client == gone]
        for key in lost:
            self._record(self._running.pop(key), Outcome.UNKNOWN)
        self._start_client(len(lost))

    def close(self) -> list[Transaction]:
        """The history; what was not answered is unknown."""
        for asked in self._running.values():
            self._record(asked, Outcome.UNKNOWN)
        self._running.clear()
        return sorted(self.history, key=lambda one: one.called or 0)

    # -- one transaction ---------------------------------------------------------------------

    def _think(self, client: ClientNode, process: int) -> None:
        self.simulator.after(self.chance.randint(1, THINK_US), lambda: self._next(client, process))

    def _next(self, client: ClientNode, process: int) -> None:
        if not self.left or not client.is_up:
            return
        self.left -= 1
        kind = self.chance.choices(
            [self._put, self._count, self._change, self._general, self._look], [25, 20, 20, 25, 10]
        )[0]
        kind(client, process)

    def _put(self, client: ClientNode, process: int) -> None:
        """Blind writes over some shards: independent."""
        writes = {place: self._new() for place in self._registers(self._some_shards())}
        effects = client.role.submit(_by_shard(_puts(writes)))
        self._sent(client, process, [write(place, value) for place, value in writes.items()])
        self.simulator.ask(client, effects)

    def _count(self, client: ClientNode, process: int) -> None:
        """Adds over some shards: independent, and each says what it came to."""
        places = [(shard, f"c{self.chance.randrange(COUNTERS_PER_SHARD)}") for shard in self._some_shards()]
        effects = client.role.submit(_by_shard((place, Add(_key(place), ONE)) for place in places))
        self._sent(client, process, [], places)
        self.simulator.ask(client, effects)

    def _change(self, client: ClientNode, process: int) -> None:
        """Reads decide writes on one shard, where they are checked."""
        shard = self.chance.choice(self.simulator.shards())
        seen, checks = self._peek(self._registers([shard], 2))
        target, value = (shard, self._register()), self._new()
        effects = client.role.submit(_by_shard([*checks, (target, Put(_key(target), values.encode(value)))]))
        self._sent(client, process, [*seen, write(target, value)])
        self.simulator.ask(client, effects)

    def _general(self, client: ClientNode, process: int) -> None:
        """Reads on some shards decide writes on others."""
        shards = self._some_shards(least=2)
        seen, checks = self._peek(self._registers(shards[:2]))
        writes = {place: self._new() for place in self._registers(shards[-2:])}
        reserves: list[tuple[Place, Operation]] = [(place, Reserve(_key(place))) for place in writes]
        locks = _by_shard([*checks, *reserves])
        second = dict.fromkeys(locks, ()) | _by_shard(_puts(writes))
        half = SecondHalf(second, keeps_locks=self.chance.random() < 0.2)
        effects = client.role.submit_general(locks, half)
        self._sent(client, process, [*seen, *(write(place, value) for place, value in writes.items())])
        self.simulator.ask(client, effects)

    def _look(self, client: ClientNode, process: int) -> None:
        """Reads over some shards, of one moment."""
        seen, checks = self._peek(self._registers(self._some_shards()))
        locks = _by_shard(checks)
        effects = client.role.submit_general(locks, SecondHalf(dict.fromkeys(locks, ())))
        self._sent(client, process, seen)
        self.simulator.ask(client, effects)

    def _some_shards(self, least: int = 1) -> list[ShardId]:
        shards = self.simulator.shards()
        return self.chance.sample(shards, self.chance.randint(min(least, len(shards)), min(3, len(shards))))

    def _registers(self, shards: Iterable[ShardId], each: int = 1) -> list[Place]:
        places = [(shard, self._register()) for shard in shards for _ in range(each)]
        return list(dict.fromkeys(places))

    def _register(self) -> str:
        return f"x{self.chance.randrange(REGISTERS_PER_SHARD)}"

    def _new(self) -> int:
        self._value += 1
        return self._value

    def _peek(self, places: list[Place]) -> tuple[list[Seen], list[tuple[Place, Operation]]]:
        """What hosts show of these, and the checks that it is still so."""
        seen: list[Seen] = []
        checks: list[tuple[Place, Operation]] = []
        for place in places:
            cell = self._look_up(place)
            seen.append(read(place, None if cell is None else decoded_value(cell)))
            checks.append((place, Check(_key(place), None if cell is None else stored_version(cell))))
        return seen, checks

    def _look_up(self, place: Place) -> bytes | None:
        """On a host that has executed nothing but what is stable: what may still be dropped must not be read,
        as its version, a slot, may come again. In one process nothing of that is ever visible (A4)."""
        hosts = self.simulator.hosts
        for host in self.chance.sample(hosts, len(hosts)):
            view = MemoryView("peek", host.folder.committed)
            with suppress(Corrupt):
                record = shard_record(view, place[0])
                if record.executed <= record.stable:
                    return view.table(table_name(place[0], REGISTERS)).get(_key(place))
        return None

    # -- what is known of it -----------------------------------------------------------------

    def _sent(
        self, client: ClientNode, process: int, seen: list[Seen], counters: list[Place] | None = None
    ) -> None:
        request = client.role.last_request
        asked = Asked(process, client, request, seen, self._now(), counters or [])
        self._running[client.role.client, request] = asked

    def _now(self) -> int:
        self._stamp = max(self._stamp + 1, self.simulator.now * 100)
        return self._stamp

    def _take(self, client: int, answer: Answer) -> None:
        asked = self._running.get((client, answer.request))
        if asked is None:
            return
        for look in self.on_answer:
            look(asked, answer)
        is_vote = answer.committed is None and answer.request in asked.client.role.outstanding
        if is_vote:
            self.simulator.ask(asked.client, asked.client.role.conclude(answer.request))
            return
        refused = answer.committed is False or any(o.refused for o in answer.outcomes.values())
        if answer.committed:
            refused = False
        del self._running[client, answer.request]
        self.done += 1
        self._record(asked, Outcome.FAILED if refused else Outcome.OK)
        self._think(asked.client, asked.process)

    def _record(self, asked: Asked, outcome: Outcome) -> None:
        returned = None if outcome is Outcome.UNKNOWN else self._now()
        if asked.seen:
            operations = tuple(asked.seen)
            if outcome is not Outcome.OK:
                operations = tuple(operation for operation in operations if operation.kind == "write")
            if operations:
                self.history.append(Transaction(asked.process, operations, asked.called, returned, outcome))


def _key(place: Place) -> bytes:
    return keys.encode(place[1])


def _puts(writes: dict[Place, int]) -> list[tuple[Place, Operation]]:
    return [(place, Put(_key(place), values.encode(value))) for place, value in writes.items()]


def _by_shard(operations: Iterable[tuple[Place, Operation]]) -> dict[ShardId, tuple[Operation, ...]]:
    parts: dict[ShardId, list[Operation]] = {}
    for (shard, _), operation in operations:
        parts.setdefault(shard, []).append(operation)
    return {shard: tuple(parts[shard]) for shard in sorted(parts)}

"""One seed: a store, its clients, what goes wrong, and the judges."""

from __future__ import annotations

import random
from collections.abc import Iterator

from kvstore.engine import log_retention
from kvstore.eris.shard_state import Status
from kvstore.simulation.simulated_host import Shape
from kvstore.simulation.simulator import Simulator
from tests.simulation.checkers import CHECKERS
from tests.simulation.checkers.serializability import judge
from tests.simulation.ledger import Ledger, Violation
from tests.simulation.nemesis import Nemesis, drawn
from tests.simulation.result import Result, violation_of
from tests.simulation.workload import Workload

TRANSACTIONS = 300
CHAOS_US, PATIENCE_US = 1_500_000, 10_000_000
"""How long things go wrong, and how long it may take afterwards until all is well."""
EVENTS_MAX = 400_000
"""Many times what a run takes."""
RETENTIONS = [0, 4_000, 1 << 30]
MARK_BYTES = 2_000
"""Logs are marked, and cut, more often than a real store does it."""


def _shape(chance: random.Random) -> Shape:
    replicas = chance.choice([3, 3, 3, 5])
    ahead = tuple(sorted(chance.sample(range(replicas), replicas // 2)))
    return Shape(chance.randint(1, 4), replicas, chance.choice(RETENTIONS), ahead)


class Run:
    """A seed, step by step."""

    def __init__(self, seed: int, profile: str = "swarm", transactions: int = TRANSACTIONS) -> None:
        chance = random.Random(f"run {seed}")
        shape = _shape(chance)
        log_retention.MARK_BYTES_MIN = MARK_BYTES
        self.result = Result(seed, profile, shape)
        self.simulator = Simulator(chance.getrandbits(64), shape)
        self.workload = Workload(
            self.simulator, random.Random(chance.getrandbits(64)), transactions, chance.randint(2, 8)
        )
        self.ledger = Ledger(self.simulator)
        self.ledger.checkers += [checker(self.ledger) for checker in CHECKERS]
        self.simulator.observers.append(self.ledger)
        self.workload.on_answer.append(self.ledger.answered)
        nemesis_chance = random.Random(chance.getrandbits(64))
        self.nemesis = Nemesis(self.simulator, self.workload, nemesis_chance, drawn(profile, chance))

    def play(self) -> Result:
        """The whole story; a violation is part of the result."""
        result = self.result
        result.violation = violation_of(self._play)
        result.trace = self.simulator.trace()
        result.transactions = self.workload.done
        result.faults = self.simulator.faults + self.simulator.network.counts
        return result

    def _play(self) -> None:
        simulator = self.simulator
        simulator.run_until(simulator.now + 100_000, self._is_open)
        self.workload.start()
        self.nemesis.start()
        simulator.run_until(simulator.now + CHAOS_US, self._is_over)
        self.nemesis.stop()
        if not simulator.run_until(simulator.now + PATIENCE_US, self._is_settled):
            raise Violation(f"not live: {[*self._unsettled()]}")
        self.ledger.settled()
        judge(self.workload.close())

    def _is_open(self) -> bool:
        return bool(self.simulator.sequencers)

    def _is_over(self) -> bool:
        if self.simulator.events > EVENTS_MAX:
            raise Violation(f"{EVENTS_MAX} events, and no end: {[*self._unsettled()]}")
        return self.workload.is_over()

    def _is_settled(self) -> bool:
        return self._is_over() and next(self._unsettled(), None) is None

    def _unsettled(self) -> Iterator[str]:
        """What is not as it should be in the end."""
        simulator = self.simulator
        if not self.workload.is_over():
            yield f"{self.workload.left} transactions to come, running {self.workload.running()}"
        if len(simulator.living()) < simulator.shape.replicas:
            yield f"only {len(simulator.living())} hosts take part"
            return
        for shard in simulator.shards():
            replicas = [host.host.replicas[shard] for host in simulator.hosts if host.host is not None]
            records = [self.ledger.shadow(host.number, shard).record for host in simulator.hosts]
            if any(replica.status is not Status.NORMAL for replica in replicas):
                yield f"shard {shard}: {[replica.status.value for replica in replicas]}"
            ends = {(record.head[1], record.executed, record.stable, record.waiting) for record in records}
            if len(ends) > 1 or any(record.waiting for record in records):
                yield f"shard {shard}: end, executed, stable, waiting {sorted(ends)}"


def play(seed: int, profile: str = "swarm", transactions: int = TRANSACTIONS) -> Result:
    """Run one seed."""
    return Run(seed, profile, transactions).play()

"""One seed of regions: what their clients do, what goes wrong, and the judges."""

from __future__ import annotations

import random
from collections.abc import Iterator

from kvstore.database.routing import Routing
from kvstore.eris.shard_state import HIDDEN, REGISTERS, table_name
from kvstore.execution.crdt import cells
from kvstore.execution.crdt.cells import balance
from kvstore.execution.crdt.escrow import rights
from kvstore.execution.procedure_context import Owns
from kvstore.execution.stored_value import VERSION_BYTES
from kvstore.fuzzylog import importing, neighbours, shipping
from kvstore.fuzzylog.importing import dominates
from kvstore.simulation.simulated_region import RegionSimulator, SimulatedRegion
from kvstore.types import RegionId, ShardId
from tests.histories.causal import check_causal
from tests.simulation.ledger import Violation
from tests.simulation.regions.ledger import Ledger
from tests.simulation.regions.nemesis import Nemesis
from tests.simulation.regions.workload import Workload
from tests.simulation.result import Result, violation_of

TRANSACTIONS = 150
CHAOS_US, PATIENCE_US = 600_000, 20_000_000
NAMES = ("ap", "eu", "sa", "us", "za")
ROWS_ALL = 1 << 20


class Run:
    """A seed, step by step."""

    def __init__(self, seed: int, transactions: int = TRANSACTIONS) -> None:
        chance = random.Random(f"regions {seed}")
        names, shards = NAMES[: chance.randint(3, 5)], chance.randint(1, 4)
        importing.NODES_MAX = chance.choice([1, 2, 5, 256])
        shipping.SHIPMENT_BYTES = chance.choice([100, 400, 2_000, 1 << 20])
        neighbours.WAITING_MAX = chance.choice([4, 30, 4096])
        self.result = Result(seed, "regions", f"{len(names)} regions, {shards} shards")
        self.simulator = RegionSimulator(chance.getrandbits(64), names, shards, _owner)
        self.ledger = Ledger(self.simulator)
        self.workload = Workload(
            self.simulator, self.ledger, random.Random(chance.getrandbits(64)), transactions
        )
        self.nemesis = Nemesis(
            self.simulator, self.workload, self.ledger, random.Random(chance.getrandbits(64))
        )
        self.simulator.observers.append(check_rights)

    def play(self) -> Result:
        """The whole story; a violation is part of the result."""
        result = self.result
        result.violation = violation_of(self._play)
        result.trace = self.simulator.trace()
        result.transactions = self.workload.done
        result.faults = self.simulator.faults + self.simulator.network.counts + self.workload.counts
        return result

    def _play(self) -> None:
        simulator = self.simulator
        for region in simulator.regions:
            region.start()
            self.ledger.started(region)
        self.workload.start()
        self.nemesis.start()
        simulator.run_until(CHAOS_US, self.workload.is_over)
        self.nemesis.stop()
        self.workload.left = 0
        if not simulator.run_until(simulator.now + PATIENCE_US, self._is_settled):
            raise Violation(f"not live: {[*self._unsettled()]}")
        check_convergence(simulator.regions)
        verdict = check_causal(self.workload.history)
        if verdict.verdict != "ok":
            raise Violation(f"causality: {verdict}: {verdict.explanation}")

    def _is_settled(self) -> bool:
        return self.workload.is_over() and next(self._unsettled(), None) is None

    def _unsettled(self) -> Iterator[str]:
        """Who lacks what."""
        for one in self.simulator.regions:
            end = {one.number: tuple(one.executed())}
            for other in self.simulator.regions:
                if other is not one and not dominates(other.shipping.importer.applied(), end):
                    yield f"{other.name} lacks some of {one.name}"


def _owner(shards: int, placement: int | None) -> Owns:
    return Routing(shards, placement).owns


def records(region: SimulatedRegion) -> dict[tuple[ShardId, bytes], bytes]:
    """Every key's record, whether it shows something or not."""
    found = {}
    view = region.view
    for number in range(region.world.shards):
        shard = ShardId(number)
        for kind, skip in ((REGISTERS, VERSION_BYTES), (HIDDEN, 0)):
            for key, cell in view.table(table_name(shard, kind)).scan(b"", b"\xff", limit=ROWS_ALL):
                found[shard, key] = cell[skip:]
    return found


def check_convergence(regions: list[SimulatedRegion]) -> None:
    """All regions hold the same (I17, I21)."""
    first = records(regions[0])
    for region in regions[1:]:
        own = records(region)
        for key in sorted(first.keys() | own.keys()):
            if first.get(key) != own.get(key):
                shown = [cell and cells.decode(cell) for cell in (first.get(key), own.get(key))]
                raise Violation(f"{regions[0].name} and {region.name} differ at {key}: {shown}")


def check_rights(region: SimulatedRegion) -> None:
    """No region's rights, and no balance, is below zero, as this region sees it (I29)."""
    for (_, key), payload in records(region).items():
        escrow = cells.decode(payload).escrow
        if escrow is None:
            continue
        numbers = range(len(region.world.names))
        if balance(escrow) < 0 or any(rights(escrow, RegionId(number)) < 0 for number in numbers):
            raise Violation(f"{region.name}: {key!r} is overdrawn: {escrow}")


def play(seed: int, transactions: int = TRANSACTIONS) -> Result:
    """Run one seed."""
    limits = [(importing, "NODES_MAX"), (shipping, "SHIPMENT_BYTES"), (neighbours, "WAITING_MAX")]
    before = [getattr(module, name) for module, name in limits]
    try:
        return Run(seed, transactions).play()
    finally:
        for (module, name), value in zip(limits, before, strict=True):
            setattr(module, name, value)

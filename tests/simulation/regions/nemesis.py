"""What goes wrong between regions, and in them: links, power, clocks; drawn anew for each seed."""

from __future__ import annotations

import random

from kvstore.simulation.simulated_region import RegionSimulator, SimulatedRegion
from tests.simulation.regions.ledger import Ledger
from tests.simulation.regions.workload import Workload

EVERY_US = 25_000
CLOCK_NS = 4 * 10**9
"""How far a clock is off at most; one that is further ahead than others allow is put right in the end."""


class Nemesis:
    """Some of the faults, at random moments, until it is stopped."""

    def __init__(
        self, simulator: RegionSimulator, workload: Workload, ledger: Ledger, chance: random.Random
    ) -> None:
        self.simulator = simulator
        self.workload = workload
        self.ledger = ledger
        self.chance = chance
        self._stopped = False
        network = simulator.network
        network.loss = chance.choice([0.0, 0.05, 0.3])
        network.repeats = chance.choice([0.0, 0.2])
        network.stragglers = chance.choice([0.0, 0.1])
        self._faults = [
            fault
            for fault in (self._cut, self._cut, self._heal, self._power, self._clock)
            if chance.random() < 0.7
        ]
        self._syncs_at_once = chance.random() < 0.3

    def start(self) -> None:
        for region in self.simulator.regions:
            region.offset = self.chance.randint(-CLOCK_NS, CLOCK_NS)
            region.syncs_at_once = self._syncs_at_once
            self._sync_later(region, region.life)
        self._later()

    def stop(self) -> None:
        """All is well again: links, clocks, and whoever is without power."""
        self._stopped = True
        self.simulator.network.heal()
        for region in self.simulator.regions:
            region.offset = max(region.offset, -CLOCK_NS)
            if region.cluster is None:
                self._restart(region)

    def _later(self) -> None:
        self.simulator.after(self.chance.randint(1_000, EVERY_US), self._strike)

    def _strike(self) -> None:
        if self._stopped:
            return
        if self._faults:
            self.chance.choice(self._faults)()
        self._later()

    def _sync_later(self, region: SimulatedRegion, life: int) -> None:
        """Put on disk what was committed, now and then."""

        def sync() -> None:
            if life == region.life:
                region.sync()
                self._sync_later(region, life)

        self.simulator.after(self.chance.randint(500, 15_000), sync)

    # -- faults --------------------------------------------------------------------------------

    def _cut(self) -> None:
        nodes = [region.node for region in self.simulator.regions]
        some = set(self.chance.sample(nodes, self.chance.randint(1, len(nodes) - 1)))
        both = self.chance.random() < 0.7
        self.simulator.network.cut_off(some, set(nodes) - some, both_ways=both)
        self.simulator.faults["partition" if both else "one-way partition"] += 1

    def _heal(self) -> None:
        self.simulator.network.cut.clear()
        self.simulator.faults["heal"] += 1

    def _power(self) -> None:
        region = self.chance.choice(self.simulator.regions)
        if region.cluster is not None:
            self.simulator.faults["power failure"] += 1
            region.lose_power()
            self.workload.crashed(region)
            self.simulator.after(self.chance.randint(2_000, 60_000), lambda: self._restart(region))

    def _restart(self, region: SimulatedRegion) -> None:
        if region.cluster is None:
            region.start()
            self.ledger.started(region)
            self._sync_later(region, region.life)

    def _clock(self) -> None:
        region = self.chance.choice(self.simulator.regions)
        region.offset = self.chance.randint(-CLOCK_NS, CLOCK_NS)
        self.simulator.faults["clock jump"] += 1

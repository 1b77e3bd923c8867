"""What goes wrong between regions, and in them: links, power, clocks; drawn anew for each seed."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from typing import NamedTuple

from kvstore.simulation.simulated_region import RegionSimulator, SimulatedRegion
from kvstore.storage.memory_environment import MemoryFolder
from kvstore.types import RegionId, Slot
from tests.simulation.regions.ledger import Ledger
from tests.simulation.regions.workload import Workload

EVERY_US = 25_000
CLOCK_NS = 4 * 10**9
"""How far a clock is off at most; one that is further ahead than others allow is put right in the end."""
STATES_MAX = 12
"""Earlier states of each region's disk that may be put back."""


DiskState = dict[str, MemoryFolder]


class PutBack(NamedTuple):
    """A region that runs from an earlier state of its disk, and the last state."""

    region: SimulatedRegion
    last: DiskState


def copies_of(state: DiskState) -> DiskState:
    """Return a disk of this state, which may be written to."""
    return {name: replace(folder) for name, folder in state.items()}


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
        self._states: dict[RegionId, deque[tuple[DiskState, tuple[Slot, ...]]]] = {
            region.number: deque(maxlen=STATES_MAX) for region in simulator.regions
        }
        self._old: PutBack | None = None
        """The region that is put back; one at a time, so that all others know better."""
        self._syncs_at_once = chance.random() < 0.3
        self._puts_back = chance.random() < 0.7

    def start(self) -> None:
        for region in self.simulator.regions:
            region.offset = self.chance.randint(-CLOCK_NS, CLOCK_NS)
            region.syncs_at_once = self._syncs_at_once
            self._sync_later(region, region.life)
        self._later()
        if self._puts_back:
            self._put_back_later()

    def stop(self) -> None:
        """All is well again: links, clocks, and whoever is without power."""
        self._stopped = True
        self._end_put_back(self._old)
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
                if self.chance.random() < 0.3:
                    self._states[region.number].append((region.disk_state(), tuple(region.synced)))
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
        if region.cluster is not None and not region.is_put_back:
            self.simulator.faults["power failure"] += 1
            region.lose_power()
            self.workload.crashed(region)
            self.simulator.after(self.chance.randint(2_000, 60_000), lambda: self._restart(region))

    def _restart(self, region: SimulatedRegion) -> None:
        if region.cluster is None and not region.is_put_back:
            region.start()
            self.ledger.started(region)
            self._sync_later(region, region.life)

    def _put_back_later(self) -> None:
        """Try again and again: at first no earlier state is one of which all others have more."""

        def try_it() -> None:
            if not self._stopped:
                self._put_back()
                self._put_back_later()

        self.simulator.after(self.chance.randint(5_000, 20_000), try_it)

    def _put_back(self) -> None:
        """Start a region from an earlier state of its disk for a while, as somebody would from a backup."""
        region = self.chance.choice(self.simulator.regions)
        known = [
            state
            for state, slots in self._states[region.number]
            if self.ledger.all_have_more(region, slots)  # else nobody could tell that it is old
        ]
        if region.cluster is None or self._old is not None or not known:
            return
        region.lose_power()
        self.workload.crashed(region)
        self._old = old = PutBack(region, region.disk_state())
        region.exchange_disk(copies_of(self.chance.choice(known)), is_old=True)
        region.start()
        if self.ledger.all_have_more(region, tuple(region.executed())):
            self.simulator.faults["put back"] += 1
            self.simulator.after(self.chance.randint(5_000, 40_000), lambda: self._end_put_back(old))
        else:
            self._end_put_back(old)  # what it ended at its start made it as long as the copies

    def _end_put_back(self, old: PutBack | None) -> None:
        """Give the region its last disk back."""
        if old is None or old is not self._old:
            return
        self._old = None
        self.ledger.ended(old.region)
        old.region.lose_power()
        old.region.exchange_disk(old.last, is_old=False)
        self._restart(old.region)

    def _clock(self) -> None:
        region = self.chance.choice(self.simulator.regions)
        region.offset = self.chance.randint(-CLOCK_NS, CLOCK_NS)
        self.simulator.faults["clock jump"] += 1

"""Regions in the simulator: seeds that are clean, seeds that once were not, and judges that are awake."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.regions.breaks import BREAKS
from tests.simulation.regions.run import play

SEEDS = int(os.environ.get("KVSTORE_REGION_SEEDS", "3"))
FOUND = {
    5: "two skips became one, and waited for what waited for the first",
    22: "times that a power failure had taken back were given anew",
    47: "what waited for locks at a power failure happened all the same",
    71: "of one import what had seen a write came before that write",
    103: "the same, in a world of one shard",
    148: "a removal of what was not there did not go to other regions",
}


@pytest.mark.parametrize("seed", range(3_000, 3_000 + SEEDS))
def test_regions_keep_their_promises(seed: int) -> None:
    assert play(seed).violation == ""


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_once_stays_mended(seed: int) -> None:
    assert play(seed).violation == "", FOUND[seed]


def test_the_workload_has_everything() -> None:
    """Refusals, moved money, held locks, faults: not in every seed, but in some."""
    results = [play(seed) for seed in range(2, 10)]
    counts = sum((result.faults for result in results), results[0].faults)

    asked = ("refused", "paid", "granted", "moved", "held", "power failure", "partition", "old copy stopped")
    assert [what for what in asked if not counts[what]] == []


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_seen(name: str) -> None:
    plant, seed = BREAKS[name]
    with plant():
        assert play(seed).violation, f"{name} was not seen by seed {seed}"


def test_two_runs_of_a_seed_are_the_same_whatever_hashes_are() -> None:
    program = "from tests.simulation.regions.run import play; print(play(2).trace)"
    traces = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashes in ("1", "2")
    }
    assert len(traces) == 1

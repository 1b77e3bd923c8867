"""The judges of the simulator wake up: bugs that are planted in the protocol are caught, and nothing else is.

A few here, each at the seed that shows it first. ``KVSTORE_MUTANTS=all`` hunts all of them, as
``python -m tests.simulation.mutants`` does.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.mutants.hunt import hunt, violation_of, within_time
from tests.simulation.mutants.planting import planted
from tests.simulation.run import play

QUICK = {
}
"""Bugs that show soon: from which seed on each is looked for."""
SEEDS_MORE = 3
"""So many seeds each has to show in; an innocent change of the code makes other runs of the same seeds."""


@pytest.mark.parametrize("name", MUTANTS)
def test_every_bug_can_still_be_planted(name: str) -> None:
    with planted(MUTANTS[name]):
        pass


def test_what_was_planted_is_taken_back() -> None:
    bug = MUTANTS["vote-not-validated"]
    before = play(0, bug.profile, 60).trace
    with planted(bug):
        assert play(0, bug.profile, 60).trace != before
    assert play(0, bug.profile, 60).trace == before

"""The judges of the simulator are awake: bugs that are planted in the protocol are caught, and nothing else.

A few here, that show soon. ``KVSTORE_MUTANTS=all`` hunts all of them, as
``python -m tests.simulation.mutants`` does.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.mutants.hunt import SEEDS, hunt
from tests.simulation.mutants.planting import planted
from tests.simulation.run import play

QUICK = [
    "epoch-not-checked",
    "window-ignored",
    "vote-not-validated",
    "locks-not-waited-for",
    "waiting-not-saved",
    "view-adopts",
    "reply-before-commit",
]
QUICK_SEEDS = 10
IS_LONG = os.environ.get("KVSTORE_MUTANTS") == "all"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_can_be_planted(name: str) -> None:
    """The text that it replaces is still there."""
    with planted(MUTANTS[name]):
        pass


def test_what_was_planted_is_taken_back() -> None:
    bug = MUTANTS["vote-not-validated"]
    before = play(0, bug.profile, 60).trace
    with planted(bug):
        assert play(0, bug.profile, 60).trace != before
    assert play(0, bug.profile, 60).trace == before


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MUTANTS if IS_LONG else QUICK)
def test_a_bug_is_caught(name: str) -> None:
    """And the seed that shows it passes without it."""
    caught = hunt(name, SEEDS if IS_LONG else QUICK_SEEDS)
    assert caught.seed is not None, f"{MUTANTS[name].breaks}: nobody saw it"

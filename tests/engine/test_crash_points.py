"""A process that is killed, or whose disk fails, at one exact call: nothing acknowledged is lost.

A run of 200 transactions makes about 1,600 calls that change its disk, with three replicas about 5,000:
in openings, creations, rebuilds, commits, syncs, backups and closes. Any call may be the last, or fail.
Whatever the call, the errors are the store's own, no writes are accepted after a failure, and the next
opening finds a prefix of the transactions that holds every acknowledged one, with no half of a batch; a
retry with an idempotency key takes effect once, and the store still works. The exact assertions are in
``tests/support/programs/crash_points.py``.

``KVSTORE_CRASH_POINTS`` is the number of calls for each fault and kind of store; 3 by default.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support import disk
from tests.support.programs import running

POINTS = int(os.environ.get("KVSTORE_CRASH_POINTS", "3"))
SECONDS_MAX = 60 + POINTS

pytestmark = pytest.mark.timeout(SECONDS_MAX)


def outcomes_of(folder: Path, fault: str, replicas: int, durability: str) -> dict[str, int]:
    said = running.run(
        "crash_points",
        *(folder / "journey", fault, replicas, durability, POINTS),
        timeout=SECONDS_MAX,
        preload=disk.compiled(),
    )
    found: dict[str, int] = json.loads(said)
    assert found["tried"] >= min(POINTS, found["calls"])
    return found


@pytest.mark.parametrize("durability", ["commit", "interval"])
@pytest.mark.parametrize("replicas", [1, 3])
class TestAtAnyCall:
    @pytest.mark.parametrize("fault", ["kill", "tear"])
    def test_a_kill_loses_nothing_acknowledged(
        self, fault: str, replicas: int, durability: str, tmp_path: Path
    ) -> None:
        """``tear``: the process is killed in the middle of a write, half of which is done."""
        found = outcomes_of(tmp_path, fault, replicas, durability)

        assert found["killed"] == found["tried"]

    @pytest.mark.parametrize("fault", ["eio", "enospc"])
    def test_a_disk_that_refuses_is_an_error_of_the_store_and_loses_nothing(
        self, fault: str, replicas: int, durability: str, tmp_path: Path
    ) -> None:
        """``eio``: this call alone fails. ``enospc``: this call and all later calls that need room fail."""
        found = outcomes_of(tmp_path, fault, replicas, durability)

        assert found["ended"] == found["tried"]
        if replicas == 1:  # a single failing call on one of three may go unnoticed
            assert any(outcome.startswith(("error", "refused")) for outcome in found)

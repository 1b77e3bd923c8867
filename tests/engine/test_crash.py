"""kill -9 at random moments: nothing acknowledged is lost and no batch is applied by half.

``KVSTORE_KILLS`` says how often, over all modes; 12 by default.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Database
from tests.support.programs import running
from tests.support.programs.writer import AHEAD_MAX, LANES, OPTIONS, expected

MODES = [(durability, replicas) for durability in ("commit", "interval", "none") for replicas in (1, 3)]
KILLS = -(-int(os.environ.get("KVSTORE_KILLS", "12")) // len(MODES))


class Story:
    """The batches acknowledged so far, by lane."""

    def __init__(self, store: Path, replicas: int, durability: Any, randomly: random.Random) -> None:
        self.store, self.replicas, self.durability = store, replicas, durability
        self.randomly = randomly
        self.acknowledged = [0] * LANES
        self.recovered = [0] * LANES
        """Unacknowledged batches that the last opening may have completed, by lane."""
        self.killed_while_writing = 0

    def write_and_be_killed(self) -> None:
        child = running.start("writer", self.store, self.replicas, self.durability)
        try:
            if self.randomly.random() < 0.3:  # somewhere in the opening
                time.sleep(self.randomly.uniform(0.05, 0.3))
            else:
                assert running.first_line(child) == "open"
                time.sleep(self.randomly.uniform(0.0, 0.3))
        finally:
            child.kill()
            said, errors = child.communicate()
        assert errors == "", errors
        lines = [line for line in self._whole_lines(said) if line != "open"]
        self.recovered = [0] * LANES if self.replicas == 1 else [AHEAD_MAX + 1] * LANES
        for line in lines:
            self._acknowledge(*map(int, line.split()))
        self.killed_while_writing += bool(lines)

    def _acknowledge(self, lane: int, number: int) -> None:
        """Record an acknowledged batch; batches before it may be missing only if recovery completed them."""
        completed = number - 1 - self.acknowledged[lane]
        assert 0 <= completed <= self.recovered[lane]
        self.acknowledged[lane], self.recovered[lane] = number, 0

    def _whole_lines(self, said: str) -> Iterator[str]:
        for line in said.splitlines(keepends=True):
            if line.endswith("\n"):
                yield line.strip()

    def check(self, db: Database) -> None:
        """Check that every acknowledged batch is there, and that each lane is at the end of a batch."""
        with db.snapshot() as view:
            found = dict(view.scan())
            counts = [view.get(("count", lane), 0) for lane in range(LANES)]
        for lane, count in enumerate(counts):
            assert self.acknowledged[lane] <= count <= self.acknowledged[lane] + AHEAD_MAX + 1
        assert found == {
            key: value for lane in range(LANES) for key, value in expected(lane, counts[lane]).items()
        }
        self.acknowledged = counts

    def says_too_little(self) -> bool:
        """Return whether few kills met a write, or a lane never wrote anything."""
        return self.killed_while_writing <= KILLS // 4 or min(self.acknowledged) == 0

    def reopen_and_check(self) -> None:
        if not (self.store / "replica-0").exists() or (self.store / "creating").exists():
            return
        with kvstore.open(self.store, readonly=True) as db:
            self.check(db)
        if self.randomly.random() < 0.5:  # else the next writer recovers, or is killed in recovery
            with kvstore.open(self.store, durability=self.durability, **OPTIONS) as db:
                self.check(db)
                verified = db.verify()
                assert verified["ok"], verified
                assert db.status()["healthy"]


@pytest.mark.parametrize(("durability", "replicas"), MODES)
def test_kills_lose_nothing_acknowledged_and_leave_no_half_of_a_batch(
    tmp_path: Path, durability: str, replicas: int
) -> None:
    story = Story(tmp_path / "store", replicas, durability, random.Random(f"{durability} {replicas}"))

    kills = 0
    while kills < KILLS or (story.says_too_little() and kills < 10 * KILLS):
        story.write_and_be_killed()
        story.reopen_and_check()
        kills += 1

    assert not story.says_too_little()
    with kvstore.open(story.store) as db:
        story.check(db)
        assert db.verify()["ok"]


def test_a_process_that_ends_without_close_has_everything(tmp_path: Path) -> None:
    """A normal end without close: the submitted batches are there too, and the next opening is clean."""
    code = (
        "import kvstore, sys\n"
        "db = kvstore.open(sys.argv[1])\n"
        "for number in range(100):\n"
        "    batch = db.batch()\n"
        "    batch.put((number,), number)\n"
        "    db.submit(batch)\n"
    )
    subprocess.run([*running.PYTHON, "-c", code, str(tmp_path / "store")], check=True, cwd=running.ROOT)

    assert (tmp_path / "store" / "replica-0" / "closed").exists()
    with kvstore.open(tmp_path / "store") as db:
        assert db.count() == 100

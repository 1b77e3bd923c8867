"""kill -9 while transactions are between their halves: the next opening aborts them and releases their locks.

``KVSTORE_HALF_KILLS`` is the number of kills; 8 by default, with one replica and with three in turn.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore.eris.log_tail import shard_record
from kvstore.types import ShardId
from tests.support.inside import readers_of
from tests.support.programs import running
from tests.support.programs.between_halves import OWN, PAIRS, SHARDS

KILLS = int(os.environ.get("KVSTORE_HALF_KILLS", "8"))


def killed(store: Path, replicas: int, chance: random.Random) -> list[list[str]]:
    """Run the program until it holds locks, and a moment longer; kill it, and return what it printed."""
    child = running.start("between_halves", store, replicas)
    try:
        said = [running.first_line(child)]
        while said[-1] != "held":
            said.append(running.first_line(child))
        time.sleep(chance.uniform(0.0, 0.25))
    finally:
        child.kill()
        rest, errors = child.communicate()
    assert errors == "", errors
    whole = rest.splitlines() if rest.endswith("\n") else rest.splitlines()[:-1]
    return [line.split() for line in (*said, *whole)]


def waits(db: kvstore.Database) -> bool:
    """Return whether the dead process left unresolved slots."""
    view = readers_of(db).environment.view()
    try:
        return any(shard_record(view, ShardId(shard)).waiting for shard in range(SHARDS))
    finally:
        view.close()


def check_whole(db: kvstore.Database) -> dict[kvstore.Key, Any]:
    """Check that no half of a transaction is visible; return the content."""
    state = dict(db.scan())
    for pair in range(PAIRS):
        assert state["left", pair] == state["right", pair]
    for number in range(OWN):
        assert state.get(("own", number)) == state.get(("twin", number))
    return state


def check_free(db: kvstore.Database) -> None:
    """Check that every key can be written at once, by every path."""
    keys = [("left", pair) for pair in range(PAIRS)] + [("right", pair) for pair in range(PAIRS)]
    before = dict(db.scan())
    db.transaction(max_retries=0, timeout=0.5)(lambda tx: [tx.update(key, lambda n: n + 1) for key in keys])()
    with db.batch() as batch:
        for key in keys:
            batch.add(key, -1)
    assert dict(db.scan()) == before


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_next_opening_releases_what_a_dead_process_held(tmp_path: Path, replicas: int) -> None:
    store, chance = tmp_path / "store", random.Random(replicas)
    found_held = 0
    for _ in range(KILLS // 2):
        said = killed(store, replicas, chance)
        with kvstore.open(store, readonly=True) as db:
            check_whole(db)
            found_held += waits(db)
        with kvstore.open(store) as db:
            state = check_whole(db)
            for kind, number, count in (line for line in said if len(line) == 3):
                key = ("left" if kind == "pair" else "own", int(number))
                assert state[key] >= int(count), "acknowledged, and lost"
            assert not waits(db)
            check_free(db)
            folded: dict[kvstore.Key, Any] = {}
            for change in db.watch(since=0, timeout=0):
                folded[change.key] = change.value
            assert folded == dict(db.scan())
            assert db.verify()["problems"] == []
    assert found_held, "no kill came between two halves"

"""Eight writers and a watcher: each change is seen exactly once, in an order that folds to the store.

``KVSTORE_WATCHED`` is how many numbers the writers write; 2,400 by default.
"""

from __future__ import annotations

import os
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest

import kvstore
from tests.support.programs import running
from tests.support.programs.watched import WRITERS, Seen, run, seen_in

NUMBERS = int(os.environ.get("KVSTORE_WATCHED", "1200"))
KILLS = 6


def check(path: Path, seen: list[Seen]) -> None:
    """Check that the watcher's record is the complete history of this store, each change once."""
    with kvstore.open(path, readonly=True) as db:
        history = list(db.watch(since=0, timeout=0))
        state = {key_of(key): value for key, value in db.scan()}
    assert [(key_of(change.key), change.version) for change in history] == [
        (key_of(key), version) for key, _, version, _ in seen
    ]
    folded: dict[str, object] = {}
    for key, value, _, _ in seen:
        folded[key_of(key)] = value
        if value is None:
            del folded[key_of(key)]
    assert folded == state
    for writer in range(WRITERS):
        numbers = [key[2] for key, value, _, _ in seen if key[0] == writer and value is not None]
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
        assert len(numbers) >= NUMBERS // WRITERS
        late = [before - number for before, number in pairwise(numbers)]
        assert max(late) < 3, "only the numbers of one transaction may change places"


def key_of(key: object) -> str:
    """Return equal text for a key and for the key after a round trip through JSON."""
    return repr(list(key) if isinstance(key, tuple) else key)


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_watcher_in_another_thread_sees_each_change_once(tmp_path: Path, replicas: int) -> None:
    db = kvstore.open(tmp_path / "s", replicas=replicas, durability="none", watch_retention=1 << 30)
    run(db, tmp_path / "seen", NUMBERS // WRITERS)

    check(tmp_path / "s", seen_in(tmp_path / "seen"))


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_watcher_that_is_killed_and_resumed_sees_each_change_once(tmp_path: Path, replicas: int) -> None:
    randomly = random.Random(NUMBERS)
    arguments = (tmp_path / "s", tmp_path / "seen", NUMBERS, replicas)
    for _ in range(KILLS):
        child = running.start("watched", *arguments)
        assert running.first_line(child) == "open"
        time.sleep(randomly.uniform(0, NUMBERS / 20_000))
        running.stop(child)
    running.run("watched", *arguments, timeout=600)

    check(tmp_path / "s", seen_in(tmp_path / "seen"))

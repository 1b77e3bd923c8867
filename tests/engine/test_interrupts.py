"""Ctrl-C: the caller gets KeyboardInterrupt, its request commits or not, and the store is intact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kvstore
from tests.support.programs import running

RELEASE = "an interrupt that arrives as Claim.release is entered leaves the key claimed for ever"


def interrupted(
    work: str, store: Path, *, signals: int, replicas: int = 1, threads: int = 0, seconds: float = 40
) -> dict[str, Any]:
    said = running.run("interrupted", work, store, replicas, signals, threads, timeout=seconds)
    found: dict[str, Any] = json.loads(said)
    assert found["ok"]
    assert found["raised"], "KeyboardInterrupt really arrived"  # how often depends on the machine
    with kvstore.open(store) as db:
        assert db.verify()["ok"]
        assert db.status()["repaired"] == []
    return found


class TestPutting:
    @pytest.mark.parametrize(("replicas", "threads"), [(1, 0), (1, 2), (3, 1)])
    def test_a_thousand_interrupts_lose_no_acknowledged_put(
        self, tmp_path: Path, replicas: int, threads: int
    ) -> None:
        found = interrupted("put", tmp_path / "store", signals=1000, replicas=replicas, threads=threads)

        assert found["done"] == found["there"] > 0
        assert found["beside"] == found["beside there"]
        assert (found["beside"] > 0) == (threads > 0)

    def test_no_batch_is_half_there(self, tmp_path: Path) -> None:
        found = interrupted("batch", tmp_path / "store", signals=300, threads=1)

        assert found["done"] == found["there"]
        assert found["halves"] == 0

    @pytest.mark.parametrize("threads", [0, 2])
    def test_what_was_submitted_is_there(self, tmp_path: Path, threads: int) -> None:
        found = interrupted("submit", tmp_path / "store", signals=300, threads=threads)

        assert found["done"] <= found["there"] + 1


class TestReading:
    def test_interrupted_gets_leave_nothing_taken(self, tmp_path: Path) -> None:
        assert interrupted("get", tmp_path / "store", signals=300)["open"] == 0

    def test_interrupted_scans_and_snapshots_leave_nothing_taken(self, tmp_path: Path) -> None:
        assert interrupted("scan", tmp_path / "store", signals=300)["open"] == 0


class TestIdempotencyKeys:
    @pytest.mark.parametrize("threads", [0, 2])
    def test_what_is_repeated_after_an_interrupt_is_done_once(self, tmp_path: Path, threads: int) -> None:
        found = interrupted("keyed", tmp_path / "store", signals=300, threads=threads, seconds=8)

        assert found["total"] == found["done"]

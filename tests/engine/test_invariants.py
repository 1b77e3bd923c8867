"""Each invariant that is asserted in engine/ is broken once: the state is made wrong by hand, and the
assertion that fails names its label and the numbers."""

from __future__ import annotations

import pytest

import kvstore
from kvstore.engine.failover import Failover
from kvstore.engine.request import ClientRequest, PendingRequest
from kvstore.types import Slot, ViewNumber
from tests.support.broken import broken
from tests.support.cluster import Cluster, put
from tests.support.inside import commits_of


def test_only_the_leader_processes() -> None:
    with kvstore.open(":memory:") as db:
        commits = commits_of(db)
        commits._queue.extend([PendingRequest(ClientRequest({}, 1, 1))] * 2)

        with broken("GROUP-1", 2):
            commits._one_group()
        commits._queue.clear()


def test_a_new_learner_shows_what_a_majority_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of it the other living host loses the end of its log."""
    cluster = Cluster()
    cluster.submit({0: [put("k", 1)]})
    cluster.run()
    living = [cluster.hosts[number] for number in (1, 2)]
    failover = Failover(living, 3, cluster.coordinator.record)

    def lose(view: ViewNumber) -> None:
        living[1].replicas[0].last_slot = Slot(0)

    monkeypatch.setattr(failover, "_lose_those_outside", lose)

    with broken("FAILOVER-1", "slot 1", "shard 0", "{1: 1, 2: 0}"):
        failover._begins(ViewNumber(1))

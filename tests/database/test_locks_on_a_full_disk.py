"""Locks that cannot be released because the disk is full: no caller hangs or gets a wrong outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

import kvstore
from kvstore import Database, Key, Transaction
from kvstore.engine import leases
from kvstore.engine.cluster import Cluster
from kvstore.engine.request import PendingRequest
from kvstore.storage import MemoryEnvironment
from tests.support.inside import environments_of
from tests.support.transactions import (
    PATIENCE_S,
    Later,
    Stalled,
    key_on,
    unresolved,
    until_it_waits_or_is_over,
)


class Scene:
    """Twins locked by a function that is held up, and a reader of them that waits."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.twins: tuple[Key, Key] = (key_on(db, 0, "twin"), key_on(db, 1, "twin"))
        self.stalled = Stalled(db, self.twins)

    def copy(self, transaction: Transaction) -> None:
        transaction.put(self.twins[1], transaction[self.twins[0]])
        transaction.put("copied", transaction[self.twins[0]])

    def wait(self, call: Callable[[], object]) -> Later:
        """Start another call that waits for the locks."""
        before = unresolved(self.db)
        later = Later(call)
        until_it_waits_or_is_over(self.db, later, before)
        assert not later.is_over
        return later

    def copy_by_hand(self) -> None:
        with self.db.begin() as transaction:
            self.copy(transaction)

    def fill(self, full: bool) -> None:
        environment = environments_of(self.db)[0]
        assert isinstance(environment, MemoryEnvironment)
        environment._disk.full = full


@pytest.fixture
def scene() -> Iterator[Scene]:
    with kvstore.open(":memory:", shards=3) as db:
        yield Scene(db)


def test_who_could_not_be_taken_back_does_not_know_its_outcome(scene: Scene) -> None:
    """The transaction is committed once there is room and the locks are released."""
    scene.stalled.failure = ZeroDivisionError()
    waiting = scene.wait(scene.db.transaction(timeout=0.2)(scene.copy))
    scene.fill(True)
    with pytest.raises(kvstore.OutcomeUnknown, match="may be committed later"):
        waiting.result()
    scene.fill(False)
    with pytest.raises(ZeroDivisionError):
        scene.stalled.go_on()

    scene.db.put("elsewhere", 2)
    assert scene.db["copied"] == 1000


def test_a_lease_ends_when_there_is_room_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease ends even if no caller writes then."""
    monkeypatch.setattr(leases, "LEASE_S", 0.05)
    tried, end_leases = threading.Event(), Cluster.end_leases

    def end_and_tell(cluster: Cluster) -> list[PendingRequest]:
        done = end_leases(cluster)
        tried.set()
        return done

    monkeypatch.setattr(Cluster, "end_leases", end_and_tell)
    waiting = scene.wait(scene.copy_by_hand)
    scene.fill(True)
    assert tried.wait(PATIENCE_S)
    assert not waiting.is_over
    scene.fill(False)

    waiting.result()
    assert scene.db["copied"] == 1000
    assert scene.stalled.go_on() == 1001


def test_closing_leaves_nobody_waiting(scene: Scene) -> None:
    waiting = scene.wait(scene.copy_by_hand)
    put = scene.wait(lambda: scene.db.put(scene.twins[1], 5))
    scene.fill(True)
    Later(scene.db.close).result()

    with pytest.raises(kvstore.OutcomeUnknown):
        waiting.result()
    with pytest.raises(kvstore.OutcomeUnknown):
        put.result()
    with pytest.raises(kvstore.Closed):
        scene.stalled.go_on()

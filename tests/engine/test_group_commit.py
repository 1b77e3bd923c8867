"""Every leader that leaves wakes the first in the queue (GROUP-2): no caller waits for a timer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import kvstore
from kvstore.engine import group_commit
from kvstore.engine.request import PendingRequest
from tests.support.inside import commits_of

PATIENCE_S = 20
"""Seconds after which a thread that has not ended must be waiting for a distant timer."""


@pytest.fixture
def db(monkeypatch: pytest.MonkeyPatch) -> Iterator[kvstore.Database]:
    """Yield a store in which a caller that is not woken sleeps for an hour."""
    with kvstore.open(":memory:") as db:
        monkeypatch.setattr(group_commit, "WAKE_S", 3600.0)
        yield db
        assert db.status()["wakeups"] == {"by_timer": 0}


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def held_until(event: threading.Event) -> None:
    event.wait()


def assert_ends(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [thread.is_alive() for thread in threads] == [False] * len(threads)


@pytest.mark.parametrize("fails", [False, True])
def test_a_put_that_queues_during_exclusive_work_is_woken_at_its_end(
    db: kvstore.Database, fails: bool
) -> None:
    commits, go_on = commits_of(db), threading.Event()

    def work() -> None:
        go_on.wait()
        if fails:
            raise ArithmeticError

    def lead() -> None:
        try:
            commits.exclusively(work)
        except ArithmeticError:
            return

    leader = started(lead)
    wait_until(commits._leading.locked)
    putters = [started(lambda key=key: db.put(key, 1)) for key in "abc"]
    wait_until(lambda: len(commits._queue) == len(putters))
    go_on.set()

    assert_ends(leader, *putters)


def test_a_put_that_queues_during_a_group_nobody_asked_for_is_woken_at_its_end(db: kvstore.Database) -> None:
    commits, go_on = commits_of(db), threading.Event()

    def work() -> list[PendingRequest]:
        go_on.wait()
        return []

    leader = started(lambda: commits.without_requests(work))
    wait_until(commits._leading.locked)
    putter = started(lambda: db.put("k", 1))
    wait_until(lambda: len(commits._queue) == 1)
    go_on.set()

    assert_ends(leader, putter)


def test_a_put_that_queues_at_the_last_moment_of_a_lead_is_woken(db: kvstore.Database) -> None:
    """The leader has checked the queue and still holds the lead: the put finds a leader, and sleeps."""
    commits = commits_of(db)

    class LastMoment:
        """The lock of the lead; a put arrives just before the main thread releases it."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.putter: threading.Thread | None = None

        def acquire(self, blocking: bool = True) -> bool:
            return self.lock.acquire(blocking)

        def locked(self) -> bool:
            return self.lock.locked()

        def release(self) -> None:
            if self.putter is None:
                self.putter = started(lambda: db.put("late", 1))
                wait_until(lambda: len(commits._queue) == 1)
                time.sleep(0.05)  # the put tries to lead, and falls asleep
            self.lock.release()

    commits._leading = leading = LastMoment()  # type: ignore[assignment]
    db.put("k", 1)

    assert leading.putter is not None
    assert_ends(leading.putter)


def test_a_request_that_was_taken_back_hands_the_lead_over(db: kvstore.Database) -> None:
    commits, go_on = commits_of(db), threading.Event()
    leader = started(lambda: commits.exclusively(lambda: held_until(go_on)))
    wait_until(commits._leading.locked)
    putter = started(lambda: db.put("k", 1))
    wait_until(lambda: len(commits._queue) == 1)
    first = commits._queue[0]
    first.wake = None  # not woken, as if its caller were being interrupted
    second = started(lambda: db.put("l", 1))
    wait_until(lambda: len(commits._queue) == 2)
    go_on.set()
    leader.join(PATIENCE_S)
    commits._withdraw(first)

    assert_ends(second)
    assert db.get("l") == 1
    assert putter.is_alive()  # its wake lock was removed


def test_puts_beside_a_syncer_never_wait_for_a_timer(tmp_path: object) -> None:
    with kvstore.open(f"{tmp_path}/store", durability="interval", sync_interval_ms=1) as db:

        def work(mine: int) -> None:
            for number in range(200):
                db.put((mine, number), number)

        putters = [started(lambda mine=mine: work(mine)) for mine in range(4)]
        for putter in putters:
            putter.join()
        assert db.status()["wakeups"] == {"by_timer": 0}


def test_a_wake_up_that_was_forgotten_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the hand-over the sleeper's timer ends its sleep, and the count shows that."""
    with kvstore.open(":memory:") as db:
        commits, go_on = commits_of(db), threading.Event()
        monkeypatch.setattr(group_commit, "WAKE_S", 0.2)

        def leave_silently() -> None:
            commits._handed_over = False
            commits._leading.release()

        monkeypatch.setattr(commits, "_leave", leave_silently)
        leader = started(lambda: commits.exclusively(lambda: held_until(go_on)))
        wait_until(commits._leading.locked)
        putter = started(lambda: db.put("k", 1))
        wait_until(lambda: len(commits._queue) == 1)
        go_on.set()
        assert_ends(leader, putter)

        assert db.status()["wakeups"]["by_timer"] >= 1

"""Injects a fault at calls to the disk: ``crash_points FOLDER FAULT REPLICAS DURABILITY POINTS``.

The run of 200 transactions (``journey.py``) is divided into sessions. Each begins with an opening: a
creation, or an opening after a close, after a kill, or with a replica to rebuild; one session makes a
backup; each ends with a close. A session is run repeatedly, each time in a forked process, and each time
FAULT is injected at another call that changes the disk: about POINTS calls, evenly spread, or at most all
of them. After each run a healthy process opens and checks the store.

Prints a JSON object: the number of calls, and the number of runs with each outcome.
"""

from __future__ import annotations

import errno
import json
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import kvstore
from kvstore import Database
from kvstore.engine import store_directory
from tests.support import disk
from tests.support.disk import Fault
from tests.support.forking import Say, examine_in_fork, forked
from tests.support.inside import store_of
from tests.support.journey import TRANSACTIONS, idempotency_key, perform, position
from tests.support.power import NEVER_MS, assert_replicas_agree

FAULTS = {
    "kill": (Fault.KILL, 0),
    "tear": (Fault.TEAR, 0),
    "eio": (Fault.FAIL_ONCE, errno.EIO),
    "eio-on": (Fault.FAIL_FROM, errno.EIO),
    "enospc": (Fault.FAIL_FROM, errno.ENOSPC),
    "enospc-once": (Fault.FAIL_ONCE, errno.ENOSPC),
}
SESSIONS = 8
EACH = TRANSACTIONS // SESSIONS
REBUILDS, BACKS_UP = 5, 3
SYNC_EACH = 7
GOES_ON = 4
"""Number of transactions done after a fault, to check that the store works again."""
WRITE_ERRORS = (kvstore.OutcomeUnknown, kvstore.Failed, kvstore.DiskFull)


class Journey:
    """One configuration and its folders."""

    def __init__(self, folder: Path, replicas: int, durability: Any) -> None:
        self.folder = folder
        self.replicas = replicas
        self.durability = durability
        self.work = folder / "work"
        self.store = self.work / "store"
        self.backup = self.work / "backup"

    def open(self) -> Database:
        return kvstore.open(
            self.store,
            shards=4,
            replicas=self.replicas,
            durability=self.durability,
            sync_interval_ms=NEVER_MS,
            watch_retention=20_000,
        )

    def base(self, session: int) -> Path:
        return self.folder / f"base-{session}"

    def prepare(self, session: int) -> None:
        """Restore the work folder to its state at the beginning of this session."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.base(session), self.work)

    def make_bases(self) -> int:
        """Run all sessions without faults, every other one ending with a kill; return the number of calls."""
        self.base(0).mkdir(parents=True)
        calls = 0
        for session in range(SESSIONS - 1):
            self.prepare(session)
            _, said = forked(lambda say, session=session: self.whole_session(session, say))  # type: ignore[misc]
            calls += int(said[-1].split()[1])
            shutil.rmtree(self.backup, ignore_errors=True)
            if session + 1 == REBUILDS and self.replicas > 1:
                shutil.rmtree(self.store / "replica-1")
            shutil.copytree(self.work, self.base(session + 1))
        return calls * SESSIONS // (SESSIONS - 1)

    def whole_session(self, session: int, say: Say) -> None:
        disk.arm(self.work, Fault.NONE)
        db = self.open()
        for number in range(session * EACH, (session + 1) * EACH):
            self.step(db, number)
        if session % 2:
            db.close()
        say(f"calls {disk.calls()}")

    def step(self, db: Database, number: int) -> None:
        perform(db, number)
        if number % SYNC_EACH == 0:
            store_of(db).sync()  # as the timer does

    def session(self, session: int, fault: Fault, number: int, error: int, say: Say) -> None:
        """Run one session with this fault; report each event at once, because a kill may follow."""
        disk.arm(self.work, fault, number, error)
        try:
            db = self.open()
        except kvstore.Error as refused:
            say(f"refused {type(refused).__name__}")
        else:
            say("open")
            self._write(db, session, say)
            self._close(db, say)
        say(f"calls {disk.calls()}")

    def _write(self, db: Database, session: int, say: Say) -> None:
        first = session * EACH
        for number in range(first, first + EACH):
            try:
                self.step(db, number)
            except WRITE_ERRORS as error:
                say(f"error {type(error).__name__}")
                self._after_an_error(db, session, number, error, say)
                return
            say(f"acknowledged {number + 1}")
            if session == BACKS_UP and number == first + EACH // 2:
                self._back_up(db, say)

    def _after_an_error(self, db: Database, session: int, number: int, error: Exception, say: Say) -> None:
        """Check the store after an error: reads work or raise its errors; writes are refused unless the error
        was a full disk."""
        try:
            position(db, number, number + 1)
            say("reads on")
        except kvstore.Damage as damage:
            say(f"reads raise {type(damage).__name__}")
        try:
            db.put("after an error", 1)
        except WRITE_ERRORS:
            return
        assert isinstance(error, kvstore.DiskFull), "a write after a failure"

    def _back_up(self, db: Database, say: Say) -> None:
        try:
            db.backup(self.backup)
        except kvstore.Error as error:
            say(f"backup {type(error).__name__}")
        else:
            say("backup done")

    def _close(self, db: Database, say: Say) -> None:
        try:
            db.close()
        except kvstore.Error as error:
            say(f"close {type(error).__name__}")

    def check(self, session: int, said: list[str], say: Say) -> None:
        """Open the store without faults: it holds a prefix with all acknowledged transactions, and works."""
        disk.arm(self.work, Fault.NONE)  # so that syncs take no time
        first = session * EACH
        acknowledged = max([first, *(int(line.split()[1]) for line in said if line.startswith("ack"))])
        attempted = min(acknowledged + 1, first + EACH) if "open" in said else first
        self._look(acknowledged, attempted, say)
        with self.open() as db:
            here = position(db, acknowledged, attempted)
            self._is_sound(db)
            if here > first and idempotency_key(here - 1) is not None:
                perform(db, here - 1)  # a retry, which has no effect
            assert position(db, here, here) == here
            goes_on = min(here + GOES_ON, TRANSACTIONS)
            for number in range(here, goes_on):
                perform(db, number)
            position(db, goes_on, goes_on)
            verified = db.verify()
            assert verified["ok"], verified
        with kvstore.open(self.store, readonly=True) as db:
            position(db, goes_on, goes_on)
        self._check_backup(said, first)
        say("in flight" if here > acknowledged else "acknowledged only")

    def _look(self, acknowledged: int, attempted: int, say: Say) -> None:
        try:
            with kvstore.open(self.store, readonly=True) as db:
                position(db, acknowledged, attempted)
        except (kvstore.Damage, kvstore.OpenError) as error:
            say(f"readonly {type(error).__name__}")

    def _is_sound(self, db: Database) -> None:
        status, verified = db.status(), db.verify()
        assert status["healthy"], status
        assert verified["ok"], verified
        assert_replicas_agree(db)

    def _check_backup(self, said: list[str], first: int) -> None:
        try:
            with kvstore.open(self.backup, create=False) as db:
                position(db, first + EACH // 2 + 1, first + EACH // 2 + 1)
                self._is_sound(db)
        except kvstore.NotAStore:
            assert "backup done" not in said


class Calls:
    """The calls at which the fault is injected, numbered over all sessions of a journey."""

    def __init__(self, points: int, expected: int) -> None:
        self.stride = max(1, expected // points)
        self.next = 1 + self.stride // 2
        self.before = 0
        """Number of calls in the finished sessions."""


def go_through(journey: Journey, session: int, calls: Calls, fault_name: str) -> Counter[str]:
    """Inject the fault at each chosen call of this session; return the outcomes."""
    outcomes: Counter[str] = Counter()
    fault, error = FAULTS[fault_name]
    while True:
        journey.prepare(session)
        at = calls.next - calls.before
        code, said = forked(lambda say, at=at: journey.session(session, fault, at, error, say))  # type: ignore[misc]
        where = f"{fault_name} at call {at} of session {session}"
        assert code in {0, -signal.SIGKILL}, "\n".join([where, *said])
        if code == 0 and (total := int(said[-1].split()[1])) < at:
            calls.before += total
            return outcomes
        checked, found = forked(lambda say, said=said: journey.check(session, said, say))  # type: ignore[misc]
        assert checked == 0, "\n".join([where, *said, "and then", *found])
        outcomes.update(outcome_of(code, said, found))
        calls.next += calls.stride


def outcome_of(code: int, said: list[str], found: list[str]) -> list[str]:
    """Return the outcomes to count: the end of the process, its errors, and the next opening's findings."""
    errors = [line for line in said if not line.startswith(("ack", "open", "calls", "backup done"))]
    return ["tried", "killed" if code else "ended", *errors, *(f"then {line}" for line in found)]


def main() -> None:
    folder, fault_name, replicas, durability, points = sys.argv[1:]
    store_directory._examine_in_child = examine_in_fork
    journey = Journey(Path(folder), int(replicas), durability)
    calls = Calls(int(points), journey.make_bases())
    outcomes: Counter[str] = Counter()
    for session in range(SESSIONS):
        outcomes.update(go_through(journey, session, calls, fault_name))
    print(json.dumps({"calls": calls.before, **outcomes}))


if __name__ == "__main__":
    main()

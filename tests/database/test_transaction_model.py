"""Several concurrent transactions against a model: each has the effect of running alone at its commit.

The model is a dict with a version for each key, and the list of steps of each transaction. When a
transaction commits, its steps are repeated on the model of that moment: every read must return its earlier
result. A transaction that is refused must have read a key that was written since.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import kvstore
from kvstore import Key, Savepoint, Transaction

KEYS: list[Key] = [("k", number) for number in range(6)]
PLACES = st.integers(0, len(KEYS) - 1)
VALUES = st.one_of(st.integers(-3, 3), st.just("text"))
AMOUNTS = st.integers(-3, 3)
WHICH = st.integers(0, 3)
LIMITS = st.one_of(st.none(), st.integers(1, 3))
OPEN_MAX = 4


class Cell(NamedTuple):
    version: int
    value: Any


State = dict[int, Cell]
"""Cells of the model, by the index of the key in KEYS."""
Step = Callable[["Run"], Any]


class Run:
    """A transaction's steps, run on one state of the model."""

    def __init__(self, moment: State, *, at_commit: bool = False) -> None:
        """``at_commit``: an add, which was checked before, takes a value that is not a number as 0."""
        self.moment = moment
        self.at_commit = at_commit
        self.written: dict[int, tuple[str, Any]] = {}
        """Last write to each key: ("set", value), ("gone", None) or ("added", sum)."""
        self.saved: list[dict[int, tuple[str, Any]]] = []
        self.read: set[int] = set()
        self.walked: list[range] = []
        self.perhaps_walked: list[range] = []

    def value(self, place: int) -> Any:
        """Return the value as the transaction reads it; None if there is none."""
        how, value = self.written.get(place, ("", None))
        stored = self.moment[place].value if place in self.moment else None
        if how == "added":
            return value + stored if type(stored) is int else value
        return value if how else stored

    def get(self, place: int) -> Any:
        if self.written.get(place, ("added",))[0] == "added":
            self.read.add(place)
        return self.value(place)

    def put(self, place: int, value: Any) -> None:
        self.written[place] = ("set", value)

    def delete(self, place: int) -> None:
        self.written[place] = ("gone", None)

    def add(self, place: int, amount: int) -> str | None:
        before = self.value(place)
        if not self.at_commit and before is not None and type(before) is not int:
            return "TypeClash"
        how, value = self.written.get(place, ("added", 0))
        if how == "added":
            self.written[place] = ("added", value + amount)
        else:
            self.written[place] = ("set", (value or 0) + amount)
        return None

    def scan(self, low: int, high: int, reverse: bool, limit: int | None) -> list[tuple[int, Any]]:
        places = range(low, high)[::-1] if reverse else range(low, high)
        rows = [(place, value) for place in places if (value := self.value(place)) is not None]
        certain = range(low, high)
        if limit is not None and len(rows) >= limit:
            rows = rows[:limit]
            last = rows[-1][0]
            certain = range(last, high) if reverse else range(low, last + 1)
        self.walked.append(certain)
        self.perhaps_walked.append(range(low, high))
        return rows

    def save(self) -> None:
        self.saved.append(dict(self.written))

    def go_back(self, savepoint: int) -> None:
        self.written = dict(self.saved[savepoint])

    def changed(self, now: State, walks: list[range]) -> set[int]:
        """Return the keys that the run has read and that have changed since."""
        places = self.read.union(*walks)
        return {
            place
            for place in places
            if (self.moment[place].version if place in self.moment else None)
            != (now[place].version if place in now else None)
        }


class Session:
    """A transaction of the store, and its steps so far."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.run: Run | None = None
        """Run on the model at the transaction's moment, that of its first read of the store."""
        self.before: list[Step] = []
        """Writes from before the first read."""
        self.steps: list[tuple[Step, Any]] = []
        self.savepoints: list[Savepoint] = []


class ManyTransactions(RuleBasedStateMachine):
    """Keys are few, and up to four transactions are open, so that they share keys."""

    @initialize(
        replicas=st.sampled_from([1, 1, 3]), shards=st.sampled_from([1, 2, 3]), together=st.booleans()
    )
    def create(self, replicas: int, shards: int, together: bool) -> None:
        """``together``: all keys on one shard."""
        placement = 1 if together else None
        self.db = kvstore.open(":memory:", shards=shards, replicas=replicas, placement=placement)
        self.state: State = {}
        self.versions = itertools.count(1)
        self.sessions: list[Session] = []

    def teardown(self) -> None:
        if hasattr(self, "db"):
            for session in self.sessions:
                session.transaction.rollback()
            folded: dict[Key, Any] = {}
            for change in self.db.watch(since=0, timeout=0):
                folded[change.key] = change.value
            found = {key: value for key, value in folded.items() if value is not None}
            assert found == dict(self.db.scan())
            assert self.db.status()["snapshots"]["open"] == 0
            assert self.db.verify()["ok"]
            self.db.close()

    def session(self, which: int) -> Session:
        if len(self.sessions) <= which < OPEN_MAX:
            self.sessions.append(Session(self.db.begin()))
        return self.sessions[which % len(self.sessions)]

    def do(self, session: Session, step: Step, found: Any, *, looks: bool) -> None:
        """Record a step, and check its result against the model. ``looks``: whether it may read the store."""
        if session.run is None and looks:
            session.run = Run(dict(self.state))
            for earlier in session.before:
                earlier(session.run)
        if session.run is None:
            session.before.append(step)
        else:
            assert step(session.run) == found
        session.steps.append((step, found))

    # -- what transactions do ----------------------------------------------------------------

    @rule(which=WHICH, place=PLACES)
    def get(self, which: int, place: int) -> None:
        session = self.session(which)
        found = session.transaction.get(KEYS[place])
        self.do(session, lambda run: run.get(place), found, looks=not self.is_own(session, place))

    def is_own(self, session: Session, place: int) -> bool:
        """Return whether the transaction knows the value without reading the store."""
        run = session.run
        if run is None:
            run = Run({})
            for step in session.before:
                step(run)
        return run.written.get(place, ("added",))[0] != "added"

    @rule(which=WHICH, place=PLACES, value=VALUES)
    def put(self, which: int, place: int, value: Any) -> None:
        session = self.session(which)
        session.transaction.put(KEYS[place], value)
        self.do(session, lambda run: run.put(place, value), None, looks=False)

    @rule(which=WHICH, place=PLACES)
    def delete(self, which: int, place: int) -> None:
        session = self.session(which)
        session.transaction.delete(KEYS[place])
        self.do(session, lambda run: run.delete(place), None, looks=False)

    @rule(which=WHICH, place=PLACES, amount=AMOUNTS)
    def add(self, which: int, place: int, amount: int) -> None:
        session, refused = self.session(which), None
        looks = not self.is_own(session, place)
        try:
            session.transaction.add(KEYS[place], amount)
        except kvstore.TypeClash:
            refused = "TypeClash"
        self.do(session, lambda run: run.add(place, amount), refused, looks=looks)
        if refused:
            session.steps.pop()  # its result depended on a value that is not in the read set

    @rule(which=WHICH, bounds=st.tuples(PLACES, PLACES), reverse=st.booleans(), limit=LIMITS)
    def scan(self, which: int, bounds: tuple[int, int], reverse: bool, limit: int | None) -> None:
        session, (low, high) = self.session(which), (min(bounds), max(bounds) + 1)
        stop = None if high == len(KEYS) else KEYS[high]
        rows = session.transaction.scan(
            prefix=("k",), start=KEYS[low], stop=stop, reverse=reverse, limit=limit
        )
        found = [(KEYS.index(key), value) for key, value in rows]
        self.do(session, lambda run: run.scan(low, high, reverse, limit), found, looks=True)

    @rule(which=WHICH)
    def save(self, which: int) -> None:
        session = self.session(which)
        session.savepoints.append(session.transaction.savepoint())
        self.do(session, lambda run: run.save(), None, looks=False)

    @rule(which=WHICH)
    def go_back(self, which: int) -> None:
        """Roll back to the latest savepoint; earlier savepoints stay."""
        session = self.session(which)
        if session.savepoints:
            last = len(session.savepoints) - 1
            session.savepoints[last].rollback()
            self.do(session, lambda run: run.go_back(last), None, looks=False)

    # -- how they end ------------------------------------------------------------------------

    @precondition(lambda self: self.sessions)
    @rule(which=WHICH)
    def roll_back(self, which: int) -> None:
        self.sessions.pop(which % len(self.sessions)).transaction.rollback()

    @precondition(lambda self: self.sessions)
    @rule(which=WHICH)
    def commit(self, which: int) -> None:
        session = self.sessions.pop(which % len(self.sessions))
        moment = Run({}) if session.run is None else session.run
        try:
            session.transaction.commit()
        except kvstore.Conflict as conflict:
            assert session.transaction.route.path in {"one-shard", "general"}
            changed = moment.changed(self.state, moment.perhaps_walked)
            assert conflict.key in [KEYS[place] for place in changed], "it was refused for nothing"
            return
        again = Run(dict(self.state), at_commit=True)
        if session.transaction.route.path == "read-only":
            again = Run(moment.moment)  # a read-only transaction counts as run at its moment
        for step, found in session.steps:
            assert step(again) == found, "it saw what was not there when it was committed"
        self.install(again)
        if session.transaction.route.path != "read-only":
            assert not moment.changed(self.state_before, moment.walked)

    def install(self, run: Run) -> None:
        self.state_before = dict(self.state)
        version = next(self.versions)
        for place in run.written:
            value = run.value(place)
            if value is None:
                self.state.pop(place, None)
            else:
                self.state[place] = Cell(version, value)

    # -- other callers -----------------------------------------------------------------------

    @rule(changes=st.dictionaries(PLACES, st.one_of(VALUES, st.none()), min_size=1, max_size=3))
    def batch(self, changes: dict[int, Any]) -> None:
        run = Run(dict(self.state))
        with self.db.batch() as batch:
            for place, value in changes.items():
                if value is None:
                    batch.delete(KEYS[place])
                    run.delete(place)
                else:
                    batch.put(KEYS[place], value)
                    run.put(place, value)
        self.install(run)

    @rule(place=PLACES, amount=AMOUNTS)
    def add_beside(self, place: int, amount: int) -> None:
        run = Run(dict(self.state))
        if run.add(place, amount):
            with pytest.raises(kvstore.TypeClash):
                self.db.add(KEYS[place], amount)
        else:
            self.db.add(KEYS[place], amount)
            self.install(run)

    @rule(source=PLACES, sink=PLACES, known=st.booleans())
    def function(self, source: int, sink: int, known: bool) -> None:
        """Run a function from start to end between two steps of the open transactions."""

        def copy(transaction: Transaction) -> None:
            transaction.put(KEYS[sink], transaction.get(KEYS[source], 0))

        run = Run(dict(self.state))
        run.put(sink, 0 if (value := run.get(source)) is None else value)
        if known:
            self.db.general([KEYS[source], KEYS[sink]], copy)
        else:
            self.db.run(copy)
        self.install(run)

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        if hasattr(self, "db"):
            expected = [(KEYS[place], self.state[place].value) for place in sorted(self.state)]
            assert list(self.db.scan()) == expected


ManyTransactions.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestManyTransactions = ManyTransactions.TestCase

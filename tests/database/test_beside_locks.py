"""Calls that work while a function holds locks: watches, backups, compaction, openings, a second store."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Change, Database, Key
from tests.support.programs.remote import Remote
from tests.support.transactions import Later, Stalled, key_on

SHARDS = 3


@pytest.fixture(params=[1, 3], ids=["1 replica", "3 replicas"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    replicas = request.param
    with kvstore.open(tmp_path / "s", shards=SHARDS, replicas=replicas, durability="none") as opened:
        yield opened


def twins_of(db: Database) -> tuple[Key, Key]:
    """Return twin keys on shards 0 and 1."""
    return key_on(db, 0, "twin"), key_on(db, 1, "twin")


@pytest.fixture
def twins(db: Database) -> tuple[Key, Key]:
    found = twins_of(db)
    with db.batch() as batch:
        for twin in found:
            batch.put(twin, 0)
    return found


@pytest.fixture
def stalled(db: Database, twins: tuple[Key, Key]) -> Stalled:
    """Yield a function that holds the locks of the twins, which are 1000, and will set them to 1001."""
    return Stalled(db, twins)


def fold(changes: list[Change]) -> dict[Key, Any]:
    state: dict[Key, Any] = {}
    for change in changes:
        if change.deleted:
            state.pop(change.key, None)
        else:
            state[change.key] = change.value
    return state


def seen(db: Database, since: Any = 0) -> list[Change]:
    return list(db.watch(since=since, timeout=0))


class TestWatching:
    def test_what_is_not_committed_is_not_seen(self, db: Database, stalled: Stalled) -> None:
        assert 1001 not in [change.value for change in seen(db)]
        cursor = db.cursor()
        stalled.go_on()

        assert [change.value for change in seen(db, cursor)] == [1001, 1001]
        assert fold(seen(db)) == dict(db.scan())

    def test_nor_ever_what_was_given_up(self, db: Database, stalled: Stalled) -> None:
        stalled.failure = kvstore.Abort("given up")
        with pytest.raises(kvstore.Abort):
            stalled.go_on()

        assert fold(seen(db)) == dict(db.scan())
        assert db.get_many(list(twins_of(db))) == [1000, 1000]

    def test_what_overtakes_is_seen_in_the_end_and_once(self, db: Database, stalled: Stalled) -> None:
        watch = db.watch(since=0, timeout=0)
        changes = list(watch)
        for number in range(30):
            db.put(("n", number), number)
            more = db.watch(since=watch.cursor, timeout=0)
            changes += list(more)
            watch = more
        stalled.go_on()
        changes += seen(db, watch.cursor)

        assert fold(changes) == dict(db.scan())
        assert len({(change.key, change.version) for change in changes}) == len(changes)
        numbers = [
            change.value for change in changes if isinstance(change.key, tuple) and change.key[0] == "n"
        ]
        assert sorted(numbers) == list(range(30))

    def test_a_transaction_that_overtakes_is_seen_whole(self, db: Database, stalled: Stalled) -> None:
        """One key of the transaction is on a shard with a lock, the other is not."""
        cursor = db.cursor()
        with db.batch() as batch:
            batch.put(key_on(db, 0, "other"), 1)
            batch.put(key_on(db, 2, "other"), 1)
        watch = db.watch(since=cursor, timeout=0)
        before = list(watch)
        stalled.go_on()
        after = seen(db, watch.cursor)

        assert len(before) in {0, 2}
        assert sorted(len(list(changes)) for _, changes in groupby([*before, *after], _time)) == [2, 2]

    def test_a_cursor_of_now_lies_between_transactions(self, db: Database, stalled: Stalled) -> None:
        with db.batch() as batch:
            batch.put(key_on(db, 0, "other"), 1)
            batch.put(key_on(db, 2, "other"), 1)
        cursor = db.cursor()
        stalled.go_on()

        assert all(len(list(changes)) == 2 for _, changes in groupby(seen(db, cursor), _time))


def _time(change: Change) -> int:
    return change.time


class TestTheStore:
    def test_others_read_whole_transactions(
        self, db: Database, twins: tuple[Key, Key], stalled: Stalled
    ) -> None:
        with db.snapshot() as view:
            assert view.get_many(twins) == db.get_many(twins) == [1000, 1000]
            stalled.go_on()
            assert view.get_many(twins) == [1000, 1000]
        assert db.get_many(twins) == [1001, 1001]

    def test_another_process_reads_them_too(
        self, db: Database, twins: tuple[Key, Key], stalled: Stalled, tmp_path: Path
    ) -> None:
        with Remote(tmp_path / "s", readonly=True) as reader:
            assert [reader.call("get", twin) for twin in twins] == [1000, 1000]
            stalled.go_on()
            assert [reader.call("get", twin) for twin in twins] == [1001, 1001]

    def test_verify_and_status(self, db: Database, stalled: Stalled) -> None:
        assert db.verify()["ok"]
        assert db.status()["healthy"]
        stalled.go_on()
        assert db.verify()["ok"]

    def test_a_backup_has_no_locks(
        self, db: Database, twins: tuple[Key, Key], stalled: Stalled, tmp_path: Path
    ) -> None:
        db.backup(tmp_path / "backup")
        with kvstore.open(tmp_path / "backup") as copy:
            assert copy.get_many(twins) == [1000, 1000]
            copy.run(
                lambda transaction: [transaction.update(twin, lambda value: value + 5) for twin in twins]
            )
            assert copy.get_many(twins) == [1005, 1005]
            assert copy.verify()["ok"]
            assert fold(seen(copy)) == dict(copy.scan())
        assert stalled.go_on() == 1001

    @pytest.mark.parametrize("waits_for_its_lease", [False, True])
    def test_a_compaction_keeps_them(
        self, db: Database, twins: tuple[Key, Key], stalled: Stalled, waits_for_its_lease: bool
    ) -> None:
        waiting = Later(lambda: db.put(twins[0], "after"))
        db.compact()
        if waits_for_its_lease:
            waiting.result()
            assert db.get_many(twins) == ["after", 1000]
            stalled.set_twins(2000)
            assert stalled.go_on() == 2001
        else:
            assert stalled.go_on() == 1001
            waiting.result()
            assert db.get_many(twins) == ["after", 1001]
        assert db.verify()["ok"]
        assert fold(seen(db)) == dict(db.scan())

    def test_a_log_is_not_cut_under_them(self, tmp_path: Path) -> None:
        """However much is written meanwhile, the preliminary is still in the log after an opening."""
        with kvstore.open(tmp_path / "s", shards=SHARDS, durability="none", watch_retention=1000) as db:
            twins = twins_of(db)
            stalled = Stalled(db, twins)
            for number in range(100):
                db.put(("filling", number % 7), bytes(3000))
            db.backup(tmp_path / "backup")
            stalled.go_on()
            for number in range(200):
                db.put(("filling", number % 7), bytes(3000))
            assert db.get_many(twins) == [1001, 1001]
            assert db.verify()["ok"]
        with kvstore.open(tmp_path / "backup") as db:
            assert db.get_many(twins) == [1000, 1000]
            db.put(twins[0], 1)
            assert db.verify()["ok"]
            assert fold(seen(db)) == dict(db.scan())

    def test_a_procedure_waits_for_them(self, db: Database, twins: tuple[Key, Key], stalled: Stalled) -> None:
        @kvstore.procedure("add to all", keys=lambda args: list(args))
        def add_to_all(part: kvstore.Part, args: Any) -> None:
            for key in args:
                part.add(key, 5)

        call = Later(lambda: db.call("add to all", list(twins)))
        db.put("beside", 1)
        assert not call.is_over
        assert stalled.go_on() == 1001
        call.result()
        assert db.get_many(twins) == [1006, 1006]

    def test_conditions_are_looked_at_when_they_are_gone(
        self, db: Database, twins: tuple[Key, Key], stalled: Stalled
    ) -> None:
        version = db.version(twins[0])
        put = Later(lambda: db.put(twins[0], "mine", if_version=version))
        delete = Later(lambda: db.__delitem__(twins[1]))
        db.put("beside", 1)
        assert not put.is_over
        stalled.go_on()
        with pytest.raises(kvstore.Conflict):
            put.result()
        delete.result()

        assert db.get_many(twins) == [1001, None]

    def test_what_was_submitted_waits_its_turn(
        self, db: Database, twins: tuple[Key, Key], stalled: Stalled
    ) -> None:
        futures = []
        for number in range(20):
            batch = db.batch()
            batch.put(("n", number), number)
            batch.add(twins[number % 2], 1)
            futures.append(db.submit(batch))
        db.put("beside", 1)
        assert not any(future.done() for future in futures)
        stalled.go_on()
        for future in futures:
            future.result(timeout=60)

        assert db.get_many(twins) == [1011, 1011]
        assert db.count(prefix=("n",)) == 20


def test_it_waits_for_nobody_in_another_store(tmp_path: Path) -> None:
    with kvstore.open(":memory:", shards=SHARDS) as one, kvstore.open(":memory:", shards=SHARDS) as two:
        stalled = Stalled(one, twins_of(one))
        for twin in twins_of(two):
            two.put(twin, 1)
        assert stalled.go_on() == 1001

"""Watches: each change once, in commit order, after any cursor; folding gives the store (contracts D8)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvstore
from kvstore import Change, Database
from tests.support.programs.remote import Remote

PATIENCE_S = 60


@pytest.fixture(params=[1, 3], ids=["one replica", "three replicas"])
def db(request: pytest.FixtureRequest) -> Iterable[Database]:
    with kvstore.open(":memory:", shards=4, replicas=request.param) as db:
        yield db


def now(db: Database, **options: Any) -> list[Change]:
    """Return all changes up to this moment."""
    return list(db.watch(timeout=0, **options))


def fold(changes: Iterable[Change]) -> dict[Any, Any]:
    state: dict[Any, Any] = {}
    for change in changes:
        if change.deleted:
            state.pop(change.key, None)
        else:
            state[change.key] = change.value
    return state


def told(changes: Iterable[Change]) -> list[Any]:
    return [(change.key, None if change.deleted else change.value) for change in changes]


def write_some(db: Database) -> None:
    """Do every kind of write, over several shards."""
    db.put("a", 1)
    db.add("a", 2)
    db.put("c", [1, {"deep": b"\x00"}])
    with db.batch() as batch:
        for number in range(6):
            batch.put(("row", number), number)
        batch.add("total", 15)
    db.put("a", "conditional", if_version=db.version("a"))
    db.delete("c")
    db.add("total", 0.5, idempotency_key="once")
    db.add("total", 0.5, idempotency_key="once")


def fill_log(db: Database, count: int = 3000) -> None:
    """Write enough to have the oldest part of the log truncated."""
    for number in range(count):
        db.put(("filler", number % 7), number)


class TestWhatIsSeen:
    def test_every_kind_of_write_with_the_value_after_it(self, db: Database) -> None:
        write_some(db)

        seen = told(now(db, since=0))
        assert seen[:3] == [("a", 1), ("a", 3), ("c", [1, {"deep": b"\x00"}])]
        assert dict(seen[3:10]) == {("row", number): number for number in range(6)} | {"total": 15}
        assert seen[10:] == [("a", "conditional"), ("c", None), ("total", 15.5)]
        assert fold(now(db, since=0)) == dict(db.scan())

    def test_what_changed_nothing_is_no_change(self, db: Database) -> None:
        db.put("k", 1)
        db.delete("missing")
        with pytest.raises(kvstore.Conflict):
            db.put("k", 2, if_absent=True)
        with db.batch() as batch:
            batch.put("soon gone", 1)
            batch.delete("soon gone")

        assert told(now(db, since=0)) == [("k", 1)]

    def test_one_change_for_each_key_of_a_transaction(self, db: Database) -> None:
        with db.batch() as batch:
            batch.put("k", 1)
            batch.add("k", 1)
            batch.put("k", 3)

        assert told(now(db, since=0)) == [("k", 3)]

    def test_the_version_is_the_one_that_the_store_has(self, db: Database) -> None:
        write_some(db)

        last = {change.key: change for change in now(db, since=0)}

        for key, _ in db.scan():
            assert last[key].version == db.version(key)

    def test_the_time_is_the_same_in_a_transaction_and_rises(self, db: Database) -> None:
        write_some(db)

        changes = now(db, since=0)

        times = [change.time for change in changes]
        assert times == sorted(times)
        assert len({change.time for change in changes if isinstance(change.key, tuple)}) == 1
        assert len(set(times)) == 7
        assert abs(times[-1] - time.time_ns()) < 3600 * 10**9

    def test_a_prefix(self, db: Database) -> None:
        write_some(db)

        assert sorted(change.key for change in now(db, since=0, prefix=("row",))) == [
            ("row", number) for number in range(6)
        ]
        assert told(now(db, since=0, prefix="tot")) == [("total", 15), ("total", 15.5)]

    def test_each_value_is_the_callers_own(self, db: Database) -> None:
        db.put("k", [1])
        now(db, since=0)[0].value.append(2)
        assert now(db, since=0)[0].value == [1]

    def test_from_now_on_by_default(self, db: Database) -> None:
        db.put("k", "before")
        watch = db.watch(timeout=0)
        db.put("k", "after")

        assert told(watch) == [("k", "after")]


class TestCursors:
    def test_each_change_has_one_that_goes_on_right_behind_it(self, db: Database) -> None:
        write_some(db)
        changes = now(db, since=0)

        for place, change in enumerate(changes):
            assert now(db, since=change.cursor) == changes[place + 1 :]

    def test_within_a_transaction_they_stay_before_it_and_count(self, db: Database) -> None:
        write_some(db)
        before, *inside, behind = [change.cursor for change in now(db, since=0)[2:10]]

        assert [cursor.pop(-1) for cursor in inside] == [1, 2, 3, 4, 5, 6]
        assert inside == [before] * 6
        assert -1 not in behind

    def test_they_survive_json_and_the_store_itself(self, db: Database) -> None:
        write_some(db)
        changes = now(db, since=0)
        cursor = changes[4].cursor
        db.put("cursor", cursor)

        for kept in (json.loads(json.dumps(cursor, sort_keys=True)), db["cursor"]):
            assert now(db, since=kept)[:-1] == changes[5:]

    def test_the_one_of_now(self, db: Database) -> None:
        write_some(db)
        cursor = db.cursor()
        assert now(db, since=cursor) == []
        db.put("k", 1)
        assert told(now(db, since=cursor)) == [("k", 1)]

    def test_a_watch_knows_its_own_and_passes_over_what_it_does_not_show(self, db: Database) -> None:
        watch = db.watch(since=0, prefix="nothing", timeout=0)
        write_some(db)
        assert list(watch) == []
        assert watch.cursor == db.cursor()

    @pytest.mark.parametrize(
        "since", [1, -1, True, "0", [], {}, {0: 1}, {0: 0, 1: 0, 2: 0, 3: -1}, {0: 0, 1: 0, 2: 0, 3: 0, 4: 0},
                  {0: "x", 1: 0, 2: 0, 3: 0}, {float("inf"): 1}, {"a": 1},
                  {0: 0, 1: 0, 2: 0, 3: 0, -2: "zz"}, 0.0]
    )  # fmt: skip
    def test_what_is_none_is_refused(self, db: Database, since: Any) -> None:
        with pytest.raises(kvstore.UsageError, match="cursor"):
            db.watch(since=since)

    def test_one_from_the_future_is_refused(self, db: Database) -> None:
        with pytest.raises(kvstore.LimitExceeded, match="shard 2, whose log ends at 0"):
            db.watch(since={0: 0, 1: 0, 2: 7, 3: 0})

    @pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
    def test_a_timeout_is_a_number_of_seconds(self, db: Database, timeout: Any) -> None:
        with pytest.raises(kvstore.LimitExceeded, match="timeout"):
            db.watch(timeout=timeout)

    def test_a_prefix_is_a_key(self, db: Database) -> None:
        with pytest.raises(kvstore.KeyInvalid):
            db.watch(prefix=5)  # type: ignore[arg-type]


class TestACutLog:
    @pytest.fixture
    def db(self, tmp_path: Path) -> Iterable[Database]:
        with kvstore.open(tmp_path / "s", durability="none", watch_retention=0) as db:
            yield db

    def test_an_old_cursor_is_refused_and_the_oldest_is_named(self, db: Database) -> None:
        db.put("k", 1)
        cursor = db.cursor()
        fill_log(db)

        with pytest.raises(kvstore.CursorTrimmed) as caught:
            db.watch(since=cursor)

        assert caught.value.cursor == cursor
        oldest = now(db, since=caught.value.oldest)
        assert 0 < len(oldest) < 3000
        assert oldest[-1].value == 2999
        assert [change.value for change in oldest] == list(range(3000 - len(oldest), 3000))

    def test_folding_from_the_beginning_gives_the_store_all_the_same(self, db: Database) -> None:
        write_some(db)
        fill_log(db)
        db.delete(("row", 3))

        changes = now(db, since=0)

        assert fold(changes) == dict(db.scan())
        assert {change.key for change in changes if change.time == 0} >= {"a", "total", ("row", 0)}
        assert fold(now(db, since=0, prefix=("row",))) == dict(db.scan(prefix=("row",)))

    def test_no_record_is_lost_where_the_log_begins(self, db: Database) -> None:
        for number in range(3000):
            db.put(("once", number), number)

        assert fold(now(db, since=0)) == dict(db.scan())

    def test_each_cursor_among_the_older_records_goes_on_behind_it(self, db: Database) -> None:
        for number in range(200):
            db.put(("old", number), number)
        fill_log(db)
        changes = now(db, since=0)

        for place in [*range(0, min(230, len(changes)), 7), len(changes) - 1]:
            assert now(db, since=changes[place].cursor) == changes[place + 1 :]

    def test_what_changes_while_the_older_records_are_read_comes_with_the_log(self, db: Database) -> None:
        for number in range(500):
            db.put(("old", number), number)
        fill_log(db, 2000)

        watch = db.watch(since=0, timeout=0)
        seen = [next(watch) for _ in range(100)]
        with db.batch() as batch:
            for number in range(0, 500, 2):
                batch.put(("old", number), -number)
            for number in range(1, 500, 4):
                batch.delete(("old", number))
        seen += watch

        assert fold(seen) == dict(db.scan())

    def test_a_watch_that_falls_behind_says_so(self, db: Database) -> None:
        watch = db.watch(since=0, timeout=0)
        fill_log(db)
        for _ in range(2):
            with pytest.raises(kvstore.CursorTrimmed):
                next(watch)

    def test_the_effects_go_with_the_log(self, db: Database) -> None:
        for _ in range(3000):
            db.add("n", 1)

        shard = db.explain("n").shards[0]
        log = db.status()["logs"][str(shard)]
        assert log["first"] > 1
        assert now(db, since=0)[-1].value == 3000
        last, first = log["last"], log["first"]
        assert db.status()["records"] < 3 * (last + 1 - first) + 100
        assert db.verify()["problems"] == []

    def test_the_retention_keeps_what_was_promised(self, tmp_path: Path) -> None:
        with kvstore.open(tmp_path / "t", durability="none", watch_retention=1 << 20) as db:
            cursors = []
            for number in range(3000):
                db.put("k", bytes(1000))
                cursors.append(db.cursor() if number % 100 == 0 else None)
            for cursor in filter(None, cursors[-900:]):
                assert now(db, since=cursor) != []


class TestWaiting:
    def test_it_wakes_up_for_a_commit(self, db: Database) -> None:
        seen: list[Change] = []
        some = threading.Event()

        def watch() -> None:
            for change in db.watch(since=0):
                seen.append(change)
                some.set()

        thread = threading.Thread(target=watch)
        thread.start()
        db.put("k", 1)
        assert some.wait(PATIENCE_S)
        db.close()
        thread.join(PATIENCE_S)

        assert not thread.is_alive()
        assert told(seen) == [("k", 1)]

    def test_it_ends_after_quiet_seconds(self, db: Database) -> None:
        watch = db.watch(timeout=0.01)
        assert list(watch) == []
        db.put("k", 1)
        assert list(watch) == [], "an iterator that has ended has ended"

    def test_the_end_of_the_store_is_its_end(self, db: Database) -> None:
        db.put("k", 1)
        watch = db.watch(since=0)
        db.close()
        assert list(watch) == []
        with pytest.raises(kvstore.Closed):
            db.watch()

    def test_it_can_be_closed(self, db: Database) -> None:
        db.put("k", 1)
        watch = db.watch(since=0)
        watch.close()
        assert list(watch) == []

    def test_it_holds_no_snapshot(self, db: Database) -> None:
        write_some(db)
        watch = db.watch(since=0)
        next(watch)
        assert db.status()["snapshots"]["open"] == 0

    def test_an_interrupt_loses_nothing(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        write_some(db)
        changes = now(db, since=0)
        watch = db.watch(since=0, timeout=0)
        for change in changes:
            for interrupted_call in (
                "kvstore.database.watch._change",
                "kvstore.eris.log_tail._ShardTail.take",
            ):
                with monkeypatch.context() as patched:
                    patched.setattr(interrupted_call, _interrupt)
                    with pytest.raises(KeyboardInterrupt):
                        next(watch)
            assert next(watch) == change


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_watch_goes_on_over_openings(tmp_path: Path, replicas: int) -> None:
    seen: list[Change] = []
    cursor: Any = 0
    for turn in range(4):
        with kvstore.open(tmp_path / "s", replicas=replicas) as db:
            write_some(db)
            db.put("turn", turn)
            part = now(db, since=cursor)[:-1]
            seen += part
            cursor = part[-1].cursor

    with kvstore.open(tmp_path / "s", readonly=True) as db:
        assert [*seen, *now(db, since=cursor)] == now(db, since=0)


def test_a_process_that_only_reads_may_watch_another_that_writes(tmp_path: Path) -> None:
    with Remote(tmp_path / "s") as writer, kvstore.open(tmp_path / "s", readonly=True) as db:
        watch = db.watch(timeout=PATIENCE_S)
        for number in range(3):
            writer.call("put", "k", number)
            assert next(watch).value == number


keys = st.sampled_from(["a", "b", ("t", 1), ("t", 2), b"\x00"])
writes = st.tuples(st.sampled_from(["put", "delete", "add"]), keys, st.integers(-3, 3))


@settings(deadline=None)
@given(transactions=st.lists(st.lists(writes, min_size=1, max_size=6), max_size=20), data=st.data())
def test_any_history_folds_to_the_store_from_any_cursor(
    transactions: list[list[tuple[str, Any, int]]], data: st.DataObject
) -> None:
    with kvstore.open(":memory:", shards=3) as db:
        states: list[tuple[dict[Any, Any], Any]] = [({}, db.cursor())]
        for transaction in transactions:
            with db.batch() as batch:
                for verb, key, number in transaction:
                    if verb == "delete":
                        batch.delete(key)
                    else:
                        getattr(batch, verb)(key, number)
            states.append((dict(db.scan()), db.cursor()))
        state, cursor = data.draw(st.sampled_from(states))

        changes = now(db, since=cursor)

        for change in changes:
            assert not change.deleted or change.key in state, "what was removed was there"
            state = {**state, change.key: change.value}
            if change.deleted:
                del state[change.key]
        assert state == dict(db.scan())
        whole = now(db, since=0)
        assert fold(whole) == state
        assert changes == whole[len(whole) - len(changes) :]

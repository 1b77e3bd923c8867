"""Many threads on one handle: consistent snapshots, shared commits, bounded queues, and an orderly end."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import lmdb
import pytest

import kvstore
from kvstore import Commit, Database
from kvstore.engine import group_commit
from kvstore.storage import LmdbEnvironment
from tests.support.inside import commits_of, environments_of
from tests.support.transactions import run_all

SECONDS = float(os.environ.get("KVSTORE_THREAD_SECONDS", "3"))
THREADS = 16
ACCOUNTS = 64
PATIENCE_S = 60
"""Seconds after which a thread that has not ended is considered to hang."""


def readers_listed(db: Database) -> int:
    """Return the number of reads in LMDB's reader table, without the spare ones that py-lmdb keeps."""
    listed = 0
    for environment in environments_of(db).values():
        assert isinstance(environment, LmdbEnvironment)
        rows = environment._lmdb.readers().splitlines()[1:]
        listed += sum(not row.rstrip().endswith("-") for row in rows)
    return listed


class Bank:
    """Accounts on all shards between which money moves, and twins: two keys that are always equal."""

    def __init__(self, db: Database, seconds: float) -> None:
        self.db = db
        self.end = time.monotonic() + seconds
        self.cuts = 0
        with db.batch() as batch:
            for account in range(ACCOUNTS):
                batch.put(("account", account), 0)

    def work(self, seed: int) -> Callable[[], None]:
        def steps() -> None:
            randomly = random.Random(seed)
            submitted: list[Future[Commit]] = []
            actions = [self.transfer, self.shuffle, self.twins, self.look, self.look_by_calls, self.single]
            while time.monotonic() < self.end:
                if randomly.random() < 0.2:
                    submitted.append(self.db.submit(self.a_transfer(randomly)))
                else:
                    randomly.choice(actions)(randomly)
            for future in submitted:
                future.result(timeout=PATIENCE_S)

        return steps

    def a_transfer(self, randomly: random.Random) -> kvstore.Batch:
        batch, amount = self.db.batch(), randomly.randint(1, 100)
        source, target = randomly.sample(range(ACCOUNTS), 2)
        batch.add(("account", source), -amount)
        batch.add(("account", target), amount)
        return batch

    def transfer(self, randomly: random.Random) -> None:
        with self.a_transfer(randomly):
            pass

    def shuffle(self, randomly: random.Random) -> None:
        """Commit one batch over all shards, whose parts add up to 0."""
        with self.db.batch() as batch:
            for account in range(0, ACCOUNTS, 2):
                amount = randomly.randint(-9, 9)
                batch.add(("account", account), amount)
                batch.add(("account", account + 1), -amount)

    def twins(self, randomly: random.Random) -> None:
        name, value = randomly.randrange(4), randomly.random()
        with self.db.batch() as batch:
            for twin in range(4):
                if value < 0.1:
                    batch.delete(("twin", name, twin))
                else:
                    batch.put(("twin", name, twin), value)

    def single(self, randomly: random.Random) -> None:
        self.db.put(("single", randomly.randrange(50)), randomly.random())
        self.db.add("steps", 1)

    def look(self, randomly: random.Random) -> None:
        with self.db.snapshot() as view:
            accounts = [("account", account) for account in range(ACCOUNTS)]
            assert sum(view.get_many(accounts)) == 0
            for name in range(4):
                assert len({view.get(("twin", name, twin)) for twin in range(4)}) == 1
        self.cuts += 1

    def look_by_calls(self, randomly: random.Random) -> None:
        assert sum(value for _, value in self.db.scan(prefix=("account",))) == 0
        assert self.db.count(prefix=("twin",)) % 4 == 0
        assert sum(self.db.get_many([("account", account) for account in range(ACCOUNTS)])) == 0
        self.cuts += 3


@pytest.mark.parametrize(
    ("replicas", "durability", "share"), [(1, "commit", 0.4), (3, "commit", 0.3), (1, "none", 0.3)]
)
def test_every_snapshot_is_a_consistent_cut(
    tmp_path: Path, replicas: int, durability: Any, share: float
) -> None:
    with kvstore.open(
        tmp_path / "store", shards=5, replicas=replicas, durability=durability, watch_retention=1 << 20
    ) as db:
        bank = Bank(db, SECONDS * share)

        run_all([bank.work(seed) for seed in range(THREADS)], PATIENCE_S + SECONDS)

        bank.look(random.Random())
        assert bank.cuts > 10
        assert db.status()["snapshots"]["open"] == 0
        assert readers_listed(db) == 0
        assert db.verify()["ok"]
    with kvstore.open(tmp_path / "store") as db:
        assert sum(value for _, value in db.scan(prefix=("account",))) == 0


class TestGroups:
    def test_callers_that_wait_share_commits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The disk is slow enough for callers to arrive while another caller commits."""
        one_group = group_commit.GroupCommit._one_group

        def slowly(commits: group_commit.GroupCommit) -> None:
            time.sleep(0.002)
            one_group(commits)

        monkeypatch.setattr(group_commit.GroupCommit, "_one_group", slowly)
        with kvstore.open(tmp_path / "store", shards=1) as db:

            def work() -> None:
                for number in range(50):
                    db.put(("k", threading.get_ident(), number), number)

            run_all([work] * THREADS, PATIENCE_S + SECONDS)

            assert db.count() == THREADS * 50
        assert last_transaction(tmp_path / "store") < THREADS * 50 / 2

    def test_a_callback_may_use_the_store(self) -> None:
        with kvstore.open(":memory:") as db:
            called = threading.Event()
            seen: list[Any] = []

            def use(future: Future[Commit]) -> None:
                db.put("from the callback", db["k"])
                with db.snapshot() as view, db.batch() as batch:
                    batch.add("n", view.count())
                seen.append(threading.current_thread())
                called.set()

            batch = db.batch()
            batch.put("k", 1)
            db.submit(batch).add_done_callback(use)

            assert called.wait(PATIENCE_S)
            assert db.get_many(["from the callback", "n"]) == [1, 2]
            assert seen != [threading.current_thread()]

    def test_a_callback_that_raises_does_not_stop_the_others(self) -> None:
        with kvstore.open(":memory:") as db:
            for number in range(20):
                batch = db.batch()
                batch.put((number,), number)
                future = db.submit(batch)
                future.add_done_callback(lambda _: 1 / 0)
                future.result(timeout=PATIENCE_S)

            assert db.count() == 20

    @pytest.mark.parametrize("by_bytes", [False, True])
    def test_submit_waits_while_too_much_is_outstanding(
        self, monkeypatch: pytest.MonkeyPatch, by_bytes: bool
    ) -> None:
        monkeypatch.setattr(group_commit, "OUTSTANDING_MAX", 10_000 if by_bytes else 10)
        monkeypatch.setattr(group_commit, "OUTSTANDING_BYTES_MAX", 1000 if by_bytes else 64 << 20)
        with kvstore.open(":memory:") as db:
            submitted: list[Future[Commit]] = []

            def submit_many() -> None:
                for number in range(30):
                    batch = db.batch()
                    batch.put((number,), bytes(100))
                    submitted.append(db.submit(batch))

            held = threading.Event()
            holder = threading.Thread(target=commits_of(db).exclusively, args=(held.wait,))
            holder.start()
            submitter = threading.Thread(target=submit_many)
            submitter.start()
            submitter.join(0.3)
            waiting = len(submitted)

            held.set()
            submitter.join(PATIENCE_S)
            holder.join()

            assert 5 <= waiting <= 10
            assert not submitter.is_alive()
            for future in submitted:
                future.result(timeout=PATIENCE_S)
            assert db.count() == 30


def last_transaction(store: Path) -> int:
    """Return the number of commits to the store's file."""
    with lmdb.open(str(store / "replica-0"), readonly=True, lock=False, lib_version=0) as environment:
        return int(environment.info()["last_txnid"])


class TestTheEnd:
    @pytest.mark.parametrize("replicas", [1, 3])
    def test_close_while_sixteen_threads_work_ends_each_call_with_an_answer_or_closed(
        self, tmp_path: Path, replicas: int
    ) -> None:
        for turn in range(5):
            store = tmp_path / f"store-{turn}"
            db = kvstore.open(store, replicas=replicas)
            acknowledged: list[kvstore.Key] = []
            futures: list[tuple[kvstore.Key, Future[Commit]]] = []

            def work(mine: int, db: Database = db, done: Any = acknowledged, sent: Any = futures) -> None:
                number = 0
                try:
                    while True:
                        number += 1
                        key = (mine, number)
                        if mine % 4 == 0:
                            batch = db.batch()
                            batch.put(key, number)
                            sent.append((key, db.submit(batch)))
                        elif mine % 4 == 1:
                            list(db.scan(limit=5))
                            db.get((0, 1))
                        else:
                            db.put(key, number)
                            done.append(key)
                except kvstore.Closed:
                    return

            closer = threading.Timer(0.05 + 0.02 * turn, db.close)
            closer.start()
            run_all([lambda mine=mine: work(mine) for mine in range(THREADS)], PATIENCE_S + SECONDS)
            closer.join(PATIENCE_S)
            assert not closer.is_alive()
            for key, future in futures:
                if future.exception(timeout=PATIENCE_S) is None:
                    acknowledged.append(key)
                else:
                    assert isinstance(future.exception(), kvstore.Closed)

            with kvstore.open(store) as db:
                assert None not in db.get_many(acknowledged)
                assert db.verify()["ok"]

    def test_everything_open_ends_with_closed(self, tmp_path: Path) -> None:
        db = kvstore.open(tmp_path / "store")
        for number in range(100):
            db.put((number,), number)
        view, scan, batch = db.snapshot(), db.scan(), db.batch()
        batch.put("late", 1)
        next(scan)
        started = view.scan()
        next(started)

        db.close()
        db.close()

        late: list[Callable[[], object]] = [
            lambda: next(scan), lambda: next(started), lambda: view["k"], lambda: db["k"], lambda: db.put("k", 1),  # noqa: E501  # a table of calls
            lambda: db.snapshot(), lambda: db.count(), lambda: db.status(), lambda: db.verify(),
            lambda: db.submit(batch), lambda: db.add("n"), lambda: db.delete("k"), lambda: list(db.scan()),
            lambda: db.get_many(["k"]), lambda: db.version("k"), lambda: "k" in db,
            lambda: db.put("k", 1, idempotency_key="x"),
        ]  # fmt: skip
        for call in late:
            with pytest.raises(kvstore.Closed):
                call()
        with kvstore.open(tmp_path / "store") as db:
            assert "late" not in db

    def test_the_block_of_a_batch_that_ends_after_close_says_so(self, tmp_path: Path) -> None:
        db = kvstore.open(tmp_path / "store")

        with pytest.raises(kvstore.Closed), db.batch() as batch:
            batch.put("k", 1)
            db.close()

        with kvstore.open(tmp_path / "store") as db:
            assert "k" not in db


class TestSnapshots:
    @pytest.fixture
    def db(self, tmp_path: Path) -> Any:
        with kvstore.open(tmp_path / "store", durability="none", snapshot_lifetime=0.3) as db:
            for number in range(2000):
                db.put((number,), number)
            yield db

    def test_abandoned_ones_are_freed_when_they_are_collected(self, db: Database) -> None:
        for _ in range(50):
            db.snapshot()
            next(db.scan())
            view = db.snapshot()
            scan = view.scan()
            next(scan)
            db.scan()
        del view, scan
        gc.collect()

        assert db.status()["snapshots"]["open"] == 0
        assert readers_listed(db) == 0

    def test_one_that_is_too_old_ends_although_nobody_uses_it(self, db: Database) -> None:
        view, scan = db.snapshot(), db.scan()
        next(scan)
        assert db.status()["snapshots"]["open"] == readers_listed(db) == 2

        time.sleep(0.4)
        db.put("k", 1)

        assert db.status()["snapshots"]["open"] == 0
        assert readers_listed(db) == 0
        for read in (lambda: view.get("k"), lambda: list(scan), lambda: view.count()):
            with pytest.raises(kvstore.SnapshotExpired) as raised:
                read()
            assert raised.value.age >= raised.value.lifetime == 300_000_000

    def test_one_that_is_too_old_ends_at_its_next_use_in_a_quiet_store(self, db: Database) -> None:
        view = db.snapshot()

        time.sleep(0.4)

        with pytest.raises(kvstore.SnapshotExpired):
            view.get("k")
        assert db.status()["snapshots"]["open"] == 0

    def test_more_than_a_thousand_are_refused_and_closing_some_helps(self, db: Database) -> None:
        with kvstore.open(":memory:") as db:
            db.put("k", 1)
            views = [db.snapshot() for _ in range(1000)]

            for call in (db.snapshot, db.scan, db.count):
                with pytest.raises(kvstore.LimitExceeded) as raised:
                    call()
                assert raised.value.limit == 1000
            db.put("k", 2)
            views.pop().close()

            assert db["k"] == 2
            assert {view["k"] for view in views} == {1}
            for view in views:
                view.close()
            assert db.status()["snapshots"]["open"] == 0

    def test_a_thousand_on_disk_are_all_right(self, tmp_path: Path) -> None:
        with kvstore.open(tmp_path / "other") as db:
            db.put("k", 1)
            views = [db.snapshot() for _ in range(1000)]
            with pytest.raises(kvstore.LimitExceeded):
                db.snapshot()
            db.put("k", 2)

            assert {view["k"] for view in views} == {1}
            del views[:]
            assert db["k"] == 2
            assert readers_listed(db) == 0

    def test_one_is_used_by_many_threads_at_once(self, db: Database) -> None:
        expected = list(range(2000))
        with db.snapshot() as view:

            def read() -> None:
                assert view.get_many([(number,) for number in range(100)]) == expected[:100]
                assert [value for _, value in view.scan(limit=200)] == expected[:200]

            run_all([read] * 8, PATIENCE_S + SECONDS)

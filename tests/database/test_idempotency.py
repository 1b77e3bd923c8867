"""Idempotency keys: a retry returns the first outcome, whatever happened in between (contracts C4)."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Commit, Database, Key
from tests.support.programs.remote import Remote

Request = Callable[[Database, Any], Any]


def a_put(db: Database, key: Any) -> None:
    db.put("k", 1, idempotency_key=key)


def a_refused_put(db: Database, key: Any) -> str:
    try:
        db.put("there", 2, if_absent=True, idempotency_key=key)
    except kvstore.Conflict as conflict:
        return str(conflict.key)
    return "accepted"


def an_add(db: Database, key: Any) -> Any:
    return db.add("n", 5, idempotency_key=key)


def a_delete(db: Database, key: Any) -> None:
    db.delete("there", idempotency_key=key)


def a_batch(db: Database, key: Any) -> None:
    with db.batch(idempotency_key=key) as batch:
        fill(batch)


def a_submit(db: Database, key: Any) -> Commit:
    batch = db.batch()
    fill(batch)
    return db.submit(batch, idempotency_key=key).result(timeout=10)


def fill(batch: kvstore.Batch) -> None:
    for number in range(5):
        batch.add(("b", number), number)


REQUESTS: dict[str, Request] = {
    "put": a_put, "refused put": a_refused_put, "add": an_add, "delete": a_delete, "batch": a_batch,
    "submit": a_submit,
}  # fmt: skip


def another(db: Database, key: Any) -> None:
    db.put("another", 1, idempotency_key=key)


def change_everything(db: Database) -> None:
    """Change the values, as other callers might between a request and its retry."""
    db.put("k", "changed")
    db.delete("there") if db.get("there") else db.put("there", 3)
    db.put("n", 1000)


@pytest.fixture(params=[(":memory:", 1), ("disk", 1), ("disk", 3)], ids=str)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    place, replicas = request.param
    path = place if place == ":memory:" else tmp_path / "store"
    with kvstore.open(path, shards=8, replicas=replicas, durability="none") as opened:
        opened.put("there", 1)
        yield opened


KEYS: list[Key] = ["once", b"once", ("order", 17), *((f"key-{number}",) for number in range(5))]
"""Idempotency keys that different shards own, most of which are not among the request's shards."""


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
class TestARetry:
    def test_has_the_first_outcome_and_changes_nothing(self, db: Database, request_: Request) -> None:
        for key in KEYS:
            first = request_(db, key)
            change_everything(db)
            before = dict(db.scan())

            for _ in range(3):
                assert request_(db, key) == first
            assert dict(db.scan()) == before

    def test_after_reopening_has_the_first_outcome_too(self, tmp_path: Path, request_: Request) -> None:
        with kvstore.open(tmp_path / "store", replicas=3) as db:
            db.put("there", 1)
            first = request_(db, "once")
            change_everything(db)
            before = dict(db.scan())

        for _ in range(2):
            with kvstore.open(tmp_path / "store") as db:
                assert request_(db, "once") == first
                assert dict(db.scan()) == before

    def test_by_another_request_is_refused_and_changes_nothing(self, db: Database, request_: Request) -> None:
        for key in KEYS:
            request_(db, key)
            before = dict(db.scan())

            with pytest.raises(kvstore.KeyReused) as raised:
                another(db, key)

            assert raised.value.idempotency_key is not None
            assert dict(db.scan()) == before


class TestWhatARequestIs:
    @pytest.mark.parametrize(
        "changed",
        [
            lambda db: db.put("k", 2, idempotency_key="once"),
            lambda db: db.put("j", 1, idempotency_key="once"),
            lambda db: db.put("k", 1, if_absent=True, idempotency_key="once"),
            lambda db: db.put("k", 1.0, idempotency_key="once"),
            lambda db: db.put("k", True, idempotency_key="once"),
            lambda db: db.add("k", 1, idempotency_key="once"),
            lambda db: db.delete("k", idempotency_key="once"),
        ],
        ids=["value", "key", "condition", "float", "bool", "add", "delete"],
    )
    def test_any_other_operation_value_or_condition_is_another_request(
        self, db: Database, changed: Callable[[Database], object]
    ) -> None:
        db.put("k", 1, idempotency_key="once")

        with pytest.raises(kvstore.KeyReused):
            changed(db)

    def test_other_idempotency_keys_are_other_requests(self, db: Database) -> None:
        keys: list[Key] = ["1", b"1", ("1",), (1,), (1.0,), (True,)]

        assert [db.add("n", idempotency_key=key) for key in keys] == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("key", [5, "", (), "k" * 481, (float("nan"),)], ids=str)
    def test_an_idempotency_key_must_be_a_key(self, db: Database, key: Any) -> None:
        with pytest.raises((kvstore.KeyInvalid, kvstore.LimitExceeded)):
            db.put("k", 1, idempotency_key=key)
        assert "k" not in db

    def test_the_longest_key_is_remembered(self, db: Database) -> None:
        longest = b"k" * 477

        assert [db.add("n", idempotency_key=longest) for _ in range(2)] == [1, 1]

    def test_what_was_refused_before_it_was_sent_is_not_remembered(self, db: Database) -> None:
        with pytest.raises(kvstore.TypeClash):
            db.put("text", "text") or db.add("text", 1, idempotency_key="once")  # type: ignore[func-returns-value]
        with pytest.raises(kvstore.ValueNotSupported):
            db.put("k", {1, 2}, idempotency_key="once")

        assert db.add("n", 1, idempotency_key="once") == 1

    def test_a_retried_add_has_its_first_answer_although_text_is_there_now(self, db: Database) -> None:
        first = db.add("n", 5, idempotency_key="once")
        db.put("n", "text")

        assert db.add("n", 5, idempotency_key="once") == first
        assert db["n"] == "text"

    def test_a_key_given_to_a_batch_counts_when_it_is_submitted(self, db: Database) -> None:
        for _ in range(2):
            batch = db.batch(idempotency_key="once")
            batch.add("n")
            try:
                db.submit(batch).result(timeout=10)
            except kvstore.UsageError:
                return

        assert db["n"] == 1


class TestThreads:
    def test_the_same_request_at_once_is_done_once(self, db: Database) -> None:
        answers: list[int] = []
        barrier = threading.Barrier(8)

        def ask() -> None:
            for number in range(20):
                barrier.wait()
                answers.append(db.add(("n", number), 1, idempotency_key=("once", number)))

        run_all([ask] * 8)

        assert answers == [1] * 160

    def test_different_requests_at_once_with_one_key_have_one_winner(self, db: Database) -> None:
        outcomes: list[str] = []
        barrier = threading.Barrier(8)

        def ask(mine: int) -> None:
            barrier.wait()
            try:
                db.put(("k", mine), mine, idempotency_key="once")
                outcomes.append("done")
            except kvstore.KeyReused:
                outcomes.append("reused")

        run_all([lambda mine=mine: ask(mine) for mine in range(8)])

        assert sorted(outcomes) == ["done"] + ["reused"] * 7
        assert db.count() == 2

    def test_submits_with_one_key_are_done_once(self, db: Database) -> None:
        futures = []
        for _ in range(20):
            batch = db.batch()
            fill(batch)
            futures.append(db.submit(batch, idempotency_key="once"))

        answers = [future.result(timeout=10) for future in futures]

        assert {tuple(answer.slots.items()) for answer in answers} == {tuple(answers[0].slots.items())}
        assert db[("b", 4)] == 4


def run_all(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("durability", ["commit", "none"])
def test_a_kill_between_commit_and_answer_is_resolved_by_the_same_request(
    tmp_path: Path, replicas: int, durability: str
) -> None:
    """A process is killed at many moments around an add; a retry makes it take effect exactly once."""
    store, adds = tmp_path / "store", 100
    kvstore.open(store, replicas=replicas).close()
    randomly = random.Random(4)
    for turn in range(3):
        tokens: list[Key] = [("turn", turn, number) for number in range(adds)]
        with Remote(store, durability=durability) as remote:
            for token in tokens:
                remote.send("add once", "n", 1, token)
            time.sleep(randomly.uniform(0, 0.03))
            remote.kill()
        with kvstore.open(store, durability="none") as db:
            done = db.get("n", 0) - turn * adds
            assert 0 <= done <= adds
            for token in tokens:
                db.add("n", 1, idempotency_key=token)
            assert db["n"] == (turn + 1) * adds


class TestForgetting:
    """With ``idempotency_days`` of a few milliseconds outcomes expire while the store is used."""

    SECONDS = 0.02

    def a_store(self, path: Path | str = ":memory:", **options: Any) -> Database:
        return kvstore.open(path, idempotency_days=self.SECONDS / 86_400, **options)

    def test_an_outcome_is_forgotten_by_a_later_opening(self, tmp_path: Path) -> None:
        with self.a_store(tmp_path / "store") as db:
            assert db.add("n", idempotency_key="once") == 1
            empty = db.status()["records"]

        time.sleep(2 * self.SECONDS)
        with kvstore.open(tmp_path / "store") as db:
            assert db.add("n", idempotency_key="once") == 2
            assert db.verify()["ok"]
            assert db.status()["records"] <= empty + 16

    @pytest.mark.parametrize("replicas", [1, 3])
    def test_what_is_remembered_stays_bounded_while_the_store_is_used(self, replicas: int) -> None:
        with self.a_store(replicas=replicas, watch_retention=0) as db:
            for number in range(1800):
                batch = db.batch()
                batch.put("a", number)
                batch.put("b", number)
                db.submit(batch, idempotency_key=("request", number)).result()

            time.sleep(2 * self.SECONDS)
            for number in range(600):
                db.put("k", number, idempotency_key=("late", number))

            assert db.status()["records"] < 1800
            assert db.verify()["ok"]

    def test_an_outcome_is_kept_for_its_days(self, tmp_path: Path) -> None:
        with kvstore.open(tmp_path / "store") as db:
            for number in range(600):
                db.add(("n", number), idempotency_key=("request", number))

        with kvstore.open(tmp_path / "store") as db:
            assert {db.add(("n", number), idempotency_key=("request", number)) for number in range(600)} == {
                1
            }

    def test_threads_that_retry_while_outcomes_are_forgotten_get_an_answer(self) -> None:
        """An old key's outcome is either found on all its shards or counts as deleted."""
        failures: list[BaseException] = []
        with self.a_store(shards=2) as db:
            keys = itertools.count()

            def work() -> None:
                mine: list[int] = []
                try:
                    for _ in range(400):
                        mine.append(next(keys))
                        for number in (mine[-1], mine[len(mine) // 2], mine[0]):
                            batch = db.batch()
                            for key in range(4):
                                batch.put(("k", key), number)
                            db.submit(batch, idempotency_key=("request", number)).result(timeout=10)
                except BaseException as failure:
                    failures.append(failure)

            run_all([work] * 4)

        assert failures == []

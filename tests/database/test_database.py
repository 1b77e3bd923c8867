"""Every call of the database, in memory and on disk, with one replica and with three."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import kvstore
from kvstore import Commit, Database, Route

KEYS: list[kvstore.Key] = [
    "apple", "apricot", "banana", b"apple", ("a",), ("a", 1), ("a", 2, "deep"), ("a", 10), ("b", 1.5),
    ("b", True), ("b", None), (UUID(int=7),), (("nested", 1), "x"),
]  # fmt: skip


@pytest.fixture(params=[(":memory:", 1), (":memory:", 3), ("disk", 1), ("disk", 3)], ids=str)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    place, replicas = request.param
    path = place if place == ":memory:" else tmp_path / "store"
    with kvstore.open(path, replicas=replicas, durability="none") as opened:
        yield opened


def filled(db: Database) -> Database:
    with db.batch() as batch:
        for number, key in enumerate(KEYS):
            batch.put(key, number)
    return db


class TestReading:
    def test_get_returns_the_value_or_the_default(self, db: Database) -> None:
        db.put("k", [1, "two"])

        assert db.get("k") == [1, "two"]
        assert db.get("missing") is None
        assert db.get("missing", "default") == "default"

    def test_brackets_raise_for_a_missing_key(self, db: Database) -> None:
        db["k"] = 1

        assert db["k"] == 1
        with pytest.raises(kvstore.NotFound) as raised:
            db["missing"]
        assert raised.value.key == "missing"

    def test_none_is_a_value(self, db: Database) -> None:
        db.put("k", None)

        assert "k" in db
        assert db["k"] is None
        assert "missing" not in db

    def test_each_read_is_a_copy_of_the_callers_own(self, db: Database) -> None:
        value = {"list": [1]}
        db.put("k", value)

        value["list"].append(2)
        db["k"]["list"].append(3)

        assert db["k"] == {"list": [1]}

    def test_get_many_keeps_the_order_of_the_keys_and_repeats(self, db: Database) -> None:
        filled(db)

        assert db.get_many(["banana", "nobody", ("a", 1), "banana"], default=-1) == [2, -1, 5, 2]
        assert db.get_many([]) == []
        assert db.get_many(iter(["apple"])) == [0]

    def test_a_version_is_the_slot_of_the_last_write_and_rises(self, db: Database) -> None:
        assert db.version("k") is None
        db.put("k", 1)
        first = db.version("k")
        db.put("k", 1)
        second = db.version("k")
        db.delete("k")

        assert first is not None
        assert second is not None
        assert second > first > 0
        assert db.version("k") is None

    def test_a_key_of_each_type_comes_back_as_it_was_put(self, db: Database) -> None:
        filled(db)

        assert [db[key] for key in KEYS] == list(range(len(KEYS)))
        assert {(type(key), key) for key, _ in db.scan()} == {(type(key), key) for key in KEYS}

    def test_one_and_1_0_and_true_are_three_keys(self, db: Database) -> None:
        db[(1,)], db[(1.0,)], db[(True,)] = "int", "float", "bool"

        assert [db[(1,)], db[(1.0,)], db[(True,)]] == ["int", "float", "bool"]
        assert db.count() == 3


class TestScanning:
    def test_a_scan_without_bounds_gives_bare_keys_before_tuples(self, db: Database) -> None:
        scanned = [key for key, _ in filled(db).scan()]

        assert scanned[:4] == [b"apple", "apple", "apricot", "banana"]
        assert [key for key in scanned if isinstance(key, tuple) and key[0] == "a"] == [
            ("a",), ("a", 1), ("a", 2, "deep"), ("a", 10),
        ]  # fmt: skip

    def test_a_str_prefix_matches_str_keys_only(self, db: Database) -> None:
        filled(db)

        assert [key for key, _ in db.scan(prefix="ap")] == ["apple", "apricot"]
        assert [key for key, _ in db.scan(prefix="a")] == ["apple", "apricot"]
        assert [key for key, _ in db.scan(prefix=b"ap")] == [b"apple"]

    def test_a_tuple_prefix_matches_whole_elements_itself_included(self, db: Database) -> None:
        filled(db)
        db.put(("abc",), "another element")

        keys = [key for key, _ in db.scan(prefix=("a",))]

        assert keys == [("a",), ("a", 1), ("a", 2, "deep"), ("a", 10)]
        assert db.count(prefix=("a",)) == 4
        assert db.count(prefix=("a", 1)) == 1

    def test_start_is_in_and_stop_is_out_also_backwards(self, db: Database) -> None:
        filled(db)
        bounds: dict[str, Any] = {"start": ("a", 1), "stop": ("a", 10)}

        assert [key for key, _ in db.scan(**bounds)] == [("a", 1), ("a", 2, "deep")]
        assert [key for key, _ in db.scan(**bounds, reverse=True)] == [("a", 2, "deep"), ("a", 1)]
        assert db.count(**bounds) == 2
        assert list(db.scan(start="b", stop="a")) == []

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("limit", [None, 0, 1, 3, 12, 13, 14, 1000])
    def test_a_limit_takes_the_first_rows_of_the_direction(
        self, db: Database, limit: int | None, reverse: bool
    ) -> None:
        everything = list(filled(db).scan())
        if reverse:
            everything.reverse()

        assert list(db.scan(reverse=reverse, limit=limit)) == everything[:limit]

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_long_scan_merges_the_shards_in_order(self, db: Database, reverse: bool) -> None:
        with db.batch() as batch:
            for number in range(3000):
                batch.put(("n", number), number)

        numbers = [value for _, value in db.scan(prefix=("n",), reverse=reverse)]

        assert numbers == sorted(range(3000), reverse=reverse)
        assert db.count(prefix=("n",)) == 3000

    def test_a_scan_shows_the_moment_of_its_call(self, db: Database) -> None:
        filled(db)
        expected = list(db.scan())

        scan = db.scan()
        with db.batch() as batch:
            for key in KEYS:
                batch.delete(key)
            batch.put("late", 1)

        assert list(scan) == expected
        assert list(db.scan()) == [("late", 1)]

    @pytest.mark.parametrize(
        ("bounds", "error"),
        [
            ({"limit": -1}, kvstore.LimitExceeded),
            ({"limit": 1.5}, kvstore.LimitExceeded),
            ({"limit": True}, kvstore.LimitExceeded),
            ({"start": 5}, kvstore.KeyInvalid),
            ({"prefix": 5}, kvstore.KeyInvalid),
            ({"stop": (float("nan"),)}, kvstore.KeyInvalid),
        ],
        ids=str,
    )
    def test_a_wrong_bound_is_refused_at_the_call(
        self, db: Database, bounds: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            db.scan(**bounds)
        assert db.status()["snapshots"]["open"] == 0


class TestWriting:
    def test_put_delete_and_del(self, db: Database) -> None:
        db.put("k", 1)
        assert db.put("k", 2) is None  # type: ignore[func-returns-value]
        db.delete("k")
        db.delete("k")

        assert "k" not in db
        with pytest.raises(kvstore.NotFound):
            del db["k"]
        db["k"] = 3
        del db["k"]
        assert db.get("k") is None

    def test_if_absent_puts_once(self, db: Database) -> None:
        db.put("k", 1, if_absent=True)

        with pytest.raises(kvstore.Conflict) as raised:
            db.put("k", 2, if_absent=True)

        assert (raised.value.key, raised.value.attempts) == ("k", 1)
        assert db["k"] == 1
        db.delete("k")
        db.put("k", 3, if_absent=True)
        assert db["k"] == 3

    def test_if_version_puts_only_over_that_version(self, db: Database) -> None:
        db.put("k", 1)
        version = db.version("k")

        db.put("k", 2, if_version=version)

        with pytest.raises(kvstore.Conflict):
            db.put("k", 3, if_version=version)
        with pytest.raises(kvstore.Conflict):
            db.put("missing", 3, if_version=version)
        assert db["k"] == 2
        assert "missing" not in db

    @pytest.mark.parametrize(
        "condition", [{"if_version": 0}, {"if_version": -1}, {"if_version": True}], ids=str
    )
    def test_a_version_that_none_can_have_is_refused(self, db: Database, condition: dict[str, Any]) -> None:
        with pytest.raises(kvstore.LimitExceeded):
            db.put("k", 1, **condition)
        with pytest.raises(kvstore.UsageError):
            db.put("k", 1, if_absent=True, if_version=1)
        assert "k" not in db

    def test_add_returns_the_new_number_and_starts_from_nothing(self, db: Database) -> None:
        assert db.add("n") == 1
        assert db.add("n", -3) == -2
        assert db.add("n", 0.5) == -1.5
        assert db.add("big", 1 << 70) == 1 << 70
        assert db.add("big", 1) == (1 << 70) + 1

    @pytest.mark.parametrize(
        ("amount", "error"),
        [
            (True, kvstore.ValueNotSupported),
            ("1", kvstore.ValueNotSupported),
            (None, kvstore.ValueNotSupported),
            (float("nan"), kvstore.LimitExceeded),
            (float("inf"), kvstore.LimitExceeded),
        ],
    )
    def test_add_refuses_what_would_poison_a_number(
        self, db: Database, amount: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            db.add("n", amount)
        with pytest.raises(error):
            db.batch().add("n", amount)
        assert "n" not in db

    @pytest.mark.parametrize("value", ["text", True, None, [1], b"1"], ids=repr)
    def test_add_to_what_is_no_number_is_a_type_clash(self, db: Database, value: object) -> None:
        db.put("k", value)

        with pytest.raises(kvstore.TypeClash) as raised:
            db.add("k", 1)
        with pytest.raises(kvstore.TypeClash):
            db.batch().add("k", 1)

        assert raised.value.key == "k"
        assert db["k"] == value

    def test_a_refused_key_or_value_changes_nothing_and_names_the_place(self, db: Database) -> None:
        with pytest.raises(kvstore.KeyInvalid, match=r"write \(5,\) or '5'"):
            db.put(5, "x")  # type: ignore[arg-type]
        with pytest.raises(kvstore.ValueNotSupported) as raised:
            db.put("k", {"lines": [0, 1, 2, {3}]})

        assert raised.value.place == 'value["lines"][3]'
        assert db.count() == 0


class TestBatches:
    def test_a_batch_is_committed_as_one_at_the_end_of_its_block(self, db: Database) -> None:
        db.put("old", 1)

        with db.batch() as batch:
            batch.put("a", 1)
            batch.add("a", 4)
            batch.add("n", 2)
            batch.delete("old")
            batch.put("b", 1)
            batch.delete("b")
            assert db.count() == 1

        assert dict(db.scan()) == {"a": 5, "n": 2}

    def test_an_exception_in_the_block_sends_nothing(self, db: Database) -> None:
        batch = db.batch()
        with pytest.raises(ZeroDivisionError), batch:
            batch.put("a", 1)
            _ = 1 / 0

        assert db.count() == 0
        with pytest.raises(kvstore.Finished):
            batch.put("a", 1)

    def test_a_batch_is_sent_once(self, db: Database) -> None:
        with db.batch() as batch:
            batch.add("n")

        for again in (lambda: db.submit(batch), lambda: batch.put("n", 1), lambda: batch.delete("n")):
            with pytest.raises(kvstore.Finished):
                again()
        assert db["n"] == 1

    def test_a_batch_that_was_submitted_inside_its_block_is_not_sent_again(self, db: Database) -> None:
        with db.batch() as batch:
            batch.add("n")
            db.submit(batch).result()

        assert db["n"] == 1

    def test_an_empty_batch_is_fine(self, db: Database) -> None:
        with db.batch():
            pass

        assert db.submit(db.batch()).result() == Commit({}, Route("independent", (), 0))

    def test_what_the_batch_put_before_counts_for_add(self, db: Database) -> None:
        db.put("k", "text")
        batch = db.batch()
        batch.put("k", 1)
        batch.add("k", 1)
        batch.put("s", "text")

        with pytest.raises(kvstore.TypeClash):
            batch.add("s", 1)
        db.submit(batch).result()

        assert db.get_many(["k", "s"]) == [2, "text"]

    def test_a_batch_over_its_limit_is_refused_where_it_is_exceeded(self, db: Database) -> None:
        value = bytes(16_000_000)
        batch = db.batch()
        for number in range(4):
            batch.put((number,), value)

        with pytest.raises(kvstore.LimitExceeded) as raised:
            batch.put("too much", value)

        assert raised.value.key == "too much"
        assert raised.value.limit == 64 << 20

    def test_submit_answers_where_the_batch_stands_and_by_which_route(self, db: Database) -> None:
        batch = db.batch()
        for number in range(50):
            batch.put((number,), number)

        future = db.submit(batch)
        commit = future.result(timeout=10)

        assert commit.route == Route("independent", (0, 1, 2, 3), 1)
        assert sorted(commit.slots) == [0, 1, 2, 3]
        assert {db.version((number,)) for number in range(50)} == set(commit.slots.values())
        assert db.count() == 50

    def test_a_submitted_batch_cannot_be_cancelled(self, db: Database) -> None:
        futures: list[Future[Commit]] = []
        for number in range(100):
            batch = db.batch()
            batch.put((number,), number)
            futures.append(db.submit(batch))

        assert not any(future.cancel() for future in futures)
        for future in futures:
            future.result(timeout=10)
        assert db.count() == 100


class TestSnapshots:
    def test_a_snapshot_has_the_reads_of_a_database(self, db: Database) -> None:
        filled(db)

        with db.snapshot() as view:
            db.put("apple", "changed")
            db.delete("banana")
            assert view["apple"] == view.get("apple") == 0
            assert view.get_many(["banana", "nobody"], 9) == [2, 9]
            assert "banana" in view
            assert "nobody" not in view
            assert view.count() == len(KEYS)
            assert len(list(view.scan(prefix=("a",), limit=2))) == 2
            assert view.age >= 0
            with pytest.raises(kvstore.NotFound):
                view["nobody"]

        assert db.status()["snapshots"] == {"open": 0, "oldest_age": 0}

    def test_after_close_every_read_says_so(self, db: Database) -> None:
        view = filled(db).snapshot()
        scan = view.scan()
        next(scan)
        view.close()
        view.close()

        for read in (lambda: view.get("a"), lambda: view["a"], lambda: view.count(), lambda: list(scan)):
            with pytest.raises(kvstore.Closed):
                read()


class TestWhatADatabaseIsNot:
    @pytest.mark.parametrize("walk", [iter, list, len, sorted], ids=operator.attrgetter("__name__"))
    def test_it_cannot_be_walked_or_measured_by_accident(
        self, db: Database, walk: Callable[[Any], object]
    ) -> None:
        with pytest.raises(TypeError):
            walk(db)
        with db.snapshot() as view, pytest.raises(TypeError):
            walk(view)

    def test_an_empty_database_is_true(self, db: Database) -> None:
        assert bool(db)
        with db.snapshot() as view:
            assert bool(view)


class TestLookingAtIt:
    def test_explain_names_path_shards_and_rounds(self, db: Database) -> None:
        batch = db.batch()
        for number in range(50):
            batch.put((number,), 0)

        route = db.explain("k")

        assert (route.path, len(route.shards), route.rounds) == ("independent", 1, 1)
        assert db.explain(batch) == batch.route == Route("independent", (0, 1, 2, 3), 1)

    def test_status_can_be_written_as_json_and_says_what_the_store_is(self, db: Database) -> None:
        filled(db)

        status = json.loads(json.dumps(db.status()))

        assert status["healthy"] is True
        assert status["problems"] == []
        assert status["shards"] == 4
        assert status["replicas"] in {1, 3}
        assert status["records"] >= len(KEYS)
        assert status["snapshots"]["open"] == 0
        assert len(status["bytes"]) == status["replicas"]

    def test_verify_walks_everything_and_can_be_written_as_json(self, db: Database) -> None:
        filled(db)

        found = json.loads(json.dumps(db.verify()))

        assert found["ok"] is True
        assert found["problems"] == []
        assert found["records"] >= len(KEYS) * db.status()["replicas"]


class TestPlacement:
    def test_keys_that_share_the_placing_elements_share_a_shard(self, tmp_path: Path) -> None:
        with kvstore.open(tmp_path / "store", shards=16, placement=1) as db:
            users = {db.explain(("user", number)).shards for number in range(100)}
            others = {db.explain((str(number), "x")).shards for number in range(100)}
            db.put(("user", 1), 1)

        assert len(users) == 1
        assert len(others) == 16
        with kvstore.open(tmp_path / "store") as db:
            assert db[("user", 1)] == 1
            assert db.status()["placement"] == 1

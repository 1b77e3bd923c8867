"""Stored procedures: registered by name, run on the declared keys' shards by every replica (contracts C1)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import Database, Part
from kvstore.eris.shard_state import REGISTERS, table_name
from kvstore.ports import Environment
from kvstore.types import ShardId
from tests.support.inside import environments_of
from tests.support.programs import running
from tests.support.programs.remote import Remote

Body = Callable[[Part, Any], Any]


@pytest.fixture(params=[1, 3], ids=["one replica", "three replicas"])
def db(request: pytest.FixtureRequest) -> Iterator[Database]:
    with kvstore.open(":memory:", replicas=request.param) as db:
        yield db


def register(body: Body, *keys: kvstore.Key, name: str = "p", **options: Any) -> None:
    kvstore.procedure(name, keys=lambda _: keys, **options)(body)


def shard_of(db: Database, key: kvstore.Key) -> int:
    return db.explain(key).shards[0]


def on_other_shards(db: Database) -> list[kvstore.Key]:
    """Return one key on each shard."""
    found: dict[int, kvstore.Key] = {}
    for number in range(100):
        found.setdefault(shard_of(db, ("k", number)), ("k", number))
    return [found[shard] for shard in sorted(found)]


def one(part: Part, args: Any) -> int:
    return 1


def two(part: Part, args: Any) -> int:
    return 2


class TestCalling:
    def test_it_runs_where_the_declared_keys_are_and_returns_each_parts_result(self, db: Database) -> None:
        @kvstore.procedure("pay", keys=lambda args: [("acct", args["from"]), ("acct", args["to"])])
        def pay(part: Part, args: Any) -> Any:
            part.add(("acct", args["from"]), -args["n"])
            part.add(("acct", args["to"]), args["n"])
            return [part.get(key) for key in part.keys]

        results = db.call("pay", {"from": 1, "to": 3, "n": 5})

        assert set(results) == {shard_of(db, ("acct", 1)), shard_of(db, ("acct", 3))}
        assert sorted(value for part in results.values() for value in part) == [-5, 5]
        assert db.get_many([("acct", 1), ("acct", 3)]) == [-5, 5]

    def test_all_parts_have_one_time_and_know_their_shard(self, db: Database) -> None:
        keys = on_other_shards(db)
        register(lambda part, _: [part.shard, part.time], *keys)
        cursor = db.cursor()
        db.put("mark", 1)

        results = db.call("p")

        assert {shard: result[0] for shard, result in results.items()} == {shard: shard for shard in range(4)}
        assert len({result[1] for result in results.values()}) == 1
        mark = next(db.watch(since=cursor))
        assert results[0][1] > mark.time

    def test_a_scan_makes_prefixes_of_what_is_declared(self, db: Database) -> None:
        for number in range(20):
            db["acct", number] = 100
        db["acctx", 1] = 0

        @kvstore.procedure("interest", keys=lambda args: [("acct",)])
        def interest(part: Part, args: Any) -> int:
            paid = 0
            for key, balance in part.scan(prefix=("acct",)):
                part[key] = balance + args
                paid += args
            return paid

        results = db.call("interest", 3)

        assert sum(results.values()) == 60
        assert set(results) == {0, 1, 2, 3}
        assert {value for _, value in db.scan(prefix=("acct",))} == {103}

    def test_a_prefix_that_is_placed_as_a_whole_is_on_one_shard(self) -> None:
        with kvstore.open(":memory:", placement=1) as db:
            for number in range(20):
                db["acct", number] = number
            register(lambda part, _: sum(value for _, value in part.scan(prefix=("acct",))), ("acct",))
            assert db.call("p") == {shard_of(db, ("acct",)): 190}

    def test_the_arguments_are_a_copy_that_no_part_shares(self, db: Database) -> None:
        def body(part: Part, args: Any) -> Any:
            args.append(part.shard)
            return args

        register(body, *on_other_shards(db))
        given = ["x", ("tuple",)]
        assert db.call("p", given) == {shard: ["x", ["tuple"], shard] for shard in range(4)}
        assert given == ["x", ("tuple",)]

    def test_keys_of_no_shard_run_nowhere(self, db: Database) -> None:
        register(lambda part, _: 1)
        assert db.call("p") == {}

    def test_many_threads_call_at_once(self, db: Database) -> None:
        keys = on_other_shards(db)

        def body(part: Part, _: Any) -> None:
            for key in keys:
                part.add(key, 1)

        register(body, *keys)
        threads = [threading.Thread(target=lambda: [db.call("p") for _ in range(25)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert db.get_many(keys) == [200] * 4


class TestThePart:
    def run(self, db: Database, body: Body, *keys: kvstore.Key) -> Any:
        register(body, *(keys or ("k",)))
        (result,) = db.call("p").values()
        return result

    def test_reads_what_it_wrote(self, db: Database) -> None:
        def body(part: Part, _: Any) -> Any:
            part["k"] = 1
            first = part["k"]
            part.delete("k")
            return [first, part.get("k", "none"), "k" in part, part.add("k", 2), part.add("k", 0.5)]

        assert self.run(db, body) == [1, "none", False, 2, 2.5]
        assert db["k"] == 2.5

    def test_a_missing_key_is_missing(self, db: Database) -> None:
        def body(part: Part, _: Any) -> Any:
            found = []
            for attempt in (lambda: part["k"], lambda: part.__delitem__("k")):
                try:
                    attempt()
                except kvstore.NotFound:
                    found.append("not found")
            part.delete("k")
            return found

        assert self.run(db, body) == ["not found", "not found"]

    def test_scans_see_what_was_written_before_them_in_order(self) -> None:
        def body(part: Part, _: Any) -> Any:
            part["t", 5] = "new"
            part.delete(("t", 2))
            part["t", 3] = "changed"
            rows = part.scan(prefix=("t",))
            part["t", 0] = "too late"
            return [
                list(rows),
                list(part.scan(start=("t", 1), stop=("t", 5))),
                list(part.scan(prefix=("t",), reverse=True, limit=2)),
                list(part.scan(prefix=("t",), limit=0)),
            ]

        with kvstore.open(":memory:", shards=1) as db:
            for number in range(1, 5):
                db["t", number] = number
            whole = [[["t", 1], 1], [["t", 3], "changed"], [["t", 4], 4], [["t", 5], "new"]]
            assert self.run(db, body, ("t",)) == [whole, whole[:3], [whole[3], whole[2]], []]

    def test_more_rows_than_are_read_at_once(self) -> None:
        def body(part: Part, _: Any) -> Any:
            return [[key[1] for key, _ in part.scan(prefix=("t",), reverse=way)] for way in (False, True)]

        with kvstore.open(":memory:", shards=1) as db:
            with db.batch() as batch:
                for number in range(1000):
                    batch.put(("t", number), None)
            assert self.run(db, body, ("t",)) == [list(range(1000)), list(reversed(range(1000)))]

    def test_is_over_when_the_body_is(self, db: Database) -> None:
        kept: list[Part] = []
        self.run(db, lambda part, _: kept.append(part))
        with pytest.raises(kvstore.Finished):
            kept[-1].get("k")
        with pytest.raises(kvstore.Finished):
            kept[-1].put("k", 1)

    def test_writes_what_belongs_to_another_shard_there(self, db: Database) -> None:
        keys = on_other_shards(db)

        def body(part: Part, _: Any) -> Any:
            return [part.add(key, number) for number, key in enumerate(keys)]

        register(body, *keys)
        results = db.call("p")
        assert [results[shard][shard] for shard in range(4)] == [0, 1, 2, 3]
        assert all(
            value is None for shard in range(4) for at, value in enumerate(results[shard]) if at != shard
        )
        assert db.get_many(keys) == [0, 1, 2, 3]

    def test_new_keys_below_a_prefix_land_on_their_own_shards(self, db: Database) -> None:
        def body(part: Part, _: Any) -> Any:
            for number in range(20):
                part.put(("t", number), number)
            return len(list(part.scan(prefix=("t",))))

        register(body, ("t",))
        assert sum(db.call("p").values()) == 20
        assert db.count(prefix=("t",)) == 20
        assert db.verify()["problems"] == []


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "touch",
        [
            lambda part: part["other"], lambda part: part.get("other"), lambda part: "other" in part,
            lambda part: part.put("other", 1), lambda part: part.delete("other"),
            lambda part: part.add("other"),
            lambda part: list(part.scan(prefix="k")), lambda part: list(part.scan()),
        ],
    )  # fmt: skip
    def test_a_key_that_was_not_declared_costs_nothing(self, db: Database, touch: Any) -> None:
        def body(part: Part, _: Any) -> None:
            part["k"] = 1
            touch(part)

        register(body, "k")
        with pytest.raises(kvstore.KeyNotDeclared) as caught:
            db.call("p")

        assert caught.value.shard == shard_of(db, "k")
        assert caught.value.key in {"other", "k", None}
        assert db.count() == 0

    def test_reading_a_key_of_another_shard(self, db: Database) -> None:
        first, second, *_ = on_other_shards(db)
        register(lambda part, _: part[second], first, second)
        with pytest.raises(kvstore.KeyNotDeclared, match="another shard") as caught:
            db.call("p")
        assert (caught.value.key, caught.value.shard) == (second, 0)

    def test_more_than_the_declared_prefix(self, db: Database) -> None:
        register(lambda part, _: list(part.scan(prefix=("t",))), ("t", 1))
        with pytest.raises(kvstore.KeyNotDeclared):
            db.call("p")

    def test_an_unknown_name(self, db: Database) -> None:
        with pytest.raises(kvstore.UnknownProcedure) as caught:
            db.call("nobody")
        assert caught.value.name == "nobody"

    def test_arguments_that_cannot_be_kept(self, db: Database) -> None:
        register(lambda part, _: 1, "k")
        with pytest.raises(kvstore.ValueNotSupported):
            db.call("p", object())

    def test_keys_that_are_none(self, db: Database) -> None:
        register(lambda part, _: 1, 5)  # type: ignore[arg-type]
        with pytest.raises(kvstore.KeyInvalid):
            db.call("p")

    def test_keys_that_cannot_be_named(self, db: Database) -> None:
        kvstore.procedure("p", keys=lambda args: [args["k"]])(lambda part, _: 1)
        kvstore.procedure("q", keys=lambda args: 5)(lambda part, _: 1)  # type: ignore[arg-type, return-value]
        for name, why in (("p", "KeyError: 'k'"), ("q", "TypeError")):
            with pytest.raises(kvstore.UsageError, match=f"the keys function of '{name}' raised {why}"):
                db.call(name, {})

    def test_a_body_that_would_not_be_over(self) -> None:
        async def coroutine(part: Part, args: Any) -> None: ...

        def generator(part: Part, args: Any) -> Iterator[int]:
            yield 1

        for body in (coroutine, generator):
            with pytest.raises(kvstore.BodyRefused):
                register(body, "k")

    def test_a_name_that_is_taken(self, db: Database) -> None:
        register(one, "k", name="taken")
        register(one, "k", name="taken")
        with pytest.raises(kvstore.UsageError, match=r"'taken' is two functions: .*one and .*two"):
            register(two, "k", name="taken")

        register(lambda part, _: 3, "k", name="taken")
        assert list(db.call("taken").values()) == [3], "one made inside a function replaces another"

    def test_names_and_keys_of_the_wrong_kind(self) -> None:
        with pytest.raises(kvstore.UsageError, match="name"):
            kvstore.procedure("", keys=lambda args: [])
        with pytest.raises(kvstore.UsageError, match="keys of 'p'"):
            kvstore.procedure("p", keys=["k"])  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "verb", ["get", "put", "scan", "snapshot", "batch", "call", "watch", "close", "compact"]
    )
    def test_calling_the_store_from_inside(self, db: Database, verb: str) -> None:
        arguments: dict[str, tuple[Any, ...]] = {"get": ("k",), "put": ("k", 1), "call": ("p",)}
        arguments["backup"] = ("nowhere",)
        register(lambda part, _: getattr(db, verb)(*arguments.get(verb, ())), "k")
        with pytest.raises(kvstore.NestedCall, match="'p'"):
            db.call("p")
        db.put("k", "still open")

    def test_a_store_that_is_only_read(self, tmp_path: Path) -> None:
        register(lambda part, _: 1, "k")
        kvstore.open(tmp_path / "s").close()
        with kvstore.open(tmp_path / "s", readonly=True) as db, pytest.raises(kvstore.ReadOnly):
            db.call("p")


class TestABodyThatRaises:
    @pytest.mark.parametrize(
        "error", [ValueError("no"), SystemExit(3), kvstore.TypeClash("t"), RecursionError()]
    )
    def test_leaves_its_part_without_effects_and_the_others_with_theirs(
        self, db: Database, error: Any
    ) -> None:
        keys = on_other_shards(db)

        def body(part: Part, bad: Any) -> None:
            for key in keys:
                part.put(key, 1)
            if part.shard == bad:
                raise error

        register(body, *keys)
        with pytest.raises(kvstore.ProcedureFailed, match=type(error).__name__) as caught:
            db.call("p", 2)

        assert (caught.value.name, caught.value.shard) == ("p", 2)
        assert db.get_many(keys) == [1, 1, None, 1]
        assert db.status()["procedures_failed"] == 1
        assert {change.key for change in db.watch(since=0, timeout=0)} == {*keys} - {keys[2]}
        db.call("p", None)
        assert db.get_many(keys) == [1, 1, 1, 1]

    def test_because_of_a_result_that_cannot_be_kept(self, db: Database) -> None:
        def body(part: Part, _: Any) -> Any:
            part["k"] = 1
            return object()

        register(body, "k")
        with pytest.raises(kvstore.ProcedureFailed, match="ValueNotSupported"):
            db.call("p")
        assert "k" not in db

    def test_because_of_an_add_to_what_is_no_number(self, db: Database) -> None:
        db["k"] = "text"
        register(lambda part, _: part.add("k"), "k")
        with pytest.raises(kvstore.ProcedureFailed, match="TypeClash"):
            db.call("p")

    def test_because_it_writes_too_much(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kvstore.execution.procedure_context.WRITTEN_BYTES_MAX", 1000)
        register(lambda part, _: part.put("k", bytes(1000)), "k")
        with pytest.raises(kvstore.ProcedureFailed, match="LimitExceeded"):
            db.call("p")

    def test_with_an_idempotency_key_fails_the_same_way_again(self, db: Database) -> None:
        def body(part: Part, _: Any) -> None:
            part.add("k", 1)
            if part["k"] > 1:
                raise ValueError("only once")

        register(body, "k")
        db.call("p", idempotency_key="first")
        for _ in range(2):
            db.call("p", idempotency_key="first")
            with pytest.raises(kvstore.ProcedureFailed):
                db.call("p", idempotency_key="second")
        assert db["k"] == 1


def test_an_idempotency_key_returns_the_first_results(db: Database) -> None:
    keys = on_other_shards(db)
    register(lambda part, args: [part.add(key, args) for key in part.keys], *keys)

    first = db.call("p", 2, idempotency_key="once")

    assert db.call("p", 2, idempotency_key="once") == first == {shard: [2] for shard in range(4)}
    assert db.get_many(keys) == [2] * 4
    with pytest.raises(kvstore.KeyReused):
        db.call("p", 3, idempotency_key="once")


def test_followers_run_it_too_and_come_to_the_same(tmp_path: Path) -> None:
    register(lambda part, _: [part.add(key, part.time % 1000) for key in part.keys], "a", "b", "c")
    with kvstore.open(tmp_path / "s", replicas=3) as db:
        for _ in range(20):
            db.call("p")
        expected = dict(db.scan())
    with kvstore.open(tmp_path / "s") as db:
        first, *others = (states_of(environment) for environment in environments_of(db).values())
        assert others == [first, first]
        assert dict(db.scan()) == expected


def states_of(environment: Environment) -> list[list[tuple[bytes, bytes]]]:
    """Return all stored values of one replica, by shard."""
    view = environment.view()
    tables = [view.table(table_name(ShardId(shard), REGISTERS)) for shard in range(4)]
    states = [table.scan(b"", b"\xff", limit=100) for table in tables]
    view.close()
    return states


MODULE = """
import kvstore

@kvstore.procedure("bank.settle", keys=lambda args: ["a", "b", "c", "d"])
def settle(part, args):
    for key in part.keys:
        part.add(key, args)
"""


def test_recovery_runs_again_what_only_the_log_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is killed with its followers one group behind; the opening needs the procedure, and says so."""
    (tmp_path / "bank.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    child = running.start("calling", tmp_path / "s", tmp_path)
    child.communicate(timeout=60)

    with pytest.raises(kvstore.UnknownProcedure, match=r"bank\.settle"):
        kvstore.open(tmp_path / "s")
    with kvstore.open(tmp_path / "s", procedures=["bank"]) as db:
        assert db.get_many(["a", "b", "c", "d"]) == [7] * 4
        assert db.verify()["problems"] == []
        db.call("bank.settle", 1)
    with kvstore.open(tmp_path / "s") as db:
        assert db["a"] == 8


def test_open_imports_modules_or_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bank_too.py").write_text(MODULE.replace("bank.", "bank_too."))
    monkeypatch.syspath_prepend(tmp_path)
    for modules in ("bank_too", ["bank_too"], [__import__("bank_too")], None, []):
        with kvstore.open(":memory:", procedures=modules) as db:
            db.call("bank_too.settle", 1)
    with pytest.raises(kvstore.UsageError, match="procedures are modules"):
        kvstore.open(":memory:", procedures=[5])  # type: ignore[list-item]
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        kvstore.open(tmp_path / "never", procedures=["no_such_module"])
    assert not (tmp_path / "never").exists()


def test_a_process_that_reads_sees_what_was_called(tmp_path: Path) -> None:
    register(lambda part, _: part.add("k", 1), "k")
    with kvstore.open(tmp_path / "s") as db:
        db.call("p")
        with Remote(tmp_path / "s", readonly=True) as reader:
            assert reader.call("get", "k") == 1

"""The tree of errors: each error is raised by its cause and described in docs/errors.md."""

from __future__ import annotations

import copy
import errno
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import errors
from tests.support.programs import running
from tests.support.programs.remote import Remote

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"

USAGE, OPEN, RETRY, DAMAGE = kvstore.UsageError, kvstore.OpenError, kvstore.RetryLater, kvstore.Damage

TREE: dict[str, tuple[tuple[type[Exception], ...], set[str]]] = {
    "KeyInvalid": ((USAGE, TypeError), {"key"}),
    "ValueNotSupported": ((USAGE, TypeError), {"place"}),
    "LimitExceeded": ((USAGE, ValueError), {"key", "size", "limit"}),
    "NotFound": ((USAGE, KeyError), {"key"}),
    "TypeClash": ((USAGE,), {"key"}),
    "Finished": ((USAGE,), set()),
    "Closed": ((USAGE,), set()),
    "Forked": ((USAGE,), {"path", "pid"}),
    "ReadOnly": ((USAGE,), {"path"}),
    "UnknownProcedure": ((USAGE,), {"name"}),
    "KeyNotDeclared": ((USAGE,), {"key", "shard"}),
    "NestedCall": ((USAGE,), set()),
    "BodyRefused": ((USAGE,), set()),
    "KeyReused": ((USAGE,), {"idempotency_key"}),
    "UnknownColor": ((USAGE,), {"color"}),
    "UnknownRegion": ((USAGE,), {"region"}),
    "DuplicateRegion": ((USAGE,), {"region"}),
    "ForeignSnapshot": ((USAGE,), set()),
    "BadLine": ((USAGE,), {"file", "line"}),
    "NoParent": ((OPEN,), {"path"}),
    "NotAStore": ((OPEN,), {"path"}),
    "WrongFormat": ((OPEN,), {"path", "found", "expected"}),
    "WrongShape": ((OPEN,), {"path", "name", "found", "expected"}),
    "Locked": ((OPEN,), {"path", "pid"}),
    "AlreadyOpen": ((OPEN,), {"path"}),
    "Conflict": ((RETRY,), {"key", "attempts"}),
    "TimedOut": ((RETRY, TimeoutError), set()),
    "SnapshotExpired": ((RETRY,), set()),
    "CursorTrimmed": ((RETRY,), {"oldest"}),
    "Behind": ((RETRY,), {"region"}),
    "HomeUnreachable": ((RETRY,), set()),
    "InsufficientRights": ((RETRY,), {"key", "region"}),
    "Corrupt": ((DAMAGE,), {"record"}),
    "Failed": ((DAMAGE,), set()),
    "DiskFull": ((DAMAGE, OSError), {"path"}),
    "Abort": ((kvstore.Error,), set()),
    "OutcomeUnknown": ((kvstore.Error,), set()),
    "ProcedureFailed": ((kvstore.Error,), {"name", "shard"}),
    "InsufficientFunds": ((kvstore.Error,), {"key"}),
}
"""Bases of each error, and the facts that it must carry, by name."""
GROUPS = {"Error", "UsageError", "OpenError", "RetryLater", "Damage"}


def all_errors() -> dict[str, type[kvstore.Error]]:
    classes = inspect.getmembers(errors, inspect.isclass)
    return {name: found for name, found in classes if issubclass(found, kvstore.Error)}


class TestTheTree:
    def test_it_is_complete_and_public(self) -> None:
        assert set(all_errors()) == TREE.keys() | GROUPS
        for name, found in all_errors().items():
            assert getattr(kvstore, name) is found
            assert name in kvstore.__all__
            assert found.__doc__, name

    @pytest.mark.parametrize("name", TREE)
    def test_each_error_is_in_its_group_and_carries_its_facts(self, name: str) -> None:
        bases, facts = TREE[name]
        kind = all_errors()[name]

        error = kind("what happened", hint="the way out", **dict.fromkeys(facts, "found"))

        assert issubclass(kind, bases)
        assert issubclass(kind, kvstore.Error)
        assert facts <= set(kind.facts)
        assert {getattr(error, fact) for fact in facts} <= {"found"}
        assert all(getattr(kind("without facts"), fact) is None for fact in facts)
        assert str(error) == "what happened (the way out)"
        assert error.hint == "the way out"

    @pytest.mark.parametrize("name", TREE)
    def test_a_copy_has_the_same_text_and_facts(self, name: str) -> None:
        """Copies of errors cross threads and, pickled, processes."""
        facts = dict.fromkeys(TREE[name][1], "found")
        error = all_errors()[name]("what happened", hint="the way out", **facts)

        twin = copy.copy(error)

        assert twin is not error
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)

    def test_groups_do_not_overlap(self) -> None:
        groups = (USAGE, OPEN, RETRY, DAMAGE)
        for name in TREE:
            assert sum(issubclass(all_errors()[name], group) for group in groups) <= 1

    def test_each_error_has_a_row_in_the_page(self) -> None:
        rows = re.findall(r"^\|\s*`(\w+)[^|]*\|(.+)\|\s*$", PAGE.read_text(), re.MULTILINE)
        described = {name: text.strip(" |") for name, text in rows}

        assert TREE.keys() - described.keys() == set()
        assert described.keys() - TREE.keys() - GROUPS == set()
        assert all(described.values())


class Raised:
    """The cause of each error. A method has the name of the error that it raises."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "store"

    def store(self, **options: Any) -> kvstore.Database:
        return kvstore.open(self.path, **options)

    def KeyInvalid(self) -> None:
        with self.store() as db:
            db.put(5, "x")  # type: ignore[arg-type]

    def ValueNotSupported(self) -> None:
        with self.store() as db:
            db.put("k", {"lines": {1}})

    def LimitExceeded(self) -> None:
        with self.store() as db:
            db.put("k" * 500, 1)

    def NotFound(self) -> None:
        with self.store() as db:
            db["missing"]

    def TypeClash(self) -> None:
        with self.store() as db:
            db.put("k", "text")
            db.add("k", 1)

    def Finished(self) -> None:
        with self.store() as db:
            batch = db.batch()
            db.submit(batch)
            batch.put("k", 1)

    def Closed(self) -> None:
        db = self.store()
        db.close()
        db.get("k")

    def ReadOnly(self) -> None:
        self.store().close()
        with self.store(readonly=True) as db:
            db.put("k", 1)

    def KeyReused(self) -> None:
        with self.store() as db:
            db.put("k", 1, idempotency_key="once")
            db.put("k", 2, idempotency_key="once")

    def NoParent(self) -> None:
        kvstore.open(self.folder / "missing" / "store")

    def NotAStore(self) -> None:
        kvstore.open(self.path, create=False)

    def WrongFormat(self) -> None:
        self.store().close()
        manifest = self.path / "replica-0" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
        self.store()

    def WrongShape(self) -> None:
        self.store(shards=2).close()
        self.store(shards=3)

    def Locked(self) -> None:
        with Remote(self.path):
            self.store()

    def AlreadyOpen(self) -> None:
        with self.store():
            self.store()

    def Conflict(self) -> None:
        with self.store() as db:
            db.put("k", 1)
            db.put("k", 1, if_absent=True)

    def SnapshotExpired(self) -> None:
        with self.store(snapshot_lifetime=1e-6) as db, db.snapshot() as view:
            view.get("k")

    def Corrupt(self) -> None:
        self.store().close()
        (self.path / "replica-0" / "data.mdb").write_bytes(b"garbage" * 1000)
        self.store()


class TestEachIsRaised:
    @pytest.mark.parametrize("name", [name for name in vars(Raised) if name in TREE])
    def test_by_what_causes_it_with_a_message_and_its_facts(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(all_errors()[name]) as raised:
            getattr(Raised(tmp_path), name)()

        assert type(raised.value) is all_errors()[name]
        assert str(raised.value)
        if name != "LimitExceeded":  # it carries only the facts that its limit is about
            given = {fact for fact in TREE[name][1] if getattr(raised.value, fact) is not None}
            assert given == TREE[name][1]

    @pytest.mark.parametrize(
        ("name", "scenario"),
        [("DiskFull", "limit"), ("OutcomeUnknown", "failing"), ("Failed", "failing"), ("Forked", "fork")],
    )
    def test_by_a_process_in_trouble(self, tmp_path: Path, name: str, scenario: str) -> None:
        said = running.run("troubled", scenario, tmp_path / "store").splitlines()

        assert name in [line.split()[0] for line in said]

    def test_by_a_malformed_line_of_csv_with_file_and_line(self, tmp_path: Path) -> None:
        (tmp_path / "bad.csv").write_text("id,name\n1,one\n2\n")
        kvstore.open(tmp_path / "store").close()
        command = ["import", str(tmp_path / "store"), str(tmp_path / "bad.csv"), "--key", "id"]

        done = subprocess.run([sys.executable, "-m", "kvstore", *command], capture_output=True, text=True)

        assert done.returncode != 0
        assert "bad.csv" in done.stderr
        assert "3" in done.stderr
        with kvstore.open(tmp_path / "store") as db:
            assert db.count() == 0

    def test_the_groups_that_python_knows_catch_them(self, tmp_path: Path) -> None:
        catches: list[tuple[type[Exception], Callable[[], None]]] = [
            (KeyError, Raised(tmp_path).NotFound),
            (TypeError, Raised(tmp_path).KeyInvalid),
            (TypeError, Raised(tmp_path).ValueNotSupported),
            (ValueError, Raised(tmp_path).LimitExceeded),
        ]
        for kind, cause in catches:
            with pytest.raises(kind):
                cause()

    def test_a_full_disk_has_the_number_that_programs_look_for(self) -> None:
        error = kvstore.DiskFull("full", path="x", free=1, needed=2)

        assert (error.errno, error.free, error.needed) == (errno.ENOSPC, 1, 2)
        assert isinstance(error, OSError)

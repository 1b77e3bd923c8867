"""Any sequence of batches, views, aborts and reopenings: an environment behaves like a dict and two lists."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kvstore.ports import CommitView, Environment, Head, WriteBatch
from tests.support.media import KINDS, Medium, make_medium

TABLES = (b"aaa", b"aab", b"\xff\xff\xff")
LOGS = (b"aaa", b"aac")
ALL = 1 << 20

Rows = dict[bytes, bytes]
keys = st.binary(max_size=3) | st.sampled_from([b"k" * 507, b"\xff" * 507])
values = st.binary(max_size=40) | st.integers(1, 30_000).map(bytes)
tables = st.sampled_from(TABLES)
logs = st.sampled_from(LOGS)


class State:
    """The contents of all tables and logs: the model of one commit."""

    def __init__(self) -> None:
        self.tables: dict[bytes, Rows] = {name: {} for name in TABLES}
        self.logs: dict[bytes, dict[int, bytes]] = {name: {} for name in LOGS}
        self.heads: dict[bytes, Head] = dict.fromkeys(LOGS, (1, 0, 0))

    def copy(self) -> State:
        twin = State()
        twin.tables = {name: dict(rows) for name, rows in self.tables.items()}
        twin.logs = {name: dict(records) for name, records in self.logs.items()}
        twin.heads = dict(self.heads)
        return twin


class History(RuleBasedStateMachine):
    """One environment and its model. ``batch`` is open exactly while ``staged`` is not None."""

    kind = ""
    views = Bundle("views")

    @initialize()
    def begin_life(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.medium: Medium = make_medium(self.kind, Path(self.folder.name), self.patch)
        self.environment: Environment = self.medium.open()
        self.committed = State()
        self.staged: State | None = None
        self.batch: WriteBatch | None = None
        self.open_views: list[CommitView] = []

    def model(self) -> State:
        assert self.staged is not None
        return self.staged

    # -- batches -----------------------------------------------------------------------------

    @precondition(lambda self: self.batch is None)
    @rule()
    def begin(self) -> None:
        self.batch = self.environment.begin()
        self.staged = self.committed.copy()

    @precondition(lambda self: self.batch is not None)
    @rule()
    def commit(self) -> None:
        assert self.batch is not None
        self.batch.commit()
        self.committed, self.staged, self.batch = self.model(), None, None

    @precondition(lambda self: self.batch is not None)
    @rule()
    def abort(self) -> None:
        assert self.batch is not None
        self.batch.abort()
        self.staged = self.batch = None

    @precondition(lambda self: self.batch is not None)
    @rule(name=tables, key=keys, value=values)
    def put(self, name: bytes, key: bytes, value: bytes) -> None:
        self.environment.table(name).put(key, value)
        self.model().tables[name][key] = value

    @precondition(lambda self: self.batch is not None)
    @rule(name=tables, key=keys)
    def delete(self, name: bytes, key: bytes) -> None:
        self.environment.table(name).delete(key)
        self.model().tables[name].pop(key, None)

    @precondition(lambda self: self.batch is not None)
    @rule(name=tables, key=keys)
    def get_in_batch(self, name: bytes, key: bytes) -> None:
        assert self.environment.table(name).get(key) == self.model().tables[name].get(key)

    @precondition(lambda self: self.batch is not None)
    @rule(name=tables, bounds=st.tuples(keys, keys), limit=st.integers(0, 5), reverse=st.booleans())
    def scan_in_batch(self, name: bytes, bounds: tuple[bytes, bytes], limit: int, *, reverse: bool) -> None:
        found = self.environment.table(name).scan(*bounds, reverse=reverse, limit=limit)
        assert found == within(self.model().tables[name], bounds, limit, reverse)

    # -- logs --------------------------------------------------------------------------------

    @precondition(lambda self: self.batch is not None)
    @rule(name=logs, records=st.lists(values, min_size=1, max_size=4))
    def append(self, name: bytes, records: list[bytes]) -> None:
        log = self.environment.log(name, self.model().heads[name])
        for record in records:
            log.append(log.last + 1, record)
            self.model().logs[name][log.last] = record
        self.model().heads[name] = log.head

    @precondition(lambda self: self.batch is not None)
    @rule(name=logs, data=st.data(), record=values)
    def replace(self, name: bytes, data: st.DataObject, record: bytes) -> None:
        records = self.model().logs[name]
        if records:
            log = self.environment.log(name, self.model().heads[name])
            index = data.draw(st.sampled_from(sorted(records)))
            log.replace(index, record)
            records[index] = record
            self.model().heads[name] = log.head

    @precondition(lambda self: self.batch is not None)
    @rule(name=logs, index=st.integers(0, 12), count=st.integers(0, 4))
    def truncate(self, name: bytes, index: int, count: int) -> None:
        records = self.model().logs[name]
        log = self.environment.log(name, self.model().heads[name])
        gone = [at for at in sorted(records) if at < index][:count]
        assert log.truncate_before(index, count) == len(gone)
        for at in gone:
            del records[at]
        self.model().heads[name] = log.head

    @precondition(lambda self: self.batch is not None)
    @rule(name=logs, first=st.integers(0, 12), count=st.integers(0, 5))
    def read_log_in_batch(self, name: bytes, first: int, count: int) -> None:
        log = self.environment.log(name, self.model().heads[name])
        assert log.read(first, count) == part(self.model().logs[name], log.first, first, count)
        log.check_end()

    # -- views -------------------------------------------------------------------------------

    @rule(target=views)
    def open_view(self) -> tuple[CommitView, State]:
        view = self.environment.view()
        self.open_views.append(view)
        return view, self.committed.copy()

    @rule(seen=consumes(views))
    def look_at_everything_and_close(self, seen: tuple[CommitView, State]) -> None:
        view, state = seen
        if view in self.open_views:
            for name in TABLES:
                rows = view.table(name).scan(b"", b"\xff" * 508, limit=ALL)
                assert rows == sorted(state.tables[name].items())
            for name in LOGS:
                assert view.log(name, state.heads[name]).read(0, ALL) == sorted(state.logs[name].items())
            assert list(view.problems()) == []
            self.open_views.remove(view)
            view.close()

    @rule(seen=views, name=tables, key=keys)
    def get_in_view(self, seen: tuple[CommitView, State], name: bytes, key: bytes) -> None:
        view, state = seen
        if view in self.open_views:
            assert view.table(name).get(key) == state.tables[name].get(key)

    @rule(name=tables, key=keys)
    def read(self, name: bytes, key: bytes) -> None:
        assert self.environment.read(name, key) == self.committed.tables[name].get(key)

    # -- the medium --------------------------------------------------------------------------

    @rule()
    def sync(self) -> None:
        if self.batch is None:
            self.environment.sync()

    @precondition(lambda self: self.batch is None)
    @rule()
    def reopen(self) -> None:
        for view in self.open_views:
            view.close()
        self.open_views.clear()
        self.environment.close()
        self.environment = self.medium.open()

    @invariant()
    def nothing_failed(self) -> None:
        if hasattr(self, "environment"):
            assert self.environment.failure is None
            assert self.environment.suspicion is None

    def teardown(self) -> None:
        if hasattr(self, "environment"):
            for view in self.open_views:
                view.close()
            if self.batch is not None:
                self.batch.abort()
            self.environment.close()
            self.patch.undo()
            self.folder.cleanup()


def within(rows: Rows, bounds: tuple[bytes, bytes], limit: int, reverse: bool) -> list[tuple[bytes, bytes]]:
    inside = [(key, rows[key]) for key in sorted(rows, reverse=reverse) if bounds[0] <= key < bounds[1]]
    return inside[:limit]


def part(records: dict[int, bytes], begin: int, first: int, count: int) -> list[tuple[int, bytes]]:
    first = max(first, begin)
    return [(at, records[at]) for at in sorted(records) if first <= at < first + count]


@pytest.mark.parametrize("kind", KINDS)
def test_an_environment_is_a_dict_and_some_lists(kind: str) -> None:
    class OneKind(History):
        pass

    OneKind.kind = kind
    run_state_machine_as_test(
        OneKind, settings=settings(max_examples=40, stateful_step_count=40, deadline=None)
    )

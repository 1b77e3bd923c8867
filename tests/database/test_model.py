"""The store against a dict: both agree after all steps and reopenings."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import kvstore
from kvstore import Database
from kvstore.keys import encode

ELEMENTS = st.sampled_from(["a", "ab", "b", "", b"a", 0, 1, -1, 1.0, True, None])
KEYS = st.one_of(
    st.sampled_from(["a", "ab", "b", "\x00", "\x7f", b"a", b"\xff"]),
    st.lists(ELEMENTS, min_size=1, max_size=2).map(tuple),
)
NUMBERS = st.one_of(st.integers(-10, 10), st.sampled_from([1 << 63, 1 << 64, -(1 << 70), 0.5]))
VALUES = st.one_of(NUMBERS, st.sampled_from([None, "text", b"bytes", [1, [2]], {"k": 1}, True]))
BOUNDS = st.one_of(st.none(), KEYS)
LIMITS = st.one_of(st.none(), st.integers(0, 6))


def is_number(value: object) -> bool:
    return type(value) in {int, float}


class StoreAndDict(RuleBasedStateMachine):
    """Keys are few, so that steps share keys; the model holds ``(key, value)`` by encoded key."""

    @initialize(replicas=st.sampled_from([1, 3]), shards=st.sampled_from([1, 4, 7]), on_disk=st.booleans())
    def create(self, replicas: int, shards: int, on_disk: bool) -> None:
        self.folder = Path(tempfile.mkdtemp()) if on_disk else None
        self.path = ":memory:" if self.folder is None else str(self.folder / "store")
        self.model: dict[bytes, tuple[Any, Any]] = {}
        self.db = self.open(shards=shards, replicas=replicas)
        self.requests = 0

    def open(self, **shape: int) -> Database:
        # A small retention, so that logs are truncated while the machine runs.
        return kvstore.open(self.path, durability="none", watch_retention=1000, **shape)  # type: ignore[arg-type]

    def teardown(self) -> None:
        if hasattr(self, "db"):
            verified = self.db.verify()
            self.db.close()
            if self.folder is not None:
                shutil.rmtree(self.folder)
            assert verified["ok"], verified

    def value(self, key: Any, default: Any = None) -> Any:
        return self.model.get(encode(key), (key, default))[1]

    def remember(self, key: Any, value: Any) -> None:
        self.model[encode(key)] = (key, value)

    def forget(self, key: Any) -> None:
        self.model.pop(encode(key), None)

    @rule()
    def reopen(self) -> None:
        if self.folder is not None:
            self.db.close()
            self.db = self.open()

    @rule(key=KEYS, value=VALUES)
    def put(self, key: Any, value: Any) -> None:
        self.db.put(key, value)
        self.remember(key, value)

    @rule(key=KEYS, value=VALUES)
    def put_if_absent(self, key: Any, value: Any) -> None:
        if encode(key) in self.model:
            with pytest.raises(kvstore.Conflict):
                self.db.put(key, value, if_absent=True)
        else:
            self.db.put(key, value, if_absent=True)
            self.remember(key, value)

    @rule(key=KEYS, value=VALUES, stale=st.booleans())
    def put_if_version(self, key: Any, value: Any, stale: bool) -> None:
        version = self.db.version(key)
        assert (version is not None) == (encode(key) in self.model)
        if version is not None and not stale:
            self.db.put(key, value, if_version=version)
            self.remember(key, value)
        else:
            with pytest.raises(kvstore.Conflict):
                self.db.put(key, value, if_version=(version or 0) + 1)

    @rule(key=KEYS, must_exist=st.booleans())
    def delete(self, key: Any, must_exist: bool) -> None:
        if not must_exist:
            self.db.delete(key)
        elif encode(key) in self.model:
            del self.db[key]
        else:
            with pytest.raises(kvstore.NotFound):
                del self.db[key]
        self.forget(key)

    @rule(key=KEYS, amount=NUMBERS, with_key=st.booleans())
    def add(self, key: Any, amount: Any, with_key: bool) -> None:
        before = self.value(key, 0)
        if not is_number(before):
            with pytest.raises(kvstore.TypeClash):
                self.db.add(key, amount)
            return
        self.requests += 1
        request = ("add", self.requests) if with_key else None
        first = self.db.add(key, amount, idempotency_key=request)
        again = self.db.add(key, amount, idempotency_key=request) if with_key else first
        assert (type(first), first, again) == (type(before + amount), before + amount, first)
        self.remember(key, first)

    @rule(
        steps=st.lists(st.tuples(st.sampled_from(["put", "add", "delete"]), KEYS, NUMBERS), max_size=8),
        submitted=st.booleans(),
        interrupted=st.booleans(),
    )
    def batch(self, steps: list[tuple[str, Any, Any]], submitted: bool, interrupted: bool) -> None:
        batch, saved = self.db.batch(), dict(self.model)
        for name, key, number in steps:
            if name == "put":
                batch.put(key, number)
                self.remember(key, number)
            elif name == "delete":
                batch.delete(key)
                self.forget(key)
            elif is_number(self.value(key, 0)):
                batch.add(key, number)
                self.remember(key, self.value(key, 0) + number)
        if interrupted:
            with pytest.raises(InterruptedError), batch:
                raise InterruptedError
            self.model = saved
        elif submitted:
            self.db.submit(batch).result(timeout=60)
        else:
            with batch:
                pass

    @rule(start=BOUNDS, stop=BOUNDS, reverse=st.booleans(), limit=LIMITS)
    def scan_between(self, start: Any, stop: Any, reverse: bool, limit: int | None) -> None:
        low = b"" if start is None else encode(start)
        high = b"\xff" * 500 if stop is None else encode(stop)
        expected = [self.model[key] for key in sorted(self.model, reverse=reverse) if low <= key < high]

        assert list(self.db.scan(start=start, stop=stop, reverse=reverse, limit=limit)) == expected[:limit]
        assert self.db.count(start=start, stop=stop) == len(expected)

    @rule(prefix=KEYS, reverse=st.booleans())
    def scan_prefix(self, prefix: Any, reverse: bool) -> None:
        def matches(key: Any) -> bool:
            if type(key) is not type(prefix):
                return False
            if isinstance(prefix, tuple):
                head = key[: len(prefix)]
                return len(key) >= len(prefix) and encode(head) == encode(prefix)
            return bool(key.startswith(prefix))

        rows = [self.model[key] for key in sorted(self.model, reverse=reverse)]
        expected = [(key, value) for key, value in rows if matches(key)]

        assert list(self.db.scan(prefix=prefix, reverse=reverse)) == expected
        assert self.db.count(prefix=prefix) == len(expected)

    @rule(keys=st.lists(KEYS, max_size=5))
    def read(self, keys: list[Any]) -> None:
        expected = [self.value(key, "nothing") for key in keys]

        with self.db.snapshot() as view:
            assert self.db.get_many(keys, "nothing") == view.get_many(keys, "nothing") == expected
        assert [self.db.get(key, "nothing") for key in keys] == expected
        assert [key in self.db for key in keys] == [encode(key) in self.model for key in keys]

    @invariant()
    def nothing_is_left_open(self) -> None:
        if hasattr(self, "db"):
            assert self.db.status()["snapshots"]["open"] == 0


StoreAndDict.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStoreAndDict = StoreAndDict.TestCase

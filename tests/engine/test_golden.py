"""A stored example of format 1: this version must read all of it.

``tests/data/golden-format-1`` is never written by a newer version; ``tests/data/make_golden.py`` made it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import kvstore

GOLDEN = Path(__file__).parents[1] / "data" / "golden-format-1"
PAID, PAYER, PAYEE = ("paid", 4711), ("account", "alice"), ("account", "carol")
"""Payment in the store: its idempotency key, and two accounts on different shards."""

VALUES: list[Any] = [
    None, True, False,
    0, 1, -1, 127, 128, -32, -33, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63),
    2**64, -(2**63) - 1, 10**100, -(10**100),
    0.0, -0.0, 1.5, -1e300, float("inf"), float("-inf"), float("nan"),
    "", "text", "žluťoučký kůň 🐍", "nul\x00inside", "long " * 1000,
    b"", b"\x00\xff", bytes(range(256)),
    [], {}, [None, [1, [2.5, ["x", b"y"]]]],
    {"a": 1, b"b": 2, 3: [4], 5.5: 6, True: 7, None: {"deep": {"deeper": 2**70}}},
]  # fmt: skip
"""Values in the store, each at the key ("value", its index)."""

KEYS: list[kvstore.Key] = [
    "plain", "žluťoučký", "nul\x00inside", "\x00", b"bytes", b"\x00\xff", b"\xff" * 100, "k" * 477,
    ("one",), ("", b"", 0), ("ints", -(2**64), -(2**63), -256, -1, 0, 1, 255, 256, 2**63, 2**64 - 1, 2**64),
    ("long ints", -(2**1000), 2**1000), ("floats", float("-inf"), -1.5, -0.0, 0.0, 1.5, float("inf")),
    ("singles", None, False, True), ("uuid", UUID("12345678-1234-5678-1234-567812345678")),
    ("nested", (), ("in", (None, b"deeper\x00", ("deepest",)), None), "out"), (None,), (False,), (1,), (1.0,),
]  # fmt: skip
"""Keys in the store, each with its index in this list as value."""

VERSIONS_OF_VALUES: list[int] = [
    1, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 8, 9, 8, 9, 10, 11, 10, 11, 12, 13, 12, 13, 14, 15,
    14, 15, 16, 17, 16, 17, 18, 19, 18, 19,
]  # fmt: skip
VERSIONS_OF_KEYS: list[int] = [
    24, 23, 24, 23, 24, 23, 23, 24, 24, 23, 23, 23, 24, 23, 23, 24, 23, 24, 24, 23,
]  # fmt: skip
"""Versions of the values and of the keys, in order, as ``make_golden.py`` printed them."""


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """Return a copy of the store, because opening a store writes to it."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden.db"))


@pytest.fixture(params=["writing", "reading"])
def db(request: pytest.FixtureRequest, golden: Path) -> Iterator[kvstore.Database]:
    with kvstore.open(golden, readonly=request.param == "reading") as db:
        yield db


def test_it_is_whole(db: kvstore.Database) -> None:
    assert db.verify()["problems"] == []
    assert db.status()["healthy"]
    assert db.status()["repaired"] == []
    assert (db.status()["format"], db.status()["shards"], db.status()["replicas"]) == (1, 2, 1)


@pytest.mark.parametrize("place", range(len(VALUES)))
def test_every_value_is_what_it_was(db: kvstore.Database, place: int) -> None:
    assert repr(db["value", place]) == repr(VALUES[place])
    assert db.version(("value", place)) == VERSIONS_OF_VALUES[place]


@pytest.mark.parametrize("place", range(len(KEYS)))
def test_every_key_is_found(db: kvstore.Database, place: int) -> None:
    assert db[KEYS[place]] == place
    assert db.version(KEYS[place]) == VERSIONS_OF_KEYS[place]


def test_every_key_comes_back_as_it_was_put_and_in_its_order(db: kvstore.Database) -> None:
    others: list[kvstore.Key] = ["overwritten", "counter", PAYER, PAYEE]
    places: list[kvstore.Key] = [("value", place) for place in range(len(VALUES))]

    found = [key for key, _ in db.scan()]

    assert sorted(map(repr, found)) == sorted(map(repr, [*KEYS, *others, *places]))
    assert [key for key in found if isinstance(key, bytes)] == [b"\x00\xff", b"bytes", b"\xff" * 100]
    assert [key for key in found if key in places] == places
    assert [repr(key) for key in found[-3:]] == ["(1,)", "(1.0,)", "(False,)"]


def test_what_became_of_writes_over_writes(db: kvstore.Database) -> None:
    assert db["overwritten"] == "new"
    assert "removed" not in db
    assert db["counter"] == 1.5


def test_a_payment_that_is_repeated_is_not_made_again(golden: Path) -> None:
    with kvstore.open(golden) as db:
        with db.batch(idempotency_key=PAID) as payment:
            payment.add(PAYER, -70)
            payment.add(PAYEE, 70)

        assert db.get_many([PAYER, PAYEE]) == [-70, 70]


def test_its_log_folds_to_its_state(db: kvstore.Database) -> None:
    state: dict[str, Any] = {}  # by repr, because (1,) and (1.0,) are one key of a dict
    for change in db.watch(since=0, timeout=0):
        state[repr(change.key)] = change.value
        if change.deleted:
            del state[repr(change.key)]
    assert repr(sorted(state.items())) == repr(sorted((repr(key), value) for key, value in db.scan()))


def test_it_can_be_written_to(golden: Path) -> None:
    with kvstore.open(golden) as db:
        with db.batch() as batch:
            for place, key in enumerate(KEYS):
                batch.add(key, place)
        db.delete(("value", 0))

    with kvstore.open(golden) as db:
        assert [db[key] for key in KEYS] == [2 * place for place in range(len(KEYS))]
        assert ("value", 0) not in db
        assert db.verify()["problems"] == []

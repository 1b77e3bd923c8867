"""Damaged files: a read returns the right value or an error that names the record, never a wrong value.

With three replicas nothing is lost, whatever the damage does to the first process that reads it: what a
majority holds is there at the next opening, or the one after. The method is described in
``tests/support/programs/flipper.py``.

``KVSTORE_FLIPS`` is the number of single bits flipped on one replica, and half as many on three; 70 by
default.
``KVSTORE_CUTS`` is the number of lengths to which a small file is truncated; 20 by default, and at most
every length.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import lmdb
import pytest

import kvstore
from kvstore.storage.records import LOG, TABLE
from tests.support.pages import KINDS
from tests.support.programs import flipper, running

FLIPS = int(os.environ.get("KVSTORE_FLIPS", "70"))
CUTS = int(os.environ.get("KVSTORE_CUTS", "20"))
CRASHES_MAX = 0.1
"""Share of flips that may crash the process: LMDB itself follows damaged page pointers (contracts B4)."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a closed store, which tests must not change."""
    path = tmp_path_factory.mktemp("damage") / "store"
    flipper.create(path)
    return path


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """Return a copy of the closed store, for tests to damage."""
    return shutil.copytree(store, tmp_path / "copy")


def data_of(path: Path) -> Path:
    return path / "replica-0" / "data.mdb"


def outcomes_of(store: Path, folder: Path, seeds: list[str], flips: int) -> Counter[str]:
    """Flip ``flips`` bits, in one process per seed; return the outcomes, none of which may be wrong."""
    children = [running.start("flipper", store, folder / seed, seed, flips // len(seeds)) for seed in seeds]
    said = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0] * len(seeds), said
    lines = [line for out, _ in said for line in out.splitlines()]
    assert [line for line in lines if line.startswith("wrong")] == []
    outcomes = Counter(word for line in lines for word in line.split()[:2])
    assert outcomes["crash"] <= CRASHES_MAX * flips, [line for line in lines if line.startswith("crash")]
    return outcomes


def test_a_flipped_bit_never_shows_as_a_wrong_or_missing_value(store: Path, tmp_path: Path) -> None:
    outcomes = outcomes_of(store, tmp_path, ["one", "two"], FLIPS)

    assert outcomes["error"] > FLIPS // 8, "much of the file is in use"
    assert outcomes["right"] > 0
    assert_every_kind_was_hit(outcomes)


def assert_every_kind_was_hit(outcomes: Counter[str]) -> None:
    assert {kind for kind in KINDS if not outcomes[kind.replace(" ", "-")]} == set()


@pytest.mark.timeout(120 + 2 * FLIPS)
def test_with_three_replicas_a_flipped_bit_loses_nothing_whatever_it_does(tmp_path: Path) -> None:
    """The program asserts that: it opens the store until every record is there."""
    flipper.create(tmp_path / "store", replicas=3)

    outcomes = outcomes_of(tmp_path / "store", tmp_path, ["one", "two"], FLIPS // 2)

    assert outcomes["error"] > 0
    assert_every_kind_was_hit(outcomes)


def test_a_page_that_says_it_is_another_kind_is_an_error_of_the_store(store: Path, tmp_path: Path) -> None:
    assert outcomes_of(store, tmp_path, ["headers"], 60)["error"] > 10


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95])
def test_a_file_that_was_cut_short_is_an_error_and_not_the_end_of_the_process(
    store: Path, tmp_path: Path, share: float
) -> None:
    end = flipper.used_bytes(store)
    for length in (int(end * share), int(end * share) // 4096 * 4096):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy = shutil.copytree(store, tmp_path / "copy")
        with data_of(copy).open("r+b") as file:
            file.truncate(length)

        for readonly in (True, False):
            with pytest.raises(kvstore.Corrupt) as raised:
                kvstore.open(copy, readonly=readonly)
            assert "replica-0" in raised.value.record
            assert data_of(copy).stat().st_size == length


def test_a_small_store_that_was_cut_anywhere_is_an_error_or_whole(tmp_path: Path) -> None:
    """The store is whole if only pages are missing that were never written."""
    with kvstore.open(tmp_path / "store", shards=1) as db:
        for number in range(20):
            db.put(("key", number), "x" * 300)
    size = data_of(tmp_path / "store").stat().st_size
    for length in sorted(random.Random(3).sample(range(size), min(CUTS, size))):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy = shutil.copytree(tmp_path / "store", tmp_path / "copy")
        os.truncate(data_of(copy), length)

        try:
            with kvstore.open(copy, readonly=True) as db:
                assert db.count() == 20
                assert db.verify()["ok"]
        except kvstore.Corrupt as corrupt:
            assert "replica-0" in corrupt.record


@pytest.mark.parametrize("content", [b"", b"x", b"garbage" * 10_000, bytes(1 << 16)], ids=len)
def test_a_file_of_something_else_is_refused(copy: Path, content: bytes) -> None:
    data_of(copy).write_bytes(content)

    for readonly in (True, False):
        with pytest.raises(kvstore.Corrupt):
            kvstore.open(copy, readonly=readonly)
        assert data_of(copy).read_bytes() == content


class TestVerify:
    def test_it_finds_a_planted_flip_and_names_the_record(self, copy: Path) -> None:
        with kvstore.open(copy, durability="none", watch_retention=0) as db:
            db.put("victim", "a value that can be found")
        raw = bytearray(data_of(copy).read_bytes())
        at = [index for index in range(len(raw)) if raw.startswith(b"a value that can be found", index)]
        for index in at:  # in the state and in the log
            raw[index + 3] ^= 4
        data_of(copy).write_bytes(raw)

        with kvstore.open(copy, readonly=True) as db:
            found = db.verify()
            with pytest.raises(kvstore.Corrupt) as raised:
                db["victim"]

        assert not found["ok"]
        assert b"victim".hex() in str(found["problems"])
        assert b"victim".hex() in raised.value.record

    @pytest.mark.parametrize("writing", [False, True])
    @pytest.mark.parametrize("room", [TABLE, LOG], ids=["table", "log"])
    def test_it_finds_a_record_that_was_removed(self, copy: Path, room: bytes, writing: bool) -> None:
        with kvstore.open(copy, durability="none") as db:
            for number in range(20):
                db.put(("late", number), number)
        remove_one(copy, room)

        try:
            for _ in range(2):  # a missing record stays missing over an opening and a close
                with kvstore.open(copy, readonly=not writing) as db:
                    found = db.verify()
                    assert not found["ok"]
                    assert found["problems"]
        except kvstore.Corrupt as corrupt:
            assert "replica-0" in str(corrupt)

    def test_it_finds_records_that_another_program_put_there(self, copy: Path) -> None:
        with (
            lmdb.open(str(copy / "replica-0"), lib_version=0) as environment,
            environment.begin(write=True) as txn,
        ):
            txn.put(TABLE + b"\x00\x00\x00" + b"foreign", b"value")

        with kvstore.open(copy, readonly=True) as db:
            assert not db.verify()["ok"]


def remove_one(path: Path, room: bytes) -> None:
    """Remove an inner record of the tables with this prefix directly in LMDB, as no store does."""
    randomly = random.Random(5)
    with (
        lmdb.open(str(path / "replica-0"), lib_version=0) as environment,
        environment.begin(write=True) as txn,
    ):
        keys = [bytes(key) for key, _ in txn.cursor() if key[:1] == room and key[1:3] != b"\xff\xff"]
        assert len(keys) > 3
        txn.delete(randomly.choice(keys[1:-1]))


def test_a_damaged_record_does_not_keep_others_from_being_read_or_written(copy: Path) -> None:
    with kvstore.open(copy, durability="none", watch_retention=0) as db:
        db.put("victim", "a value that can be found")
        for number in range(300):  # until the log is truncated beyond it
            db.put(("later", number), number)
    raw = bytearray(data_of(copy).read_bytes())
    for index in range(len(raw)):
        if raw.startswith(b"a value that can be found", index):
            raw[index] ^= 1
    data_of(copy).write_bytes(raw)

    with kvstore.open(copy) as db:
        with pytest.raises(kvstore.Corrupt):
            db["victim"]
        assert db[("key", 1)] == flipper.content()[("key", 1)]
        db.put("other", 1)
        assert db["other"] == 1
        db.put("victim", "written anew")
        assert db["victim"] == "written anew"

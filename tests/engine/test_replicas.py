"""Three replicas: whatever happens to one folder, the store opens, reports it, and loses nothing.

Each kind of damage is done to every replica in turn, the learner included, each time to a whole store.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

import kvstore
from kvstore import Database
from kvstore.storage.records import COUNT_KEY
from tests.support.inside import manifest_of
from tests.support.programs.remote import Remote

REPLICAS = 3
Content = dict[kvstore.Key, Any]
Harm = Callable[[Path], object]
"""Function that damages one replica's folder."""


def write(db: Database, generation: int, count: int = 60) -> None:
    """Write overwrites, deletes and batches over all shards."""
    for number in range(count):
        with db.batch() as batch:
            batch.put(("k", number % 60), [generation, number])
            batch.add(("sum", number % 3), number)
            batch.delete(("k", (number * 7 + generation) % 60))
    db.put(("generation", generation), "x" * 3000)


def a_store(path: Path, **options: Any) -> Content:
    """Make a closed store with some history; return its content."""
    with kvstore.open(path, shards=3, replicas=REPLICAS, durability="none", **options) as db:
        write(db, 0)
        return dict(db.scan())


def folder(store: Path, number: int) -> Path:
    return store / f"replica-{number}"


def records(replica: Path) -> dict[bytes, bytes]:
    """Return all logs, states and outcomes of a closed replica, without its own bookkeeping."""
    with (
        lmdb.open(str(replica), readonly=True, lock=False, lib_version=0) as environment,
        environment.begin() as transaction,
    ):
        found = {bytes(key): bytes(value) for key, value in transaction.cursor()}
    return {key: value for key, value in found.items() if key != COUNT_KEY and key[1:3] != b"\xff\xff"}


def all_equal(store: Path) -> bool:
    first, *others = (records(folder(store, number)) for number in range(REPLICAS))
    return all(other == first for other in others) and len(first) > 30


def used_bytes(data: Path) -> int:
    """Return the number of bytes up to the last page that the newest root counts; the file may be longer."""
    with lmdb.open(str(data.parent), readonly=True, lock=False, lib_version=0) as environment:
        return int(environment.info()["last_pgno"] + 1) * 4096


def opens_whole(store: Path, content: Content, *, named: int | None) -> None:
    """Check that the store opens, reports replica ``named``, lost nothing, works, and is whole again."""
    with kvstore.open(store, durability="none") as db:
        repaired = db.status()["repaired"]
        if named is not None:
            assert any(f"replica {named}" in line for line in repaired), repaired
        assert db.status()["healthy"]
        assert dict(db.scan()) == content
        verified = db.verify()
        assert verified["ok"], verified
        db.put("after", 1)
        db.delete("after")
    assert all_equal(store)
    with kvstore.open(store) as db:
        assert db.status()["repaired"] == []
        assert dict(db.scan()) == content
        assert db.verify()["ok"]


def truncate(file: Path, length: int) -> None:
    """Truncate a file to ``length`` bytes; a negative length counts from the end of the used pages."""
    size = used_bytes(file)
    assert abs(length) < size
    with file.open("r+b") as stream:
        stream.truncate(size + length if length < 0 else length)


def overwrite(file: Path, start: int, content: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(content)


def become_a_file(replica: Path) -> None:
    shutil.rmtree(replica)
    replica.write_text("not a folder")


def lose_all_files(replica: Path) -> None:
    shutil.rmtree(replica)
    replica.mkdir()


def data_becomes_a_folder(replica: Path) -> None:
    (replica / "data.mdb").unlink()
    (replica / "data.mdb").mkdir()


GARBAGE = random.Random(1).randbytes(1 << 16)

HARMS: dict[str, Harm] = {
    "deleted": shutil.rmtree,
    "emptied": lose_all_files,
    "a file in its place": become_a_file,
    "without data": lambda replica: (replica / "data.mdb").unlink(),
    "a folder in the data's place": data_becomes_a_folder,
    "garbage": lambda replica: (replica / "data.mdb").write_bytes(GARBAGE),
    "zeros": lambda replica: (replica / "data.mdb").write_bytes(bytes(1 << 16)),
    "both roots garbage": lambda replica: overwrite(replica / "data.mdb", 0, GARBAGE[:8192]),
    "first root garbage": lambda replica: overwrite(replica / "data.mdb", 0, GARBAGE[:4096]),
    "second root zero": lambda replica: overwrite(replica / "data.mdb", 4096, bytes(4096)),
    "of another version": lambda replica: overwrite(replica / "data.mdb", 20, b"\x02"),
    "manifest and data garbage": lambda replica: [file.write_bytes(b"{") for file in replica.iterdir()],
}


@pytest.mark.parametrize("harm", [pytest.param(harm, id=name) for name, harm in HARMS.items()])
def test_a_folder_that_was_harmed_is_rebuilt(tmp_path: Path, harm: Harm) -> None:
    store = tmp_path / "store"
    content = a_store(store)

    for number in range(REPLICAS):
        harm(folder(store, number))
        opens_whole(store, content, named=number)


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 8191, 8192, 20_000, -20_000, -4097, -1])
def test_a_folder_whose_data_was_cut_is_rebuilt(tmp_path: Path, length: int) -> None:
    store = tmp_path / "store"
    content = a_store(store)

    for number in range(REPLICAS):
        truncate(folder(store, number) / "data.mdb", length)
        # The last pages may be free, or counted and never written; in that case nothing was lost.
        opens_whole(store, content, named=None if length < 0 else number)


@pytest.mark.parametrize("shape", [{}, {"shards": 5}, {"replicas": 1}], ids=str)
def test_a_folder_of_another_store_is_moved_aside_and_kept(tmp_path: Path, shape: dict[str, Any]) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    content = a_store(store)
    with kvstore.open(other, **({"shards": 3, "replicas": 3} | shape)) as db:
        db.put("k", "of the other store")

    for number in range(REPLICAS):
        shutil.rmtree(folder(store, number))
        shutil.copytree(folder(other, min(number, manifest_of(db).replicas - 1)), folder(store, number))
        before = records(folder(store, number))
        opens_whole(store, content, named=number)
        assert [kept for kept in store.glob("foreign-*") if records(kept) == before]


class TestAfterAnUncleanEnd:
    """A store is killed while it works, then damaged: the folder is examined before it has a vote."""

    def killed(self, store: Path, generation: int) -> Content:
        """Write in another process that is killed; return what was acknowledged."""
        with Remote(store, durability="none") as remote:
            for number in range(40):
                remote.call("put", ["late", number], [generation, number])
            remote.kill()
        with kvstore.open(store, readonly=True) as db:
            return dict(db.scan())

    def test_flipped_bits_are_found(self, tmp_path: Path) -> None:
        store, randomly = tmp_path / "store", random.Random(3)
        a_store(store)

        for turn in range(REPLICAS):
            content = self.killed(store, turn)
            data = folder(store, turn % REPLICAS) / "data.mdb"
            raw = bytearray(data.read_bytes())
            for _ in range(200):
                raw[randomly.randrange(len(raw))] ^= 1 << randomly.randrange(8)
            data.write_bytes(raw)
            opens_whole(store, content, named=turn % REPLICAS)

    @pytest.mark.parametrize("harm", ["deleted", "garbage", "first root garbage"])
    def test_a_harmed_folder_is_rebuilt(self, tmp_path: Path, harm: str) -> None:
        store = tmp_path / "store"
        a_store(store)

        for number in range(REPLICAS):
            content = self.killed(store, number)
            HARMS[harm](folder(store, number))
            opens_whole(store, content, named=number)

    def test_pages_of_garbage_in_the_middle_are_found(self, tmp_path: Path) -> None:
        store = tmp_path / "store"
        a_store(store)

        for number in range(REPLICAS):
            content = self.killed(store, number)
            for page in (3, 5, 7, 9, 11):
                overwrite(folder(store, number) / "data.mdb", page * 4096, GARBAGE[:4096])
            opens_whole(store, content, named=number)


class TestStaleDisks:
    """A replica's folder is restored to an earlier state (contracts E)."""

    @pytest.mark.parametrize(
        ("writes", "epochs", "retention"),
        [
            (0, 1, 64 << 20),
            (0, 3, 0),
            (1, 1, 64 << 20),
            (60, 3, 64 << 20),
            (60, 1, 0),
            (300, 1, 0),
            (300, 1, 64 << 20),
        ],
    )
    def test_it_is_brought_up_to_date(self, tmp_path: Path, writes: int, epochs: int, retention: int) -> None:
        store = tmp_path / "store"
        a_store(store)

        for number in range(REPLICAS):
            shutil.rmtree(tmp_path / "old", ignore_errors=True)
            shutil.copytree(folder(store, number), tmp_path / "old")
            for epoch in range(epochs):
                with kvstore.open(store, durability="none", watch_retention=retention) as db:
                    write(db, epoch, writes)
                    content = dict(db.scan())
            shutil.rmtree(folder(store, number))
            shutil.copytree(tmp_path / "old", folder(store, number))

            opens_whole(store, content, named=None)

    def test_after_a_kill_nothing_acknowledged_is_lost(self, tmp_path: Path) -> None:
        """A folder is stale after a crash: the other two replicas have every acknowledged write."""
        store = tmp_path / "store"
        a_store(store)

        for number in range(REPLICAS):
            shutil.rmtree(tmp_path / "old", ignore_errors=True)
            with Remote(store) as remote:
                for count in range(20):
                    remote.call("put", ["late", count], [number, count])
                shutil.copytree(folder(store, number), tmp_path / "old")
                for count in range(20):
                    remote.call("put", ["late", count], [number, -count])
                remote.kill()
            shutil.rmtree(folder(store, number))
            shutil.copytree(tmp_path / "old", folder(store, number))

            with kvstore.open(store) as db:
                assert db.get_many([("late", count) for count in range(20)]) == [
                    [number, -count] for count in range(20)
                ]
                assert db.verify()["ok"]
            assert all_equal(store)

    def test_a_reader_is_not_shown_an_old_state_of_the_learner(self, tmp_path: Path) -> None:
        store = tmp_path / "store"
        a_store(store)
        shutil.copytree(folder(store, 0), tmp_path / "old")
        with kvstore.open(store) as db:
            db.put("late", 1)
        shutil.rmtree(folder(store, 0))
        shutil.copytree(tmp_path / "old", folder(store, 0))

        try:
            with kvstore.open(store, readonly=True) as db:
                seen = db.get("late")
        except kvstore.Damage:
            return
        assert seen == 1


Tree = dict[str, bytes | None]


def tree(store: Path) -> Tree:
    transient = {"lock.mdb", "writer.lock"}
    return {
        str(path.relative_to(store)): path.read_bytes() if path.is_file() else None
        for path in sorted(store.rglob("*"))
        if path.name not in transient
    }


MARKED = "closing a replica that ended uncleanly, and was only looked at, marks it as cleanly closed"
MADE = "looking at a folder without data makes a new file in it"


class TestTwoLost:
    """One replica is not a majority: nothing is guessed, nothing is changed, each loss is named."""

    @pytest.mark.parametrize(
        ("left", "harm", "killed"),
        [
            (0, "deleted", False),
            (2, "garbage", False),
            (0, "deleted", True),
            (2, "garbage", True),
            (1, "emptied", False),
            (0, "without data", False),
            (1, "a file in its place", False),
        ],
    )
    def test_the_store_refuses_by_name_and_touches_nothing(
        self, tmp_path: Path, left: int, harm: str, killed: bool
    ) -> None:
        store = tmp_path / "store"
        a_store(store)
        if killed:
            TestAfterAnUncleanEnd().killed(store, 1)
        lost = [number for number in range(REPLICAS) if number != left]
        for number in lost:
            HARMS[harm](folder(store, number))
        before = tree(store)

        with pytest.raises(kvstore.Corrupt) as raised:
            kvstore.open(store)

        assert all(f"replica {number}" in str(raised.value) for number in lost)
        assert raised.value.record
        assert tree(store) == before
        with pytest.raises(kvstore.Corrupt):
            kvstore.open(store)

    def test_a_folder_of_another_store_is_not_moved_when_there_is_no_majority(self, tmp_path: Path) -> None:
        store, other = tmp_path / "store", tmp_path / "other"
        content = a_store(store)
        a_store(other)
        shutil.move(folder(store, 1), tmp_path / "kept")
        shutil.rmtree(folder(store, 2))
        shutil.copytree(folder(other, 2), folder(store, 2))
        before = tree(store)

        with pytest.raises(kvstore.Corrupt):
            kvstore.open(store)

        assert tree(store) == before
        shutil.move(tmp_path / "kept", folder(store, 1))
        opens_whole(store, content, named=2)

    def test_what_was_lost_may_be_brought_back(self, tmp_path: Path) -> None:
        store = tmp_path / "store"
        content = a_store(store)
        for number in (0, 2):
            shutil.move(folder(store, number), tmp_path / f"kept-{number}")
        with pytest.raises(kvstore.Corrupt):
            kvstore.open(store)

        shutil.move(tmp_path / "kept-2", folder(store, 2))

        opens_whole(store, content, named=0)


def test_damage_after_a_clean_close_is_named_and_deleting_the_folder_mends_it(tmp_path: Path) -> None:
    """A clean folder is not read completely at each opening; verify finds what the opening does not read."""
    store = tmp_path / "store"
    content = a_store(store)
    data = folder(store, 1) / "data.mdb"
    for page in range(2, used_bytes(data) // 4096):
        overwrite(data, page * 4096 + 2000, GARBAGE[:2000])

    try:
        with kvstore.open(store) as db:
            said = [*db.status()["repaired"], *db.verify()["problems"]]
            assert "replica-1" in said[0]
    except kvstore.Damage as damage:
        assert "replica-1" in str(damage)

    shutil.rmtree(folder(store, 1))
    opens_whole(store, content, named=1)

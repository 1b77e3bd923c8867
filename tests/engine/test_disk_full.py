"""A full disk: writes raise DiskFull and change nothing, reads continue; with room, writes work again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from tests.support.programs import running

MIB = 1 << 20


class SmallDisk:
    """A file system in memory whose size can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def fill(self) -> None:
        """Use up all free room, as another program might."""
        with (self.path / "ballast").open("wb", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        (self.path / "ballast").unlink()

    @property
    def left(self) -> int:
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={12 * MIB}", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(
            f"no small disk, mount says {mounted.stderr.decode().strip()}; TestFileSizeLimit covers it"
        )
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill_by_puts(db: kvstore.Database, size: int = 20_000) -> int:
    """Put until the disk is full; return the number of acknowledged puts."""
    for number in range(10_000):
        try:
            db.put(("k", number), [number, bytes(size)])
        except kvstore.DiskFull as full:
            assert full.free < full.needed
            assert full.errno is not None
            assert full.path
            return number
    raise AssertionError("the disk is larger than expected")


@pytest.mark.parametrize(
    ("replicas", "durability"), [(1, "commit"), (1, "interval"), (1, "none"), (3, "commit"), (3, "none")]
)
class TestWriting:
    def test_nothing_changes_reads_go_on_and_more_room_is_noticed(
        self, disk: SmallDisk, replicas: int, durability: Any
    ) -> None:
        with kvstore.open(disk.path / "store", replicas=replicas, durability=durability) as db:
            count = fill_by_puts(db)
            assert count > 20

            for _ in range(3):
                with pytest.raises(kvstore.DiskFull):
                    db.put("more", bytes(MIB))
                with pytest.raises(kvstore.DiskFull), db.batch() as batch:
                    batch.put("more", bytes(MIB))
                    batch.put("and more", bytes(MIB))
                late = db.batch()
                late.put("more", bytes(MIB))
                assert isinstance(db.submit(late).exception(timeout=10), kvstore.DiskFull)
            assert db.count() == count
            assert [value[0] for _, value in db.scan()] == list(range(count))
            assert db.status()["healthy"]
            assert db.verify()["ok"]

            disk.resize(48 * MIB)
            db.put("more", bytes(MIB))
            assert db.count() == count + 1
        with kvstore.open(disk.path / "store") as db:
            assert db.count() == count + 1
            assert db.verify()["ok"]

    def test_a_disk_that_another_program_fills_loses_nothing_acknowledged(
        self, disk: SmallDisk, replicas: int, durability: Any
    ) -> None:
        store = disk.path / "store"
        db = kvstore.open(store, replicas=replicas, durability=durability)
        for number in range(20):
            db.put(("k", number), number)
        disk.fill()
        acknowledged, failed = 20, False
        for number in range(20, 400):
            try:
                db.put(("k", number), number)
            except (kvstore.DiskFull, kvstore.OutcomeUnknown, kvstore.Failed):
                failed = True
            else:
                assert not failed, "what was granted is used up for all"
                acknowledged = number + 1
        db.close()
        disk.free()

        with kvstore.open(store, durability=durability) as db:
            assert [db.get(("k", number)) for number in range(acknowledged)] == list(range(acknowledged))
            assert db.verify()["ok"]
            db.put("after", 1)
        with kvstore.open(store, readonly=True) as db:
            assert db["after"] == 1

    def test_a_store_can_be_closed_on_a_full_disk_and_opened_when_there_is_room(
        self, disk: SmallDisk, replicas: int, durability: Any
    ) -> None:
        store = disk.path / "store"
        db = kvstore.open(store, replicas=replicas, durability=durability)
        db.put("k", 1)
        disk.fill()
        assert disk.left == 0

        try:
            db.close()
        except kvstore.Error:
            pass
        with pytest.raises(kvstore.Closed):
            db.get("k")
        disk.free()

        with kvstore.open(store, durability=durability) as db:
            assert db["k"] == 1
            db.put("k", 2)
            assert db.verify()["ok"]


@pytest.mark.parametrize("replicas", [1, 3])
class TestOpening:
    def test_on_a_full_disk_is_refused_and_changes_nothing(self, disk: SmallDisk, replicas: int) -> None:
        store = disk.path / "store"
        with kvstore.open(store, replicas=replicas) as db:
            db.put("k", 1)
        disk.fill()
        assert disk.left == 0

        for _ in range(2):
            with pytest.raises(kvstore.DiskFull) as raised:
                kvstore.open(store)
            assert raised.value.path
        with kvstore.open(store, readonly=True) as db:
            assert db["k"] == 1
            assert db.verify()["ok"]
        disk.free()

        with kvstore.open(store) as db:
            assert db["k"] == 1
            assert db.status()["repaired"] == []
            db.put("k", 2)

    def test_after_a_kill_with_the_disk_full_loses_nothing(self, disk: SmallDisk, replicas: int) -> None:
        store = disk.path / "store"
        said = running.run("starved", "fill_and_die", store, replicas).splitlines()
        disk.fill()

        with pytest.raises(kvstore.DiskFull):
            kvstore.open(store)
        disk.free()
        disk.resize(48 * MIB)

        with kvstore.open(store) as db:
            assert db.count() == int(said[-1])
            assert db.verify()["ok"]

    def test_creating_on_a_full_disk_leaves_nothing_in_the_way(self, disk: SmallDisk, replicas: int) -> None:
        disk.fill()

        with pytest.raises(kvstore.DiskFull):
            kvstore.open(disk.path / "store", replicas=replicas)
        disk.free()

        with kvstore.open(disk.path / "store", replicas=replicas) as db:
            db.put("k", 1)
            assert db.verify()["ok"]

    def test_a_lost_replica_that_has_no_room_is_rebuilt_later(self, disk: SmallDisk, replicas: int) -> None:
        if replicas == 1:
            return  # there is no other replica to rebuild it from
        store = disk.path / "store"
        with kvstore.open(store, replicas=replicas) as db:
            for number in range(60):
                db.put(("k", number), [number, bytes(10_000)])
        for file in (store / "replica-1").iterdir():
            file.unlink()
        disk.resize(12 * MIB - disk.left + MIB + MIB // 2)

        try:
            with kvstore.open(store) as db:
                assert db.count() == 60
                assert "replica 1" in db.status()["repaired"][0]
        except kvstore.DiskFull:
            pass
        disk.resize(24 * MIB)

        with kvstore.open(store) as db:
            assert db.count() == 60
            assert db.status()["healthy"]
            assert db.verify()["ok"]


class TestBackup:
    def test_to_a_full_disk_is_refused_and_succeeds_when_there_is_room(
        self, disk: SmallDisk, tmp_path: Path
    ) -> None:
        with kvstore.open(tmp_path / "store") as db:
            for number in range(100):
                db.put(("k", number), bytes(100_000))
            disk.resize(4 * MIB)

            with pytest.raises(kvstore.DiskFull):
                db.backup(disk.path / "backup")
            disk.resize(48 * MIB)
            db.backup(disk.path / "backup")
            assert db.status()["healthy"]

            with kvstore.open(disk.path / "backup") as copy:
                assert list(copy.scan()) == list(db.scan())


class TestFileSizeLimit:
    """A full disk as RLIMIT_FSIZE makes it, in a child process, without a file system of its own."""

    @pytest.mark.parametrize("durability", ["commit", "interval", "none"])
    @pytest.mark.parametrize("replicas", [1, 3])
    def test_a_file_that_may_not_grow_is_a_full_disk(
        self, tmp_path: Path, replicas: int, durability: str
    ) -> None:
        said = running.run("starved", "limited", tmp_path / "store", replicas, durability).splitlines()

        assert said == ["DiskFull", "reads go on", "room again", "closed"]
        with kvstore.open(tmp_path / "store") as db:
            assert db["more"] == bytes(MIB)
            assert db.verify()["ok"]

    @pytest.mark.parametrize("replicas", [1, 3])
    def test_a_limit_that_falls_in_the_middle_of_a_commit_loses_nothing(
        self, tmp_path: Path, replicas: int
    ) -> None:
        said = running.run("starved", "falling", tmp_path / "store", replicas).splitlines()

        acknowledged = int(said[0])
        with kvstore.open(tmp_path / "store") as db:
            assert [db[("k", number)] for number in range(acknowledged)] == list(range(acknowledged))
            assert db.verify()["ok"]
            db.put("after", 1)

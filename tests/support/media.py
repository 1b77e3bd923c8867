"""The media of environments: a folder with an LMDB file, or a memory disk, both with faults.

A medium outlives the environments opened on it, so ``medium.open()`` after a close is a reopening.
"""

from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import lmdb
import pytest

from kvstore.ports import Environment
from kvstore.storage import LmdbEnvironment, MemoryDisk, MemoryEnvironment, data_file
from kvstore.storage.soundness import DATA_FILE

Durability = Literal["commit", "interval", "none"]
KINDS = ("lmdb-commit", "lmdb-interval", "lmdb-none", "memory-commit", "memory-interval")


class Medium(Protocol):
    """The storage of one environment."""

    def open(self) -> Environment: ...

    def raw_put(self, key: bytes, value: bytes) -> None:
        """Store raw bytes under a raw key, bypassing the port; no environment may be open."""

    def raw_get(self, key: bytes) -> bytes:
        """Return the raw bytes under a raw key; no environment may be open."""

    def raw_delete(self, key: bytes) -> None: ...

    def fail_next_commit(self, environment: Environment) -> None:
        """Make the commit of the open batch fail."""

    def heal(self) -> None:
        """Let commits succeed again, for the next environment that is opened."""

    @contextmanager
    def full(self) -> Iterator[None]:
        """Leave no room on the medium for the length of the block."""
        yield


class LmdbMedium:
    """A folder."""

    def __init__(self, folder: Path, durability: Durability, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._durability = durability
        self._patch = patch
        folder.mkdir(exist_ok=True)

    def open(self) -> LmdbEnvironment:
        return LmdbEnvironment(self.folder, durability=self._durability)

    def raw_put(self, key: bytes, value: bytes) -> None:
        self._raw(lambda txn: txn.put(key, value))

    def raw_get(self, key: bytes) -> bytes:
        found: bytes = self._raw(lambda txn: txn.get(key))
        return found

    def raw_delete(self, key: bytes) -> None:
        self._raw(lambda txn: txn.delete(key))

    def _raw(self, act: Callable[[lmdb.Transaction], Any]) -> Any:
        with raw_lmdb(self.folder) as env, env.begin(write=True) as txn:
            return act(txn)

    def fail_next_commit(self, environment: Environment) -> None:
        def refuse(*, write: bool) -> lmdb.Transaction:
            if write:
                raise lmdb.DiskError("injected: Input/output error")
            return begin(write=write)

        assert isinstance(environment, LmdbEnvironment)
        begin = environment.begin_txn
        self._patch.setattr(environment, "begin_txn", refuse)

    def heal(self) -> None:
        """Do nothing: a fault belongs to one environment, so the next environment is healthy."""

    @contextmanager
    def full(self) -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = max(file.stat().st_size for file in self.folder.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class MemoryMedium:
    """A folder of a memory disk."""

    def __init__(self, durability: Durability) -> None:
        self.disk = MemoryDisk()
        self._durability = durability

    def open(self) -> MemoryEnvironment:
        return MemoryEnvironment(self.disk, "0", durability=self._durability)

    def raw_put(self, key: bytes, value: bytes) -> None:
        self.disk.folders["0"].committed.put(key, value)

    def raw_get(self, key: bytes) -> bytes:
        found = self.disk.folders["0"].committed.get(key)
        assert found is not None
        return found

    def raw_delete(self, key: bytes) -> None:
        self.disk.folders["0"].committed.delete(key)

    def fail_next_commit(self, environment: Environment) -> None:
        self.disk.commits_left["0"] = 0

    def heal(self) -> None:
        self.disk.commits_left.clear()

    @contextmanager
    def full(self) -> Iterator[None]:
        self.disk.full = True
        yield
        self.disk.full = False


def make_medium(kind: str, folder: Path, patch: pytest.MonkeyPatch) -> Medium:
    """Return the medium of one of ``KINDS``."""
    what, durability = kind.split("-")
    if what == "memory":
        return MemoryMedium(durability)  # type: ignore[arg-type]  # KINDS names no other
    return LmdbMedium(folder / "environment", durability, patch)  # type: ignore[arg-type]


@contextmanager
def raw_lmdb(folder: Path) -> Iterator[lmdb.Environment]:
    """Open the file as another program would."""
    env = lmdb.open(str(folder), map_size=1 << 30, lib_version=0)
    try:
        yield env
    finally:
        env.close()


def copy_folder(source: Path, target: Path) -> Path:
    """Copy a folder that may be in use, as a power loss with everything synced would leave it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def a_file_that_ends_early(folder: Path, durability: Durability) -> tuple[Path, int]:
    """Return a copy of an environment in use whose file lacks the last page it counts, and its record count.

    A page that is freed within the commit that allocated it is counted, but never written. Whether that
    is the last page depends on the sizes, so several are tried; about one commit in twenty works.
    """
    for seed in range(100):
        source = folder / f"source-{seed}"
        source.mkdir()
        environment = LmdbEnvironment(source, durability=durability)
        chance = random.Random(seed)
        for _ in range(3):
            left = _put_and_delete(environment, chance)
            environment.sync()
        copy = copy_folder(source, folder / "copy")
        environment.close()
        if (copy / DATA_FILE).stat().st_size < data_file.newest_meta(copy / DATA_FILE).file_bytes:
            return copy, left
    raise AssertionError("no file ends early any more")


def _put_and_delete(environment: LmdbEnvironment, chance: random.Random) -> int:
    """Allocate some pages and free some of them in one commit; return the number of records left."""
    table = environment.table(b"tab")
    count, size = chance.randint(1, 300), chance.choice([10, 100, 1000, 3000, 10_000])
    batch = environment.begin()
    for number in range(count):
        table.put(b"%05d" % number, b"v" * size)
    table.scan(b"", b"\xff", limit=1)  # so that LMDB gets the puts before the deletes
    for _ in range(chance.randint(0, count)):
        table.delete(b"%05d" % chance.randrange(count))
    left = len(table.scan(b"", b"\xff", limit=1 << 20))
    batch.commit()
    return left

"""The place of a store's environments: a folder on disk, or a memory disk."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from kvstore.engine.manifest import FORMAT, Manifest
from kvstore.errors import Corrupt, DiskFull, Error, NoParent, NotAStore, UsageError, WrongFormat
from kvstore.ports import Environment
from kvstore.storage import Durability, LmdbEnvironment, MemoryDisk, MemoryEnvironment, side_file
from kvstore.storage.disk_space import NO_ROOM
from kvstore.storage.soundness import (
    CLOSED_MARK,
    DATA_FILE,
    READERS_FILE,
    SYNCED_ROOT,
    restore_synced_root,
)
from kvstore.storage.writer_lock import LOCK_FILE, WriterLock

AnyPath = str | os.PathLike[str]

CREATING_MARK = "creating"
"""Name of the file that marks a store under creation; a store so marked holds no data yet."""
REPLICA_PREFIX = "replica-"
MANIFEST_FILE = "manifest.json"


class StoreDirectory(Protocol):
    """The folders of one store."""

    @property
    def path(self) -> str: ...

    def prepare(self, *, create: bool, readonly: bool) -> bool:
        """Lock the store, unless ``readonly``; return whether it exists. False means: create it now.

        Raises ``NoParent``, ``NotAStore``, ``Locked``.
        """

    def begin_creation(self) -> None: ...
    def end_creation(self) -> None: ...

    def abandon_creation(self) -> None:
        """Remove what ``prepare`` and ``begin_creation`` made, after the creation failed."""

    def numbers(self) -> list[int]:
        """Return the numbers of the replicas whose folders exist, sorted."""

    def manifest(self, number: int) -> Manifest | None:
        """Return the manifest in the side file; None if it cannot be read. Raises ``WrongFormat``."""

    def write_manifest(self, number: int, manifest: Manifest) -> None: ...

    def open_environment(
        self, number: int, *, durability: Durability, readonly: bool, check: bool, create: bool = False
    ) -> Environment:
        """Open one replica's environment; with ``check``, examine it first if it was not closed.

        Raises ``Corrupt`` if the environment is missing, unless ``create``.
        """

    def move_aside(self, number: int) -> str:
        """Rename a folder that belongs to another store; return its new name."""

    def rebuild(self, number: int, source: Environment, manifest: Manifest) -> None:
        """Replace a replica's folder by a copy of ``source``."""

    def compact(self, number: int, source: Environment, *, durability: Durability) -> Environment:
        """Replace a replica's file by a compact copy; return the copy, opened.

        ``source`` still shows the old file.
        """

    def file_identity(self, number: int) -> tuple[int, int]:
        """Return device and inode of a replica's file, which change when the file is replaced."""

    def release(self) -> None:
        """Unlock the store."""

    def forget(self) -> None:
        """Abandon the inherited lock in a forked child."""


class FolderDirectory:
    """A store on disk: ``path/replica-0``, ``path/replica-1``, ..."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._folder = Path(path)
        self._lock: WriterLock | None = None
        self._made = False

    def prepare(self, *, create: bool, readonly: bool) -> bool:
        folder = self._folder
        if not folder.parent.is_dir():
            parent = folder.parent
            raise NoParent(f"{parent} does not exist, so {folder} cannot be in it", path=self.path)
        if folder.exists() and not folder.is_dir():
            raise NotAStore(f"{folder} is not a folder", path=self.path)
        if not folder.exists() and (readonly or not create):
            raise NotAStore(f"there is no store at {folder}", path=self.path)
        with suppress(FileExistsError):  # another process may make the folder at this moment
            folder.mkdir()
            self._made = True
        exists = self._examine(may_create=create and not readonly)
        if readonly:
            return exists
        self._lock = WriterLock(folder)
        for half_made in folder.glob(REPLICA_PREFIX + "*.*"):
            _remove(half_made)  # a copy that a crash left incomplete
        return self._examine(may_create=create)  # again: another process may have created a store meanwhile

    def _examine(self, *, may_create: bool) -> bool:
        names = {entry.name for entry in self._folder.iterdir()}
        if CREATING_MARK in names or names <= {LOCK_FILE}:
            if not may_create:
                raise NotAStore(f"there is no store at {self._folder}", path=self.path)
            return False
        if not self.numbers():
            raise self._holds_no_store(names)
        return True

    def _holds_no_store(self, names: set[str]) -> NotAStore:
        if any(FolderDirectory(str(self._folder / name)).is_made() for name in names):
            message, hint = "a world of regions, or several stores", "kvstore shell --geo PATH opens a world"
            return NotAStore(f"{self._folder} is not a store: it holds {message}", path=self.path, hint=hint)
        message = f"{self._folder} is not empty and holds no store"
        return NotAStore(message, path=self.path, hint="give the path of a new or empty folder")

    def is_made(self) -> bool:
        """Return whether the folder holds a store whose creation was finished."""
        return bool(self.numbers()) and not (self._folder / CREATING_MARK).exists()

    def begin_creation(self) -> None:
        mark = self._folder / CREATING_MARK
        mark.touch()
        side_file.sync_folder(self._folder)
        for number in self.numbers():
            shutil.rmtree(self._replica(number))

    def end_creation(self) -> None:
        side_file.sync_folder(self._folder)
        (self._folder / CREATING_MARK).unlink()
        side_file.sync_folder(self._folder)
        side_file.sync_folder(self._folder.parent)

    def abandon_creation(self) -> None:
        with suppress(OSError):  # a failing disk may refuse this too; the rest stays marked
            for replica in self._folder.glob(REPLICA_PREFIX + "*"):
                _remove(replica)
            (self._folder / CREATING_MARK).unlink(missing_ok=True)
            (self._folder / LOCK_FILE).unlink(missing_ok=True)
            if self._made:
                self._folder.rmdir()

    def numbers(self) -> list[int]:
        suffixes = (path.name[len(REPLICA_PREFIX) :] for path in self._folder.glob(REPLICA_PREFIX + "*"))
        return sorted(int(suffix) for suffix in suffixes if suffix.isdigit())

    def _replica(self, number: int) -> Path:
        return self._folder / f"{REPLICA_PREFIX}{number}"

    def manifest(self, number: int) -> Manifest | None:
        path = self._replica(number) / MANIFEST_FILE
        found = side_file.read_unchecked(path).get("format", FORMAT)
        if found != FORMAT:
            message = f"{path} says format {found}; this version reads format {FORMAT}"
            raise WrongFormat(message, path=self.path, found=found, expected=FORMAT)
        content = side_file.read(path)
        return None if content is None else msgspec.convert(content, Manifest)

    def write_manifest(self, number: int, manifest: Manifest) -> None:
        content: dict[str, Any] = msgspec.to_builtins(manifest)
        side_file.write(self._replica(number) / MANIFEST_FILE, content)

    def open_environment(
        self, number: int, *, durability: Durability, readonly: bool, check: bool, create: bool = False
    ) -> Environment:
        folder = self._replica(number)
        if create:
            folder.mkdir(exist_ok=True)
        elif not (folder / DATA_FILE).is_file():
            raise Corrupt(f"{folder} holds no {DATA_FILE}", record=str(folder))
        if check and not (folder / CLOSED_MARK).exists():
            restore_synced_root(folder, readonly=readonly)
            _examine_in_child(folder)
        return LmdbEnvironment(folder, durability=durability, readonly=readonly)

    def move_aside(self, number: int) -> str:
        free = (f"foreign-{number}.{attempt}" for attempt in range(1, 1 << 30))
        target = next(name for name in free if not (self._folder / name).exists())
        self._replica(number).rename(self._folder / target)
        return target

    def rebuild(self, number: int, source: Environment, manifest: Manifest) -> None:
        final = self._replica(number)
        fresh = final.with_name(f"{final.name}.rebuilding")
        _remove(fresh)
        fresh.mkdir()
        try:
            source.copy_to(str(fresh))
            _sync_file(fresh / DATA_FILE)
            side_file.write(fresh / MANIFEST_FILE, msgspec.to_builtins(manifest))
        except BaseException:
            _remove(fresh)
            raise
        _remove(final)
        fresh.rename(final)
        side_file.sync_folder(self._folder)

    def compact(self, number: int, source: Environment, *, durability: Durability) -> Environment:
        folder = self._replica(number)
        fresh = folder.with_name(f"{folder.name}.compacting")
        _remove(fresh)
        fresh.mkdir()
        try:
            with naming(str(fresh), "cannot be written"):
                source.sync()
                source.copy_to(str(fresh))
                _sync_file(fresh / DATA_FILE)
                # The synced root names pages of the old file. The reader table is removed before the file
                # is replaced, so that readers of the two files never share one.
                side_file.remove(folder / SYNCED_ROOT)
                (folder / READERS_FILE).unlink()
                (fresh / DATA_FILE).replace(folder / DATA_FILE)
                side_file.sync_folder(folder)
        finally:
            _remove(fresh)
        try:
            return LmdbEnvironment(folder, durability=durability)
        except BaseException as error:
            source.fail(error)  # its writes would go to a file without a name
            raise

    def file_identity(self, number: int) -> tuple[int, int]:
        data = os.stat(self._replica(number) / DATA_FILE)
        return data.st_dev, data.st_ino

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def forget(self) -> None:
        if self._lock is not None:
            self._lock.forget()
            self._lock = None


@contextmanager
def naming(path: str, what: str) -> Iterator[None]:
    """Raise an ``OSError`` of the block as ``DiskFull`` or ``NotAStore``, with the path."""
    try:
        yield
    except Error:
        raise
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else NotAStore
        raise kind(f"{path} {what}: {error}", path=path) from error


def _remove(path: Path) -> None:
    """Remove the file or folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _examine_in_child(folder: Path) -> None:
    """Read a file that may be damaged in a child process, which a bad page may kill (contracts B4)."""
    import subprocess  # slow to import, and needed after an unclean end only

    command = [sys.executable, "-m", "kvstore.storage.examine", str(folder)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        reason = child.stdout.strip() or f"reading it killed a process ({child.returncode})"
        raise Corrupt(f"{folder} is damaged: {reason}", record=str(folder))


class MemoryDirectory:
    """A store on a memory disk. A caller that keeps the disk can open the store again."""

    path = ":memory:"

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()

    def prepare(self, *, create: bool, readonly: bool) -> bool:
        if not self.disk.folders and (readonly or not create):
            raise NotAStore(
                "a memory store is always new: open it with create=True and readonly=False", path=self.path
            )
        return bool(self.disk.folders)

    def begin_creation(self) -> None:
        self.disk.folders.clear()

    def end_creation(self) -> None:
        """Do nothing: a memory disk has no half-made stores."""

    def abandon_creation(self) -> None:
        self.disk.folders.clear()

    def numbers(self) -> list[int]:
        return sorted(map(int, self.disk.folders))

    def manifest(self, number: int) -> Manifest | None:
        manifest: Manifest | None = self.disk.folders[str(number)].manifest
        return manifest

    def write_manifest(self, number: int, manifest: Manifest) -> None:
        self.disk.folders[str(number)].manifest = manifest

    def open_environment(
        self, number: int, *, durability: Durability, readonly: bool, check: bool, create: bool = False
    ) -> Environment:
        return MemoryEnvironment(self.disk, str(number), durability=durability)

    def move_aside(self, number: int) -> str:
        name = f"foreign-{number}"
        self.disk.folders.pop(str(number))
        return name

    def rebuild(self, number: int, source: Environment, manifest: Manifest) -> None:
        assert isinstance(source, MemoryEnvironment)
        self.disk.copy(source.name, str(number))
        self.write_manifest(number, manifest)

    def compact(self, number: int, source: Environment, *, durability: Durability) -> Environment:
        return source

    def file_identity(self, number: int) -> tuple[int, int]:
        return 0, 0

    def release(self) -> None:
        """Do nothing: no other process can open a memory disk."""

    def forget(self) -> None:
        """Do nothing: a child has its own copy of the memory."""


def directory_at(path: AnyPath) -> StoreDirectory:
    """Return the store directory of a path. Raises ``UsageError`` for a path that is not valid."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise UsageError(f"a path must be a str or a PathLike of str, not {type(text).__name__}")
    if "\0" in text:
        raise UsageError(f"a path must not contain NUL: {text!r}")
    return MemoryDirectory() if text == MemoryDirectory.path else FolderDirectory(os.path.abspath(text))

"""Possible contents of a disk after power loss, made from a trace of all changes to it.

Only synced changes are certain. Each page of a file has one of the contents written since the file's last
sync, or the one from before. Of the changes to a folder's entries (creations, renames, removals) since the
folder's last sync, some prefix is there. A sync of a file does not sync its name. POSIX guarantees this
much; most file systems guarantee more.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PAGE = 4096
_HEAD = struct.Struct("=cqII")


class Step(NamedTuple):
    """One record of a trace; see ``disk_shim.c``."""

    kind: str
    number: int
    path: str
    data: bytes


def steps(trace: Path) -> Iterator[Step]:
    """Yield the steps of a trace, without an incomplete record at its end."""
    raw = trace.read_bytes()
    at = 0
    while at + _HEAD.size <= len(raw):
        kind, number, path_length, length = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        path, data = raw[at : at + path_length], raw[at + path_length : at + path_length + length]
        at += path_length + length
        yield Step(kind.decode(), number, path.decode(), data)


@dataclass
class File:
    """A file's synced content, its present content, and the contents of each page since the last sync."""

    certain: bytearray = field(default_factory=bytearray)
    now: bytearray = field(default_factory=bytearray)
    pending: dict[int, list[bytes]] = field(default_factory=dict)

    def write(self, at: int, data: bytes) -> None:
        self._put(self.now, at, data)
        for page in range(at // PAGE, -(-(at + len(data)) // PAGE)):
            self.pending.setdefault(page, []).append(self._page(page))

    def write_synced(self, at: int, data: bytes) -> None:
        """Write to a file that was opened with O_DSYNC: this write is certain, other writes are not."""
        self._put(self.now, at, data)
        self._put(self.certain, at, data)
        for page in range(at // PAGE, -(-(at + len(data)) // PAGE)):
            if page in self.pending:
                self.pending[page] = [self._page(page)]

    @staticmethod
    def _put(content: bytearray, at: int, data: bytes) -> None:
        content.extend(bytes(max(0, at - len(content))))
        content[at : at + len(data)] = data

    def _page(self, page: int) -> bytes:
        return bytes(self.now[page * PAGE : (page + 1) * PAGE])

    def resize(self, size: int) -> None:
        self.now = self.now[:size] + bytes(max(0, size - len(self.now)))

    def sync(self) -> None:
        self.certain = bytearray(self.now)
        self.pending.clear()

    def after_power_loss(self, chance: random.Random) -> bytes:
        content = bytearray(self.certain)
        if chance.random() < 0.5:  # the length is on disk, or only the written pages
            content = content[: len(self.now)] + bytes(max(0, len(self.now) - len(content)))
        for page, versions in self.pending.items():
            if chance.random() < 0.5:
                self._put(content, page * PAGE, chance.choice(versions))
        return bytes(content)


@dataclass
class Folder:
    """A folder's entries as they are certainly on disk, as they are now, and the changes in between."""

    certain: dict[str, File | Folder] = field(default_factory=dict)
    now: dict[str, File | Folder] = field(default_factory=dict)
    steps: list[dict[str, File | Folder | None]] = field(default_factory=list)
    """Changed entries, by step. A step is on disk as a whole or not at all."""

    def change(self, changes: dict[str, File | Folder | None]) -> None:
        """Change entries now; all of these changes are on disk, or none, until the next sync."""
        _apply(self.now, changes)
        self.steps.append(changes)

    def sync(self) -> None:
        self.certain = dict(self.now)
        self.steps.clear()

    def after_power_loss(self, chance: random.Random) -> dict[str, File | Folder]:
        entries = dict(self.certain)
        for changes in self.steps[: chance.randint(0, len(self.steps))]:
            _apply(entries, changes)
        return entries


def _apply(entries: dict[str, File | Folder], changes: dict[str, File | Folder | None]) -> None:
    for name, node in changes.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


class Disk:
    """Everything below one folder, built from a trace of the changes to it."""

    def __init__(self, root: Path) -> None:
        """Start with the present content of ``root``, which is certain."""
        self._root = str(root)
        self._top = self._load(root) if root.exists() else Folder()

    def _load(self, folder: Path) -> Folder:
        loaded = Folder()
        for path in folder.iterdir():
            if path.is_dir():
                loaded.now[path.name] = self._load(path)
            else:
                content = path.read_bytes()
                loaded.now[path.name] = File(bytearray(content), bytearray(content))
        loaded.sync()
        return loaded

    def do(self, step: Step) -> None:
        match step.kind:
            case "w":
                self._file(step.path).write(step.number, step.data)
            case "W":
                self._file(step.path).write_synced(step.number, step.data)
            case "t":
                self._file(step.path).resize(step.number)
            case "s":
                self._node(step.path).sync()
            case "c":
                self._change(step.path, File())
            case "m":
                self._change(step.path, Folder())
            case "u":
                self._change(step.path, None)
            case "r":
                self._rename(step.path, step.data.decode())

    def _node(self, path: str) -> File | Folder:
        node: File | Folder = self._top
        for name in path.removeprefix(self._root).strip("/").split("/"):
            if name:
                assert isinstance(node, Folder)
                node = node.now[name]
        return node

    def _file(self, path: str) -> File:
        node = self._node(path)
        assert isinstance(node, File)
        return node

    def _parent(self, path: str) -> tuple[Folder, str]:
        above, _, name = path.rpartition("/")
        folder = self._node(above)
        assert isinstance(folder, Folder)
        return folder, name

    def _change(self, path: str, node: File | Folder | None) -> None:
        folder, name = self._parent(path)
        folder.change({name: node})

    def _rename(self, old: str, new: str) -> None:
        folder, name = self._parent(old)
        target, new_name = self._parent(new)
        assert folder is target, "between two folders the two halves of a rename could be parted"
        folder.change({name: None, new_name: folder.now[name]})

    def cut_power(self, target: Path, chance: random.Random) -> None:
        """Write a possible content of the disk after power loss into a new folder."""
        _write(self._top, target, chance)


def _write(folder: Folder, target: Path, chance: random.Random) -> None:
    target.mkdir()
    for name, node in folder.after_power_loss(chance).items():
        if isinstance(node, Folder):
            _write(node, target / name, chance)
        else:
            (target / name).write_bytes(node.after_power_loss(chance))

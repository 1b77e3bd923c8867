"""The folders of a world: one for each region, with its name."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import NamedTuple

from kvstore.engine.manifest import Manifest
from kvstore.engine.open_replicas import find_manifest
from kvstore.engine.store_directory import (
    AnyPath,
    FolderDirectory,
    MemoryDirectory,
    StoreDirectory,
    directory_at,
    naming,
)
from kvstore.errors import NoParent, NotAStore, WrongShape

Names = tuple[str, ...]
HINT = "give the path of a new or empty folder"


class WorldDirectory(NamedTuple):
    """A world before it is opened. ``shape`` is that of the regions that exist, or None if none does.

    A region whose creation was interrupted does not exist; opening it creates it again.
    """

    name: str
    directories: dict[str, StoreDirectory]
    shape: Manifest | None = None

    def fresh(self) -> list[FolderDirectory]:
        """Return the folders of the regions that do not exist yet, if the world does."""
        if self.shape is None:
            return []
        return [
            directory
            for directory in self.directories.values()
            if isinstance(directory, FolderDirectory) and not directory.is_made()
        ]


def world_at(path: AnyPath, names: Names) -> WorldDirectory:
    """Return the world at ``path``, which need not exist yet.

    Raises ``NoParent``, ``NotAStore``, ``WrongShape``; nothing was changed.
    """
    first = directory_at(path)
    if not isinstance(first, FolderDirectory):
        return WorldDirectory(str(uuid.uuid4()), {name: MemoryDirectory() for name in names})
    with naming(first.path, "cannot be opened"):
        _check_folder(first)
        directories = {name: FolderDirectory(os.path.join(first.path, name)) for name in names}
        made = [_manifest_of(directory, names) for directory in directories.values() if directory.is_made()]
        if not made:
            _refuse_others(first.path, names)
        os.makedirs(first.path, exist_ok=True)
    worlds = sorted({world for _, world in made}) or [str(uuid.uuid4())]
    if len(worlds) > 1:
        message = f"the regions in {first.path} belong to different worlds"
        raise WrongShape(message, path=first.path, name="world", found=worlds, expected=None)
    return WorldDirectory(worlds[0], dict(directories), made[0][0] if made else None)


def _check_folder(first: FolderDirectory) -> None:
    parent = os.path.dirname(first.path)
    if not os.path.isdir(parent):
        raise NoParent(f"{parent} does not exist, so {first.path} cannot be in it", path=first.path)
    if os.path.lexists(first.path) and not os.path.isdir(first.path):
        raise NotAStore(f"{first.path} is not a folder", path=first.path)
    if first.numbers():
        raise NotAStore(f"{first.path} holds a store that stands alone, not a world", path=first.path)


def _manifest_of(directory: FolderDirectory, names: Names) -> tuple[Manifest, str]:
    """Return the manifest of a region that exists, and the name of its world."""
    manifest = find_manifest(directory)
    region = manifest.region
    if region is None or region.names != names:
        others = None if region is None else region.names
        message = f"{directory.path} was created with regions={others}, not {names}"
        raise WrongShape(message, path=directory.path, name="regions", found=others, expected=names)
    return manifest, region.world


def _refuse_others(path: str, names: Names) -> None:
    """Raise ``NotAStore`` or ``WrongShape`` if the folder of a new world holds other files."""
    others = set(os.listdir(path)) - set(names) if os.path.isdir(path) else set()
    if not others:
        return
    found = _names_in(path)
    if found is None:
        raise NotAStore(f"{path} is not empty and holds no world", path=path, hint=HINT)
    message = f"{path} was created with regions={found}, not {names}"
    raise WrongShape(message, path=path, name="regions", found=found, expected=names)


def names_at(path: AnyPath) -> Names:
    """Return the names of the regions whose world is at ``path``. Raises ``NotAStore``."""
    first = directory_at(path)
    found = _names_in(first.path) if isinstance(first, FolderDirectory) else None
    if found is None:
        raise NotAStore(f"there is no world of regions at {first.path}", path=first.path)
    return found


def _names_in(path: str) -> Names | None:
    if not os.path.isdir(path):
        return None
    with naming(path, "cannot be read"):
        for name in sorted(os.listdir(path)):
            directory = FolderDirectory(os.path.join(path, name))
            found = find_manifest(directory).region if directory.numbers() else None
            if found is not None:
                return found.names
    return None


def name_of_world(directory: StoreDirectory, names: Names) -> str:
    """Return the name of a single region's world: that of its manifest, or the names of all regions."""
    if isinstance(directory, FolderDirectory) and directory.is_made():
        found = find_manifest(directory).region
        if found is not None and found.names == names:
            return found.world
    return ",".join(names)


def remove(directories: list[FolderDirectory]) -> None:
    """Remove the folders that a failed opening has created."""
    for directory in directories:
        shutil.rmtree(directory.path)

"""Where the regions of one world live: a folder for each, by its name."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping

from kvstore.drivers.finding import find_manifest
from kvstore.drivers.home import FolderHome, Home, MemoryHome
from kvstore.drivers.store import AnyPath, home_at
from kvstore.errors import NoParent, NotAStore, WrongShape


def homes_of(path: AnyPath, names: tuple[str, ...]) -> dict[str, Home]:
    first = home_at(path)
    if not isinstance(first, FolderHome):
        return {name: MemoryHome() for name in names}
    if not os.path.isdir(os.path.dirname(first.path)):
        raise NoParent(f"{os.path.dirname(first.path)} does not exist", path=first.path)
    if os.path.exists(first.path) and not os.path.isdir(first.path):
        raise NotAStore(f"{first.path} is not a folder", path=first.path)
    os.makedirs(first.path, exist_ok=True)
    if first.numbers():
        raise NotAStore(f"{first.path} holds a store that stands alone, not a world", path=first.path)
    return {name: FolderHome(os.path.join(first.path, name)) for name in names}


def names_at(path: AnyPath) -> tuple[str, ...]:
    """The names of the regions whose world is at ``path``. Raises ``NotAStore``."""
    first = home_at(path)
    if isinstance(first, FolderHome) and os.path.isdir(first.path):
        for name in sorted(os.listdir(first.path)):
            home = FolderHome(os.path.join(first.path, name))
            found = find_manifest(home).region if home.numbers() else None
            if found is not None:
                return found.names
    raise NotAStore(f"there is no world of regions at {first.path}", path=first.path)


def world_of(homes: Mapping[str, Home], names: tuple[str, ...]) -> str:
    """What the world is called, by those of its regions that exist; a new name where none does. One whose
    creation was cut short does not: opening it begins again."""
    worlds = set()
    for home in homes.values():
        if isinstance(home, FolderHome) and home.is_made():
            found = find_manifest(home).region
            if found is None or found.names != names:
                others = None if found is None else found.names
                message = f"{home.path} was created with regions={others}, not {names}"
                raise WrongShape(message, path=home.path, name="regions", found=others, expected=names)
            worlds.add(found.world)
    if len(worlds) > 1:
        message = "the regions' stores belong to different worlds"
        raise WrongShape(message, name="world", found=sorted(worlds), expected=None)
    return worlds.pop() if worlds else str(uuid.uuid4())

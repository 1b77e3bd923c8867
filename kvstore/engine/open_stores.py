"""The stores open in this process: a folder is opened once, closed at exit, and refused after a fork."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from kvstore.engine.store_directory import FolderDirectory, StoreDirectory
from kvstore.errors import AlreadyOpen, Forked


class OpenStore(Protocol):
    """A store as the registry sees it."""

    on_closed: Callable[[], object] | None

    def close(self) -> None: ...

    def forget(self) -> None:
        """Abandon all resources in a forked child, where they belong to the parent."""


_open_stores: dict[tuple[int, int], OpenStore] = {}
"""Open stores by device and inode of their folder: LMDB must not open a file twice in one process."""
_living: weakref.WeakSet[OpenStore] = weakref.WeakSet()
"""All open stores, in-memory stores included."""
_inherited: dict[tuple[int, int], int] = {}
"""Folders of the stores that were open in the parent of this forked child, with the parent's pid."""
_registering = threading.RLock()


def open_store(directory: StoreDirectory, make: Callable[[StoreDirectory], Any]) -> Any:
    """Open a store by ``make`` and register it. Raises ``AlreadyOpen`` and whatever ``make`` raises."""
    with _registering:
        if isinstance(directory, FolderDirectory) and os.path.isdir(directory.path):
            _refuse_second_opening(directory.path)
        store = make(directory)
        _living.add(store)
        if isinstance(directory, FolderDirectory):
            folder = os.stat(directory.path)
            identity = folder.st_dev, folder.st_ino
            _open_stores[identity] = store
            store.on_closed = partial(_open_stores.pop, identity, None)
        return store


def _refuse_second_opening(path: str) -> None:
    folder = os.stat(path)
    identity = folder.st_dev, folder.st_ino
    if identity in _open_stores:
        raise AlreadyOpen(f"{path} is open in this process already", path=path)
    if identity in _inherited:
        pid = _inherited[identity]
        message = f"{path} was open in process {pid} when this process was forked from it"
        raise Forked(message, hint="use another start method, such as spawn", path=path, pid=pid)


def _close_all() -> None:
    for store in list(_open_stores.values()):
        store.close()


def _forget_all() -> None:
    _registering._at_fork_reinit()  # type: ignore[attr-defined]  # a thread of the parent may have held it
    for store in list(_living):
        store.forget()
    _inherited.update(dict.fromkeys(_open_stores, os.getppid()))
    _open_stores.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)

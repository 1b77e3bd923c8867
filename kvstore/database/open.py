"""``kvstore.open`` and the checks of its arguments."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from types import ModuleType
from typing import get_args

from kvstore.database.database import Database
from kvstore.database.routing import SHARDS_MAX, Routing
from kvstore.engine.open_stores import open_store
from kvstore.engine.options import Durability, Options
from kvstore.engine.reading_store import ReadingStore
from kvstore.engine.store import Store, WritingStore
from kvstore.engine.store_directory import AnyPath, StoreDirectory, directory_at
from kvstore.errors import LimitExceeded, UsageError
from kvstore.execution.procedure_context import Owns

REPLICAS = (1, 3, 5)
"""Allowed numbers of replicas: odd, because one more survives no further failure."""
PLACEMENT_MAX = 16


def open(
    path: AnyPath,
    *,
    shards: int | None = None,
    replicas: int | None = None,
    durability: Durability = "commit",
    sync_interval_ms: int = 100,
    readonly: bool = False,
    create: bool = True,
    placement: int | None = None,
    procedures: Iterable[str | ModuleType] | str | None = None,
    snapshot_lifetime: float = 60,
    watch_retention: int = 64 << 20,
    idempotency_days: float = 7,
) -> Database:
    """Open the store at ``path``, creating it if it is missing and ``create`` is true.

    Args:
        path: a folder; its parent must exist. ``":memory:"`` is a store that ends with ``close``.
        shards, replicas, placement: the store's shape. None means as stored, or 4, 1 and the whole key
            for a new store. With ``placement=n`` the first n elements of a tuple key decide its shard.
        durability: what a returned call guarantees. ``"commit"``: the write is on disk.
            ``"interval"``: power loss may lose the last ``sync_interval_ms``, a crash of the process
            nothing. ``"none"``: power loss may lose everything; for tests.
        readonly: show the last commit of a store that another process may be writing; never create.
        procedures: modules that register stored procedures, or their names; imported before the store
            is opened, because recovery may have to run calls again.
        snapshot_lifetime: seconds after which a snapshot or scan ends with ``SnapshotExpired``.
        watch_retention: least number of bytes of log that are kept for watches.
        idempotency_days: days for which outcomes are kept; fixed when the store is created.

    Raises:
        OpenError: ``NoParent``, ``NotAStore``, ``WrongFormat``, ``WrongShape``, ``Locked``, or
            ``AlreadyOpen``; nothing was changed.
        Corrupt: fewer than a majority of the replicas are whole. DiskFull: the disk has no room.
        UnknownProcedure: recovery must run a call whose procedure is not registered.
        UsageError: an argument is out of its bounds.
    """
    check_options(shards, replicas, durability, sync_interval_ms, placement)
    check_positive(snapshot_lifetime=snapshot_lifetime, idempotency_days=idempotency_days)
    _check_range("watch_retention", watch_retention, 0, 1 << 50)
    _import(procedures)
    options = Options(
        shards=shards,
        replicas=replicas,
        placement=placement,
        idempotency_days=idempotency_days,
        durability=durability,
        create=create,
        watch_retention=watch_retention,
        owner=owner,
    )
    return open_at(
        directory_at(path),
        options,
        readonly=readonly,
        sync_interval_ms=sync_interval_ms,
        snapshot_lifetime=snapshot_lifetime,
    )


def open_at(
    directory: StoreDirectory,
    options: Options,
    *,
    readonly: bool = False,
    sync_interval_ms: int = 100,
    snapshot_lifetime: float = 60,
) -> Database:
    """Open the store of a directory, such as a memory disk that the caller keeps."""

    def make(directory: StoreDirectory) -> Store:
        if not readonly:
            return WritingStore(directory, options, sync_interval_ms=sync_interval_ms)
        store = ReadingStore(directory)
        try:
            store.manifest.check_shape(
                directory.path,
                shards=options.shards,
                replicas=options.replicas,
                placement=options.placement,
            )
        except BaseException:
            store.close()
            raise
        return store

    store = open_store(directory, make)
    try:
        return Database(store, snapshot_lifetime)
    except BaseException:
        store.close()
        raise


def owner(shards: int, placement: int | None) -> Owns:
    return Routing(shards, placement).owns


def _import(modules: Iterable[str | ModuleType] | str | None) -> None:
    """Import the named modules, which register procedures; a module object is imported already."""
    for module in [modules] if isinstance(modules, str) else modules or ():
        if not isinstance(module, str | ModuleType):
            raise UsageError(f"procedures are modules or their names, not {module!r}")
        if isinstance(module, str):
            importlib.import_module(module)


def check_options(
    shards: int | None,
    replicas: int | None,
    durability: str,
    sync_interval_ms: int,
    placement: int | None,
) -> None:
    if shards is not None:
        _check_range("shards", shards, 1, SHARDS_MAX)
    if replicas is not None and (type(replicas) is not int or replicas not in REPLICAS):
        raise LimitExceeded(f"replicas is 1, 3 or 5, not {replicas!r}", limit=max(REPLICAS))
    if placement is not None:
        _check_range("placement", placement, 1, PLACEMENT_MAX)
    if durability not in get_args(Durability):
        wanted = ", ".join(get_args(Durability))
        raise UsageError(f"durability is one of {wanted}, not {durability!r}")
    _check_range("sync_interval_ms", sync_interval_ms, 1, 3_600_000)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        limit = low if type(value) is int and value < low else high
        raise LimitExceeded(f"{name} is an int from {low} to {high}, not {value!r}", limit=limit)


def check_positive(**numbers: float) -> None:
    """Raise ``LimitExceeded`` for the first argument that is not a number above 0."""
    for name, value in numbers.items():
        if type(value) not in (int, float) or math.isnan(value) or value <= 0:
            raise LimitExceeded(f"{name} is a number above 0, not {value!r}", limit=0)

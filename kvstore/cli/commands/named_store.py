"""Opening the store that a command names, read-only if the command only reads."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import kvstore
from kvstore.cli.failures import CannotOpen, Misuse

_CANNOT_OPEN: Final = (kvstore.OpenError, kvstore.Damage, kvstore.UnknownProcedure, OSError)


@contextmanager
def opened(path: str, *, writing: bool, **creation: Any) -> Iterator[kvstore.Database]:
    """Open the store at ``path`` for the length of a command.

    For reading, the store is opened read-only: it is never created, and a running application may go on
    writing. A snapshot does not expire, because the reader of the output sets the pace.

    Raises:
        CannotOpen: the store cannot be opened; the cause is the store's own error.
    """
    given = {name: value for name, value in creation.items() if value is not None}
    options = given if writing else {"readonly": True}
    try:
        db = kvstore.open(path, snapshot_lifetime=math.inf, **options)
    except _CANNOT_OPEN as error:
        raise CannotOpen(str(error)) from error
    with db:
        if writing:
            _tell_repairs(db)
        yield db


@contextmanager
def opened_world(
    path: str, *, regions: Sequence[str] | None, region: str | None, **creation: Any
) -> Iterator[tuple[kvstore.Geo, kvstore.Region]]:
    """Open the store with regions at ``path``, or create it; yield the store and one region of it.

    ``regions``: all names; None for the names at creation. ``region``: a name; None for the first.

    Raises:
        CannotOpen: the store cannot be opened. Misuse: the names are not valid.
        kvstore.UnknownRegion: ``region`` is not a region of the store.
    """
    given = {name: value for name, value in creation.items() if value is not None}
    try:
        names = kvstore.regions_of(path) if regions is None else list(regions)
        if region not in (None, *names):
            raise Misuse(f"--region {region} is not one of the regions {', '.join(names)}")
        world = kvstore.Geo(path, regions=names, snapshot_lifetime=math.inf, **given)
    except _CANNOT_OPEN as error:
        raise CannotOpen(str(error)) from error
    except kvstore.UsageError as error:
        raise Misuse(str(error)) from error
    with world:
        for name in names:
            _tell_repairs(world[name])
        yield world, world[region or names[0]]


def _tell_repairs(db: kvstore.Database) -> None:
    for repair in db.status().get("repaired") or ():
        print(f"repaired: {repair}", file=sys.stderr)

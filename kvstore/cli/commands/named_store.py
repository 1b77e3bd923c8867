"""Opening the store that a command names: read-only wherever the command only reads."""

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

    For reading it is opened read-only: never created, and a running application may go on writing. A view
    lives as long as the command does, as whoever reads the output sets the pace.

    Raises:
        CannotOpen: for whatever reason; its cause is the store's own error.
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
    """Open the world of regions at ``path``, or create it, and stand in one of them.

    ``regions``: their names; None for those it was created with. ``region``: the first of them, if None.

    Raises:
        CannotOpen: as ``opened`` does. Misuse: the names cannot be right.
        kvstore.UnknownRegion: the region is none of them.
    """
    given = {name: value for name, value in creation.items() if value is not None}
    try:
        names = kvstore.regions_of(path) if regions is None else list(regions)
        if region not in (None, *names):
            raise Misuse(f"--region {region} is none of the regions {', '.join(names)}")
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

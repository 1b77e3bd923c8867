"""Opening the store that a command names: read-only wherever the command only reads."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kvstore
from kvstore.cli.failures import CannotOpen


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
    except (kvstore.OpenError, kvstore.Damage, kvstore.UnknownProcedure, OSError) as error:
        raise CannotOpen(str(error)) from error
    with db:
        if writing:
            _tell_repairs(db)
        yield db


def _tell_repairs(db: kvstore.Database) -> None:
    for repair in db.status().get("repaired") or ():
        print(f"repaired: {repair}", file=sys.stderr)

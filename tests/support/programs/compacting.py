"""Compacts a store and is killed by SIGKILL at a step: ``compacting STEP PATH``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvstore
from kvstore.storage import LmdbEnvironment, side_file

STEPS: dict[str, tuple[Any, str, str]] = {
    "copy": (LmdbEnvironment, "copy_to", ""),
    "root": (side_file, "remove", "synced-root"),
    "readers": (Path, "unlink", "lock.mdb"),
    "file": (Path, "replace", "data.mdb"),
    "folder": (side_file, "sync_folder", "replica-0"),
}
"""Function of each step, and the end of the path that it is called with."""


def kill_at(owner: Any, name: str, ending: str) -> None:
    """Kill the process just before this call."""
    original: Callable[..., Any] = getattr(owner, name)

    def killed(*arguments: Any, **options: Any) -> Any:
        if str(arguments[0]).endswith(ending):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, killed)


def main() -> None:
    step, path = sys.argv[1:]
    db = kvstore.open(path, durability="interval")
    kill_at(*STEPS[step])
    db.compact()


if __name__ == "__main__":
    main()

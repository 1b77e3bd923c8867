"""``python -m kvstore.storage.examine FOLDER``: walk one environment and report its problems.

It runs as a child process, because LMDB follows damaged page pointers, which can end the process. It
prints one line for each problem; the exit code is 0 if there are none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from kvstore.errors import Error
from kvstore.storage.lmdb_environment import LmdbEnvironment
from kvstore.storage.soundness import DATA_FILE, structure_problems


def examine(folder: Path) -> Iterator[str]:
    """Yield a sentence for each problem: in the pages first and, if these are sound, in the records."""
    found = False
    for problem in structure_problems(folder / DATA_FILE):
        found = True
        yield problem
    if found:
        return
    try:
        environment = LmdbEnvironment(folder, readonly=True)
    except Error as error:
        yield str(error)
        return
    yield from environment.view().problems()


def main() -> int:
    problems = list(examine(Path(sys.argv[1])))
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m demo``: put the Unicode character database into a store, then ask it a few things.

The store is made in a temporary folder and removed, or kept at ``--path``.
"""

from __future__ import annotations

import sys
import tempfile
import time
import unicodedata
from io import TextIOWrapper
from pathlib import Path

import click

import kvstore
from demo import tour
from demo.importing import import_all

CHARACTERS = 144_000
"""About as many have a name, in the Pythons there are: how long the progress bar is."""
LOOKS = 4
"""How often the import is looked at while it runs."""


@click.command(help=__doc__)
@click.option(
    "--path", type=click.Path(path_type=Path), help="Keep the store there, and use the one that is there."
)
def main(path: Path | None) -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if path is not None:
        run(path)
        return
    with tempfile.TemporaryDirectory(prefix="kvstore-demo-") as folder:
        run(Path(folder) / "unicode.db")


def run(path: Path) -> None:
    click.echo(f"Unicode {unicodedata.unidata_version} goes into {path}, a store of four shards.")
    with kvstore.open(path) as db:
        fill(db)
        tour.show(db)


def fill(db: kvstore.Database) -> None:
    """Import everything, and take snapshots meanwhile: each must show whole batches only."""
    begin, looks = time.monotonic(), Looks(db)
    with click.progressbar(length=CHARACTERS, label="importing", show_pos=True) as bar:

        def advance(count: int) -> None:
            bar.update(count)
            looks.after(bar.pos)

        total = import_all(db, advance)
    seconds = time.monotonic() - begin
    click.echo(f"{total:,} characters in {db.count():,} records, {seconds:.1f} s.")
    for characters, counted in looks.seen:
        verdict = "consistent" if characters == counted else "NOT CONSISTENT"
        click.echo(f"    a snapshot meanwhile: {characters:7,} characters, {counted:7,} counted: {verdict}")


class Looks:
    """Snapshots of a store that is being filled."""

    def __init__(self, db: kvstore.Database) -> None:
        self._db = db
        self._next = CHARACTERS // (LOOKS + 1)
        self.seen: list[tuple[int, int]] = []

    def after(self, done: int) -> None:
        """Take the next one if it is time."""
        if done >= self._next and len(self.seen) < LOOKS:
            self._next += CHARACTERS // (LOOKS + 1)
            with self._db.snapshot() as view:
                counted = sum(count for _, count in view.scan(prefix=("count",)))
                self.seen.append((view.count(prefix=("char",)), counted))


if __name__ == "__main__":
    main()

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
from demo.characters import named
from demo.importing import import_all

LOOKS = 4
"""How often the import is looked at while it runs."""


@click.command()
@click.option("--path", type=click.Path(path_type=Path), help="Make the store there, or use it again.")
def main(path: Path | None) -> None:
    """Put the Unicode character database into a store, then ask it a few things."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if path is not None:
            run(path)
            return
        with tempfile.TemporaryDirectory(prefix="kvstore-demo-") as folder:
            run(Path(folder) / "unicode.db")
    except kvstore.Error as error:
        raise click.ClickException(str(error)) from error


def run(path: Path) -> None:
    click.echo(f"Unicode {unicodedata.unidata_version} goes into {path}, a store of four shards.")
    with kvstore.open(path) as db:
        fill(db)
        tour.show(db)


def fill(db: kvstore.Database) -> None:
    """Import everything, and take snapshots meanwhile: each must show whole batches only."""
    characters = named()
    begin, looks = time.monotonic(), Looks(db, every=len(characters) // (LOOKS + 1))
    with click.progressbar(length=len(characters), label="importing", show_pos=True) as bar:

        def advance(count: int) -> None:
            bar.update(count)
            looks.after(count)

        import_all(db, characters, advance)
    seconds = time.monotonic() - begin
    click.echo(f"{len(characters):,} characters in {db.count():,} records, {seconds:.1f} s.")
    for seen, counted in looks.taken:
        verdict = "consistent" if seen == counted else "NOT CONSISTENT"
        click.echo(f"    a snapshot meanwhile: {seen:7,} characters, {counted:7,} counted: {verdict}")


class Looks:
    """Snapshots of a store that is being filled."""

    def __init__(self, db: kvstore.Database, *, every: int) -> None:
        self._db = db
        self._every = every
        self._since_last = 0
        self.taken: list[tuple[int, int]] = []
        """Characters in the store, and what the counters of the same moment add up to."""

    def after(self, count: int) -> None:
        """So many more characters are in; look if it is time."""
        self._since_last += count
        if self._since_last >= self._every and len(self.taken) < LOOKS:
            self._since_last = 0
            with self._db.snapshot() as view:
                counted = sum(number for _, number in view.scan(prefix=("count",)))
                self.taken.append((view.count(prefix=("char",)), counted))


if __name__ == "__main__":
    main()

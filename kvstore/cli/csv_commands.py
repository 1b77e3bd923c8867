"""``kvstore import`` and ``kvstore export``: files opened and named, progress shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from kvstore.cli.csv_files import (
    ImportOptions,
    Progress,
    export_file,
    import_rows,
    read_header,
    written_beside,
)
from kvstore.cli.csv_layout import FILES, LINES
from kvstore.cli.csv_records import Malformed, fields_of
from kvstore.cli.failures import Misuse
from kvstore.cli.opening import opened
from kvstore.cli.parameters import CREATION, STORE
from kvstore.cli.shell import say, say_aside

_FILE = click.Argument(["file"], metavar="FILE")
_PREFIX = click.Option(["--prefix"], metavar="NAME", help="What keys begin with. Default: the file's name.")


def _import(
    path: str,
    file: str,
    key: tuple[str, ...],
    prefix: str | None,
    types: bool,
    last_wins: bool,
    **creation: Any,
) -> None:
    name = _prefix(prefix, file)
    options = ImportOptions(prefix=name, key=_columns(key), types=types, last_wins=last_wins)
    with _readable(file) as stream:
        source = read_header(stream, "<stdin>" if file == "-" else file, options)
        length = os.path.getsize(file) if os.path.isfile(file) else None
        with opened(path, writing=True, **creation) as db, _progress(f"importing {name}", length) as progress:
            rows = import_rows(db, source, progress)
    say(f"{rows} rows imported as {name}")


def _export(path: str, file: str, prefix: str | None) -> None:
    name = _prefix(prefix, file)
    with opened(path, writing=False) as db, db.snapshot() as view:
        length = view.count(prefix=(name,)) if sys.stderr.isatty() else None
        with _writable(file) as stream, _progress(f"exporting {name}", length) as progress:
            rows, beside = export_file(view, name, stream.write, progress)
    if beside:
        say_aside(f"{beside} records under the prefix are not rows of the file and were left out")
    if file != "-":
        say(f"{rows} rows exported to {file}")


def _prefix(prefix: str | None, file: str) -> str:
    if prefix is None:
        if file == "-":
            raise Misuse("--prefix NAME is missing: without a file name there is none to take it from")
        prefix = Path(file).stem
    if not prefix or prefix in (FILES, LINES):
        raise Misuse(f'--prefix cannot be "{prefix}"')
    return prefix


def _columns(key: tuple[str, ...]) -> list[str]:
    """Column names, separated by commas; one that has a comma is quoted as in the file."""
    try:
        return [column for names in key for column in fields_of(names)]
    except Malformed as error:
        raise Misuse(f"--key: {error}") from None


@contextmanager
def _readable(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with open(file, "rb") as stream:
        yield stream


@contextmanager
def _writable(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdout.buffer
        return
    with written_beside(file) as stream:
        yield stream


@contextmanager
def _progress(label: str, length: int | None) -> Iterator[Progress]:
    """A progress bar on a terminal; elsewhere nothing."""
    if length is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


IMPORT = click.Command(
    "import",
    callback=_import,
    short_help="Store the rows of a CSV file.",
    help="Store the rows of a CSV file, '-' for standard input. Its first line names the columns; every row"
    " becomes a map of its columns. The store is created if it is missing.",
    params=[
        STORE,
        _FILE,
        click.Option(
            ["--key"],
            multiple=True,
            metavar="COLUMN[,COLUMN...]",
            help="Make these columns the key of a row. Without it, rows are numbered from 1.",
        ),
        _PREFIX,
        click.Option(["--types"], is_flag=True, help="Store numbers, true and false as such, not as text."),
        click.Option(["--last-wins"], is_flag=True, help="Of rows with the same key keep the last."),
        *CREATION,
    ],
)

EXPORT = click.Command(
    "export",
    callback=_export,
    short_help="Write a CSV file that was imported.",
    help="Write a CSV file that was imported, '-' for standard output, as it was, byte for byte, with rows in"
    " the order of their keys.",
    params=[STORE, _FILE, _PREFIX],
)

"""``kvstore import`` and ``kvstore export``: the options, and their meaning for CSV and for JSON Lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import click

import kvstore
from kvstore.cli.commands.named_store import opened
from kvstore.cli.commands.parameters import CREATION, STORE
from kvstore.cli.failures import Misuse
from kvstore.cli.formats.csv_files import export_file, read_header
from kvstore.cli.formats.csv_layout import FILES, LINES
from kvstore.cli.formats.csv_records import Malformed, fields_of
from kvstore.cli.formats.importing import PROGRESS, ImportOptions, Source, import_rows
from kvstore.cli.formats.jsonl_files import RecordSource, RowSource, export_records
from kvstore.cli.formats.streams import length_of, name_of, progress_bar, readable, say, say_aside, writable

Format: TypeAlias = Literal["csv", "jsonl"]

_FILE = click.Argument(["file"], metavar="FILE")
_FORMAT = click.Option(
    ["--format"], type=click.Choice(["csv", "jsonl"]), help="Default: the file's extension, or csv."
)
_PREFIX = click.Option(
    ["--prefix"], metavar="NAME", help="The first element of keys. Default: the file's name."
)


def _import(
    path: str,
    file: str,
    format: Format | None,
    key: tuple[str, ...],
    prefix: str | None,
    types: bool,
    last_wins: bool,
    resume: bool,
    **creation: Any,
) -> None:
    with readable(file) as stream:
        source, kind = _source(stream, file, _format(format, file), key, prefix, types, last_wins)
        with (
            opened(path, writing=True, **creation) as db,
            progress_bar(f"importing {source.name}", length_of(file)) as progress,
        ):
            imported = import_rows(db, source, progress, resume=resume)
    before = f", {imported.before} of them before" if imported.before else ""
    say(f"{imported.rows} {kind}{before}")


def _source(
    stream: BinaryIO,
    file: str,
    format: Format,
    key: tuple[str, ...],
    prefix: str | None,
    types: bool,
    last_wins: bool,
) -> tuple[Source, str]:
    """Return the file as rows, and the words that report how they were stored."""
    if format == "jsonl" and types:
        raise Misuse("--types is for CSV: JSON Lines values have types already")
    if format == "jsonl" and not key and prefix is None:
        return RecordSource(stream, name_of(file), Path(file).stem, last_wins=last_wins), "records imported"
    name = _prefix(prefix, file)
    options = ImportOptions(prefix=name, key=_columns(key), types=types, last_wins=last_wins)
    kind = f"rows imported as {name}"
    if format == "jsonl":
        return RowSource(stream, name_of(file), options), kind
    return read_header(stream, name_of(file), options), kind


def _export(path: str, file: str, format: Format | None, prefix: str | None) -> None:
    if _format(format, file) == "csv":
        kind, rows = "rows", _export_csv(path, file, _prefix(prefix, file))
    else:
        kind, rows = "records", _export_jsonl(path, file, prefix)
    if file != "-":
        say(f"{rows} {kind} exported to {file}")


def _export_csv(path: str, file: str, name: str) -> int:
    with opened(path, writing=False) as db, db.snapshot() as view:
        length = _count(view, name)
        with writable(file) as stream, progress_bar(f"exporting {name}", length) as progress:
            rows, beside = export_file(view, name, stream.write, progress)
    if beside:
        say_aside(f"{beside} records under the prefix are not rows of the file and were left out")
    return rows


def _export_jsonl(path: str, file: str, prefix: str | None) -> int:
    with opened(path, writing=False) as db, db.snapshot() as view:
        length = _count(view, prefix)
        with writable(file) as stream, progress_bar("exporting", length) as progress:
            return export_records(view, prefix, stream.write, progress)


def _count(view: kvstore.Snapshot, prefix: str | None) -> int | None:
    """Return the number of records if a progress bar will be shown, else None."""
    return view.count(prefix=None if prefix is None else (prefix,)) if sys.stderr.isatty() else None


def _format(format: Format | None, file: str) -> Format:
    if format is not None:
        return format
    return "jsonl" if os.path.splitext(file)[1].lower() in (".jsonl", ".ndjson") else "csv"


def _prefix(prefix: str | None, file: str) -> str:
    if prefix is None:
        if file == "-":
            raise Misuse("--prefix NAME is missing: there is no file name to take it from")
        prefix = Path(file).stem
    if not prefix or prefix in (FILES, LINES, PROGRESS):
        raise Misuse(f'--prefix cannot be "{prefix}"')
    return prefix


def _columns(key: tuple[str, ...]) -> list[str]:
    """Return the column names, separated by commas; a name with a comma is quoted as in the file."""
    try:
        return [column for names in key for column in fields_of(names)]
    except Malformed as error:
        raise Misuse(f"--key: {error}") from None


IMPORT = click.Command(
    "import",
    callback=_import,
    short_help="Store the rows of a CSV or JSON Lines file.",
    help="Store the rows of a file, '-' for standard input. The first line of CSV names the columns, and"
    " every row becomes a map of its columns. A line of JSON Lines is such a map with --key or --prefix;"
    " without them it is a record as export writes it. The store is created if it is missing.",
    params=[
        STORE,
        _FILE,
        _FORMAT,
        click.Option(
            ["--key"],
            multiple=True,
            metavar="COLUMN[,COLUMN...]",
            help="Make these columns the key of a row. Without it, rows are numbered from 1.",
        ),
        _PREFIX,
        click.Option(
            ["--types"], is_flag=True, help="Store numbers, true and false of CSV as such, not as text."
        ),
        click.Option(["--last-wins"], is_flag=True, help="Of several rows with one key, keep the last."),
        click.Option(["--resume"], is_flag=True, help="Continue where the last import of this file stopped."),
        *CREATION,
    ],
)

EXPORT = click.Command(
    "export",
    callback=_export,
    short_help="Write a CSV file that was imported, or records as JSON Lines.",
    help="Write a CSV file that was imported, '-' for standard output, as it was, byte for byte, with rows in"
    " key order. Or write JSON Lines: the records under --prefix, or all records.",
    params=[STORE, _FILE, _FORMAT, _PREFIX],
)

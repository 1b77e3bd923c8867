"""``kvstore dump`` and ``kvstore load``: write the whole store as text, and make a store from that text.

A new store is loaded into a temporary folder, which is renamed when the dump has proved to be complete; until
then PATH stays as it is. A dump is loaded into an existing store only after it was read once to its end.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

import kvstore
from kvstore.cli.commands.named_store import opened
from kvstore.cli.commands.parameters import CREATION, STORE
from kvstore.cli.failures import CommandFailed, Misuse
from kvstore.cli.formats.chunks import Chunks
from kvstore.cli.formats.dump_format import Dump, dump_lines
from kvstore.cli.formats.streams import (
    Progress,
    beside,
    length_of,
    name_of,
    progress_bar,
    readable,
    say,
    writable,
)


def _dump(path: str, file: str) -> None:
    with opened(path, writing=False) as db, db.snapshot() as view:
        length = view.count() if sys.stderr.isatty() else None
        with writable(file) as stream, progress_bar("dumping", length) as progress:
            lines = 0
            for line in dump_lines(view, db.status()):
                stream.write(line)
                progress(1)
                lines += 1
    if file != "-":
        say(f"{lines - 2} records dumped to {file}")


def _load(path: str, file: str, into: bool, **creation: Any) -> None:
    if into:
        _check_whole(file)
    with readable(file) as stream, progress_bar("loading", length_of(file)) as progress:
        dump = Dump(stream, name_of(file))
        with _opened(path, into, dump.shape, creation) as db:
            records = _store(db, dump, progress)
    say(f"{records} records loaded")


def _check_whole(file: str) -> None:
    """Read a dump to its end, so that a damaged dump is refused before anything is stored."""
    if not os.path.isfile(file):
        raise Misuse("--into reads the dump twice: it must be a file")
    with open(file, "rb") as stream:
        for _ in Dump(stream, file).records():
            pass


@contextmanager
def _opened(
    path: str, into: bool, shape: dict[str, Any], creation: dict[str, Any]
) -> Iterator[kvstore.Database]:
    if into:
        with opened(path, writing=True, create=False, **creation) as db:
            yield db
        return
    given = {name: value for name, value in creation.items() if value is not None}
    with _completed_at(path) as unfinished, opened(unfinished, writing=True, **shape | given) as db:
        yield db


def _store(db: kvstore.Database, dump: Dump, progress: Progress) -> int:
    chunks = Chunks(db, dump.reader.stream, progress)
    for record in dump.records():
        try:
            chunks.batch.put(record.key, record.value)
        except kvstore.UsageError as error:
            raise dump.reader.bad_line(record.line, str(error)) from error
        chunks.rows += 1
        if chunks.full:
            chunks.submit()
    chunks.submit()
    return chunks.wait()


@contextmanager
def _completed_at(path: str) -> Iterator[str]:
    """Yield the path of a store that is renamed to ``path`` when it is complete and closed."""
    target = os.path.realpath(path)
    if not os.path.isdir(os.path.dirname(target)):
        raise kvstore.NoParent(
            f"{os.path.dirname(target)} does not exist, so {path} cannot be in it", path=path
        )
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise CommandFailed(f"{path} exists already: load into a new folder, or into this store with --into")
    unfinished = beside(target)
    try:
        yield unfinished
        os.rename(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


_FILE = click.Argument(["file"], metavar="[FILE]", default="-")

DUMP = click.Command(
    "dump",
    callback=_dump,
    short_help="Write the whole store as text.",
    help="Write a snapshot of the whole store as text that every later version reads; to standard output if"
    " no FILE is given. An application may go on writing meanwhile.",
    params=[STORE, _FILE],
)

LOAD = click.Command(
    "load",
    callback=_load,
    short_help="Make a store from a dump.",
    help="Make a store from a dump, read from standard input if no FILE is given. PATH must not exist, and"
    " appears only when the whole dump is loaded. Shards and replicas are those of the dumped store, unless"
    " they are given.",
    params=[
        STORE,
        _FILE,
        click.Option(["--into"], is_flag=True, help="Add the records to an existing store."),
        *CREATION,
    ],
)

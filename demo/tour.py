"""Questions to the store, each shown as one would write it, with the answer below."""

from __future__ import annotations

from itertools import islice
from typing import Any

import click

import kvstore
from demo.characters import CATEGORIES

SNAKE = 0x1F40D


def show(db: kvstore.Database) -> None:
    """Ask one question after another."""
    one_record(db)
    ranges(db)
    counts(db)
    writes(db)
    whole(db)


def heading(text: str) -> None:
    click.echo()
    click.secho(text, bold=True)


def asked(line: str, *answers: Any) -> None:
    click.secho(f"    {line}", fg="cyan")
    for answer in answers:
        click.echo(f"        {answer}")


def last(key: kvstore.Key) -> Any:
    """The last element of a tuple key: here a code, a word or a category."""
    return key[-1]


def code(key: kvstore.Key) -> str:
    return f"U+{last(key):04X}"


def one_record(db: kvstore.Database) -> None:
    heading("One record. A key is a str, bytes or a tuple; a value is whatever MessagePack carries.")
    asked(f'db["char", {SNAKE:#x}]', db["char", SNAKE])
    asked('db.get(("char", -1), default="no such character")', db.get(("char", -1), "no such character"))
    route = db.explain(("char", SNAKE))
    asked(f'db.explain(("char", {SNAKE:#x}))', f"{route.path}, shard {route.shards[0]}, {route.rounds} round")


def ranges(db: kvstore.Database) -> None:
    heading("Ranges. Keys lie in order over all shards, so a prefix is a range.")
    snakes = db.scan(prefix=("word", "SNAKE"))
    asked('db.scan(prefix=("word", "SNAKE"))', *(f"{code(key)}  {name}" for key, name in snakes))
    digits = db.scan(start=("char", 0x0E50), stop=("char", 0x0E53))
    asked(
        'db.scan(start=("char", 0x0E50), stop=("char", 0x0E53))',
        *(f"{code(key)}  {facts['name']}, worth {facts['numeric']:g}" for key, facts in digits),
    )
    highest = db.scan(prefix=("char",), reverse=True, limit=2)
    asked(
        'db.scan(prefix=("char",), reverse=True, limit=2)',
        *(f"{code(key)}  {facts['name']}" for key, facts in highest),
    )


def counts(db: kvstore.Database) -> None:
    heading("Counts. Each batch of the import also added to a counter for each category.")
    by_count = sorted(db.scan(prefix=("count",)), key=lambda row: -row[1])
    asked(
        'db.scan(prefix=("count",))',
        *(f"{count:7,}  {CATEGORIES[last(key)]}" for key, count in islice(by_count, 5)),
        f"    ... and {len(by_count) - 5} more categories",
    )
    asked('db.count(prefix=("word", "LETTER"))', f"{db.count(prefix=('word', 'LETTER')):,}")


def writes(db: kvstore.Database) -> None:
    heading("One moment. A batch is atomic over all shards; a snapshot shows the time before it or after it.")
    notes = [("note", number) for number in range(SNAKE, SNAKE + 10)]
    with db.snapshot() as view:
        with db.batch() as batch:
            for note in notes:
                batch.put(note, "seen")
        route = db.explain(batch)
        asked(
            "with db.snapshot() as view, db.batch() as batch: ...  # ten puts",
            f"{route.path}, shards {route.shards}, {route.rounds} round",
            f"notes in the store: {db.count(prefix=('note',))}",
            f"notes in the snapshot: {view.count(prefix=('note',))}",
        )
    with db.batch() as batch:
        for note in notes:
            batch.delete(note)


def whole(db: kvstore.Database) -> None:
    heading("All of it. Every record carries a checksum; verify() reads them all.")
    status, found = db.status(), db.verify()
    size = sum(status["bytes"].values()) / 2**20
    asked("db.status()", f"{status['records']:,} records on {status['shards']} shards, {size:.0f} MiB")
    asked("db.verify()", f"ok: {found['ok']}, problems: {found['problems']}")

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


def asked(code: str, *answers: Any) -> None:
    click.secho(f"    {code}", fg="cyan")
    for answer in answers:
        click.echo(f"        {answer}")


def one_record(db: kvstore.Database) -> None:
    heading("One record. A key is a str, bytes or a tuple; a value is whatever MessagePack carries.")
    asked(f'db["char", {SNAKE:#x}]', db["char", SNAKE])
    asked('db.get(("char", -1), default="no such character")', db.get(("char", -1), "no such character"))
    route = db.explain(("char", SNAKE))
    asked(f'db.explain(("char", {SNAKE:#x}))', f"{route.path}, shard {route.shards[0]}, {route.rounds} round")


def ranges(db: kvstore.Database) -> None:
    heading("Ranges. Keys lie in order over all shards, so a prefix is a range.")
    snakes = db.scan(prefix=("word", "SNAKE"))
    asked('db.scan(prefix=("word", "SNAKE"))', *(f"U+{key[2]:04X}  {name}" for key, name in snakes))
    digits = db.scan(start=("char", 0x0E50), stop=("char", 0x0E53))
    asked(
        'db.scan(start=("char", 0x0E50), stop=("char", 0x0E53))',
        *(f"U+{key[1]:04X}  {facts['name']}, worth {facts['numeric']:g}" for key, facts in digits),
    )
    last = db.scan(prefix=("char",), reverse=True, limit=2)
    asked(
        'db.scan(prefix=("char",), reverse=True, limit=2)',
        *(f"U+{key[1]:04X}  {facts['name']}" for key, facts in last),
    )


def counts(db: kvstore.Database) -> None:
    heading("Counts. Each batch of the import also added to a counter for each category.")
    by_count = sorted(db.scan(prefix=("count",)), key=lambda row: -row[1])
    asked(
        'db.scan(prefix=("count",))',
        *(f"{count:7,}  {CATEGORIES.get(key[1], key[1])}" for key, count in islice(by_count, 5)),
        f"    ... and {len(by_count) - 5} more categories",
    )
    asked('db.count(prefix=("word", "LETTER"))', f"{db.count(prefix=('word', 'LETTER')):,}")


def writes(db: kvstore.Database) -> None:
    heading("One moment. A snapshot keeps showing the store as it was when it was taken.")
    with db.snapshot() as view:
        with db.batch() as batch:
            batch.put(("note", SNAKE), "seen")
            batch.add(("visits", "snake"), 1)
        asked(
            "with db.snapshot() as view, db.batch() as batch: ...",
            f"the batch touched shards {db.explain(batch).shards} in {db.explain(batch).rounds} round",
            f'("note", {SNAKE:#x}) in view: {("note", SNAKE) in view}',
            f'("note", {SNAKE:#x}) in db:   {("note", SNAKE) in db}',
        )
    db.delete(("note", SNAKE))
    db.delete(("visits", "snake"))


def whole(db: kvstore.Database) -> None:
    heading("All of it. Every record carries a checksum; verify() reads them all.")
    status, found = db.status(), db.verify()
    size = sum(status["bytes"].values()) / 2**20
    asked("db.status()", f"{status['records']:,} records on {status['shards']} shards, {size:.0f} MiB")
    asked("db.verify()", f"ok: {found['ok']}, problems: {found['problems']}")

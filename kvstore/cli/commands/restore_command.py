"""``kvstore restore``: make a store from a backup, after checking the backup."""

from __future__ import annotations

import click

from kvstore.cli.commands.named_store import opened
from kvstore.cli.commands.reports import verify_lines
from kvstore.cli.failures import CommandFailed
from kvstore.cli.formats.streams import say, say_aside
from kvstore.cli.formats.tables import Settings


def _restore(backup: str, path: str) -> None:
    with opened(backup, writing=False) as db:
        report = db.verify()
        if not report["ok"]:
            for problem in verify_lines(report, Settings()):
                say_aside(problem)
            raise CommandFailed(
                f"{backup} is damaged, {len(report['problems'])} problems: nothing was restored"
            )
        db.backup(path)
    say(f"restored to {path}")


RESTORE = click.Command(
    "restore",
    callback=_restore,
    short_help="Make a store from a backup.",
    help="Check a backup, and copy it to PATH, which must not exist. The copy has an identity of its own; the"
    " backup stays as it is.",
    params=[click.Argument(["backup"], metavar="BACKUP"), click.Argument(["path"], metavar="PATH")],
)

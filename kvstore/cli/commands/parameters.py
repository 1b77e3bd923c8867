"""Arguments and options that several commands of the program share."""

from __future__ import annotations

import click

STORE = click.Argument(["path"], metavar="PATH")
"""The store's folder."""

CREATION = (
    click.Option(["--shards"], type=click.IntRange(min=1), metavar="N", help="Shards, if created: 4."),
    click.Option(["--replicas"], type=click.IntRange(min=1), metavar="N", help="Replicas, if created: 1."),
    click.Option(
        ["--durability"],
        type=click.Choice(["commit", "interval", "none"]),
        help="When a write is acknowledged: once on disk (commit), or sooner.",
    ),
)
"""The options of commands that create a missing store."""


class StrictCommand(click.Command):
    """A command that takes ``-2`` as a number and still refuses unknown options.

    click ignores either all unknown options or none; so click ignores them, and ``--name`` is checked here.
    """

    ignore_unknown_options = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        for argument in args:
            if argument == "--":
                break
            name = argument.partition("=")[0]
            if name.startswith("--") and name[2:3].isalpha() and name not in known:
                raise click.NoSuchOption(name, possibilities=sorted(known), ctx=ctx)
        return super().parse_args(ctx, args)

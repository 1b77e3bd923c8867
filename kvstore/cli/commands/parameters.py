"""The arguments and options that several commands of the program share."""

from __future__ import annotations

import click

STORE = click.Argument(["path"], metavar="PATH")
"""The store's folder."""

CREATION = (
    click.Option(["--shards"], type=click.IntRange(min=1), metavar="N", help="Shards, if it is created: 4."),
    click.Option(
        ["--replicas"], type=click.IntRange(min=1), metavar="N", help="Copies, if it is created: 1."
    ),
    click.Option(
        ["--durability"],
        type=click.Choice(["commit", "interval", "none"]),
        help="When a write counts as done: on the disk (commit), or sooner.",
    ),
)
"""How to open for writing, which creates what is missing."""


class StrictCommand(click.Command):
    """Takes ``-2`` as the number it is, and still refuses an option that it does not have.

    click can only ignore all unknown options or none; so it ignores them, and ``--name`` is looked at here.
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

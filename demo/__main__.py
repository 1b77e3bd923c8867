"""``python -m demo``: a bank in several regions at work, with cut links, healed, damaged and repaired.

The bank is created in a temporary folder and removed at the end, or created at ``--path`` and kept.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import click
from click.core import ParameterSource

import kvstore
from demo import guided, records
from demo.narration import Narrator
from demo.stage import SCENES

NEW = click.Path(path_type=Path, file_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option(
    "--scene", "names", multiple=True, type=click.Choice(list(SCENES)), help="A scene to play; repeatable."
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the random choices."
)
@click.option("--regions", type=click.IntRange(2, len(guided.REGIONS)), default=3, show_default=True)
@click.option("--accounts", type=click.IntRange(2, 100), default=4, show_default=True, help="In each region.")
@click.option("--fast", is_flag=True, help="Do not pause.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each scene, and for the run.")
@click.option("--path", type=NEW, help="Create the bank there and keep it; the folder must not exist.")
@click.option("--data", type=FOLDER, help="Pay the orders in its account.csv, district.csv, order.csv.")
@click.option("--months", type=click.IntRange(1, 60), default=3, show_default=True, help="Used with --data.")
def main(
    names: tuple[str, ...], seed: int, regions: int, accounts: int, fast: bool, as_json: bool,
    path: Path | None, data: Path | None, months: int,
) -> None:  # fmt: skip
    """Run a bank in several regions. Exits with 0 if every scene proved its claims, with 1 if an invariant is
    violated or a scene proved nothing, with 3 if the run could not be completed."""
    _check_options(names, regions, path, data)
    narrator = Narrator(fast=fast, as_json=as_json)
    if path is not None:
        narrator.opening(f"The bank is kept at {path}; open it afterwards with: kvstore shell --geo {path}")
    with tempfile.TemporaryDirectory(prefix="kvstore-demo-") as folder:
        breakable = Path(folder)
        home = path or breakable / "bank"
        try:
            if data is not None:
                outcome = records.run(home, data, months, narrator)
            else:
                playing = names or [name for name, scene in SCENES.items() if scene.regions <= regions]
                outcome = guided.play(home, breakable, playing, seed, regions, accounts, narrator)
        except (kvstore.Error, records.NoRecords, OSError) as error:
            raise Stopped(str(error)) from error
        except KeyboardInterrupt as error:
            raise Stopped("interrupted") from error
    sys.exit(1 if outcome.findings or outcome.unmet else 0)


class Stopped(click.ClickException):
    """The run could not be completed, so it says nothing about the invariants."""

    exit_code = 3


OF_THE_SCENES, OF_THE_RECORDS = ("names", "seed", "regions", "accounts"), ("months",)


def _check_options(names: tuple[str, ...], regions: int, path: Path | None, data: Path | None) -> None:
    context = click.get_current_context()
    for name in OF_THE_RECORDS if data is None else OF_THE_SCENES:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "--scene" if name == "names" else f"--{name}"
            needs = "goes with --data" if data is None else "does not go with --data"
            raise click.UsageError(f"{option} {needs}", context)
    for name in names:
        if SCENES[name].regions > regions:
            raise click.UsageError(f"--scene {name} needs --regions {SCENES[name].regions} or more", context)
    with suppress(OSError):  # creating the bank raises this error again
        if path is not None and path.exists():
            raise click.UsageError(f"{path} exists; the bank needs a new folder", context)


if __name__ == "__main__":
    main()

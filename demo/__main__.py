"""``python -m demo``: a bank in several regions, shown at work, cut apart, healed, broken and repaired.

The bank is made in a temporary folder and removed, or kept at ``--path``.
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
    "--scene", "names", multiple=True, type=click.Choice(list(SCENES)), help="Only this; repeatable."
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="What chance is made from."
)
@click.option("--regions", type=click.IntRange(2, len(guided.REGIONS)), default=3, show_default=True)
@click.option("--accounts", type=click.IntRange(2, 100), default=4, show_default=True, help="In each region.")
@click.option("--fast", is_flag=True, help="Without pauses.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each scene, and one for the run.")
@click.option("--path", type=NEW, help="Make the bank there, and keep it; the folder must not exist yet.")
@click.option("--data", type=FOLDER, help="Run on the records there: account.csv, district.csv, order.csv.")
@click.option("--months", type=click.IntRange(1, 60), default=3, show_default=True, help="Of --data.")
def main(
    names: tuple[str, ...], seed: int, regions: int, accounts: int, fast: bool, as_json: bool,
    path: Path | None, data: Path | None, months: int,
) -> None:  # fmt: skip
    """A bank in several regions. It exits with 0 if all was proved, with 1 if a promise was broken or a scene
    proved nothing, with 3 if it could not run to its end."""
    _check_options(names, regions, path, data)
    narrator = Narrator(fast=fast, as_json=as_json)
    if path is not None:
        narrator.opening(f"The bank stays at {path}; afterwards, look around: kvstore shell --geo {path}")
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
    """It could not run to its end; nothing is said of its promises."""

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
    with suppress(OSError):  # whoever makes it will say what is wrong with it
        if path is not None and path.exists():
            raise click.UsageError(f"{path} exists; the bank is made in a new folder", context)


if __name__ == "__main__":
    main()

"""``python -m demo``: a bank in several regions, shown at work, cut apart, healed, broken and repaired.

The bank is made in a temporary folder and removed, or kept at ``--path``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

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
    """A bank in several regions. It exits with 1 if any promise was broken."""
    if path is not None and path.exists():
        raise click.UsageError(
            f"{path} exists; the bank is made in a new folder", click.get_current_context()
        )
    narrator = Narrator(fast=fast, as_json=as_json)
    with tempfile.TemporaryDirectory(prefix="kvstore-demo-") as folder:
        breakable = Path(folder)
        home = path or breakable / "bank"
        try:
            if data is not None:
                outcome = records.run(home, data, months, seed, narrator)
            else:
                outcome = guided.play(
                    home, breakable, names or list(SCENES), seed, regions, accounts, narrator
                )
        except (kvstore.Error, records.NoRecords) as error:
            raise click.ClickException(str(error)) from error
    sys.exit(1 if outcome.findings else 0)


if __name__ == "__main__":
    main()

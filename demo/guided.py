"""The guided run: it plays the scenes on one bank, one after another, and reports the outcome."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from demo import scenes, scenes_of_cuts, scenes_of_failure
from demo.auditor import Finding
from demo.narration import Narrator
from demo.stage import SCENES, Scene, Stage, money

ROOMS = (scenes, scenes_of_cuts, scenes_of_failure)
"""The modules of the scenes, imported so that they register them."""
REGIONS = ["eu", "us", "asia", "africa", "brazil", "india", "japan", "oceania"]
BROKEN = "MONEY NOT CONSERVED"


class Outcome(NamedTuple):
    """The result of a run. ``unmet``: conditions that the scenes need and that did not hold."""

    total: int
    findings: list[Finding]
    unmet: list[str] = []  # noqa: RUF012  # never changed

    @property
    def verdict(self) -> str:
        return BROKEN if self.findings else f"money conserved: {money(self.total)}"


def play(
    path: Path,
    breakable: Path,
    names: Sequence[str],
    seed: int,
    regions: int,
    accounts: int,
    narrator: Narrator,
) -> Outcome:
    """Play scenes on a new bank at ``path``. ``breakable``: a folder for banks that scenes damage."""
    found: list[Finding] = []
    unmet: list[str] = []
    with Stage(path, REGIONS[:regions], breakable, random.Random(seed), narrator.say) as stage:
        narrator.opening(
            f"A bank in the regions {', '.join(stage.regions)}, all in this process. Each region is a store"
            f" of its own with four shards. {accounts} accounts in each region begin with"
            f" {money(100_000)}."
            " An auditor, who trusts nothing that the bank reports, checks all regions throughout."
        )
        stage.open_accounts(accounts * regions)
        for number, name in enumerate(names, 1):
            found += _play_one(stage, number, len(names), SCENES[name], narrator)
            unmet += stage.unmet
        outcome = Outcome(stage.customers.total, found, unmet)
    narrator.close(outcome.verdict, scenes=list(names), total=outcome.total, conserved=not found, unmet=unmet)
    return outcome


def _play_one(stage: Stage, number: int, of: int, scene: Scene, narrator: Narrator) -> list[Finding]:
    narrator.begin(number, of, scene)
    stage.looks, stage.unmet = 0, []
    try:
        with stage.looking():
            proved = scene.play(stage)
        findings = stage.close_scene()
    except Exception as error:  # a scene that stops for any reason has not proved its claims
        proved, findings = [], [*stage.findings, Finding("the run", scene.name, repr(error))]
        stage.findings = []
        stage.heal_all()
    narrator.end(scene, proved, findings, stage.unmet, stage.looks + 1)
    return findings

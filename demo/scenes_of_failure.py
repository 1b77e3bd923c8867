"""Scenes in which something breaks: a replica is lost, the bank itself is killed. In worlds of their own."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kvstore
from demo.auditor import audit
from demo.stage import SETTLE_S, Stage, money, scene
from demo.teller import REGIONS, parsed

KILL_AFTER = (10, 60)
"""The bank is killed after it has acknowledged so many transfers."""


@scene(
    "replica",
    "Loss of a replica",
    "Another bank keeps three replicas of each region. It is closed, and a replica's folder is deleted.",
)
def replica(stage: Stage) -> list[str]:
    path = _folder(stage) / "bank"
    names = stage.regions[:2]
    with kvstore.Geo(path, regions=names, shards=2, replicas=3) as geo:
        own = Stage(geo, stage.folder, random.Random(stage.chance.random()), stage.say)
        own.open_accounts(2 * len(names))
        own.business(20)
        stage.findings += own.close_scene()
    lost = path / names[0] / "replica-1"
    shutil.rmtree(lost)
    stage.say(f"{lost.relative_to(path)} is gone. The bank is opened again.")
    with kvstore.Geo(path, regions=names) as geo:
        status = geo[names[0]].status()
        geo.settle(SETTLE_S)
        stage.findings += audit(geo, own.customers.balances)
        verdict = {name: geo[name].verify() for name in names}
    stage.elsewhere += own.customers.total
    stage.say(f"Repaired: {status['repaired']}; healthy: {status['healthy']}")
    stage.say(
        f"Every record was read and checked: {[found['problems'] for found in verdict.values()]} problems."
    )
    if not all(found["ok"] for found in verdict.values()) or not lost.exists():
        raise RuntimeError(f"the replica was not made anew: {verdict}")
    return ["the bank opened without the replica, made it anew, and not a cent was missing"]


@scene(
    "crash",
    "kill -9",
    "Another bank runs in a process of its own, and is killed in the middle of transfers.",
)
def crash(stage: Stage) -> list[str]:
    path = _folder(stage) / "bank"
    said = _killed(path, stage.chance.randrange(1000), stage.chance.randrange(*KILL_AFTER))
    told, asked = parsed(said)
    stage.say(f"Killed after {len(said)} lines; {len(asked)} transfer was under way and not answered.")
    with kvstore.Geo(path, regions=REGIONS) as geo:
        geo.settle(SETTLE_S)
        for source, target, cents, lines in asked:
            if _was_done(geo, source, target, cents, lines):
                told[source] -= cents
                told[target] += cents
                stage.say("The one under way turned out to be done, whole.")
            else:
                stage.say("The one under way turned out not to have happened at all.")
        stage.findings += audit(geo, told)
    stage.elsewhere += sum(told.values())
    stage.say(
        f"Opened again: {money(sum(told.values()))} in all, every transfer that was acknowledged is there."
    )
    return ["what the bank said was done is done, though it died at a moment it had not chosen"]


def _was_done(geo: kvstore.Geo, source: int, target: int, cents: int, lines: int) -> bool:
    """Whether a statement has one more line than the customer knows of: with just this amount."""
    found = [line for _, line in geo[REGIONS[0]].scan(prefix=("statement", source))]
    return len(found) > lines and found[-1] == ["transfer", -cents, target]


def _killed(path: Path, seed: int, after: int) -> list[str]:
    """What a teller said until it was killed."""
    command = [sys.executable, "-m", "demo.teller", str(path), str(seed)]
    root = Path(__file__).parent.parent
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as child:
        assert child.stdout is not None
        for line in child.stdout:
            said.append(line)
            if sum(one.startswith("done") for one in said) == after:
                break
        child.kill()
        said += child.stdout.readlines()
    if len(said) < after:
        raise RuntimeError(f"the teller ended by itself: {said[-1:]}")
    return [line for line in said if line.endswith("\n")]


def _folder(stage: Stage) -> Path:
    return Path(tempfile.mkdtemp(dir=stage.folder))

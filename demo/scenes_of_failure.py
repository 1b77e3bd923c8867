"""Scenes in which something breaks: a replica is lost, the bank itself is killed."""

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
from demo.teller import Asked, parsed

KILL_AFTER = (10, 60)
"""The bank is killed after it has acknowledged so many transfers."""


@scene(
    "replica",
    "Loss of a replica",
    "Another bank keeps three replicas of each region. It is closed, and a replica's folder is deleted.",
)
def replica(stage: Stage) -> list[str]:
    path = Path(tempfile.mkdtemp(dir=stage.folder)) / "bank"
    names = stage.regions[:2]
    chance = random.Random(stage.chance.random())
    with Stage(path, names, stage.folder, chance, stage.say, shards=2, replicas=3) as own:
        own.open_accounts(2 * len(names))
        with own.looking():
            own.business(20)
        stage.findings.extend(own.close_scene())
    lost = path / names[0] / "replica-1"
    shutil.rmtree(lost)
    stage.say(f"{lost.relative_to(path)} is gone. The bank is opened again.")
    with kvstore.Geo(path, regions=names) as geo:
        status = geo[names[0]].status()
        geo.settle(SETTLE_S)
        stage.findings.extend(audit(geo, own.customers.balances))
        problems = sum(len(geo[name].verify()["problems"]) for name in names)
    stage.say(
        f"{names[0]} made it anew from the other two, and is {'' if status['healthy'] else 'not '}healthy."
    )
    stage.say(f"Every record of both regions was read and checked: {problems or 'no'} problems.")
    stage.expect(bool(status["repaired"]) and lost.exists(), "the replica was not made anew")
    if problems:
        raise RuntimeError(f"{problems} records are damaged")
    return ["the bank opened without the replica, made it anew, and not a cent was missing"]


@scene(
    "crash",
    "kill -9",
    "The bank is given to a process of its own, which is killed in the middle of transfers.",
)
def crash(stage: Stage) -> list[str]:
    balances = stage.customers.balances
    with stage.closed():
        said = _killed(stage.path, stage.chance.randrange(1000), stage.chance.randrange(*KILL_AFTER))
    stage.geo.settle(SETTLE_S)
    done, asked = parsed(said)
    for source, target, cents in done:
        balances[source] -= cents
        balances[target] += cents
    stage.say(f"Killed when it had said of {len(done)} transfers that they were done. It is opened again.")
    if asked is not None:
        _look_for(stage, asked)
    stage.say(f"{money(stage.customers.total)} in all; every transfer that was acknowledged is there.")
    stage.expect(bool(done), "it was killed before it had done anything")
    return ["what the bank said was done is done, though it died at a moment it had not chosen"]


def _look_for(stage: Stage, asked: Asked) -> None:
    """Whether the transfer that nobody heard of again was done: then its source holds so much less."""
    source, target, cents = asked
    balances, holds = stage.customers.balances, stage.bank.balance(source)
    if holds == balances[source] - cents:
        balances[source] -= cents
        balances[target] += cents
        stage.say("One transfer was under way, and turned out to be done, whole.")
    else:
        stage.say("One transfer was under way, and turned out not to have happened at all.")


def _killed(path: Path, seed: int, after: int) -> list[str]:
    """What a teller said until it was killed."""
    command = [sys.executable, "-m", "demo.teller", str(path), str(seed)]
    root = Path(__file__).parent.parent
    said: list[str] = []
    # In a session of its own: Ctrl-C is for the demo, which kills it then.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=root, start_new_session=True
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                said.append(line)
                if sum(one.startswith("done") for one in said) == after:
                    break
        finally:
            child.kill()
        said += child.stdout.readlines()
    if len(said) < after:
        raise RuntimeError(f"the teller ended by itself: {said[-1:]}")
    return [line for line in said if line.endswith("\n")]

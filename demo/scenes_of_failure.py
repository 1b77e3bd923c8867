"""Scenes of failures: a replica is lost, and the process of the bank is killed."""

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
"""The range of the number of acknowledged transfers after which the bank is killed."""


@scene(
    "replica",
    "Loss of a replica",
    "Another bank has three replicas in each region. It is closed, and a replica's folder is deleted.",
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
    stage.say(f"{lost.relative_to(path)} is deleted. The bank is opened again.")
    with kvstore.Geo(path, regions=names) as geo:
        status = geo[names[0]].status()
        geo.settle(SETTLE_S)
        stage.findings.extend(audit(geo, own.customers.balances))
        problems = sum(len(geo[name].verify()["problems"]) for name in names)
    stage.say(
        f"{names[0]} rebuilt it from the other two, and is {'' if status['healthy'] else 'not '}healthy."
    )
    stage.say(f"Every record of both regions was read and checked: {problems or 'no'} problems.")
    stage.expect(bool(status["repaired"]) and lost.exists(), "the replica was not rebuilt")
    if problems:
        raise RuntimeError(f"{problems} records are damaged")
    return ["the bank opened without the replica, rebuilt it, and not a cent was missing"]


@scene(
    "crash",
    "kill -9",
    "The bank runs in a process of its own, which is killed during transfers.",
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
    stage.say(f"The process was killed after it acknowledged {len(done)} transfers. The bank is reopened.")
    if asked is not None:
        _look_for(stage, asked)
    stage.say(f"{money(stage.customers.total)} in all; every acknowledged transfer is there.")
    stage.expect(bool(done), "the process was killed before it acknowledged a transfer")
    return ["every acknowledged transfer survived the kill"]


def _look_for(stage: Stage, asked: Asked) -> None:
    """Record the unacknowledged transfer if the source's balance shows that it was done."""
    source, target, cents = asked
    balances, holds = stage.customers.balances, stage.bank.balance(source)
    if holds == balances[source] - cents:
        balances[source] -= cents
        balances[target] += cents
        stage.say("One transfer was in flight, and took effect as a whole.")
    else:
        stage.say("One transfer was in flight, and did not take effect at all.")


def _killed(path: Path, seed: int, after: int) -> list[str]:
    """Run a teller until it is killed, and return the complete lines of its output."""
    command = [sys.executable, "-m", "demo.teller", str(path), str(seed)]
    root = Path(__file__).parent.parent
    said: list[str] = []
    # In a session of its own: Ctrl-C reaches only the demo, which then kills the teller.
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
        raise RuntimeError(f"the teller ended before it was killed: {said[-1:]}")
    return [line for line in said if line.endswith("\n")]

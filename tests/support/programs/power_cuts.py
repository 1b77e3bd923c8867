"""Simulates power loss at random moments: ``power_cuts FOLDER REPLICAS DURABILITY IMAGES SEED``.

A run of 200 transactions (``journey.py``) writes a trace of all its changes to the disk. It consists of
three processes: the first closes the store, the second dies, and the third makes a backup. From the trace
IMAGES images of the disk are made, each as power loss at some step may leave it (``power_cut.py``), and each
is opened. Some of these openings are traced too, and end by power loss themselves.

Prints a JSON object: the number of images, and what they showed.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvstore
from kvstore import Database
from kvstore.engine import store_directory
from kvstore.storage import data_file
from tests.support import disk
from tests.support.disk import Fault
from tests.support.forking import Say, examine_in_fork, forked
from tests.support.inside import store_of
from tests.support.journey import STATES, TRANSACTIONS, perform, position
from tests.support.power import NEVER_MS, assert_replicas_agree
from tests.support.power_cut import Disk, Step, steps

CLOSED_AT, KILLED_AT, BACKUP_AT = 80, 160, 180
SYNC_EACH = 7
GOES_ON = 3
SECOND_CUTS = 0.3
"""Share of the images whose opening ends by power loss too."""


class Witness:
    """The numbers of transactions that the store may show, by the notes of a trace."""

    def __init__(self, durability: str, allowed: set[int] | None = None) -> None:
        self._durability = durability
        self.allowed = allowed or {0}
        self.backed_up = False

    def see(self, note: str) -> None:
        word, number = note.split()
        count = int(number)
        if word == "backup":
            self.backed_up = True
        elif word == "safe" or (word == "acknowledged" and self._durability == "commit"):
            self.allowed = {count}
        elif word == "saving" or (word == "begun" and self._durability == "commit"):
            self.allowed = self.allowed | {count}


class Machine:
    """One configuration and its folders."""

    def __init__(self, folder: Path, replicas: int, durability: Any) -> None:
        self.work, self.trace = folder / "work", folder / "trace"
        self.replicas = replicas
        self.durability = durability
        self.work.mkdir(parents=True)

    def open(self) -> Database:
        return kvstore.open(
            self.work / "store",
            shards=4,
            replicas=self.replicas,
            durability=self.durability,
            sync_interval_ms=NEVER_MS,
            watch_retention=20_000,
        )

    def record(self, act: Callable[[], None], boot: str) -> None:
        """Run ``act`` in a traced child process, with ``boot`` as the machine's boot id."""

        def traced(say: Say) -> None:
            data_file.boot_id = lambda: boot
            disk.trace(self.work, self.trace)
            act()

        code, said = forked(traced)
        assert code == 0, "\n".join(said)

    def write(self, first: int, last: int) -> Database:
        """Open the store and do some transactions, with a note in the trace of each guarantee."""
        disk.note(f"saving {first}")
        db = self.open()
        disk.note(f"safe {first}")
        for number in range(first, last):
            disk.note(f"begun {number + 1}")
            perform(db, number)
            disk.note(f"acknowledged {number + 1}")
            if number % SYNC_EACH == 0:
                disk.note(f"saving {number + 1}")
                store_of(db).sync()  # as the timer does
                disk.note(f"safe {number + 1}")
            if number + 1 == BACKUP_AT:
                db.backup(self.work / "backup")
                disk.note(f"backup {BACKUP_AT}")
        return db

    def write_and_close(self) -> None:
        db = self.write(0, CLOSED_AT)
        disk.note(f"saving {CLOSED_AT}")
        db.close()
        disk.note(f"safe {CLOSED_AT}")

    def write_and_die(self) -> None:
        self.write(CLOSED_AT, KILLED_AT)

    def write_the_rest(self) -> None:
        self.write(KILLED_AT, TRANSACTIONS)

    def history(self) -> list[Step]:
        for act in (self.write_and_close, self.write_and_die, self.write_the_rest):
            self.record(act, "the first boot")
        return list(steps(self.trace))

    def reopen(self) -> None:
        with self.open() as db:
            disk.note(f"safe {position(db, 0, TRANSACTIONS)}")

    def check(self, witness: Witness, say: Say) -> None:
        """Open the store after the power loss: it has exactly one of the allowed states, and works."""
        disk.arm(self.work, Fault.NONE)  # so that syncs take no time
        self._look(witness, say)
        with self.open() as db:
            here = self._place(db, witness)
            status, verified = db.status(), db.verify()
            assert verified["ok"], verified
            assert status["healthy"], status
            assert_replicas_agree(db)
            say("repaired" if status["repaired"] else "whole")
            goes_on = min(here + GOES_ON, TRANSACTIONS)
            for number in range(here, goes_on):
                perform(db, number)
            position(db, goes_on, goes_on)
            assert db.verify()["ok"]
        with kvstore.open(self.work / "store", readonly=True) as db:
            position(db, goes_on, goes_on)
        if witness.backed_up:
            with kvstore.open(self.work / "backup", create=False) as db:
                position(db, BACKUP_AT, BACKUP_AT)
                assert db.verify()["ok"]

    def _look(self, witness: Witness, say: Say) -> None:
        try:
            with kvstore.open(self.work / "store", readonly=True) as db:
                self._place(db, witness)
        except (kvstore.Damage, kvstore.OpenError) as error:
            say(f"readonly {type(error).__name__}")

    @staticmethod
    def _place(db: Database, witness: Witness) -> int:
        found = dict(db.scan())
        places = [number for number in sorted(witness.allowed) if STATES[number] == found]
        if not places:
            stands = [number for number, state in enumerate(STATES) if state == found]
            raise AssertionError(f"it may stand at {sorted(witness.allowed)}, but stands at {stands}")
        return places[-1]


def cut_anywhere(machine: Machine, images: int, chance: random.Random) -> Counter[str]:
    history = machine.history()
    shutil.rmtree(machine.work)
    there, witness = Disk(machine.work), Witness(machine.durability)
    outcomes: Counter[str] = Counter()
    done = 0
    for at in sorted(chance.randint(0, len(history)) for _ in range(images)):
        advance(there, witness, history[done:at])
        done = at
        shutil.rmtree(machine.work, ignore_errors=True)
        there.cut_power(machine.work, chance)
        outcomes.update(look(machine, witness, chance, f"the power was cut at step {at}"))
    return outcomes


def advance(there: Disk, witness: Witness, history: list[Step]) -> None:
    for step in history:
        if step.kind == "n":
            witness.see(step.path)
        else:
            there.do(step)


def look(machine: Machine, witness: Witness, chance: random.Random, where: str) -> list[str]:
    """Check the image in the machine's folder, some after a further power loss; return what to count."""
    counted = ["images"]
    if chance.random() < SECOND_CUTS:
        counted.append("cut twice")
        witness = cut_again(machine, witness, chance)
    code, said = forked(lambda say: machine.check(witness, say))
    assert code == 0, "\n".join([where, *said])
    return [*counted, *said]


def cut_again(machine: Machine, witness: Witness, chance: random.Random) -> Witness:
    there, second = Disk(machine.work), Witness(machine.durability, witness.allowed)
    second.backed_up = witness.backed_up
    machine.trace.unlink()
    machine.record(machine.reopen, "the second boot")
    history = list(steps(machine.trace))
    advance(there, second, history[: chance.randint(0, len(history))])
    shutil.rmtree(machine.work)
    there.cut_power(machine.work, chance)
    return second


def main() -> None:
    folder, replicas, durability, images, seed = sys.argv[1:]
    store_directory._examine_in_child = examine_in_fork
    machine = Machine(Path(folder), int(replicas), durability)
    print(json.dumps(cut_anywhere(machine, int(images), random.Random(seed))))


if __name__ == "__main__":
    main()

"""Stores that live several lives: disks fail, folders are out of reach or lost, openings are cut off, the
power ends. Whatever happens, what was acknowledged is there, and nothing is ever there by half."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.database.database import Database
from kvstore.errors import Corrupt, Error, Failed, OutcomeUnknown
from kvstore.storage import MemoryDisk
from tests.support.power import assert_replicas_agree, environments, image_of, open_on

SHARDS = 3
HOSTS = (0, 1, 2)
NAMES = ("a", "b", "c", "d", "e", "f")


class Life(NamedTuple):
    """One opening of the store, what is written, and how it ends."""

    out_of_reach: int | None
    """A replica that can be neither read nor rebuilt in this life."""
    lost_folder: int | None
    """A replica whose folder is gone when this life begins. Never in a life with one out of reach."""
    writes: int
    failing: dict[str, int]
    """After so many commits from the opening on, the disk of this replica refuses."""
    cut_off: dict[str, int]
    """The same, from the beginning of the opening on."""
    end: str


faults = st.dictionaries(st.sampled_from("012"), st.integers(0, 6), max_size=3)
lives = st.lists(
    st.builds(
        Life,
        st.none() | st.sampled_from(HOSTS),
        st.none() | st.sampled_from(HOSTS),
        st.integers(0, 5),
        st.just({}) | faults,
        st.just({}) | faults,
        st.sampled_from(["close", "close", "crash", "power loss"]),
    ),
    min_size=1,
    max_size=8,
)


class Told:
    """A store and what must be true of it. Batch ``n`` adds 1 to ``n`` under names on all shards."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.written = 0
        self.acknowledged: set[int] = set()
        self.unknown: set[int] = set()
        with open_on(self.disk, shards=SHARDS, replicas=len(HOSTS)) as db:
            self.current = set(environments(db))

    def live(self, life: Life) -> None:
        self.disk.commits_left.clear()
        out = life.out_of_reach
        if out is None and life.lost_folder is not None and self.current == set(HOSTS):
            del self.disk.folders[str(life.lost_folder)]
            self.current.discard(life.lost_folder)
        self.disk.commits_left.update(life.cut_off)
        db = self.open(() if out is None else (out,), life.cut_off)
        if db is not None:
            self.disk.commits_left.clear()
            self.check(db)
            self.disk.commits_left.update(life.failing)
            self.write(db, life.writes)
            self.end(db, life.end)

    def open(self, out: Collection[int], refusing: Collection[str]) -> Database | None:
        """The store, if it can be opened: then all that take part are current.

        If it cannot, some may have begun an epoch without those out of reach and those that refused.
        """
        expected = not refusing and (
            len(self.current - set(out)) >= 2 or (not out and len(self.disk.folders) == len(HOSTS))
        )
        db = None
        with contextlib.nullcontext() if expected else contextlib.suppress(Corrupt, Failed, OutcomeUnknown):
            db = open_on(self.disk, *out)
        self.current -= {*out, *map(int, refusing)}
        if db is not None:
            self.current = set(environments(db))
        return db

    def write(self, db: Database, count: int) -> None:
        for _ in range(count):
            self.written += 1
            try:
                with db.batch() as batch:
                    for name in NAMES:
                        batch.add((name, self.written))
            except OutcomeUnknown:
                self.unknown.add(self.written)
            except Failed:
                return
            else:
                self.acknowledged.add(self.written)

    def end(self, db: Database, how: str) -> None:
        found = image_of(self.disk)
        with contextlib.suppress(Error):
            db.close()
        if how == "close":
            return
        if how == "power loss":
            found.lose_power()
        self.disk = found

    def check(self, db: Database) -> None:
        by_name = [{key[1]: value for key, value in db.scan(prefix=(name,))} for name in NAMES]
        assert all(found == by_name[0] for found in by_name), "whole or absent"
        assert set(by_name[0].values()) <= {1}, "executed once"
        present = set(by_name[0])
        assert self.acknowledged <= present <= self.acknowledged | self.unknown
        self.unknown &= present  # what is not there now never will be
        self.acknowledged |= self.unknown  # and what is there stays
        assert_replicas_agree(db)
        assert db.verify()["ok"]


@settings(max_examples=40)
@given(lives)
def test_nothing_acknowledged_is_lost_in_any_life(story: list[Life]) -> None:
    told = Told()
    for life in story:
        told.live(life)
    told.live(Life(None, None, 2, {}, {}, "close"))
    assert told.current == set(HOSTS)
    told.live(Life(None, None, 0, {}, {}, "close"))

"""kill -9 of regions while they write and ship: nothing acknowledged is lost, nothing happens twice, copies
are exact and closed, and all regions end up equal.

``KVSTORE_GEO_KILLS`` says how often a whole world is killed, and how often one of two processes that are
joined by a link; 3 each by default.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import kvstore
from kvstore.geo import world
from kvstore.geo.convergence import settle
from kvstore.geo.network import Network
from kvstore.geo.region import Region
from tests.support.programs import running
from tests.support.programs.regions import SHARDS
from tests.support.regions import (
    Said,
    check_acknowledged,
    check_copies,
    check_equal,
    check_whole,
    nodes_of,
)

KILLS = int(os.environ.get("KVSTORE_GEO_KILLS", "3"))
KILLS_OF_ONE = 10
"""After so many a world is left as it is, and another one begins: what is judged grows."""
NAMES = ["ap", "eu", "us"]
PATIENCE_S = 60.0
NEVER_SHORT = ["put", "batch", "hits", "stock"]
"""The lanes that go on whatever other regions do."""


def wait_for(what: Callable[[], bool], child: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it does not come"
        assert child is None or child.poll() is None, f"it ended: {child.communicate()}"
        time.sleep(0.02)


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    _, errors = child.communicate()
    assert errors == "", errors


def judge(
    regions: dict[str, Region], said: Said, heal: Callable[[], None], settled: Callable[[], None]
) -> None:
    """``regions`` were opened after the kill and do not reach each other until ``heal``."""
    nodes = nodes_of(regions)
    check_acknowledged(regions, nodes, said.read())
    check_copies(regions, nodes)
    for db in regions.values():
        check_whole(db, regions)
    heal()
    settled()
    nodes = nodes_of(regions)
    check_copies(regions, nodes)
    check_equal(regions, nodes)
    for db in regions.values():
        check_whole(db, regions)
        assert db.exchange.failure is None
        assert db.verify()["ok"]


def judge_world(path: Path, said: Said) -> None:
    pairs = [(one, other) for one in NAMES for other in NAMES if one < other]
    with kvstore.Geo(path, regions=NAMES, shards=SHARDS) as world:
        for pair in pairs:
            world.cut(*pair)

        def heal() -> None:
            for pair in pairs:
                world.heal(*pair)

        judge({name: world[name] for name in NAMES}, said, heal, lambda: world.settle(PATIENCE_S))


def test_a_world_that_is_killed_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    randomly = random.Random()
    while_writing = 0
    for number in range(KILLS):
        folder = tmp_path / str(number // KILLS_OF_ONE)
        folder.mkdir(exist_ok=True)
        said = folder / "said"
        before = len(said.read_bytes()) if said.exists() else 0
        child = running.start("regions", "world", folder / "world", said, *NAMES)
        try:
            if randomly.random() < 0.2:  # somewhere in the opening, or in the creation
                time.sleep(randomly.uniform(0.1, 0.5))
            else:
                assert running.first_line(child) == "open"
                time.sleep(randomly.uniform(0.0, 0.6))
        finally:
            kill(child)
        while_writing += said.exists() and len(said.read_bytes()) > before
        if randomly.random() < 0.7 or number == KILLS - 1:  # else the program itself is next to open it
            judge_world(folder / "world", Said([said]))

    assert while_writing > KILLS // 4


def test_a_world_whose_creation_was_cut_short_is_made_when_it_is_opened_again(tmp_path: Path) -> None:
    """As a kill may leave it: one region is whole, one is half there, one is not there yet."""
    with kvstore.Geo(tmp_path / "world", regions=NAMES, shards=SHARDS) as world:
        world["ap"].put("k", 1)
    shutil.rmtree(tmp_path / "world" / "us")
    half = tmp_path / "world" / "eu"
    (half / "creating").touch()
    (half / "replica-0" / "data.mdb").write_bytes(b"")
    (half / "replica-0" / "manifest.json").unlink(missing_ok=True)

    with kvstore.Geo(tmp_path / "world", regions=NAMES, shards=SHARDS) as world:
        world.settle(PATIENCE_S)
        assert [world[name].get("k") for name in NAMES] == [1, 1, 1]


class Pair:
    """Two processes, joined by a link."""

    NAMES = ("eu", "us")

    def __init__(self, folder: Path, link: Path) -> None:
        self.folder, self.link = folder, link
        self.children: dict[str, subprocess.Popen[str]] = {}
        self.said = Said([self.file(name) for name in self.NAMES])
        folder.mkdir()

    def start(self, name: str) -> None:
        peer = self.other(name)
        place = self.folder / name
        self.children[name] = running.start("regions", "one", place, self.file(name), name, peer, self.link)
        assert running.first_line(self.children[name]) == "open"

    def kill(self, name: str) -> None:
        kill(self.children.pop(name))

    def file(self, name: str) -> Path:
        return self.folder / f"{name}-said"

    def other(self, name: str) -> str:
        return next(other for other in self.NAMES if other != name)

    def wait_for_writes(self, name: str) -> None:
        """See it acknowledge more of every kind."""
        before = dict(self.said.read().lanes)

        def wrote() -> bool:
            lanes = self.said.read().lanes
            return all(lanes.get((name, lane), 0) > before.get((name, lane), 0) for lane in NEVER_SHORT)

        wait_for(wrote, self.children[name])

    def wait_for_shipping(self) -> None:
        """See both show what the other one acknowledged by now."""
        now = dict(self.said.read().lanes)
        for name in self.NAMES:
            peer = self.other(name)
            wanted = max(1, now.get((peer, "put"), 0))
            wait_for(
                lambda name=name, peer=peer, wanted=wanted: self.said.read().seen(name, peer) >= wanted,  # type: ignore[misc]  # bound
                self.children[name],
            )

    def end(self) -> None:
        for child in self.children.values():
            running.stop(child)


@contextmanager
def pair_in(folder: Path) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="link") as short:
        pair = Pair(folder, Path(short) / "link")
        try:
            yield pair
        finally:
            pair.end()


def judge_pair(pair: Pair) -> None:
    """Open both here."""
    network = Network()
    network.cut(*pair.NAMES)
    with ExitStack() as opened:
        opened.callback(network.close)
        regions = {
            name: opened.enter_context(open_in(pair.folder, network, name, pair.other(name)))
            for name in pair.NAMES
        }
        exchanges = {name: region.exchange for name, region in regions.items()}
        judge(
            regions,
            pair.said,
            lambda: network.heal(*pair.NAMES),
            lambda: settle(exchanges, network, PATIENCE_S),
        )


def open_in(folder: Path, network: Network, name: str, peer: str) -> Region:
    return kvstore.open_region(folder / name, region=name, peers={peer: network.link(name, peer)})


def test_one_of_two_processes_is_killed_and_the_other_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "HANDSHAKE_S", 0.0)
    randomly = random.Random()
    left = KILLS
    while left:
        kills = min(left, KILLS_OF_ONE)
        left -= kills
        with pair_in(tmp_path / str(left)) as pair:
            for name in pair.NAMES:
                pair.start(name)
            for number in range(kills):
                pair.wait_for_shipping()
                time.sleep(randomly.uniform(0.0, 0.3))
                victim = randomly.choice(pair.NAMES)
                pair.kill(victim)
                pair.wait_for_writes(pair.other(victim))
                if number == kills - 1 or randomly.random() < 0.3:
                    pair.kill(pair.other(victim))
                    judge_pair(pair)
                    pair.start(pair.other(victim))
                pair.start(victim)
                pair.wait_for_writes(victim)
            pair.wait_for_shipping()

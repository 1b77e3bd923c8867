"""Neighbours that are not who they should be, and regions that are older than what others hold of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kvstore
from kvstore.fuzzylog.messages import Identity, Pull, Shipment, decode, encode
from kvstore.geo import world
from kvstore.geo.region import Region
from tests.support.pipe_link import PipeLink

PATIENCE_S = 60.0
SHARDS = 4


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


class Neighbour:
    """A link to one that answers every pull, and says of itself what it is told to."""

    def __init__(self, name: str, **claims: Any) -> None:
        self._claims = {"region": name, **claims}
        self._deliver: Callable[[bytes], None]

    def start(self, deliver: Callable[[bytes], None]) -> None:
        self._deliver = deliver

    def send(self, message: bytes) -> None:
        pull = decode(message)
        if isinstance(pull, Pull):
            identity = msgspec.structs.replace(pull.identity, **self._claims)
            self._deliver(self.answer(identity))

    def answer(self, identity: Identity) -> bytes:
        return encode(Shipment(identity, {}, {}, {}))

    def close(self) -> None:
        pass


class Stranger(Neighbour):
    """One whose messages are of another shape."""

    def answer(self, identity: Identity) -> bytes:
        return encode([2, {"format": 2}, "something else"])


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="link") as folder:
        yield Path(folder)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "HANDSHAKE_S", PATIENCE_S)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("neighbour", "error"),
    [
        (Neighbour("us", shards=SHARDS + 1), kvstore.WrongShape),
        (Neighbour("us", placement=2), kvstore.WrongShape),
        (Neighbour("us", names=("eu", "moon", "us")), kvstore.WrongShape),
        (Neighbour("us", format=2), kvstore.WrongFormat),
        (Stranger("us"), kvstore.WrongFormat),
        (Neighbour("eu"), kvstore.DuplicateRegion),
    ],
)
def test_a_neighbour_that_does_not_fit_is_refused(
    tmp_path: Path, neighbour: Neighbour, error: type[kvstore.Error]
) -> None:
    with pytest.raises(error):
        kvstore.open_region(tmp_path / "eu", region="eu", peers={"us": neighbour}, shards=SHARDS)

    with kvstore.open_region(
        tmp_path / "eu", region="eu", peers={"us": Neighbour("us")}, shards=SHARDS
    ) as eu:
        eu.put("k", 1)
        assert eu.get("k") == 1


def test_two_processes_whose_shards_differ_both_hear_of_it(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "HANDSHAKE_S", 0.0)
    with open_over(tmp_path, short, "eu") as eu:
        monkeypatch.setattr(world, "HANDSHAKE_S", PATIENCE_S)
        with pytest.raises(kvstore.WrongShape):
            open_over(tmp_path, short, "us", shards=SHARDS + 1)
        wait_for(lambda: "shards=5" in eu.staleness()["us"].problem)
        eu.put("k", 1)
        with open_over(tmp_path / "other", short, "us") as us:
            wait_for(lambda: us.get("k") == 1)
            wait_for(lambda: eu.staleness()["us"].problem == "")


def open_over(folder: Path, sockets: Path, name: str, shards: int | None = SHARDS) -> Region:
    peer = "us" if name == "eu" else "eu"
    folder.mkdir(exist_ok=True)
    link = PipeLink(sockets / "link", listens=name == "eu")
    return kvstore.open_region(folder / name, region=name, peers={peer: link}, shards=shards)


class Noisy(PipeLink):
    """Sends noise before each message, and halves of messages."""

    def send(self, message: bytes) -> None:
        for noise in (b"", b"\xc1", os.urandom(50), message[: len(message) // 2], message + b"\x00"):
            super().send(noise)
        super().send(message)


@pytest.mark.usefixtures("patient")
def test_garbage_harms_nothing(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "HANDSHAKE_S", 0.0)
    with open_over(tmp_path, short, "eu") as eu:
        noisy = Noisy(short / "link", listens=False)
        with kvstore.open_region(tmp_path / "us", region="us", peers={"eu": noisy}, shards=SHARDS) as us:
            for number in range(50):
                eu.put(("eu", number), number)
                us.put(("us", number), number)
            wait_for(lambda: us.get(("eu", 49)) == 49 and eu.get(("us", 49)) == 49)
            assert eu.exchange.failure is None
            assert us.exchange.failure is None
            assert list(eu.log.sync()) == list(us.log.sync())
            assert eu.verify()["ok"]


class Impatient(Neighbour):
    """Pulls a hundred times while the first answer is under way."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.answers: list[Shipment] = []
        self.is_answered = threading.Event()

    def send(self, message: bytes) -> None:
        received = decode(message)
        if isinstance(received, Pull) and not self.is_answered.is_set():
            self.pull(received)
        elif isinstance(received, Shipment):
            if not self.answers:
                for _ in range(100):
                    self._deliver(self.again)
            self.answers.append(received)
            if len(self.answers) == 2:
                self.is_answered.set()

    def pull(self, theirs: Pull) -> None:
        identity = msgspec.structs.replace(theirs.identity, region="us")
        self.again = encode(Pull(identity, {}, {}))
        self._deliver(self.again)


@pytest.mark.usefixtures("patient")
class Broken(Neighbour):
    """A link that fails until it is mended, and cannot be closed."""

    is_broken = True

    def send(self, message: bytes) -> None:
        if self.is_broken:
            raise BrokenPipeError(32, "broken pipe")
        super().send(message)

    def close(self) -> None:
        raise OSError(5, "closing failed")


def test_a_link_that_fails_is_a_link_that_loses_messages(tmp_path: Path, short: Path) -> None:
    link = Broken("us")
    eu = kvstore.open_region(tmp_path / "eu", region="eu", peers={"us": link})
    wait_for(lambda: "broken pipe" in eu.staleness()["us"].problem)
    eu.put("k", 1)

    link.is_broken = False
    eu.exchange.pull_soon()
    wait_for(lambda: eu.staleness()["us"].problem == "")

    with pytest.raises(OSError, match="closing failed"):
        eu.close()
    with kvstore.open_region(tmp_path / "eu", region="eu", peers={"us": Neighbour("us")}) as again:
        assert again["k"] == 1, "the store was released"


def test_a_region_of_a_world_is_opened_alone_too(tmp_path: Path, short: Path) -> None:
    with kvstore.Geo(tmp_path, regions=["eu", "us"]) as world:
        world["eu"].put("k", 1)
        world.settle()

    with kvstore.open_region(tmp_path / "us", region="us", peers={"eu": Neighbour("eu")}) as us:
        assert us["k"] == 1
    with kvstore.Geo(tmp_path, regions=["eu", "us"]) as world:
        assert world["us"]["k"] == 1


def test_pulls_that_came_while_one_was_answered_are_answered_together(tmp_path: Path) -> None:
    impatient = Impatient("us")
    with kvstore.open_region(tmp_path / "eu", region="eu", peers={"us": impatient}, shards=SHARDS):
        assert impatient.is_answered.wait(PATIENCE_S)
        time.sleep(0.1)  # others would come

    assert len(impatient.answers) < 10


class TestOldCopies:
    """What was written behind a copy had left the region; when the copy is put back, others hold more."""

    def test_of_a_region_of_a_world(self, tmp_path: Path) -> None:
        world, names = tmp_path / "world", ["ap", "eu", "us"]
        self._write(world, names, "before")
        shutil.copytree(world / "eu", tmp_path / "copy")
        self._write(world, names, "behind")
        shutil.rmtree(world / "eu")
        shutil.copytree(tmp_path / "copy", world / "eu")

        with pytest.raises(kvstore.Corrupt, match="more of eu"):
            kvstore.Geo(world, regions=names)
        with pytest.raises(kvstore.Corrupt, match="more of eu"):
            kvstore.Geo(world, regions=names)

    @staticmethod
    def _write(path: Path, names: list[str], what: str) -> None:
        with kvstore.Geo(path, regions=names) as world:
            world["eu"].put(what, 1)
            world.settle(PATIENCE_S)

    @pytest.fixture
    def put_back(self, tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """eu and us have met twice, and eu is as it was the first time."""
        monkeypatch.setattr(world, "HANDSHAKE_S", 0.0)
        for what in ("before", "behind"):
            with open_over(tmp_path, short, "eu") as eu, open_over(tmp_path, short, "us") as us:
                for number in range(10):
                    eu.put((what, number), 1)
                wait_for(lambda us=us, what=what: us.get((what, 9)) == 1)  # type: ignore[misc]  # bound
            if what == "before":
                shutil.copytree(tmp_path / "eu", tmp_path / "copy")
        shutil.rmtree(tmp_path / "eu")
        shutil.copytree(tmp_path / "copy", tmp_path / "eu")

    @pytest.mark.parametrize("shards", [None, 2])
    def test_of_a_region_whose_folder_is_gone(self, tmp_path: Path, shards: int | None) -> None:
        with kvstore.Geo(tmp_path, regions=["eu", "us"], shards=2) as world:
            world["eu"].put("k", 1)
            world.settle()
        shutil.rmtree(tmp_path / "eu")

        with pytest.raises(kvstore.WrongShape):
            kvstore.Geo(tmp_path, regions=["eu", "us"], shards=8)
        with pytest.raises(kvstore.Corrupt, match="more of eu"):
            kvstore.Geo(tmp_path, regions=["eu", "us"], shards=shards)
        assert [path.name for path in tmp_path.iterdir()] == ["us"]

    @pytest.mark.usefixtures("put_back")
    def test_of_a_region_whose_neighbour_answers(
        self, tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open_over(tmp_path, short, "us") as us:
            monkeypatch.setattr(world, "HANDSHAKE_S", PATIENCE_S)
            with pytest.raises(kvstore.Corrupt, match="more of eu"):
                open_over(tmp_path, short, "eu")

            assert us.exchange.failure is None
            assert us.get(("behind", 9)) == 1

    @pytest.mark.usefixtures("put_back")
    @pytest.mark.parametrize("how", ["links", "Geo"])
    def test_that_was_written_to_until_it_was_as_long(self, tmp_path: Path, short: Path, how: str) -> None:
        with open_over(tmp_path, short, "eu") as eu:
            for number in range(40):
                eu.put(("over", number), 1)

        if how == "Geo":
            with pytest.raises(kvstore.Corrupt, match="another eu"):
                kvstore.Geo(tmp_path, regions=["eu", "us"])
            return
        with open_over(tmp_path, short, "eu") as eu, open_over(tmp_path, short, "us") as us:
            wait_for(lambda: "another eu" in eu.staleness()["us"].problem)
            eu.put("after", 1)
            time.sleep(0.5)  # pulls that find nothing
            assert not [key for key in us.scan() if key[0][0] in ("over", "after")]

    def test_a_region_of_another_world_with_the_same_names(
        self, tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(world, "HANDSHAKE_S", 0.0)
        for folder_name, count in (("a", 6), ("b", 3)):
            (tmp_path / folder_name).mkdir()
            with (
                open_over(tmp_path / folder_name, short, "eu") as eu,
                open_over(tmp_path / folder_name, short, "us") as us,
            ):
                for number in range(count):
                    eu.put(("k", number), folder_name)
                wait_for(lambda us=us, count=count: us.get(("k", count - 1)) is not None)  # type: ignore[misc]  # bound

        with open_over(tmp_path / "a", short, "eu") as eu, open_over(tmp_path / "b", short, "us") as us:
            wait_for(lambda: "another eu" in eu.staleness()["us"].problem)
            assert {value for _, value in us.scan()} == {"b"}

    @pytest.mark.usefixtures("put_back")
    def test_of_a_region_whose_neighbour_comes_later(self, tmp_path: Path, short: Path) -> None:
        with open_over(tmp_path, short, "eu") as eu:
            eu.put("alone", 1)
            with open_over(tmp_path, short, "us") as us:
                wait_for(lambda: "older than it was" in eu.staleness()["us"].problem)
                for number in range(30):
                    eu.put(("over", number), 1)
                time.sleep(1)  # pulls that find nothing
                held = {node.id for node in us.log.sync() if node.region == "eu"}
                shown = [key for key in us.scan() if key[0][0] == "over"]

            assert len(held) == 20
            assert shown == []
            assert us.exchange.failure is None

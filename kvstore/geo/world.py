"""``kvstore.Geo``: all regions in one process; ``kvstore.open_region``: one region, with links to others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from kvstore.database.open import check_options, check_positive, owner
from kvstore.engine.manifest import RegionIdentity
from kvstore.engine.open_stores import open_store
from kvstore.engine.options import Durability, Options
from kvstore.engine.store import Store, WritingStore
from kvstore.engine.store_directory import AnyPath, StoreDirectory, directory_at
from kvstore.errors import (
    Closed,
    Corrupt,
    DuplicateRegion,
    LimitExceeded,
    UnknownRegion,
    UsageError,
)
from kvstore.fuzzylog.messages import Identity
from kvstore.geo.convergence import refuse_lost_tails, settle, shake_hands
from kvstore.geo.network import Network
from kvstore.geo.region import Region
from kvstore.geo.replication import ReplicationAgent
from kvstore.geo.world_directory import name_of_world, names_at, remove, world_at
from kvstore.ports import Link

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
KEPT_FOR_EVER = 1 << 62
"""Slots that a region's log keeps. The log is the region's chains, which other regions may lack (A7)."""
HANDSHAKE_S = 1.0
"""The time that ``open_region`` waits for its neighbours, in seconds."""


class Geo:
    """A world of regions. ``geo["eu"]`` is a region: a database with counters, sets, and a log.

    Each region has its own store, in a folder of its name. The regions exchange their logs in the background.
    The link between two regions can be cut, healed and delayed. A context manager.
    """

    def __init__(
        self,
        path: AnyPath,
        *,
        regions: Sequence[str],
        shards: int | None = None,
        replicas: int | None = None,
        durability: Durability = "commit",
        max_clock_skew: float = 10,
        placement: int | None = None,
        snapshot_lifetime: float = 60,
    ) -> None:
        """Open the world at ``path``, or create it; its parent must exist. ``":memory:"`` is lost when
        closed.

        Args:
            regions: the names of all regions, equal at every opening.
            shards, replicas, placement: of every region, as for ``kvstore.open``.
            durability: ``"commit"`` or ``"interval"``; a transaction leaves its region only from disk.
            max_clock_skew: seconds that another region's clock may be ahead of this machine's. Transactions
            of
                a region whose clock is further ahead are held back, which ``staleness`` reports.

        Raises:
            DuplicateRegion, UsageError: of the arguments; nothing was changed. Also the errors of
                ``kvstore.open``.
        """
        names = check_names(regions)
        _check_geo(durability, max_clock_skew, snapshot_lifetime)
        self._names = list(regions)
        self._network = Network()
        self._regions: dict[str, Region] = {}
        self._exchanges: dict[str, ReplicationAgent] = {}
        self._closed = False
        world = world_at(path, names)
        if (shape := world.shape) is not None:
            shape.check_shape(str(path), shards=shards, replicas=replicas, placement=placement)
            shards, replicas, placement = shape.shards, shape.replicas, shape.placement
        fresh = world.fresh()
        with ExitStack() as opened:
            opened.callback(self._network.close)
            for name in names:
                identity = RegionIdentity(name, names, world.name)
                options = _options(identity, shards, replicas, durability, placement)
                links = {peer: self._network.link(name, peer) for peer in names if peer != name}
                region = _open(world.directories[name], options, links, max_clock_skew, snapshot_lifetime)
                opened.callback(region.close)
                self._regions[name] = region
                self._exchanges[name] = region.exchange
            try:
                refuse_lost_tails(self._exchanges)
            except Corrupt:
                opened.close()
                remove(fresh)
                raise
            for one in self._exchanges.values():
                one.start()
            self._closing = opened.pop_all()

    def __getitem__(self, region: str) -> Region:
        """Return the region of this name. Raises ``UnknownRegion``."""
        self._check(region)
        return self._regions[region]

    def __contains__(self, region: object) -> bool:
        return region in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def regions(self) -> list[str]:
        """Return the names, in the order in which they were given."""
        return list(self._names)

    def cut(self, one: str, other: str) -> None:
        """Lose all messages between the two regions until ``heal``."""
        self._network.cut(*self._pair(one, other))

    def heal(self, one: str, other: str) -> None:
        """Undo ``cut``."""
        pair = self._pair(one, other)
        self._network.heal(*pair)
        for name in pair:
            self._exchanges[name].pull_soon()

    def delay(self, one: str, other: str, ms: float) -> None:
        """Delay messages between the two regions by ``ms`` milliseconds, in both directions."""
        pair = self._pair(one, other)
        if type(ms) not in (int, float) or not 0 <= ms <= 3_600_000:
            raise LimitExceeded(f"a delay is from 0 to 3600000 ms, not {ms!r}", limit=3_600_000)
        self._network.delay(*pair, ms / 1000)

    def settle(self, timeout: float = 10) -> None:
        """Wait until regions joined by a path of links that are not cut have applied equal sets of nodes.

        Raises ``TimedOut``, which names the regions and the slots that they lack.
        """
        self._check_open()
        if type(timeout) not in (int, float) or not timeout >= 0:
            raise LimitExceeded(f"timeout is a number of seconds from 0 on, not {timeout!r}", limit=0)
        settle(self._exchanges, self._network, timeout)

    def status(self) -> dict[str, Any]:
        """Return the status of each region, by name."""
        return {name: self._regions[name].status() for name in self._names}

    def close(self) -> None:
        """Close all regions. A second call does nothing."""
        self._closed = True
        self._closing.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this world was closed")

    def _check(self, region: str) -> None:
        self._check_open()
        if region not in self._names:
            known = ", ".join(self._names)
            raise UnknownRegion(f"there is no region {region!r}; there are {known}", region=region)

    def _pair(self, one: str, other: str) -> tuple[str, str]:
        self._check(one)
        self._check(other)
        if one == other:
            raise UsageError(f"a link joins two regions, and {one!r} is one")
        return one, other

    def __enter__(self) -> Geo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<kvstore.Geo of {', '.join(self._names)}>"


def regions_of(path: AnyPath) -> list[str]:
    """Return the names of the regions whose world is at ``path``, sorted, for ``Geo``.

    Raises ``NotAStore`` if there is no world.
    """
    return list(names_at(path))


def open_region(
    path: AnyPath,
    *,
    region: str,
    peers: Mapping[str, Link],
    regions: Sequence[str] | None = None,
    shards: int | None = None,
    replicas: int | None = None,
    durability: Durability = "commit",
    max_clock_skew: float = 10,
    placement: int | None = None,
    snapshot_lifetime: float = 60,
) -> Region:
    """Open one region of a world whose other regions are in other processes.

    Args:
        region: the name of the region.
        peers: links to the region's neighbours, by name.
        regions: the names of all regions, if they are not all neighbours.

    Raises:
        DuplicateRegion: two regions have one name.
        WrongShape, WrongFormat: a neighbour has another shape, or another message format.
        Corrupt: a neighbour holds more of this region's chains than the store at ``path``.

    A neighbour that does not answer is asked again in the background; ``staleness`` reports its problem.
    """
    _check_links(peers)
    check_names([region])
    names = check_names([region, *peers] if regions is None else regions)
    if not {region, *peers} <= set(names):
        stranger = min({region, *peers} - set(names))
        raise UnknownRegion(f"{stranger!r} is not among the regions {', '.join(names)}", region=stranger)
    if region in peers:
        raise DuplicateRegion(f"{region!r} is the region itself, and one of its peers", region=region)
    _check_geo(durability, max_clock_skew, snapshot_lifetime)
    directory = directory_at(path)
    identity = RegionIdentity(region, names, name_of_world(directory, names))
    opened = _open(
        directory,
        _options(identity, shards, replicas, durability, placement),
        peers,
        max_clock_skew,
        snapshot_lifetime,
    )
    try:
        opened.exchange.start()
        shake_hands(opened.exchange, HANDSHAKE_S)
    except BaseException:
        opened.close()
        raise
    return opened


def check_names(regions: Iterable[str]) -> tuple[str, ...]:
    """Return the names, sorted. Raises ``UsageError``, ``DuplicateRegion``."""
    if isinstance(regions, str | bytes):
        raise UsageError(f"regions is a list of names, not {regions!r}")
    try:
        names: list[Any] = list(regions)
    except TypeError as error:
        raise UsageError(f"regions is a list of names, not {regions!r}") from error
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(f"a region's name has letters, digits, - and _, at most 64, not {name!r}")
        if names.count(name) > 1:
            raise DuplicateRegion(f"two regions are called {name!r}", region=name)
    if not names:
        raise UsageError("a world has at least one region")
    return tuple(sorted(names))


def _check_links(peers: Mapping[str, Link]) -> None:
    if not isinstance(peers, Mapping):
        raise UsageError(f"peers is a mapping of names to links, not {peers!r}")
    for peer, link in peers.items():
        missing = [name for name in ("start", "send", "close") if not callable(getattr(link, name, None))]
        if missing:
            raise UsageError(f"the link to {peer!r} has no {missing[0]}: {link!r}")


def _check_geo(durability: str, max_clock_skew: float, snapshot_lifetime: float) -> None:
    check_positive(snapshot_lifetime=snapshot_lifetime)
    if durability == "none":
        hint = 'use "commit" or "interval"'
        raise UsageError(
            "a region does not take durability='none': others would keep what it loses", hint=hint
        )
    if type(max_clock_skew) not in (int, float) or not 0 <= max_clock_skew <= 86_400:
        raise LimitExceeded(f"max_clock_skew is from 0 to 86400 s, not {max_clock_skew!r}", limit=86_400)


def _options(
    identity: RegionIdentity,
    shards: int | None,
    replicas: int | None,
    durability: Durability,
    placement: int | None,
) -> Options:
    check_options(shards, replicas, durability, 100, placement)
    return Options(
        shards=shards,
        replicas=replicas,
        placement=placement,
        durability=durability,
        watch_retention=KEPT_FOR_EVER,
        region=identity,
        owner=owner,
    )


def _open(
    directory: StoreDirectory,
    options: Options,
    links: Mapping[str, Link],
    max_clock_skew: float,
    snapshot_lifetime: float,
) -> Region:
    def make(directory: StoreDirectory) -> Store:
        return WritingStore(directory, options, sync_interval_ms=100)

    store = open_store(directory, make)
    assert isinstance(store, WritingStore)
    try:
        identity, manifest = options.region, store.manifest
        assert identity is not None, "the options of a region hold its identity"
        speaks = Identity(identity.name, identity.names, identity.world, manifest.shards, manifest.placement)
        return Region(store, snapshot_lifetime, ReplicationAgent(store, speaks, links, max_clock_skew))
    except BaseException:
        store.close()
        raise

"""Which of a store's environments have a vote when it is opened (contracts B2, B4).

Every environment that can be opened is. One that is missing, empty, cut short or damaged has no
vote until it is rebuilt; one of another store is moved aside, never overwritten.
"""

from __future__ import annotations

import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

from kvstore.engine.host import MANIFEST_KEY, Host
from kvstore.engine.manifest import Manifest, decode, encode
from kvstore.engine.options import REPLICAS_DEFAULT, SHARDS_DEFAULT, Options
from kvstore.engine.store_directory import StoreDirectory
from kvstore.eris.shard_state import HOST_TABLE
from kvstore.errors import Corrupt, Damage, DiskFull, NotAStore, WrongShape
from kvstore.ports import Environment
from kvstore.types import HostId


class _Foreign(Exception):
    """An environment of another store stands where one of this store should."""


@dataclass
class OpenReplicas:
    """The environments with a vote, as hosts, and what was found of the others."""

    directory: StoreDirectory
    options: Options
    manifest: Manifest
    hosts: dict[int, Host] = field(default_factory=dict)
    lost: dict[int, Damage] = field(default_factory=dict)
    """Replicas without a vote, and why."""
    repaired: list[str] = field(default_factory=list)
    foreign: list[int] = field(default_factory=list)

    def open_replica(self, number: int) -> Host:
        """Open one replica's environment and load its roles. Raises ``Damage``."""
        environment = self.directory.open_environment(
            number,
            durability=self.options.durability,
            readonly=False,
            check=self.manifest.replicas > 1,
        )
        try:
            self._check_identity(number, environment)
            return self.host(number, environment)
        except BaseException:
            environment.close()
            raise

    def host(self, number: int, environment: Environment) -> Host:
        """A replica's roles over its environment."""
        return Host(
            HostId(number),
            environment,
            shards=self.manifest.shards,
            replicas=self.manifest.replicas,
            retention=self.options.watch_retention,
            owns=self.options.owner(self.manifest.shards, self.manifest.placement),
            region=None if self.manifest.region is None else self.manifest.region.number,
        )

    def _check_identity(self, number: int, environment: Environment) -> None:
        location = environment.location
        stored = stored_manifest(environment)
        if stored is not None and stored.uuid != self.manifest.uuid:
            raise _Foreign(location)
        if self.manifest.replicas > 1 and environment.suspicion is not None:
            raise Corrupt(environment.suspicion, record=location)
        if stored != self.manifest:
            raise Corrupt(f"{location} does not hold this store's records", record=location)
        if self.directory.manifest(number) != self.manifest:
            self.directory.write_manifest(number, self.manifest)
            self.repaired.append(f"replica {number}: its manifest was damaged and is written again")

    def lose(self, number: int, why: Damage) -> None:
        """Take a replica's vote away; its environment is closed."""
        host = self.hosts.pop(number, None)
        if host is not None:
            host.environment.close()
        self.lost[number] = why

    def require_majority(self) -> None:
        """Raise ``Corrupt`` naming what is wrong with each replica unless a majority is whole.

        A disk that is full is no damage: that is ``DiskFull``.
        """
        replicas, whole = self.manifest.replicas, len(self.hosts)
        if 2 * whole > replicas:
            return
        for why in self.lost.values():
            if replicas == 1 or isinstance(why, DiskFull):
                raise why
        reasons = "; ".join(f"replica {number}: {why.args[0]}" for number, why in self.lost.items())
        message = f"{self.directory.path}: {whole} of {replicas} replicas are whole, a majority is needed"
        raise Corrupt(f"{message}: {reasons}", record=self.directory.path)

    def move_foreign_aside(self) -> None:
        """Make room for replicas whose places another store's environments have; those are kept."""
        for number in self.foreign:
            location = f"{self.directory.path}: replica {number}"
            kept = self.directory.move_aside(number)
            message = f"{location} belonged to another store and is now {kept}"
            self.lost[number] = Corrupt(message, record=location)

    def close(self) -> None:
        """Give up the opening: what its batches wrote so far is forgotten."""
        with ExitStack() as closing:  # whatever fails, the rest is closed all the same
            for host in self.hosts.values():
                closing.callback(host.environment.close)
                host.abort()


def create(directory: StoreDirectory, options: Options) -> None:
    """Make the environments of a new store. A crash in the middle leaves nothing that is opened."""
    manifest = Manifest(
        uuid=str(uuid.uuid4()),
        shards=SHARDS_DEFAULT if options.shards is None else options.shards,
        replicas=REPLICAS_DEFAULT if options.replicas is None else options.replicas,
        placement=options.placement,
        idempotency_days=options.idempotency_days,
        region=options.region,
    )
    directory.begin_creation()
    try:
        for number in range(manifest.replicas):
            _create_replica(directory, number, manifest)
        directory.end_creation()
    except BaseException:
        directory.abandon_creation()
        raise


def _create_replica(directory: StoreDirectory, number: int, manifest: Manifest) -> None:
    environment = directory.open_environment(
        number, durability="commit", readonly=False, check=False, create=True
    )
    try:
        batch = environment.begin()
        environment.table(HOST_TABLE).put(MANIFEST_KEY, encode(manifest))
        batch.commit()
    finally:
        environment.close()
    directory.write_manifest(number, manifest)


def open_replicas(directory: StoreDirectory, options: Options) -> OpenReplicas:
    """Open every environment that can be opened. Raises ``WrongFormat`` and ``WrongShape``."""
    found = OpenReplicas(directory, options, find_manifest(directory))
    found.manifest.check_shape(
        directory.path,
        shards=options.shards,
        replicas=options.replicas,
        placement=options.placement,
    )
    _check_region(directory, found.manifest, options)
    present = set(directory.numbers())
    for number in range(found.manifest.replicas):
        try:
            if number not in present:
                location = f"{directory.path}: replica {number}"
                raise Corrupt(f"{location} is missing", record=location)
            _refuse_foreign(found, number)
            found.hosts[number] = found.open_replica(number)
        except _Foreign:
            location = f"{directory.path}: replica {number}"
            found.foreign.append(number)
            found.lost[number] = Corrupt(f"{location} belongs to another store", record=location)
        except Damage as damage:
            found.lost[number] = damage
    return found


def _check_region(directory: StoreDirectory, manifest: Manifest, options: Options) -> None:
    """A region's keys hold records, and its log is others' to read: it is written as that region only."""
    found, wanted = manifest.region, options.region
    if found == wanted:
        return
    if found is None:
        message, hint = (
            f"{directory.path} is a store that stands alone, no region",
            "open it with kvstore.open",
        )
    elif wanted is None:
        message = f"{directory.path} is the region {found.name!r} of a world"
        hint = "open it with kvstore.Geo or kvstore.open_region, or with readonly=True"
    else:
        message = f"{directory.path} is the region {found.name!r} of {', '.join(found.names)}"
        hint = f"it was to be opened as {wanted.name!r} of {', '.join(wanted.names)}"
    raise WrongShape(message, hint=hint, path=directory.path, name="region", found=found, expected=wanted)


def _refuse_foreign(found: OpenReplicas, number: int) -> None:
    side = found.directory.manifest(number)
    if side is not None and side.uuid != found.manifest.uuid:
        raise _Foreign(number)


def find_manifest(directory: StoreDirectory) -> Manifest:
    """The manifest most environments agree on. Raises ``WrongFormat``, ``NotAStore``, ``Corrupt``."""
    numbers = directory.numbers()
    counts = Counter(filter(None, map(directory.manifest, numbers)))
    if counts:
        return counts.most_common(1)[0][0]
    for number in numbers:
        environment = directory.open_environment(number, durability="commit", readonly=True, check=True)
        stored = stored_manifest(environment)
        environment.close()
        if stored is not None:
            return stored
    raise NotAStore(f"there is no store at {directory.path}", path=directory.path)


def stored_manifest(environment: Environment) -> Manifest | None:
    """The copy of the manifest that lies in the environment itself."""
    view = environment.view()
    try:
        stored = view.table(HOST_TABLE).get(MANIFEST_KEY)
    finally:
        view.close()
    return None if stored is None else decode(stored)

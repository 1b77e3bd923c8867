"""Opening a store's environments, and deciding which of them have a vote (contracts B2, B4).

Every environment that can be opened is opened. A missing, empty, shortened or damaged environment has
no vote until it is rebuilt; another store's environment is moved aside, never overwritten.
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
    """The place of a replica holds an environment of another store."""


@dataclass
class OpenReplicas:
    """The environments with a vote, as hosts, and the reasons why the others have none."""

    directory: StoreDirectory
    options: Options
    manifest: Manifest
    hosts: dict[int, Host] = field(default_factory=dict)
    lost: dict[int, Damage] = field(default_factory=dict)
    """Damage of each replica that has no vote, by replica number."""
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
        """Return a new host: the roles of one replica of every shard, over this environment."""
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
        """Remove a replica's vote and close its environment."""
        host = self.hosts.pop(number, None)
        if host is not None:
            host.environment.close()
        self.lost[number] = why

    def require_majority(self) -> None:
        """Raise ``Corrupt``, with the damage of each replica, unless a majority is whole.

        A full disk is not damage: it raises ``DiskFull``. A single replica raises its own error.
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
        """Rename environments of other stores that are in the places of this store's replicas."""
        for number in self.foreign:
            location = f"{self.directory.path}: replica {number}"
            kept = self.directory.move_aside(number)
            message = f"{location} belonged to another store and is now {kept}"
            self.lost[number] = Corrupt(message, record=location)

    def close(self) -> None:
        """Abort the batches of a failed opening and close all environments."""
        with ExitStack() as closing:  # a failure does not keep the rest from being closed
            for host in self.hosts.values():
                closing.callback(host.environment.close)
                host.abort()


def create(directory: StoreDirectory, options: Options) -> None:
    """Create the environments of a new store. What a crash leaves half-made is never opened."""
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
    """Raise ``WrongShape`` unless the store is opened as the region, or standalone store, that it is.

    A region's keys hold cells, and other regions read its log, so only that region may write it.
    """
    found, wanted = manifest.region, options.region
    if found == wanted:
        return
    if found is None:
        message, hint = (
            f"{directory.path} is a standalone store, not a region",
            "open it with kvstore.open",
        )
    elif wanted is None:
        message = f"{directory.path} is the region {found.name!r} of a world"
        hint = "open it with kvstore.Geo or kvstore.open_region, or with readonly=True"
    else:
        message = f"{directory.path} is the region {found.name!r} of {', '.join(found.names)}"
        hint = f"the call asked for region {wanted.name!r} of {', '.join(wanted.names)}"
    raise WrongShape(message, hint=hint, path=directory.path, name="region", found=found, expected=wanted)


def _refuse_foreign(found: OpenReplicas, number: int) -> None:
    side = found.directory.manifest(number)
    if side is not None and side.uuid != found.manifest.uuid:
        raise _Foreign(number)


def find_manifest(directory: StoreDirectory) -> Manifest:
    """Return the manifest that most environments hold. Raises ``WrongFormat``, ``NotAStore``, ``Corrupt``."""
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
    """Return the environment's own copy of the manifest, or None."""
    view = environment.view()
    try:
        stored = view.table(HOST_TABLE).get(MANIFEST_KEY)
    finally:
        view.close()
    return None if stored is None else decode(stored)

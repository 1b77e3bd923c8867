"""The effects that a protocol state machine asks of its driver, and the addresses in them.

Effects are values; a driver carries them out. The durability contract: a role may read and write
through its host's open batch inside ``handle``; the ``Send``s it returned leave the host only after
that batch committed.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec

from kvstore.types import ClientId, ShardId


class ReplicaAddress(NamedTuple):
    """One replica of one shard."""

    shard: ShardId
    replica: int


class GroupAddress(NamedTuple):
    """All replicas of one shard: the destination of a groupcast (section 5)."""

    shard: ShardId


class HostAddress(NamedTuple):
    """A host, for messages that concern its environment and not one shard."""

    host: int


class CoordinatorAddress(NamedTuple):
    """One of the coordinators; ``COORDINATOR`` is the one that leads."""

    coordinator: int


class ClientAddress(NamedTuple):
    """A client."""

    client: ClientId


class RoleAddress(NamedTuple):
    """A role that exists once: the sequencer, the leading coordinator, the user's thread."""

    name: str


SEQUENCER = RoleAddress("sequencer")
COORDINATOR = RoleAddress("coordinator")
CALLER = RoleAddress("caller")

Address: TypeAlias = (
    ReplicaAddress | GroupAddress | HostAddress | CoordinatorAddress | ClientAddress | RoleAddress
)


class Send(msgspec.Struct, frozen=True, gc=False):
    """Hand a message to the network."""

    to: Address
    message: msgspec.Struct


class SetTimer(msgspec.Struct, frozen=True):
    """(Re)arm the timer of this name; at most one timer per name is armed."""

    name: str
    after_ms: int


class CancelTimer(msgspec.Struct, frozen=True):
    """Disarm the timer of this name, if it is armed."""

    name: str


class Dropped(msgspec.Struct, frozen=True):
    """Report an ignored message, with the reason; the driver counts them."""

    message: msgspec.Struct
    reason: str


Effect: TypeAlias = Send | SetTimer | CancelTimer | Dropped

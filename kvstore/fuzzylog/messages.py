"""The messages between regions, a closed set, each with its sender and its receiver.

Shipping is pull-based: a region asks for the slots that it lacks, so any message may be lost, delayed or
repeated. A region answers with what it holds of *any* region's chains, so regions need not all be neighbours.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from kvstore.execution.operations import Segment
from kvstore.types import RegionId, ShardId, Slot, Timestamp

FORMAT = 1

Vector: TypeAlias = dict[RegionId, tuple[Slot, ...]]
"""A position in the log: the last slot of each chain, by region, in the order of the shards."""

Tails: TypeAlias = dict[RegionId, dict[ShardId, tuple[Slot, Timestamp]]]
"""Slot and time of the last node in each copy, by region and shard.

No other node of the chain has this time, so the pair shows whether two regions hold copies of the same chain.
"""


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """The identity of a message's sender. All fields but ``region`` are equal in all regions of a world."""

    region: str
    names: tuple[str, ...]
    world: str
    shards: int
    placement: int | None
    format: int = FORMAT


class Want(msgspec.Struct, frozen=True, array_like=True):
    """A request of a region for rights to a bounded counter (contracts D5); a hint, which may be lost.

    ``amount`` is the number of rights that the taker wants to have, ``hops`` how often the request may still
    be passed on.
    """

    shard: ShardId
    key: bytes
    amount: int
    taker: RegionId
    hops: int


class News(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Region -> neighbours: the region has new nodes to pull."""

    sender: RegionId


class Pull(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Region -> a neighbour: send the items after these slots.

    ``applied`` is what the region has applied at that moment; other regions read from it what they may
    discard (D6). ``tails`` are the last nodes of the region's copies, for the regions that own the chains.
    """

    identity: Identity
    received: Vector
    applied: Vector
    wants: tuple[Want, ...] = ()
    tails: Tails = {}


class Shipment(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Neighbour -> region: parts of chains, by shard, that hold whole nodes.

    ``ends`` are the ends of all chains at the sender. ``fresh`` is the time up to which these ends cover
    everything that happened in a region, by region.
    """

    identity: Identity
    chains: dict[ShardId, tuple[Segment, ...]]
    ends: Vector
    fresh: dict[RegionId, Timestamp]


LinkMessage: TypeAlias = News | Pull | Shipment

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(LinkMessage).decode
"""Raises ``msgspec.DecodeError``."""

"""The messages between regions, a closed set: who sends each to whom, and why.

Shipping is pull-based: whoever lacks something asks for it by place, so any message may be lost, late or
repeated. A region answers with whatever it holds of *any* region's chains, so regions need not all be
neighbours.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from kvstore.execution.operations import Segment
from kvstore.types import RegionId, ShardId, Slot, Timestamp

FORMAT = 1

Vector: TypeAlias = dict[RegionId, tuple[Slot, ...]]
"""By region a place in each of its chains, in the order of the shards: a cut of the log."""


Tails: TypeAlias = dict[RegionId, dict[ShardId, tuple[Slot, Timestamp]]]
"""By region, of each chain that has one here the last node: its slot, and its time, which no other node has
there. It tells whether two hold copies of one chain."""


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Who speaks. All but ``region`` have to agree."""

    region: str
    names: tuple[str, ...]
    world: str
    shards: int
    placement: int | None
    format: int = FORMAT


class Want(msgspec.Struct, frozen=True, array_like=True):
    """A hint: a region would like to have so many rights to this bounded counter (contracts D5).

    ``hops``: how often it may still be passed on.
    """

    shard: ShardId
    key: bytes
    amount: int
    taker: RegionId
    hops: int


class News(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Region -> neighbours: there is something to pull."""

    sender: RegionId


class Pull(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Region -> a neighbour: send me what comes behind this.

    ``applied``: what is applied here, of the same moment; published so that others know what may go (D6).
    ``tails``: where the copies end, for the regions whose they are.
    """

    identity: Identity
    received: Vector
    applied: Vector
    wants: tuple[Want, ...] = ()
    tails: Tails = {}


class Shipment(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Neighbour -> region: parts of chains, by shard; of each region whole nodes only.

    ``ends``: how far the sender has all chains. ``fresh``: by region, the time up to which that is all
    there was.
    """

    identity: Identity
    chains: dict[ShardId, tuple[Segment, ...]]
    ends: Vector
    fresh: dict[RegionId, Timestamp]


LinkMessage: TypeAlias = News | Pull | Shipment

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(LinkMessage).decode
"""Raises ``msgspec.DecodeError``."""

"""The words of the protocols as types: one name for each idea, used in every room.

All are integers at run time. ``TransactionId`` names a transaction by its place in one shard's
sequence; a transaction over several shards has one such id per participant, and matches a set of
ids if *any* of its ids is in the set (Eris, SOSP 2017, section 6.3).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, NewType

ShardId = NewType("ShardId", int)
"""A shard's number, from 0."""
HostId = NewType("HostId", int)
"""A host's number, from 0. A host owns one environment and carries one replica of every shard."""
ClientId = NewType("ClientId", int)
"""A client's number: the epoch of the opening that made it (contracts C4)."""
RequestId = NewType("RequestId", int)
"""A client's own count of its requests, from 1."""
RegionId = NewType("RegionId", int)
"""A region's number, from 0: its place among the names of all regions, sorted."""
Epoch = NewType("Epoch", int)
"""The reign of one sequencer, from 1; it never goes back."""
ViewNumber = NewType("ViewNumber", int)
"""A shard's view; replica ``view % replicas`` is its designated learner."""
SequenceNumber = NewType("SequenceNumber", int)
"""A place in one shard's sequence of one epoch, from 1."""
Slot = NewType("Slot", int)
"""A place in one shard's log, from 1, over all epochs: epoch base + sequence number."""
Timestamp = NewType("Timestamp", int)
"""Nanoseconds since 1970, made unique and rising by the sequencer."""

ChainId = tuple[RegionId, ShardId]
"""A chain of the FuzzyLog: one region's log of one shard."""
Kind = Literal["bounded", "counter", "set", "register"]
"""The type of a key in a region: which of its cells is shown (contracts D5)."""


class TransactionId(NamedTuple):
    """One of the names of a transaction: its place in one participant's sequence."""

    epoch: Epoch
    shard: ShardId
    sequence: SequenceNumber

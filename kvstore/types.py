"""The words of the protocols as types: one name for each idea, used in every room.

The numbers are integers at run time. ``TransactionId`` identifies a transaction by its place in one
shard's sequence; a transaction over several shards has one such id per participant, and matches a set
of ids if *any* of its ids is in the set (Eris, SOSP 2017, section 6.3).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, NewType

ShardId = NewType("ShardId", int)
"""A shard's number, from 0."""
HostId = NewType("HostId", int)
"""A host's number, from 0. A host owns one environment and carries one replica of every shard."""
ClientId = NewType("ClientId", int)
"""A client's number: the epoch of the opening that created the client (contracts C4)."""
RequestId = NewType("RequestId", int)
"""A request's number among the requests of its client, from 1."""
RegionId = NewType("RegionId", int)
"""A region's number, from 0: its place among the sorted names of all regions."""
Epoch = NewType("Epoch", int)
"""The number of one sequencer's term, from 1; it never decreases."""
ViewNumber = NewType("ViewNumber", int)
"""The number of a shard's view; replica ``view % replicas`` is its designated learner."""
SequenceNumber = NewType("SequenceNumber", int)
"""A place in one shard's sequence within one epoch, from 1."""
Slot = NewType("Slot", int)
"""A place in one shard's log, from 1, across all epochs: epoch base + sequence number."""
Timestamp = NewType("Timestamp", int)
"""Nanoseconds since 1970, which the sequencer makes unique and increasing."""

ChainId = tuple[RegionId, ShardId]
"""A chain of the FuzzyLog: one region's log of one shard."""
Kind = Literal["bounded", "counter", "set", "register"]
"""The type of a key in a region: which of its cells is shown (contracts D5)."""


class TransactionId(NamedTuple):
    """One of the ids of a transaction: its place in one participant's sequence."""

    epoch: Epoch
    shard: ShardId
    sequence: SequenceNumber

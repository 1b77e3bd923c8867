"""Shared steps of the scenes in ``tests/eris``: stamping, holding back, finding and dropping transactions."""

from __future__ import annotations

from kvstore.eris.effects import COORDINATOR, Send
from kvstore.eris.messages import (
    FindTransaction,
    Stamped,
)
from kvstore.types import TransactionId
from tests.support.cluster import Cluster, add


def stamp(cluster: Cluster, *shards: int) -> Stamped:
    """Return a new stamped transaction over these shards; its packets are the last on the wire."""
    cluster.submit({shard: [add("n")] for shard in shards})
    cluster.step_roles()
    return stamped_on(cluster)[-1]


def stamped_on(cluster: Cluster) -> list[Stamped]:
    return [packet.message for packet in cluster.wire if isinstance(packet.message, Stamped)]


def hold(cluster: Cluster, stamped: Stamped) -> None:
    """Remove a transaction's packets from the wire."""
    cluster.wire = [packet for packet in cluster.wire if packet.message is not stamped]


def requests(cluster: Cluster, host: int, shard: int = 0) -> list[int]:
    """Return the ids of the requests in a log, in order."""
    return [int(stamped.request.request) for stamped in cluster.log(host, shard) if stamped is not None]


def find(cluster: Cluster, what: TransactionId, host: int = 0) -> None:
    """Have a replica of the shard in this id ask the coordinator for the transaction."""
    cluster.carry([Send(COORDINATOR, FindTransaction(what.shard, host, what))])


def drop(cluster: Cluster, *shards: int) -> Stamped:
    """Return a new stamped transaction that reached no replica and was dropped."""
    lost = stamp(cluster, *shards)
    hold(cluster, lost)
    find(cluster, lost.stamp.ids()[0])
    cluster.run()
    return lost

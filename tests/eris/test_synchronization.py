"""Synchronization (Eris, SOSP 2017, section 6.6): followers execute what the learner says a quorum holds. The
single claims are transcripts: ``sync_follower``, ``sync_learner`` and others."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.messages import Stamped, SyncCommit, SyncReply
from kvstore.types import Epoch, ShardId, Slot, ViewNumber
from tests.support.cluster import Cluster, add

S = ShardId(0)


def logged(count: int) -> Cluster:
    """All replicas have logged so many transactions, and no word of synchronization was delivered."""
    cluster = Cluster()
    for _ in range(count):
        cluster.submit({0: [add("n")]})
    cluster.step()
    cluster.step()
    cluster.wire = [packet for packet in cluster.wire if not isinstance(packet.message, SyncReply)]
    return cluster


def test_a_follower_executes_many_slots_at_once() -> None:
    cluster = logged(600)

    cluster.give(1, SyncCommit(S, Epoch(1), ViewNumber(0), Slot(600)))

    assert cluster.values(1) == {"n": 600}
    assert cluster.cells(1) == cluster.cells(0)


@settings(max_examples=80)
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 3))
def test_whatever_is_lost_followers_are_behind_the_learner_and_never_beside_it(
    steps: list[int], shards: int
) -> None:
    """0 and 1 submit, 2 to 4 deliver to one host, 5 loses all words of synchronization on the wire.

    Stamped transactions are not lost here: a host of this store either gets its batch or has failed.
    """
    cluster = Cluster(shards=shards)
    for at, step in enumerate(steps):
        if step < 2:
            cluster.submit({shard: [add(f"n{shard}", at)] for shard in range(at % shards + 1)})
            cluster.step_roles()
        elif step < 5:
            cluster.deliver(step - 2)
        else:
            cluster.wire = [
                packet for packet in cluster.wire if not isinstance(packet.message, SyncReply | SyncCommit)
            ]
        for shard in range(shards):
            check(cluster, shard)
    cluster.run()
    cluster.change_epoch()
    for shard in range(shards):
        assert cluster.cells(0, shard) == cluster.cells(1, shard) == cluster.cells(2, shard)


def check(cluster: Cluster, shard: int) -> None:
    """R2, and that what is stable stands at a majority and is the same everywhere."""
    logs = [cluster.log(host, shard) for host in range(3)]
    for host in range(3):
        record = cluster.record(host, shard)
        assert record.stable <= len(logs[host])
        assert record.executed <= (len(logs[host]) if host == 0 else record.stable), "REPLICA-2"
        holders = [log for log in logs if len(log) >= record.stable]
        assert len(holders) >= 2, "stable is at a quorum"
        heads: list[list[Stamped | None]] = [log[: record.stable] for log in holders]
        assert all(head == heads[0] for head in heads)

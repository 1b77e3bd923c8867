"""Lost messages (section 6.3): random losses, and the schedule that the published implementation gets wrong.

The single claims are transcripts: ``lost_message``, ``find``, ``promises``, ``drop_majority`` and others.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.messages import MultiStamp, ReplicaMessage, Stamped
from kvstore.eris.replica import Replica
from kvstore.types import ShardId, TransactionId
from tests.support.cluster import Cluster, add
from tests.support.eris_player import Player
from tests.support.transcript import played

UNSAFE = Path(__file__).parent.parent / "transcripts" / "eris" / "unsafe_schedule.txt"


def stamp(cluster: Cluster, *shards: int) -> None:
    """A transaction over these shards lies stamped on the wire."""
    cluster.submit({shard: [add("n")] for shard in shards})
    cluster.step_roles()


def settle(cluster: Cluster, rounds: int = 8) -> None:
    """Deliver everything, and let timers run out, until nothing moves."""
    for _ in range(rounds):
        cluster.run()
        cluster.fire_all()
    cluster.run()


shards = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)
losses = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=9)


@settings(max_examples=150)
@given(st.lists(st.tuples(shards, losses), min_size=1, max_size=6), st.sampled_from([0, 3]))
def test_whatever_is_lost_all_participants_agree(
    transactions: list[tuple[list[int], list[tuple[int, int]]]], kept: int
) -> None:
    """Any replicas miss any transactions; then everything is delivered. Each transaction is in all logs of
    all its participants or in none, and what is acknowledged is not lost."""
    cluster = Cluster(shards=3)
    cluster.kept = kept
    cluster.change_epoch()
    for touched, lost in transactions:
        stamp(cluster, *touched)
        for host, shard in set(lost):
            if cluster.on_wire(Stamped, host=host, shard=shard):
                cluster.lose(Stamped, host=host, shard=shard)
    cluster.carry(cluster.sequencer.on_timer("flush"))
    settle(cluster)
    cluster.carry(cluster.sequencer.on_timer("flush"))
    settle(cluster)

    for shard in range(3):
        logs = [cluster.log(host, shard) for host in range(3)]
        assert logs[0] == logs[1] == logs[2]
    everywhere = [s for shard in range(3) for s in cluster.log(0, shard) if s is not None]
    for stamped in everywhere:
        for shard in stamped.stamp.numbers:
            assert stamped in cluster.log(0, shard), "all or nothing"
    dropped = cluster.coordinator.record.dropped
    for stamped in everywhere:
        assert not dropped & set(stamped.stamp.ids())
    cluster.carry(cluster.client.on_timer("retry"))
    settle(cluster)
    for shard in range(3):
        count = sum(1 for touched, _ in transactions if shard in touched)
        for host in range(3):
            assert cluster.values(host, shard).get("n", 0) == count, "each once, after the client's retries"


def test_the_unsafe_schedule_is_seen_where_names_are_matched_by_the_own_shard_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The published code does so. T then stays in the log of shard 1, and is dropped at shard 0."""
    text = UNSAFE.read_text(encoding="utf-8")
    in_the_log_of_shard_1 = "s1.r0..2: NO-OP, [s0#1 s1#2] of epoch 1: request 2"
    dropped_at_shard_0 = "s0.r0..2: NO-OP, [s0#2 s1#3] of epoch 1: request 3"
    match_own_names_only(monkeypatch)

    unsafe = played(text, Player().play)

    assert in_the_log_of_shard_1 not in text
    assert in_the_log_of_shard_1 in unsafe
    assert dropped_at_shard_0 in unsafe


def match_own_names_only(patch: pytest.MonkeyPatch) -> None:
    """Have replicas look only for the names of their own shard, and the coordinator for all."""
    looking: list[ShardId | None] = [None]
    replica_handles, coordinator_handles = Replica.handle, FailureCoordinator.handle

    def handle(replica: Replica, message: ReplicaMessage) -> object:
        looking[0] = replica.address.shard
        return replica_handles(replica, message)

    def coordinate(coordinator: FailureCoordinator, message: object) -> object:
        looking[0] = None
        return coordinator_handles(coordinator, message)  # type: ignore[arg-type]  # as it came

    def matches(stamp: MultiStamp, names: set[TransactionId]) -> bool:
        return any(one in names for one in stamp.ids() if looking[0] in (None, one.shard))

    patch.setattr(Replica, "handle", handle)
    patch.setattr(FailureCoordinator, "handle", coordinate)
    patch.setattr(MultiStamp, "matches", matches)

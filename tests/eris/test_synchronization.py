"""Synchronization (Eris, SOSP 2017, section 6.6): followers execute what the learner says a quorum holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.effects import Dropped, Effect, ReplicaAddress, Send
from kvstore.eris.messages import Stamped, SyncCommit, SyncReply
from kvstore.types import Epoch, ShardId, Slot, ViewNumber
from tests.support.cluster import Cluster, add

S = ShardId(0)


def sync_reply(replica: int, slot: int, *, epoch: int = 1, view: int = 0) -> SyncReply:
    return SyncReply(S, replica, Epoch(epoch), ViewNumber(view), Slot(slot))


def sync_commit(slot: int, *, epoch: int = 1, view: int = 0) -> SyncCommit:
    return SyncCommit(S, Epoch(epoch), ViewNumber(view), Slot(slot))


def logged(count: int, *, replicas: int = 3) -> Cluster:
    """Everybody has logged so many transactions, and no word of synchronization was delivered."""
    cluster = Cluster(replicas=replicas)
    for _ in range(count):
        cluster.submit({0: [add("n")]})
    cluster.step()
    cluster.step()
    cluster.wire = [packet for packet in cluster.wire if not isinstance(packet.message, SyncReply)]
    return cluster


def stable(cluster: Cluster, host: int) -> int:
    return cluster.replica(host).record.stable


def reason(effects: list[Effect]) -> str:
    assert isinstance(effects[0], Dropped)
    return effects[0].reason


class TestAFollower:
    def test_says_at_the_end_of_each_batch_how_far_its_log_reaches(self) -> None:
        cluster = Cluster()
        cluster.submit({0: [add("n")]})
        cluster.submit({0: [add("n")]})
        cluster.step()

        cluster.deliver(2)

        (packet,) = cluster.on_wire(SyncReply)
        assert packet.to == ReplicaAddress(S, 0)
        assert packet.message == sync_reply(2, 2)

    def test_executes_up_to_the_stable_slot_and_no_further(self) -> None:
        cluster = logged(5)

        assert cluster.give(1, sync_commit(3)) == []

        assert cluster.values(1) == {"n": 3}
        assert (cluster.record(1).executed, cluster.record(1).stable) == (3, 3)
        assert cluster.values(2) == {}

    def test_executes_nothing_before_it_is_told_to(self) -> None:
        cluster = logged(5)

        assert cluster.values(0) == {"n": 5}
        assert cluster.values(1) == cluster.values(2) == {}

    def test_is_told_of_the_stable_slot_one_batch_later(self) -> None:
        """Contracts A4: group k carries SYNC-COMMIT for group k - 1."""
        cluster = Cluster()
        cluster.submit({0: [add("n")]})
        for _ in range(3):
            cluster.step()
            assert cluster.values(1) == {}

        cluster.step()

        assert cluster.values(1) == {"n": 1}

    def test_keeps_its_stable_slot_when_an_older_word_comes_late(self) -> None:
        cluster = logged(5)
        cluster.give(1, sync_commit(4))

        cluster.give(1, sync_commit(2))

        assert stable(cluster, 1) == 4
        assert cluster.values(1) == {"n": 4}

    def test_does_not_execute_beyond_its_own_log(self) -> None:
        cluster = logged(2)

        cluster.give(1, sync_commit(3))

        assert cluster.values(1) == {"n": 2}
        assert stable(cluster, 1) == 2

    @pytest.mark.parametrize("other", [{"epoch": 2}, {"epoch": 0}])
    def test_ignores_words_of_another_epoch_or_view(self, other: dict[str, int]) -> None:
        cluster = logged(2)

        assert "epoch" in reason(cluster.give(1, sync_commit(2, **other)))

        assert cluster.values(1) == {}

    def test_executes_many_slots_at_once(self) -> None:
        cluster = logged(600)

        cluster.give(1, sync_commit(600))

        assert cluster.values(1) == {"n": 600}
        assert cluster.cells(1) == cluster.cells(0)


class TestTheLearner:
    def test_of_three_needs_one_follower(self) -> None:
        cluster = logged(5)

        effects = cluster.give(0, sync_reply(2, 3))

        assert effects == [
            Send(ReplicaAddress(S, 1), sync_commit(3)),
            Send(ReplicaAddress(S, 2), sync_commit(3)),
        ]
        assert stable(cluster, 0) == 3

    def test_of_five_needs_two(self) -> None:
        cluster = logged(5, replicas=5)

        for _ in range(2):
            cluster.give(0, sync_reply(4, 5))
            assert stable(cluster, 0) == 0
        effects = cluster.give(0, sync_reply(2, 3))

        assert [effect.message for effect in effects if isinstance(effect, Send)] == [sync_commit(3)] * 4

    def test_alone_is_its_own_quorum(self) -> None:
        cluster = logged(5, replicas=1)

        assert stable(cluster, 0) == 5

    def test_never_moves_the_stable_slot_back(self) -> None:
        cluster = logged(5)
        cluster.give(0, sync_reply(2, 4))

        cluster.give(0, sync_reply(2, 1))
        cluster.give(0, sync_reply(1, 4))

        assert stable(cluster, 0) == 4

    def test_never_moves_it_beyond_its_own_log(self) -> None:
        cluster = logged(2)

        cluster.give(0, sync_reply(1, 9))
        cluster.give(0, sync_reply(2, 9))

        assert stable(cluster, 0) == 2

    @pytest.mark.parametrize("other", [{"epoch": 2}, {"epoch": 0}])
    def test_ignores_replies_of_another_epoch_or_view(self, other: dict[str, int]) -> None:
        cluster = logged(2)

        assert "epoch" in reason(cluster.give(0, sync_reply(1, 2, **other)))

        assert stable(cluster, 0) == 0

    def test_forgets_the_replies_of_the_epoch_before(self) -> None:
        """Replica 2 had logged more than the learner; the new epoch began without that."""
        cluster = logged(5)
        cluster.give(0, sync_reply(2, 7))
        cluster.change_epoch(0, 1)
        cluster.submit({0: [add("n")]})
        cluster.step()
        cluster.deliver(0)
        assert cluster.replica(0).last_slot == 6

        cluster.give(0, sync_reply(1, 5, epoch=2))

        assert stable(cluster, 0) == 5, "only the learner has slot 6"


def test_roles_do_not_take_each_others_messages() -> None:
    cluster = logged(2)

    assert reason(cluster.give(0, sync_commit(2)))
    assert reason(cluster.give(1, sync_reply(2, 2)))


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

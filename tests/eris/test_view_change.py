"""A shard goes on under another learner (section 6.4): VIEW-1, promises over views, learners that come
back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.effects import COORDINATOR, Send
from kvstore.eris.messages import (
    FindTransaction,
    Reply,
    Stamped,
    StartView,
    SyncCommit,
    SyncReply,
    TransactionRequest,
    ViewChange,
    ViewChangeRequest,
)
from kvstore.eris.shard_state import Status
from kvstore.types import Epoch, SequenceNumber, ShardId, TransactionId, ViewNumber
from tests.support.cluster import Cluster, add, put


def suspect(cluster: Cluster, *hosts: int, shards: int = 1) -> None:
    """These hosts suspect the learner of every shard."""
    for host in hosts:
        for shard in range(shards):
            cluster.fire(host, shard, "suspect")


def views(cluster: Cluster, shard: int = 0) -> list[int]:
    return [cluster.replica(host, shard).record.view for host in sorted(cluster.hosts)]


class TestANewLearner:
    def test_takes_over_with_everything_that_was_committed(self) -> None:
        cluster = Cluster()
        for number in range(3):
            cluster.submit({0: [put("k", number)]})
            cluster.run()
        cluster.crash(0)
        suspect(cluster, 1, 2)
        cluster.run()

        assert views(cluster) == [1, 1]
        assert cluster.replica(1).is_learner
        assert cluster.values(1) == {"k": 2}
        request = cluster.submit({0: [put("k", 9)]})
        cluster.run()
        assert request in cluster.answers, "two of three are a quorum"
        assert cluster.values(1) == {"k": 9}

    def test_one_suspicion_takes_everybody_along(self) -> None:
        cluster = Cluster()
        suspect(cluster, 2)
        cluster.run()

        assert views(cluster) == [1, 1, 1]
        assert [cluster.replica(host).is_learner for host in range(3)] == [False, True, False]

    def test_gets_what_only_another_follower_had(self) -> None:
        cluster = Cluster()
        request = cluster.submit({0: [add("n")]})
        cluster.step()
        cluster.lose(Stamped, host=1)
        cluster.step()
        cluster.lose(Reply)
        cluster.crash(0)
        assert cluster.log(1) == []
        suspect(cluster, 2)
        cluster.run()

        assert cluster.log(1) == cluster.log(2) != []
        assert cluster.values(1) == {"n": 1}
        assert request in cluster.answers

    def test_shows_again_what_one_that_is_far_behind_lacks(self) -> None:
        """The others show what is above their stable slot; the new learner has not even that."""
        cluster = Cluster()
        for _ in range(3):
            cluster.submit({0: [add("n")]})
            cluster.step()
            cluster.lose(Stamped, host=1)
            cluster.run()
        for host in range(3):
            cluster.fire(host, 0, "heartbeat")
        cluster.run()
        assert cluster.record(2).stable == 3
        assert cluster.log(1) == []
        cluster.crash(0)
        suspect(cluster, 2)
        cluster.run()

        assert cluster.replica(1).is_learner
        assert cluster.values(1) == {"n": 3}

    def test_without_a_majority_no_view_begins(self) -> None:
        cluster = Cluster()
        cluster.crash(0, 2)
        suspect(cluster, 1)
        for _ in range(3):
            cluster.run_without(0, 2)
            cluster.fire_all()

        assert cluster.replica(1).status is Status.VIEW_CHANGE

    def test_a_view_that_did_not_begin_is_remembered_over_a_crash(self) -> None:
        cluster = Cluster()
        suspect(cluster, 2)
        cluster.wire.clear()
        cluster.crash(2)
        cluster.restart(2)

        assert cluster.replica(2).status is Status.VIEW_CHANGE
        assert cluster.replica(2).record.view == 1
        assert cluster.give(2, SyncCommit(ShardId(0), Epoch(1), ViewNumber(0), cluster.replica(2).last_slot))

    def test_lost_messages_are_said_again(self) -> None:
        cluster = Cluster()
        cluster.crash(0)
        suspect(cluster, 2)
        cluster.lose(ViewChange)
        cluster.lose(ViewChangeRequest, host=1)
        cluster.fire_all()
        cluster.run()

        assert views(cluster) == [1, 1]
        assert cluster.replica(1).status is cluster.replica(2).status is Status.NORMAL

    def test_one_that_missed_the_start_asks_for_it_and_gets_it(self) -> None:
        cluster = Cluster()
        suspect(cluster, 2)
        while not cluster.on_wire(StartView):
            cluster.step()
        cluster.lose(StartView, host=0)
        assert cluster.replica(0).status is Status.VIEW_CHANGE
        cluster.run()
        cluster.fire_all()
        cluster.run()

        assert cluster.replica(0).status is Status.NORMAL
        assert views(cluster) == [1, 1, 1]


class TestWhatIsHeldBack:
    def test_is_forgotten_when_it_comes_with_the_view(self) -> None:
        """Or the replica goes on to look for what comes behind it, and all number what was never sent."""
        cluster = Cluster()
        cluster.submit({0: [add("n")]})
        cluster.step_roles()
        cluster.deliver(1)
        cluster.lose(Stamped)
        cluster.submit({0: [add("n")]})
        cluster.step_roles()
        cluster.deliver(1)
        cluster.deliver(2)  # holds the second back
        cluster.lose(Stamped, host=0)
        cluster.crash(0)
        suspect(cluster, 2)
        cluster.settle()

        assert cluster.values(1) == cluster.values(2) == {"n": 2}
        assert len(cluster.log(2)) == 2
        assert not cluster.coordinator.record.dropped


class TestPromises:
    def test_go_over_into_the_new_view(self) -> None:
        """A follower promised; the new learner has the transaction in its log, and waits for the decision."""
        cluster = Cluster(shards=2)
        cluster.submit({0: [add("n")], 1: [add("n")]})
        cluster.step()
        cluster.lose(Stamped, shard=0)
        cluster.lose(Stamped, host=0)
        cluster.lose(Stamped, host=2)
        cluster.deliver(1)
        name = TransactionId(Epoch(1), ShardId(0), SequenceNumber(1))
        cluster.wire.clear()
        cluster.give(2, TransactionRequest(ShardId(1), name), shard=1)
        cluster.wire.clear()
        cluster.crash(0)
        cluster.fire(2, 1, "suspect")
        cluster.step()

        assert cluster.replica(1, 1).status is Status.VIEW_CHANGE, "it may have been dropped already"
        assert cluster.on_wire(FindTransaction)
        cluster.settle()
        assert cluster.replica(1, 1).status is Status.NORMAL
        assert cluster.log(1, 1)[0] == cluster.log(1, 0)[0]

    @pytest.mark.parametrize("status", [Status.VIEW_CHANGE])
    def test_are_not_made_while_views_change(self, status: Status) -> None:
        cluster = Cluster()
        suspect(cluster, 2)
        cluster.wire.clear()
        name = TransactionId(Epoch(1), ShardId(0), SequenceNumber(1))
        cluster.give(2, TransactionRequest(ShardId(0), name))

        assert cluster.replica(2).status is status
        assert not cluster.replica(2).record.temp_drops

    def test_of_another_view_do_not_count_together(self) -> None:
        cluster = Cluster()
        name = TransactionId(Epoch(1), ShardId(0), SequenceNumber(1))
        cluster.carry([Send(COORDINATOR, FindTransaction(ShardId(0), 2, name))])
        cluster.step()
        cluster.lose(TransactionRequest, host=0)
        cluster.lose(TransactionRequest, host=1)
        cluster.run()  # replica 2 promised in view 0
        suspect(cluster, 2)
        cluster.run()
        cluster.carry([Send(COORDINATOR, FindTransaction(ShardId(0), 2, name))])
        cluster.step()
        cluster.lose(TransactionRequest, host=2)
        cluster.lose(TransactionRequest, host=0)
        cluster.run()  # replica 1, the learner, in view 1

        assert not cluster.coordinator.record.dropped, "two promises, of two views"


class TestAnOldLearner:
    def test_that_was_only_paused_follows_the_new_one(self) -> None:
        cluster = Cluster()
        cluster.submit({0: [add("n")]})
        cluster.run()
        suspect(cluster, 2)
        cluster.run_without(0)
        cluster.submit({0: [add("n")]})
        cluster.run_without(0)
        cluster.settle()

        assert cluster.replica(0).status is Status.NORMAL
        assert cluster.log(0) == cluster.log(1)
        assert cluster.values(0) == cluster.values(1)

    def test_gets_no_quorum_for_what_it_executes_alone(self) -> None:
        cluster = Cluster()
        suspect(cluster, 2)
        cluster.run_without(0)
        request = cluster.submit({0: [add("n")]})
        cluster.step()
        cluster.deliver(0)  # still in view 0, and its learner
        assert cluster.values(0) == {"n": 1}
        cluster.lose(Stamped, host=1)
        cluster.lose(Stamped, host=2)
        cluster.run_without(1, 2)

        assert request not in cluster.answers

    def test_that_executed_what_was_dropped_gets_an_image(self) -> None:
        cluster = Cluster()
        cluster.submit({0: [add("n")]})
        cluster.step()
        cluster.lose(Stamped, host=1)
        cluster.lose(Stamped, host=2)
        cluster.deliver(0)
        cluster.wire.clear()
        suspect(cluster, 2)
        cluster.run_without(0)
        name = TransactionId(Epoch(1), ShardId(0), SequenceNumber(1))
        cluster.carry([Send(COORDINATOR, FindTransaction(ShardId(0), 2, name))])
        cluster.run_without(0)
        assert name in cluster.coordinator.record.dropped
        assert cluster.values(0) == {"n": 1}
        cluster.settle()

        assert cluster.replica(0).status is Status.NORMAL
        assert cluster.log(0) == cluster.log(1) == cluster.log(2)
        assert cluster.log(1)[0] is None
        assert cluster.values(0) == cluster.values(1) == {"n": 1}, "the client's second try, once"


LOSABLE = [Stamped, SyncReply, SyncCommit, ViewChange, StartView]
step = st.one_of(
    st.tuples(st.just("submit"), st.lists(st.integers(0, 1), min_size=1, max_size=2, unique=True)),
    st.tuples(st.just("deliver"), st.integers(0, 2)),
    st.tuples(st.just("lose"), st.tuples(st.sampled_from(LOSABLE), st.integers(0, 2))),
    st.tuples(st.just("suspect"), st.tuples(st.integers(0, 2), st.integers(0, 1))),
    st.tuples(st.just("restart"), st.integers(0, 2)),
    st.tuples(st.just("roles"), st.none()),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(step, max_size=40))
def test_whatever_happens_to_views_what_is_acknowledged_stays(steps: list[tuple[str, object]]) -> None:
    """Messages are lost and delayed, hosts crash and come back, views come and go. In the end all replicas
    that did not diverge agree, and each request took effect once."""
    cluster = Cluster(shards=2)
    submitted = 0
    acknowledged: dict[int, dict[int, int]] = {}
    for kind, what in steps:
        if kind == "submit":
            assert isinstance(what, list)
            cluster.submit({shard: [add("n")] for shard in what})
            submitted += 1
        elif kind == "deliver":
            cluster.deliver(int(str(what)))
        elif kind == "roles":
            cluster.step_roles()
        elif kind == "restart":
            number = int(str(what))
            cluster.crash(number)
            cluster.restart(number)
            cluster.timers = {key: ms for key, ms in cluster.timers.items() if key[0].replica != number}
        elif kind == "suspect":
            assert isinstance(what, tuple)
            cluster.fire(what[0], what[1], "suspect")
        else:
            assert isinstance(what, tuple)
            if cluster.on_wire(what[0], host=what[1]):
                cluster.lose(what[0], host=what[1])
        for request, answer in cluster.answers.items():
            acknowledged[int(request)] = {int(s): int(slot) for s, slot in answer.slots.items()}
    for host in range(3):
        for shard in range(2):
            if cluster.replica(host, shard).status is Status.VIEW_CHANGE:
                cluster.carry([])
                cluster.fire(host, shard, "view")
    cluster.settle()

    for shard in range(2):
        whole = [host for host in range(3) if cluster.replica(host, shard).status is not Status.DIVERGED]
        assert len(whole) >= 2
        logs = [cluster.log(host, shard) for host in whole]
        assert all(log == logs[0] for log in logs)
        placed = {
            int(stamped.request.request): slot
            for slot, stamped in reversed(list(enumerate(logs[0], 1)))
            if stamped is not None
        }
        for slots in acknowledged.values():
            if shard in slots:
                assert logs[0][slots[shard] - 1] is not None, "VIEW-1: an acknowledged transaction is gone"
        wanted = sum(
            1 for kind, what in steps if kind == "submit" and isinstance(what, list) and shard in what
        )
        assert len(placed) == wanted
        learner = next(host for host in whole if cluster.replica(host, shard).is_learner)
        assert cluster.values(learner, shard).get("n", 0) == wanted

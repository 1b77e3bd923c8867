"""The claims of the paper, continued: learners, sequencers and clients that fail (sections 6.4 to 7)."""

from __future__ import annotations

import pytest

from kvstore.engine import log_retention
from kvstore.eris.effects import COORDINATOR, ReplicaAddress, Send
from kvstore.eris.messages import (
    Conclusory,
    EpochChange,
    EpochChangeAck,
    EpochChangeRequest,
    FindTransaction,
    Flush,
    HasTransaction,
    Preliminary,
    ReplicaMessage,
    Request,
    Stamped,
    StartEpoch,
    SyncCommit,
    TransactionDropped,
    TransactionFound,
    TransactionRequest,
    ViewChange,
)
from kvstore.eris.shard_state import Status
from kvstore.types import Epoch, SequenceNumber, ShardId, Slot, ViewNumber
from tests.support.cluster import Cluster, Parts, add, check, name, put, reserve
from tests.support.scenes import drop, find, hold, requests, stamp, stamped_on

S = ShardId(0)
HOSTS = range(3)


class TestSection6ViewChange:
    """6.4: a learner fails."""

    def test_a_majority_that_joined_begins_the_view(self) -> None:
        cluster = Cluster()
        cluster.crash(0)
        cluster.fire(2, 0, "suspect")
        cluster.lose(ViewChange, host=1)
        assert not cluster.replica(1).is_learner
        cluster.run_without(0)
        cluster.fire_all()
        cluster.run_without(0)
        assert [cluster.replica(host).status for host in (1, 2)] == [Status.NORMAL] * 2
        assert cluster.replica(1).is_learner

    def test_what_was_committed_survives(self) -> None:
        cluster = Cluster()
        request = cluster.submit({0: [add("n")]})
        cluster.step()
        cluster.lose(Stamped, host=1)
        cluster.run()
        cluster.crash(0)
        cluster.fire(1, 0, "suspect")
        cluster.run_without(0)
        assert requests(cluster, 1) == requests(cluster, 2) == [request]
        assert cluster.values(1) == {"n": 1}

    def test_the_drop_sets_are_united(self) -> None:
        cluster = Cluster(shards=2)
        cluster.give(2, TransactionRequest(S, name(1, 1)))
        cluster.give(2, TransactionDropped(S, Epoch(1), (name(1, 2),)))
        cluster.give(1, TransactionRequest(S, name(1, 3)))
        cluster.wire.clear()
        cluster.fire(2, 0, "suspect")
        cluster.run_without(0)
        for host in (1, 2):
            assert cluster.record(host).temp_drops == {name(1, 1), name(1, 3)}
            assert cluster.record(host).perm_drops == {name(1, 2)}

    def test_the_longest_log_is_taken(self) -> None:
        """A slot holds the transaction of its number, if it was not dropped: logs differ in length only."""
        cluster = Cluster(replicas=5)
        sent = [stamp(cluster, 0) for _ in range(3)]
        cluster.wire.clear()
        for host, count in [(2, 1), (3, 3), (4, 2)]:
            for stamped in sent[:count]:
                cluster.give(host, stamped)
        cluster.wire.clear()
        cluster.crash(0)
        cluster.fire(2, 0, "suspect")
        cluster.run_without(0)
        assert cluster.log(1) == sent

    def test_dropped_transactions_in_it_become_no_ops(self) -> None:
        cluster = Cluster()
        cluster.give(2, stamp(cluster, 0))
        cluster.give(1, TransactionDropped(S, Epoch(1), (name(0, 1),)))
        cluster.wire.clear()
        cluster.fire(2, 0, "suspect")
        cluster.run_without(0)
        assert cluster.log(1) == cluster.log(2) == [None]

    @pytest.mark.parametrize("dropped", [True, False])
    def test_the_view_waits_for_the_coordinator_about_what_was_promised_away(self, dropped: bool) -> None:
        cluster = Cluster()
        sent = stamp(cluster, 0)
        cluster.wire.clear()
        cluster.give(1, sent)
        cluster.give(2, TransactionRequest(S, name(0, 1)))
        cluster.wire.clear()
        cluster.fire(2, 0, "suspect")
        cluster.run_until(FindTransaction)
        assert cluster.replica(1).status is Status.VIEW_CHANGE
        if dropped:
            cluster.coordinator.decide(dropped=frozenset([name(0, 1)]))
        cluster.run_without(0)
        assert cluster.replica(1).status is Status.NORMAL
        assert cluster.log(1) == cluster.log(2) == [None if dropped else sent]

    def test_nothing_is_logged_before_it_begins(self) -> None:
        cluster = Cluster()
        cluster.fire(2, 0, "suspect")
        cluster.give(2, stamp(cluster, 0))
        assert cluster.log(2) == []

    def test_one_that_missed_it_hears_of_it_and_joins(self) -> None:
        cluster = Cluster()
        cluster.fire(2, 0, "suspect")
        cluster.run_without(0)
        stamp(cluster, 0)
        cluster.run_without(0)
        cluster.fire(1, 0, "heartbeat")
        cluster.settle()
        assert cluster.record(0).view == 1
        assert cluster.log(0) == cluster.log(1)

    def test_a_follower_that_has_more_than_the_new_learner_keeps_it(self) -> None:
        """START-VIEW of a majority without it; the learner finds there what it looks for."""
        cluster = Cluster()
        sent = stamp(cluster, 0)
        cluster.wire.clear()
        cluster.give(0, sent)
        cluster.wire.clear()
        cluster.fire(2, 0, "suspect")
        cluster.run_without(0)
        assert cluster.log(1) == []
        cluster.settle()
        assert cluster.log(0) == cluster.log(1) == cluster.log(2)
        assert requests(cluster, 1)[0] == 1
        assert not cluster.coordinator.record.dropped

    def test_an_old_learner_that_executed_what_was_dropped_gets_anothers_state(self) -> None:
        cluster = Cluster()
        sent = stamp(cluster, 0)
        cluster.wire.clear()
        cluster.give(0, sent)
        cluster.wire.clear()
        cluster.fire(2, 0, "suspect")
        cluster.run_without(0)
        find(cluster, name(0, 1), host=1)
        cluster.run_without(0)
        assert cluster.values(0) == {"n": 1}
        cluster.settle()
        assert cluster.log(0) == cluster.log(1)
        assert cluster.log(0)[0] is None
        assert cluster.cells(0) == cluster.cells(1) == {"n": (1, 2)}


def failover(cluster: Cluster, number: int = 1) -> None:
    """Another coordinator begins, and with it an epoch; the client goes on."""
    cluster.wire.clear()
    cluster.start_coordinator(number)
    cluster.run()
    cluster.begin_stamping(keep_client=True)


class TestSection6EpochChange:
    """6.5: the sequencer fails, or a coordinator."""

    def test_a_replica_that_hears_of_a_later_epoch_asks_for_it(self) -> None:
        cluster = Cluster()
        cluster.start_coordinator(0)
        cluster.run()
        later = Epoch(cluster.coordinator.record.epoch + 1)
        cluster.carry(cluster.give(1, Flush(S, later, SequenceNumber(0))))
        assert cluster.on_wire(EpochChangeRequest)
        cluster.run()
        assert {cluster.record(host).last_normal_epoch for host in HOSTS} == {
            cluster.coordinator.record.epoch
        }
        assert cluster.coordinator.record.epoch >= later

    def test_so_does_one_that_hears_nothing_of_its_sequencer(self) -> None:
        cluster = Cluster()
        cluster.start_coordinator(0)
        cluster.run()
        before = cluster.coordinator.record.epoch
        cluster.fire(2, 0, "silence")
        cluster.run()
        assert cluster.record(0).last_normal_epoch == cluster.coordinator.record.epoch > before

    def test_all_replicas_of_all_shards_are_asked(self) -> None:
        cluster = Cluster(shards=2)
        cluster.start_coordinator(0)
        cluster.run_until(EpochChange)
        assert len({packet.to for packet in cluster.on_wire(EpochChange)}) == 2 * 3

    @pytest.mark.parametrize("lost", HOSTS)
    def test_any_majority_will_do(self, lost: int) -> None:
        """No learner is needed for it."""
        cluster = Cluster(shards=2)
        request = cluster.submit({0: [add("n")], 1: [add("n")]})
        cluster.run()
        cluster.crash(lost)
        cluster.start_coordinator(0)
        cluster.run_without(lost)
        cluster.begin_stamping(keep_client=True)
        for host in set(HOSTS) - {lost}:
            assert requests(cluster, host, 0) == requests(cluster, host, 1) == [request]
        again = cluster.submit({0: [add("n")]})
        cluster.run_without(lost)
        assert again in cluster.answers

    def test_an_acknowledgement_is_a_promise_never_to_process_lower_epochs(self) -> None:
        cluster = Cluster()
        late = stamp(cluster, 0)
        cluster.give(1, EpochChange(Epoch(5)))
        cluster.crash(1)
        cluster.restart(1)
        older: list[ReplicaMessage] = [late, EpochChange(Epoch(4)), *cluster.coordinator.record.start_epochs]
        for message in older:
            cluster.give(1, message)
        assert cluster.log(1) == []
        assert cluster.record(1).epoch == 5

    def test_only_logs_of_those_that_began_the_last_epoch_count(self) -> None:
        """Replica 2 missed it: what it has may have been dropped in it, as here."""
        cluster = Cluster()
        cluster.give(2, stamp(cluster, 0))
        cluster.wire.clear()
        cluster.start_coordinator(0)
        cluster.run_without(2)
        cluster.start_coordinator(1)
        cluster.run_without(1)
        assert cluster.record(0).last_normal_epoch == cluster.coordinator.record.epoch == 4
        assert cluster.log(0) == []

    def test_where_nobody_of_a_shard_began_the_last_one_its_saved_start_counts(self) -> None:
        cluster = Cluster(shards=2)
        sent = stamp(cluster, 0, 1)
        cluster.give(0, sent, 0)
        cluster.wire.clear()
        cluster.start_coordinator(0)
        cluster.run_until(StartEpoch)
        cluster.lose(StartEpoch, shard=1)
        cluster.run()
        assert [cluster.record(host, 1).last_normal_epoch for host in HOSTS] == [1] * 3
        failover(cluster)
        assert [cluster.log(host, shard) for host in HOSTS for shard in range(2)] == [[sent]] * 6

    def test_what_any_consulted_replica_of_any_shard_has_is_given_to_all_participants(self) -> None:
        cluster = Cluster(shards=3)
        sent = stamp(cluster, 0, 2)
        cluster.give(1, sent, 2)
        failover(cluster)
        assert [cluster.log(host, shard) for host in HOSTS for shard in (0, 2)] == [[sent]] * 6
        assert [cluster.values(host, 0) for host in HOSTS] == [{"n": 1}] * 3

    def test_numbers_that_nobody_has_become_no_ops(self) -> None:
        cluster = Cluster(shards=2)
        hold(cluster, stamp(cluster, 0))
        sent = stamp(cluster, 0, 1)
        cluster.give(1, sent, 1)
        failover(cluster)
        assert [cluster.log(host) for host in HOSTS] == [[None, sent]] * 3

    def test_what_was_found_is_in_even_if_no_log_has_it(self) -> None:
        cluster = Cluster()
        sent = stamp(cluster, 0)
        cluster.wire.clear()
        cluster.carry([Send(COORDINATOR, HasTransaction(name(0, 1), sent))])
        cluster.step_roles()
        cluster.lose(TransactionFound)
        failover(cluster)
        assert [cluster.log(host) for host in HOSTS] == [[sent]] * 3

    def test_what_was_dropped_is_not_even_if_a_log_has_it(self) -> None:
        cluster = Cluster()
        sent = stamp(cluster, 0)
        cluster.wire.clear()
        find(cluster, name(0, 1))
        cluster.step()
        cluster.lose(TransactionRequest, host=2)
        cluster.give(2, sent)
        cluster.run_until(TransactionDropped)
        cluster.lose(TransactionDropped, host=2)
        cluster.run()
        failover(cluster)
        assert [cluster.log(host) for host in HOSTS] == [[None]] * 3

    def test_the_meaning_of_an_epoch_is_saved_before_anybody_hears_it(self) -> None:
        cluster = Cluster()
        cluster.start_coordinator(0)
        cluster.run_until(EpochChangeAck)
        cluster.run_until(StartEpoch)
        assert cluster.newest_record().last_started == 3
        assert cluster.newest_record().start_epochs == cluster.coordinator.record.start_epochs

    def test_who_asks_for_an_epoch_that_began_gets_its_start_again(self) -> None:
        cluster = Cluster()
        cluster.start_coordinator(0)
        cluster.run_without(2)
        assert cluster.record(2).last_normal_epoch == 1
        cluster.carry(cluster.give(2, Flush(S, Epoch(3), SequenceNumber(0))))
        cluster.run()
        assert cluster.record(2).last_normal_epoch == 3

    def test_a_request_for_a_still_later_one_restarts_it(self) -> None:
        cluster = Cluster()
        cluster.start_coordinator(0)
        cluster.run_until(EpochChange)
        cluster.carry([Send(COORDINATOR, EpochChangeRequest(S, 1, Epoch(7)))])
        cluster.run()
        assert {cluster.record(host).last_normal_epoch for host in HOSTS} == {9}, "the next of its own"

    def test_epochs_never_go_back(self) -> None:
        cluster = Cluster()
        cluster.start_coordinator(0)
        cluster.run()
        start = cluster.coordinator.record.start_epochs[0]
        failover(cluster)
        for host in HOSTS:
            cluster.give(host, start)
            cluster.give(host, EpochChange(start.epoch))
            assert cluster.record(host).epoch == cluster.coordinator.record.epoch > start.epoch

    def test_its_clock_is_above_all_logs(self) -> None:
        cluster = Cluster()
        before = stamp(cluster, 0)
        cluster.run()
        cluster.now = 0
        failover(cluster)
        assert stamp(cluster, 0).stamp.clock > before.stamp.clock

    def test_the_drop_sets_are_forgotten(self) -> None:
        """So an epoch change that is only planned collects all garbage of this kind."""
        cluster = Cluster(shards=2)
        drop(cluster, 0, 1)
        failover(cluster)
        for host in HOSTS:
            record = cluster.record(host)
            assert not record.temp_drops | record.perm_drops | record.un_drops
        assert not cluster.coordinator.record.dropped

    def test_numbers_begin_with_one_and_slots_go_on(self) -> None:
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.run()
        failover(cluster)
        request = cluster.submit({0: [add("n")]})
        cluster.step_roles()
        assert stamped_on(cluster)[0].stamp.numbers == {0: 1}
        cluster.run()
        assert cluster.answers[request].slots == {0: 2}

    def test_a_client_goes_on_and_its_request_is_executed_once(self) -> None:
        """Its first copy was completed by the change, so the second finds the outcome."""
        cluster = Cluster()
        request = cluster.submit({0: [add("n")]})
        cluster.step_roles()
        cluster.deliver(1)
        failover(cluster)
        cluster.carry(cluster.client.on_timer("retry"))
        cluster.run()
        assert cluster.answers[request].slots == {0: 2}
        assert [cluster.values(host) for host in HOSTS] == [{"n": 1}] * 3


class TestSection6Synchronization:
    """6.6: followers execute, and logs are cut."""

    def test_up_to_the_stable_slot_logs_are_equal_at_a_majority_and_executed_by_all(self) -> None:
        cluster = Cluster()
        for _ in range(3):
            stamp(cluster, 0)
            cluster.lose(Stamped, host=2)
        cluster.run()
        assert [cluster.record(host).stable for host in (0, 1)] == [3, 3]
        assert cluster.values(1) == cluster.values(0) == {"n": 3}

    def test_a_follower_executes_nothing_above_it(self) -> None:
        cluster = Cluster()
        for _ in range(3):
            cluster.give(1, stamp(cluster, 0))
        cluster.give(1, SyncCommit(S, Epoch(1), ViewNumber(0), Slot(2)))
        assert cluster.values(1) == {"n": 2}

    def test_one_that_missed_something_asks_for_it_before_it_executes(self) -> None:
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.lose(Stamped, host=2)
        cluster.run()
        assert cluster.record(2).stable == 0
        assert (ReplicaAddress(S, 2), "gap") in cluster.timers
        cluster.settle()
        assert cluster.values(2) == {"n": 1}

    def test_the_word_of_it_says_what_was_dropped(self) -> None:
        """Or a follower that missed TXN-DROPPED would execute what it has in that slot."""
        cluster = Cluster()
        cluster.give(2, stamp(cluster, 0))
        cluster.give(2, SyncCommit(S, Epoch(1), ViewNumber(0), Slot(1), (name(0, 1),)))
        assert cluster.log(2) == [None]
        assert cluster.values(2) == {}

    def test_nothing_is_cut_that_another_participant_may_lack(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Shard 1 has not a piece of it, so shard 0 keeps it for it, for however long."""
        monkeypatch.setattr(log_retention, "MARK_BYTES_MIN", 150)
        cluster = Cluster(shards=2, retention=0)
        sent = stamp(cluster, 0, 1)
        cluster.lose(Stamped, shard=1)
        for _ in range(20):
            stamp(cluster, 0)
            cluster.run()
        assert sent in cluster.log(0, 0)
        cluster.settle()
        for _ in range(20):
            stamp(cluster, 0, 1)
            cluster.run()
        assert sent not in cluster.log(0, 0)
        assert cluster.record(0, 0).head[0] > 1

    def test_what_was_cut_is_never_promised_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_retention, "MARK_BYTES_MIN", 150)
        cluster = Cluster(retention=0)
        for _ in range(20):
            stamp(cluster, 0)
            cluster.run()
        assert cluster.record(1).head[0] > 1
        cluster.give(1, TransactionRequest(S, name(0, 1)))
        assert not cluster.record(1).temp_drops


def lock(cluster: Cluster, *shards: int) -> int:
    """A preliminary over ``k`` of these shards has its locks; its second half was lost."""
    parts: Parts = {shard: [check("k", None), reserve("k")] for shard in shards}
    request = cluster.submit_general(parts, {shard: [put("k", 1)] for shard in shards})
    while not any(is_half(packet.message, Conclusory) for packet in cluster.wire):
        cluster.step()
    cluster.lose(Request)
    cluster.run()
    return request


def is_half(message: object, kind: type[Preliminary | Conclusory]) -> bool:
    return isinstance(message, Request) and isinstance(message.half, kind)


class TestSection7GeneralTransactions:
    def test_a_general_transaction_is_two_independent_ones(self) -> None:
        cluster = Cluster(shards=2)
        both: Parts = {shard: [check("k", None), reserve("k")] for shard in range(2)}
        request = cluster.submit_general(both, {0: [put("k", 1)], 1: [put("k", 2)]})
        cluster.run()
        for shard in range(2):
            halves = [type(s.request.half) for s in cluster.log(0, shard) if s is not None]
            assert halves == [Preliminary, Conclusory]
        assert cluster.answers[request].committed
        assert [cluster.cells(host, 1) for host in HOSTS] == [{"k": (2, 1)}] * 3

    def test_what_meets_a_lock_waits_in_the_order_of_the_log_and_all_else_overtakes(self) -> None:
        cluster = Cluster(shards=2)
        locking = lock(cluster, 0, 1)
        cluster.submit({0: [put("k", "second")]})
        cluster.submit({0: [put("k", "third")], 1: [put("other", "second")]})
        cluster.submit({1: [put("free", "at once")]})
        cluster.run()
        assert cluster.values(0, 0) == {}
        assert cluster.values(0, 1) == {"free": "at once"}
        assert cluster.record(0).waiting == (1, 2, 3)
        cluster.carry(cluster.client.on_timer("retry"))
        cluster.settle()
        assert cluster.answers[locking].committed  # type: ignore[index]  # a request's number
        assert cluster.values(0, 0) == {"k": "third"}

    def test_locks_are_claimed_in_one_order_everywhere_so_there_is_no_deadlock(self) -> None:
        """Each wants what the other has, on two shards; whoever is stamped first gets both."""
        cluster = Cluster(shards=2)
        wanted = [{0: [reserve("k")], 1: [reserve("k")]}, {1: [reserve("k")], 0: [reserve("k")]}]
        made = [
            cluster.submit_general(parts, {shard: [put("k", number)] for shard in range(2)})  # type: ignore[arg-type]  # lists of operations
            for number, parts in enumerate(wanted)
        ]
        cluster.run()
        assert all(cluster.answers[request].committed for request in made)
        assert cluster.values(0, 0) == cluster.values(0, 1) == {"k": 1}

    def test_locks_of_a_dead_client_are_released_through_the_sequencer(self) -> None:
        cluster = Cluster(shards=2)
        lock(cluster, 0, 1)
        cluster.release_dead()
        cluster.run()
        for host in HOSTS:
            for shard in range(2):
                assert not cluster.record(host, shard).waiting
                assert cluster.values(host, shard) == {}

    @pytest.mark.parametrize("first", [True, False])
    def test_the_first_conclusory_wins_on_every_shard(self, first: bool) -> None:
        cluster = Cluster(shards=2)
        preliminary = lock(cluster, 0, 1)
        client = cluster.client.client
        writes = {shard: [put("k", 1)] for shard in range(2)}
        for commit in (first, not first):
            parts = writes if commit else {0: [], 1: []}
            cluster.conclude_for(client, preliminary, parts, commit=commit)  # type: ignore[arg-type]  # its number
        cluster.run()
        expected = {"k": 1} if first else {}
        assert [cluster.values(host, shard) for host in HOSTS for shard in range(2)] == [expected] * 6
        refused = [answer.outcomes[S].refused for answer in cluster.answered]
        assert refused[-2:] == [False, True], "the second is told the truth"

    def test_a_late_copy_of_a_preliminary_that_ended_locks_nothing(self) -> None:
        cluster = Cluster(shards=2)
        parts = {shard: [reserve("k")] for shard in range(2)}
        cluster.submit_general(parts, {shard: [put("k", 1)] for shard in range(2)})
        late = cluster.on_wire(Request)
        cluster.run()
        cluster.wire += late
        cluster.run()
        assert not cluster.record(0).waiting
        assert not cluster.learner.executor.outstanding()

    def test_a_new_learner_knows_the_locks(self) -> None:
        """They follow from the log."""
        cluster = Cluster(shards=2)
        lock(cluster, 0, 1)
        cluster.crash(0)
        for shard in range(2):
            cluster.fire(2, shard, "suspect")
        cluster.run_without(0)
        cluster.submit({0: [put("k", 9)]})
        cluster.run_without(0)
        assert cluster.replica(1).is_learner
        assert cluster.record(1).waiting == (1, 2)
        assert cluster.values(1) == {}

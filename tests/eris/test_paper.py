"""The claims of the paper (Eris, SOSP 2017), in its order, one class for each of its sections.

The other files of this folder try each role from all sides; here each claim is one short scene, so that who
has read the paper finds it again. This file has sections 5 to 6.3; ``test_paper_failures.py`` has 6.4 to 7,
and ``test_paper_invariants.py`` the invariants of section 8.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from kvstore.eris import (
    client,
    coordinator_replication,
    drop_decisions,
    dropped_messages,
    epoch_change,
    failure_coordinator,
    messages,
    replica,
    sequencer,
    state_transfer,
    synchronization,
    view_change,
)
from kvstore.eris.effects import COORDINATOR, SEQUENCER, ReplicaAddress, Send
from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.messages import (
    EpochChange,
    EpochChangeRequest,
    FindTransaction,
    HasTransaction,
    MultiStamp,
    ReplicaMessage,
    Reply,
    Request,
    ResendRequest,
    SlotRequest,
    Stamped,
    TempDroppedTransaction,
    TransactionDropped,
    TransactionFound,
    TransactionRequest,
)
from kvstore.eris.replica import Replica
from kvstore.eris.shard_state import Status
from kvstore.types import Epoch, SequenceNumber, ShardId, Slot, TransactionId, ViewNumber
from tests.eris import test_dropped_messages
from tests.support.cluster import Cluster, add, name, put
from tests.support.scenes import drop, find, hold, requests, stamp

S = ShardId(0)
HOSTS = range(3)


class TestTheCatalogue:
    """``docs/eris.md`` has a table of all messages: who sends each to whom, and who takes it."""

    def rows(self) -> dict[str, str]:
        page = (Path(messages.__file__).parents[2] / "docs" / "eris.md").read_text(encoding="utf-8")
        table = page.partition("## Messages")[2].partition("\n## ")[0]
        return dict(re.findall(r"^\| `(\w+)` .*\| `([\w.]+)` \|[^|]*\|$", table, flags=re.MULTILINE))

    def test_has_every_message_and_no_other(self) -> None:
        every = {kind.__name__ for kind in get_args(messages.Message)}
        assert self.rows().keys() | {"Answer"} == every, "an Answer is taken by the driver"

    def test_names_who_takes_it(self) -> None:
        modules = [client, coordinator_replication, drop_decisions, dropped_messages, epoch_change]
        modules += [failure_coordinator, replica, sequencer, state_transfer, synchronization, view_change]
        by_name = {module.__name__.rpartition(".")[2]: module for module in modules}
        classes = {name: kind for module in modules for name, kind in vars(module).items()}
        for place in self.rows().values():
            owner, _, function = place.partition(".")
            assert callable(getattr(by_name.get(owner) or classes[owner], function)), place


class TestSection5Groupcast:
    """Multi-sequenced groupcast: order and drop detection, and no reliability."""

    def test_a_message_gets_one_number_for_each_destination_at_once(self) -> None:
        cluster = Cluster(shards=3)
        stamp(cluster, 0)
        assert stamp(cluster, 0, 2).stamp.numbers == {0: 2, 2: 1}

    def test_every_receiver_gets_the_whole_multi_stamp(self) -> None:
        cluster = Cluster(shards=3)
        sent = stamp(cluster, 0, 2)
        receivers = {packet.to for packet in cluster.on_wire(Stamped) if packet.message is sent}
        assert receivers == {ReplicaAddress(ShardId(shard), host) for shard in (0, 2) for host in HOSTS}

    def test_messages_with_a_common_destination_are_in_one_order_at_all_receivers(self) -> None:
        cluster = Cluster(shards=3)
        for shards in [(0, 1), (1, 2), (0, 2), (0, 1, 2), (1,), (0, 1)]:
            stamp(cluster, *shards)
        cluster.wire.reverse()
        cluster.settle()
        for shard in range(3):
            assert requests(cluster, 0, shard) == sorted(requests(cluster, 0, shard))

    def test_the_next_number_is_delivered(self) -> None:
        cluster = Cluster()
        cluster.give(1, stamp(cluster, 0))
        assert requests(cluster, 1) == [1]

    def test_a_lower_number_is_discarded(self) -> None:
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.repeat(Stamped)
        cluster.run()
        assert [requests(cluster, host) for host in HOSTS] == [[1]] * 3
        assert cluster.hosts[1].dropped == {"received before": 1}

    def test_a_higher_number_is_held_back_and_is_a_drop_notification_for_those_between(self) -> None:
        cluster = Cluster()
        first, second = stamp(cluster, 0), stamp(cluster, 0)
        asked = cluster.give(1, second)
        assert Send(SEQUENCER, ResendRequest(S, 1, Epoch(1), SequenceNumber(1))) in asked
        assert requests(cluster, 1) == []
        cluster.give(1, first)
        assert requests(cluster, 1) == [1, 2]

    def test_a_lower_epoch_is_discarded(self) -> None:
        cluster = Cluster()
        late = stamp(cluster, 0)
        cluster.change_epoch()
        cluster.give(0, late)
        assert cluster.log(0) == []

    def test_a_higher_epoch_is_the_new_epoch_upcall(self) -> None:
        cluster = Cluster()
        sent = stamp(cluster, 0)
        later = Stamped(msgspec.structs.replace(sent.stamp, epoch=Epoch(4)), sent.request)
        effects = cluster.give(0, later)
        assert Send(COORDINATOR, EpochChangeRequest(S, 0, Epoch(4))) in effects
        assert cluster.log(0) == []

    def test_what_is_lost_before_the_sequencer_never_existed(self) -> None:
        cluster = Cluster()
        cluster.submit({0: [add("lost")]})
        cluster.lose(Request)
        cluster.submit({0: [add("n")]})
        cluster.run()
        assert [requests(cluster, host) for host in HOSTS] == [[2]] * 3
        assert not cluster.timers, "nobody misses anything"

    def test_the_loss_of_the_last_message_is_noticed(self) -> None:
        """As published it is not, before the next one comes; a sequencer that is idle says where it is."""
        cluster = Cluster()
        hold(cluster, stamp(cluster, 0))
        cluster.carry(cluster.sequencer.on_timer("flush"))
        cluster.deliver(1)
        assert cluster.on_wire(ResendRequest)


class TestSection6NormalCase:
    """6.1 and 6.2: independent transactions when nothing is lost."""

    def test_a_transaction_over_any_shards_takes_one_round(self) -> None:
        cluster = Cluster(shards=3)
        request = cluster.submit({shard: [add("n")] for shard in range(3)})
        for _ in range(3):  # client to sequencer, sequencer to replicas, replicas to client
            cluster.step()
        assert cluster.answers[request].slots == {0: 1, 1: 1, 2: 1}

    def test_only_the_designated_learner_executes_at_once_and_gives_the_result(self) -> None:
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.step()
        replies = [packet.message for packet in cluster.on_wire(Reply) if isinstance(packet.message, Reply)]
        assert [(reply.replica, reply.outcome is not None) for reply in replies] == [
            (0, True), (1, False), (2, False),
        ]  # fmt: skip
        assert [cluster.values(host) for host in HOSTS] == [{"n": 1}, {}, {}]

    def test_the_learner_is_the_replica_with_the_number_of_the_view_modulo_n(self) -> None:
        cluster = Cluster()
        for view in (1, 2, 3, 4):
            cluster.fire((view + 1) % 3, 0, "suspect")
            cluster.run()
            assert [cluster.replica(host).is_learner for host in HOSTS].index(True) == view % 3

    @pytest.mark.parametrize(
        ("silent", "answered"), [((1,), True), ((2,), True), ((0,), False), ((1, 2), False)]
    )
    def test_a_quorum_is_a_majority_with_the_learner(self, silent: tuple[int, ...], answered: bool) -> None:
        cluster = Cluster()
        request = cluster.submit({0: [add("n")]})
        cluster.step_roles()
        for host in silent:
            cluster.lose(Stamped, host=host)
        cluster.run()
        assert (request in cluster.answers) is answered

    @pytest.mark.parametrize("different", [{"epoch": Epoch(2)}, {"view": ViewNumber(3)}, {"slot": Slot(2)}])
    def test_its_replies_agree_in_epoch_view_and_slot(self, different: dict[str, int]) -> None:
        cluster = Cluster()
        request = cluster.submit({0: [add("n")]})
        cluster.step()
        cluster.deliver(0)
        cluster.deliver(1)
        for packet in cluster.on_wire(Reply):
            reply = packet.message
            if isinstance(reply, Reply) and reply.replica == 1:
                reply = msgspec.structs.replace(reply, **different)  # type: ignore[arg-type]  # one of its fields
            cluster.carry(cluster.client.handle(reply))  # type: ignore[arg-type]  # a Reply
        assert request not in cluster.answers
        cluster.run()
        assert request in cluster.answers, "replica 2 agrees with the learner"

    def test_every_participant_needs_a_quorum(self) -> None:
        cluster = Cluster(shards=2)
        request = cluster.submit({0: [add("n")], 1: [add("n")]})
        cluster.step()
        cluster.lose(Stamped, shard=1, host=1)
        cluster.lose(Stamped, shard=1, host=2)
        cluster.run()
        assert request not in cluster.answers


class TestSection6ExactlyOnce:
    def test_a_retry_is_a_new_groupcast_in_a_new_slot_and_executed_once(self) -> None:
        cluster = Cluster()
        request = cluster.submit({0: [add("n", 5)]})
        cluster.step()
        cluster.step()
        cluster.lose(Reply)
        cluster.carry(cluster.client.on_timer("retry"))
        cluster.run()
        assert requests(cluster, 0) == [request, request]
        assert cluster.answers[request].slots == {0: 2}
        assert [cluster.values(host) for host in HOSTS] == [{"n": 5}] * 3

    def test_the_copy_gets_the_outcome_of_the_first(self) -> None:
        cluster = Cluster()
        request = cluster.submit({0: [add("n", 5)]})
        cluster.step()
        cluster.step()
        cluster.lose(Reply)
        cluster.submit({0: [add("n", 100)]})
        cluster.carry(cluster.client.on_timer("retry"))
        cluster.run()
        assert cluster.answers[request].outcomes[S].results == (b"\x05",)

    def test_requests_may_overtake_each_other(self) -> None:
        """A window, where the paper has one cell for each client: what comes late still counts."""
        cluster = Cluster()
        cluster.submit({0: [add("first")]})
        late = cluster.on_wire(Request)
        cluster.lose(Request)
        cluster.submit({0: [add("second")]})
        cluster.run()
        cluster.wire += late
        cluster.run()
        assert cluster.values(0) == {"first": 1, "second": 1}

    def test_a_copy_that_comes_after_its_client_had_the_answer_changes_nothing(self) -> None:
        cluster = Cluster()
        cluster.submit({0: [put("k", 1)]})
        late = cluster.on_wire(Request)
        cluster.run()
        cluster.submit({0: [put("k", 2)]})
        cluster.run()
        cluster.wire += late
        cluster.run()
        assert cluster.values(0) == {"k": 2}

    def test_all_participants_or_none_execute_the_first_copy(self) -> None:
        """Shard 1 lost the first copy, and it was dropped there; so shard 0 executes the second one too."""
        cluster = Cluster(shards=2)
        request = cluster.submit({0: [add("n")], 1: [add("n")]})
        cluster.step_roles()
        cluster.wire.clear()
        cluster.carry(cluster.client.on_timer("retry"))
        cluster.settle()
        assert request in cluster.answers
        for host in HOSTS:
            assert cluster.log(host, 0) == cluster.log(host, 1)
            assert cluster.values(host, 0) == cluster.values(host, 1) == {"n": 1}

    def test_the_window_is_part_of_the_replicated_state(self) -> None:
        """A new learner knows the outcomes."""
        cluster = Cluster()
        request = cluster.submit({0: [add("n")]})
        cluster.step()
        cluster.step()
        cluster.lose(Reply)
        cluster.crash(0)
        cluster.fire(2, 0, "suspect")
        cluster.run_without(0)
        cluster.carry(cluster.client.on_timer("retry"))
        cluster.run()
        assert request in cluster.answers
        assert cluster.values(1) == {"n": 1}


class TestSection6DroppedMessages:
    """6.3: what happens to a transaction that somebody missed."""

    def test_the_peers_are_asked_first(self) -> None:
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.lose(Stamped, host=2)
        stamp(cluster, 0)
        cluster.run()
        cluster.fire(2)
        assert {packet.to for packet in cluster.on_wire(SlotRequest)} == set(cluster.replica(2).peers())
        assert not cluster.on_wire(FindTransaction)
        cluster.run()
        assert cluster.log(2) == cluster.log(0)

    def test_then_the_coordinator_is(self) -> None:
        cluster = Cluster()
        hold(cluster, stamp(cluster, 0))
        stamp(cluster, 0)
        cluster.run()
        cluster.fire(2)
        cluster.fire(2)
        assert [packet.message for packet in cluster.on_wire(FindTransaction)] == [
            FindTransaction(S, 2, name(0, 1))
        ]

    def test_who_asks_all_replicas_of_all_shards(self) -> None:
        """It knows one name, and not who takes part."""
        cluster = Cluster(shards=3)
        find(cluster, name(1, 1))
        cluster.step()
        assert {packet.to for packet in cluster.on_wire(TransactionRequest)} == {
            ReplicaAddress(ShardId(shard), host) for shard in range(3) for host in HOSTS
        }

    def test_one_that_has_it_in_its_log_says_so(self) -> None:
        cluster = Cluster(shards=2)
        sent = stamp(cluster, 0, 1)
        cluster.give(1, sent, 1)
        effects = cluster.give(1, TransactionRequest(ShardId(1), name(0, 1)), 1)
        assert effects == [Send(COORDINATOR, HasTransaction(name(0, 1), sent))]

    def test_one_that_holds_it_back_says_so_too(self) -> None:
        """The published code looks only into the log, and drops what it could have kept."""
        cluster = Cluster(shards=2)
        stamp(cluster, 1)
        sent = stamp(cluster, 0, 1)
        cluster.give(1, sent, 1)
        assert cluster.log(1, 1) == []
        effects = cluster.give(1, TransactionRequest(ShardId(1), name(0, 1)), 1)
        assert effects == [Send(COORDINATOR, HasTransaction(name(0, 1), sent))]

    def test_one_that_has_not_promises_to_do_nothing_with_it(self) -> None:
        """Under whichever of its names it comes."""
        cluster = Cluster(shards=2)
        effects = cluster.give(1, TransactionRequest(ShardId(1), name(0, 1)), 1)
        promise = TempDroppedTransaction(ShardId(1), 1, ViewNumber(0), name(0, 1))
        assert effects == [Send(COORDINATOR, promise)]
        cluster.give(1, stamp(cluster, 0, 1), 1)
        assert cluster.log(1, 1) == []

    def test_promises_are_made_in_normal_status_only(self) -> None:
        cluster = Cluster()
        cluster.fire(1, 0, "suspect")
        cluster.give(2, EpochChange(Epoch(2)))
        for host, status in [(1, Status.VIEW_CHANGE), (2, Status.EPOCH_CHANGE)]:
            cluster.give(host, TransactionRequest(S, name(0, 1)))
            assert cluster.replica(host).status is status
            assert not cluster.record(host).temp_drops

    def test_a_transaction_may_be_shown_in_a_view_change_too(self) -> None:
        cluster = Cluster()
        sent = stamp(cluster, 0)
        cluster.give(1, sent)
        cluster.fire(1, 0, "suspect")
        effects = cluster.give(1, TransactionRequest(S, name(0, 1)))
        assert effects == [Send(COORDINATOR, HasTransaction(name(0, 1), sent))]

    def test_one_that_has_it_is_enough_and_all_participants_get_it(self) -> None:
        cluster = Cluster(shards=3)
        sent = stamp(cluster, 0, 1)
        hold(cluster, sent)
        cluster.give(0, sent, 1)
        find(cluster, name(0, 1))
        cluster.run_until(TransactionFound)
        assert len({packet.to for packet in cluster.on_wire(TransactionFound)}) == 2 * 3
        cluster.run()
        assert [cluster.log(host, shard) for host in HOSTS for shard in (0, 1)] == [[sent]] * 6

    def test_promises_of_a_majority_of_every_shard_with_its_learner_drop_it(self) -> None:
        cluster = Cluster(shards=2)
        lost = stamp(cluster, 0)
        cluster.wire.clear()
        find(cluster, name(0, 1))
        cluster.step()
        for shard in range(2):
            cluster.lose(TransactionRequest, shard=shard, host=2)
        cluster.run()
        assert cluster.coordinator.record.dropped == set(lost.stamp.ids())
        assert [cluster.log(host) for host in HOSTS] == [[None]] * 3

    @pytest.mark.parametrize("silent", [[(0, 0)], [(1, 0)], [(0, 1), (0, 2)], [(1, 1), (1, 2)]])
    def test_fewer_do_not(self, silent: list[tuple[int, int]]) -> None:
        """Also those of a shard that takes no part."""
        cluster = Cluster(shards=2)
        find(cluster, name(0, 1))
        cluster.step()
        for shard, host in silent:
            cluster.lose(TransactionRequest, shard=shard, host=host)
        cluster.run()
        assert not cluster.coordinator.record.dropped

    def test_promises_of_different_views_do_not_add_up(self) -> None:
        cluster = Cluster()
        coordinator = cluster.coordinator
        coordinator.handle(FindTransaction(S, 1, name(0, 1)))
        for host, view in [(2, 0), (1, 1), (0, 3)]:
            coordinator.handle(TempDroppedTransaction(S, host, ViewNumber(view), name(0, 1)))
        assert not coordinator.record.dropped
        coordinator.handle(TempDroppedTransaction(S, 1, ViewNumber(3), name(0, 1)))
        assert coordinator.record.dropped, "replicas 0 and 1 in view 3, whose learner is 0"

    def test_found_and_dropped_exclude_each_other(self) -> None:
        cluster = Cluster()
        sent = stamp(cluster, 0)
        coordinator = cluster.coordinator
        coordinator.handle(FindTransaction(S, 1, name(0, 1)))
        coordinator.handle(HasTransaction(name(0, 1), sent))
        for host in HOSTS:
            coordinator.handle(TempDroppedTransaction(S, host, ViewNumber(0), name(0, 1)))
        assert coordinator.record.found == (sent,)
        assert not coordinator.record.dropped

    def test_what_has_one_dropped_name_is_dropped_under_all_its_names(self) -> None:
        cluster = Cluster(shards=2)
        sent = stamp(cluster, 0, 1)
        cluster.wire.clear()
        find(cluster, name(0, 1))
        cluster.run()
        cluster.carry([Send(COORDINATOR, HasTransaction(name(1, 1), sent))])
        cluster.run()
        assert cluster.coordinator.record.dropped == {name(0, 1), name(1, 1)}
        assert [cluster.record(host, 1).perm_drops for host in HOSTS] == [{name(0, 1), name(1, 1)}] * 3

    def test_where_it_stands_in_a_log_already_a_no_op_takes_its_place(self) -> None:
        cluster = Cluster()
        cluster.give(1, stamp(cluster, 0))
        cluster.give(1, TransactionDropped(S, Epoch(1), (name(0, 1),)))
        assert cluster.log(1) == [None]

    def test_a_shard_waits_and_the_others_go_on(self) -> None:
        cluster = Cluster(shards=2)
        hold(cluster, stamp(cluster, 0))
        stamp(cluster, 0)
        stamp(cluster, 1)
        cluster.run()
        assert [requests(cluster, 0, shard) for shard in range(2)] == [[], [3]]

    def test_a_drop_is_never_told_to_the_client_as_an_abort(self) -> None:
        """It gets no quorum, tries again, and succeeds."""
        cluster = Cluster()
        lost = drop(cluster, 0)
        assert not cluster.answers
        cluster.settle()
        assert cluster.answers[lost.request.request].slots == {0: 2}
        assert cluster.values(0) == {"n": 1}

    def test_the_unsafe_schedule_of_the_published_implementation_is_safe_here(self) -> None:
        test_dropped_messages.TestTheCoordinator().test_the_unsafe_schedule_of_the_published_implementation()

    def test_and_unsafe_again_where_names_are_matched_by_the_own_shard_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that the schedule is known to see what it is about: this is what the published code does."""
        match_own_names_only(monkeypatch)
        with pytest.raises(AssertionError, match="one order of T and U on both shards"):
            test_dropped_messages.TestTheCoordinator().test_the_unsafe_schedule_of_the_published_implementation()


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

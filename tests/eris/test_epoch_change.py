"""Crossing into a new epoch (Eris, SOSP 2017, section 6.5): what a crash left half-done is completed or
dropped, the same on every replica of every shard."""

from __future__ import annotations

import msgspec
import pytest

from kvstore.eris.effects import COORDINATOR, CancelTimer, Dropped, Effect, Send
from kvstore.eris.messages import (
    EpochChange,
    EpochChangeAck,
    ImageRequest,
    LogEntry,
    MultiStamp,
    Request,
    Stamped,
    StartEpoch,
    SyncCommit,
    SyncReply,
)
from kvstore.types import (
    ClientId,
    Epoch,
    RequestId,
    SequenceNumber,
    ShardId,
    Slot,
    Timestamp,
    ViewNumber,
)
from tests.support.cluster import SECOND, Cluster, add, put

S = ShardId(0)


def reason(effects: list[Effect]) -> str:
    assert isinstance(effects[0], Dropped)
    return effects[0].reason


def start(
    epoch: int,
    *entries: Stamped | None,
    stable: int = 0,
    view: int = 0,
    clock: int = 0,
    shard: int = 0,
    follows: int | None = None,
) -> StartEpoch:
    """START-EPOCH with these entries above the stable slot."""
    slots = (LogEntry(Slot(stable + at), entry) for at, entry in enumerate(entries, 1))
    return StartEpoch(
        Epoch(epoch),
        ShardId(shard),
        ViewNumber(view),
        Slot(stable),
        tuple(slots),
        Timestamp(clock),
        Epoch(epoch - 1 if follows is None else follows),
    )


def a_transaction(number: int, amount: int = 1, *, epoch: int = 1) -> Stamped:
    """One of shard 0 that adds to ``n``."""
    return Stamped(
        MultiStamp(Epoch(epoch), 0, Timestamp(2000 * SECOND + number), {S: SequenceNumber(number)}),
        Request(ClientId(epoch), RequestId(number), RequestId(0), {S: (add("n", amount),)}),
    )


def change(epoch: int) -> EpochChange:
    return EpochChange(Epoch(epoch))


class TestEpochChange:
    """Step 1 at a replica."""

    def test_is_answered_with_the_log_above_the_stable_slot(self) -> None:
        cluster = Cluster()
        for number in (1, 2, 3):
            cluster.give(1, a_transaction(number))
        cluster.give(1, SyncCommit(S, Epoch(1), ViewNumber(0), Slot(1)))

        effects = cluster.give(1, change(2))

        entries = (LogEntry(Slot(2), a_transaction(2)), LogEntry(Slot(3), a_transaction(3)))
        clock = Timestamp(2000 * SECOND + 3)
        ack = EpochChangeAck(Epoch(2), S, 1, Epoch(1), ViewNumber(0), Slot(0), Slot(1), clock, entries)
        assert effects[0] == Send(COORDINATOR, ack)

    def test_shows_what_became_stable_just_now_and_is_not_executed_yet(self) -> None:
        cluster = Cluster(shards=2)
        cluster.submit({0: [put("a", 1)], 1: [put("b", 1)]})
        cluster.step()
        cluster.lose(shard=1)
        cluster.deliver(1)
        (logged,) = cluster.log(1)
        host = cluster.hosts[1]

        host.begin()
        sent = host.handle([(S, SyncCommit(S, Epoch(1), ViewNumber(0), Slot(1))), (S, change(2))])

        ack = sent[-1].message
        assert isinstance(ack, EpochChangeAck)
        assert (ack.stable, ack.entries, ack.unresolved) == (1, (), (logged,)), "shard 1 never got it"
        host.abort()

    def test_shows_a_long_log_as_a_whole(self) -> None:
        cluster = Cluster()
        for number in range(1, 601):
            cluster.give(1, a_transaction(number))

        effect = cluster.give(1, change(2))[0]

        assert isinstance(effect, Send)
        assert isinstance(effect.message, EpochChangeAck)
        assert [entry.slot for entry in effect.message.entries] == list(range(1, 601))

    @pytest.mark.parametrize("epoch", [0, 1])
    def test_to_an_epoch_that_is_not_new_is_dropped(self, epoch: int) -> None:
        cluster = Cluster()

        assert "known already" in reason(cluster.give(1, change(epoch)))

        cluster.give(1, change(3))
        assert "known already" in reason(cluster.give(1, change(2)))
        assert cluster.record(1).epoch == 3

    def test_is_a_promise_never_to_process_an_older_epoch(self) -> None:
        cluster = Cluster()
        cluster.give(1, change(2))

        assert reason(cluster.give(1, a_transaction(1)))
        assert cluster.log(1) == []

    def test_is_a_promise_that_a_crash_does_not_break(self) -> None:
        cluster = Cluster()
        cluster.give(1, change(2))
        cluster.crash(1)
        cluster.restart(1)

        assert reason(cluster.give(1, a_transaction(1)))
        assert cluster.log(1) == []

    def test_is_not_over_after_a_crash_before_start_epoch(self) -> None:
        cluster = Cluster()
        cluster.give(1, change(2))
        cluster.crash(1)
        cluster.restart(1)

        assert "epoch change" in reason(cluster.give(1, a_transaction(1, epoch=2)))
        assert cluster.log(1) == []

    def test_changes_nothing_else(self) -> None:
        cluster = Cluster()
        cluster.give(0, a_transaction(1))
        before = cluster.record(0)

        cluster.give(0, change(2))

        assert cluster.record(0) == msgspec.structs.replace(before, epoch=Epoch(2))


class TestStartEpoch:
    """Step 2 at a replica."""

    def test_begins_the_epoch_with_the_log_as_it_is(self) -> None:
        cluster = Cluster()
        cluster.give(1, a_transaction(1))
        cluster.give(1, SyncCommit(S, Epoch(1), ViewNumber(0), Slot(1)))

        effects = cluster.give(1, start(2, stable=1, view=4, clock=77))

        record = cluster.record(1)
        assert effects == [CancelTimer("epoch")]
        assert (record.epoch, record.last_normal_epoch, record.view) == (2, 2, 4)
        assert (record.base, record.stable, record.executed) == (1, 1, 1)
        assert cluster.replica(1).is_learner
        assert not cluster.replica(1, 0).sync_replies

    def test_executes_all_of_the_log_on_every_replica(self) -> None:
        cluster = Cluster()
        for number in (1, 2):
            cluster.give(1, a_transaction(number))

        cluster.give(1, start(2, a_transaction(1), a_transaction(2), a_transaction(3)))

        assert cluster.cells(1) == {"n": (3, 3)}
        assert cluster.log(1) == [a_transaction(number) for number in (1, 2, 3)]

    def test_does_not_execute_twice_what_the_learner_did(self) -> None:
        cluster = Cluster()
        for number in (1, 2):
            cluster.give(0, a_transaction(number))

        cluster.give(0, start(2, a_transaction(1), a_transaction(2), a_transaction(3)))

        assert cluster.cells(0) == {"n": (3, 3)}

    def test_fills_what_nobody_has_with_no_operation(self) -> None:
        cluster = Cluster()

        cluster.give(1, start(2, None, a_transaction(2), None))

        assert cluster.log(1) == [None, a_transaction(2), None]
        assert cluster.cells(1) == {"n": (1, 2)}
        assert cluster.record(1).executed == 3

    def test_puts_what_was_decided_in_the_place_of_what_was_logged(self) -> None:
        cluster = Cluster()
        for number in (1, 2, 3):
            cluster.give(1, a_transaction(number))

        cluster.give(1, start(2, a_transaction(1), None, a_transaction(3, 10)))

        assert cluster.log(1) == [a_transaction(1), None, a_transaction(3, 10)]
        assert cluster.cells(1) == {"n": (11, 3)}
        assert cluster.problems(1) == []

    def test_never_changes_what_was_executed(self) -> None:
        """The learner executed what no quorum had: it cannot be taken back, so it asks for an image."""
        cluster = Cluster()
        cluster.give(0, a_transaction(1))

        effects = cluster.give(0, start(2, None))

        assert cluster.replica(0).has_diverged()
        assert any(
            isinstance(effect, Send) and isinstance(effect.message, ImageRequest) for effect in effects
        )
        cluster.crash(0)
        cluster.restart(0)
        assert cluster.replica(0).has_diverged(), "and does not forget it"

    def test_is_refused_by_a_replica_that_lacks_stable_slots(self) -> None:
        cluster = Cluster()
        cluster.give(1, a_transaction(1))
        before = cluster.record(1)

        assert "ends at 1" in reason(cluster.give(1, start(2, a_transaction(3), stable=2)))

        assert cluster.record(1) == msgspec.structs.replace(before, epoch=Epoch(2))
        assert cluster.log(1) == [a_transaction(1)]

    def test_shortens_a_log_that_is_longer(self) -> None:
        """What stands at its end was dropped; the learner has executed that, and needs an image."""
        cluster = Cluster()
        for number in (1, 2):
            for host in (0, 1):
                cluster.give(host, a_transaction(number))

        cluster.give(1, start(2, a_transaction(1)))
        cluster.give(0, start(2, a_transaction(1)))

        assert cluster.log(1) == [a_transaction(1)]
        assert cluster.record(1).last_normal_epoch == 2
        assert cluster.cells(1) == {"n": (1, 1)}
        assert cluster.problems(1) == []
        assert cluster.replica(0).has_diverged()

    @pytest.mark.parametrize("epoch", [0, 1])
    def test_of_an_epoch_that_is_not_new_is_dropped(self, epoch: int) -> None:
        cluster = Cluster()

        assert "known already" in reason(cluster.give(1, start(epoch, a_transaction(1))))

        assert cluster.log(1) == []

    def test_is_taken_once(self) -> None:
        cluster = Cluster()
        cluster.give(1, start(2, a_transaction(1)))

        assert "known already" in reason(cluster.give(1, start(2, a_transaction(1), a_transaction(2))))

        assert cluster.log(1) == [a_transaction(1)]

    def test_below_an_epoch_that_was_promised_is_dropped(self) -> None:
        cluster = Cluster()
        cluster.give(1, change(5))

        assert "known already" in reason(cluster.give(1, start(4, a_transaction(1))))

    def test_forgets_the_clients_of_earlier_epochs(self) -> None:
        """Contracts C4"""
        cluster = Cluster()
        cluster.give(0, a_transaction(1))
        assert cluster.record(0).windows

        cluster.give(0, start(2, a_transaction(1)))

        assert cluster.record(0).windows == {}

    def test_forgets_them_only_after_it_executed_their_last_requests(self) -> None:
        """A copy of a request that is completed now finds the outcome of the first."""
        cluster = Cluster()
        copy = a_transaction(2)
        copy = Stamped(copy.stamp, msgspec.structs.replace(copy.request, request=RequestId(1)))

        cluster.give(1, start(2, a_transaction(1), copy))

        assert cluster.cells(1) == {"n": (1, 1)}

    def test_moves_the_clock_to_the_greatest_in_any_log(self) -> None:
        cluster = Cluster()

        cluster.give(1, start(2, clock=5000))
        assert cluster.record(1).clock == 5000

        cluster.give(1, start(3, clock=10))
        assert cluster.record(1).clock == 5000


class TestTheWholeChange:
    def test_completes_what_only_a_follower_has(self) -> None:
        """The learner lacks it: nobody was answered, and nobody need be disappointed."""
        cluster = Cluster()
        cluster.submit({0: [add("n", 7)]})
        cluster.step()
        cluster.lose(host=0)
        cluster.lose(host=1)
        cluster.step()

        cluster.change_epoch()

        assert [cluster.cells(host) for host in range(3)] == [{"n": (7, 1)}] * 3
        assert [len(cluster.log(host)) for host in range(3)] == [1, 1, 1]

    def test_completes_on_all_shards_what_one_shard_has(self) -> None:
        """COORDINATOR-2"""
        cluster = Cluster(shards=3)
        cluster.submit({0: [put("a", 1)], 2: [put("c", 1)]})
        cluster.step()
        cluster.lose(shard=0)
        cluster.lose(host=0)
        cluster.lose(host=1)
        cluster.step()
        assert [cluster.log(host, 2) != [] for host in range(3)] == [False, False, True]

        cluster.change_epoch()

        for host in range(3):
            assert cluster.cells(host, 0) == {"a": (1, 1)}
            assert cluster.cells(host, 1) == {}
            assert cluster.cells(host, 2) == {"c": (1, 1)}
            assert cluster.problems(host) == []

    def test_drops_on_all_shards_what_no_consulted_replica_has(self) -> None:
        cluster = Cluster(shards=2)
        cluster.submit({0: [put("a", 1)], 1: [put("b", 1)]})
        cluster.step()
        cluster.lose(host=0)
        cluster.lose(host=1)
        cluster.step()
        cluster.crash(2)

        cluster.change_epoch(0, 1)

        for host in (0, 1):
            assert cluster.cells(host, 0) == cluster.cells(host, 1) == {}

    def test_fills_a_number_that_nobody_has_and_keeps_what_comes_after_it(self) -> None:
        cluster = Cluster(shards=2)
        cluster.submit({0: [put("lost", 1)]})
        cluster.step()
        cluster.wire.clear()
        cluster.submit({0: [put("a", 1)], 1: [put("b", 1)]})
        cluster.step()
        cluster.step()
        # Shard 0 has a gap and logged nothing; shard 1 has the second transaction, whole.
        assert cluster.log(0, 0) == []

        cluster.change_epoch()

        for host in range(3):
            (gap, kept), (same,) = cluster.log(host, 0), cluster.log(host, 1)
            assert gap is None
            assert kept == same
            assert cluster.cells(host, 0) == {"a": (1, 2)}

    def test_cannot_complete_a_replica_that_lacks_what_a_quorum_holds_but_an_image_can(self) -> None:
        cluster = Cluster()
        for _ in range(2):
            cluster.submit({0: [add("n")]})
            cluster.step()
            cluster.lose(host=2)
            cluster.run()
        cluster.submit({0: [add("n")]})
        cluster.run()
        cluster.hosts[2].dropped.clear()

        cluster.change_epoch()

        assert list(cluster.hosts[2].dropped) == ["log ends at 0, not at 3 or later"]
        assert [cluster.record(host).last_normal_epoch for host in range(3)] == [2, 2, 2]
        assert cluster.log(2) == cluster.log(0)
        assert cluster.cells(2) == cluster.cells(0) == {"n": (3, 3)}

    def test_does_not_wait_for_replicas_that_were_not_consulted(self) -> None:
        cluster = Cluster()
        cluster.submit({0: [add("n")]})
        cluster.run()
        cluster.crash(0)

        cluster.change_epoch(1, 2)
        request = cluster.submit({0: [add("n", 5)]})
        cluster.run_without(0)

        assert cluster.coordinator.record.view % 3 != 0
        assert cluster.answers[request].slots == {0: 2}
        assert cluster.values(cluster.learner.number) == {"n": 6}

    def test_orders_everything_after_it_later_than_everything_before(self) -> None:
        """Contracts D1, over an epoch change on a machine whose clock went back."""
        cluster = Cluster()
        cluster.submit({0: [add("n")]})
        cluster.run()
        cluster.now -= 500 * SECOND

        cluster.change_epoch()
        cluster.submit({0: [add("n")]})
        cluster.run()

        first, second = cluster.log(0)
        assert first is not None
        assert second is not None
        assert second.stamp.clock > first.stamp.clock

    def test_makes_a_retry_of_an_ended_client_a_stranger(self) -> None:
        """The id of a client is the epoch of its opening, so its late messages find nobody."""
        cluster = Cluster()
        cluster.submit({0: [add("n")]})
        cluster.step()
        late = cluster.on_wire(Stamped, host=0)
        cluster.run()
        cluster.change_epoch()

        cluster.wire += late
        cluster.run()

        assert cluster.values(0) == {"n": 1}
        assert any("epoch 1" in why for why in cluster.hosts[0].dropped)

    def test_may_happen_again_and_again(self) -> None:
        cluster = Cluster(shards=2)
        for number in range(1, 6):
            cluster.submit({0: [add("a", number)], 1: [add("b", number)]})
            cluster.run()
            cluster.submit({0: [add("a", number)], 1: [add("b", number)]})
            cluster.step()
            cluster.deliver(number % 3)
            cluster.change_epoch()

            assert [cluster.record(host).epoch for host in range(3)] == [number + 1] * 3

        for host in range(3):
            assert cluster.values(host, 0) == {"a": 30}
            assert cluster.values(host, 1) == {"b": 30}
            assert cluster.problems(host) == []

    def test_completes_what_is_stable_on_one_shard_and_lost_on_another(self) -> None:
        cluster = Cluster(shards=2)
        cluster.submit({0: [put("a", 1)], 1: [put("b", 1)]})
        cluster.step()
        cluster.lose(shard=1)
        cluster.run()
        assert cluster.record(1, 0).stable == 1

        cluster.change_epoch()

        assert cluster.values(0, 0) == {"a": 1}
        assert cluster.values(0, 1) == {"b": 1}

    def test_says_no_word_of_a_log_that_the_epoch_may_not_begin_with(self) -> None:
        cluster = Cluster()
        cluster.submit({0: [add("dropped")]})
        cluster.step()
        cluster.deliver(2)  # only replica 2 has it
        cluster.wire.clear()

        cluster.give(2, change(2))

        assert cluster.on_wire(SyncReply) == []

    def test_reads_its_own_log_before_it_overwrites_a_body_that_is_referred_to(self) -> None:
        cluster = Cluster(shards=2)
        cluster.submit({0: [put("a", 1)], 1: [put("b", 1)]})
        cluster.step()
        cluster.deliver(2)  # only replica 2 has it: the body in shard 0, a reference in shard 1
        assert cluster.log(2, 0) == cluster.log(2, 1) != []

        cluster.hosts[2].begin()
        cluster.hosts[2].handle((ShardId(shard), start(2, None, shard=shard)) for shard in (0, 1))
        cluster.hosts[2].finish()
        cluster.hosts[2].commit()

        assert cluster.log(2, 0) == cluster.log(2, 1) == [None]


class TestACrashInTheMiddle:
    def half_done(self, *adopting: int) -> Cluster:
        """START-EPOCH was saved, and then only these hosts got it."""
        cluster = Cluster(shards=2)
        cluster.submit({0: [put("a", 1)], 1: [put("b", 1)]})
        cluster.step()
        cluster.deliver(2)
        cluster.wire.clear()
        cluster.begin_epoch()
        while not cluster.on_wire(StartEpoch):
            cluster.step()
        for host in adopting:
            cluster.deliver(host)
        cluster.crash(0, 1, 2)
        cluster.restart(0, 1, 2)
        return cluster

    @pytest.mark.parametrize("adopting", [(), (0,), (1,), (2,), (0, 2), (1, 2)])
    def test_delivers_the_saved_start_again(self, adopting: tuple[int, ...]) -> None:
        """COORDINATOR-1: the epoch was started, with one meaning, and nobody forgets it."""
        cluster = self.half_done(*adopting)
        saved = cluster.newest_record()
        assert saved.last_started == saved.epoch == 2

        for host in range(3):
            for message in saved.start_epochs:
                cluster.give(host, message, message.shard)

        for host in range(3):
            assert cluster.record(host).last_normal_epoch == 2
            assert cluster.values(host, 0) == {"a": 1}
            assert cluster.values(host, 1) == {"b": 1}
            assert cluster.problems(host) == []
        cluster.change_epoch()
        assert cluster.record(0).epoch == 3

    def test_of_epoch_change_leaves_the_old_epoch_as_it_was(self) -> None:
        cluster = Cluster()
        cluster.submit({0: [add("n")]})
        cluster.run()
        cluster.begin_epoch()
        cluster.step()
        cluster.crash(0, 1, 2)
        cluster.restart(0, 1, 2)

        assert [cluster.record(host).last_normal_epoch for host in range(3)] == [1, 1, 1]
        cluster.change_epoch()
        assert [cluster.record(host).last_normal_epoch for host in range(3)] == [3, 3, 3], "2 was promised"
        assert [cluster.cells(host) for host in range(3)] == [{"n": (1, 1)}] * 3


def test_a_host_that_missed_the_last_word_of_synchronization_shows_what_it_has() -> None:
    cluster = Cluster()
    for _ in range(3):
        cluster.submit({0: [add("n")]})
        cluster.step()
        cluster.step()
        cluster.lose(SyncReply)
        cluster.run()

    cluster.change_epoch(1, 2)

    assert cluster.cells(1) == cluster.cells(2) == {"n": (3, 3)}

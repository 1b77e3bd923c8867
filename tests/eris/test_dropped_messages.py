"""Lost messages (section 6.3): peers, the sequencer's memory, promises, and the coordinator's decisions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.effects import COORDINATOR, ReplicaAddress, Send
from kvstore.eris.messages import (
    FindTransaction,
    Flush,
    HasTransaction,
    ResendRequest,
    SlotRequest,
    Stamped,
    TransactionDropped,
    TransactionRequest,
)
from kvstore.types import Epoch, SequenceNumber, ShardId
from tests.support.cluster import Cluster, add, name, put


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


class TestTheSequencersMemory:
    def test_sends_again_what_one_replica_missed(self) -> None:
        cluster = Cluster()
        cluster.kept = 10
        cluster.change_epoch()
        stamp(cluster, 0)
        cluster.lose(Stamped, host=1)
        stamp(cluster, 0)
        cluster.run()

        assert cluster.log(1) == cluster.log(0)
        assert not cluster.timers, "nothing is missing any more"

    def test_knows_only_its_own_epoch_and_its_last_messages(self) -> None:
        cluster = Cluster()
        cluster.kept = 2
        cluster.change_epoch()
        for _ in range(4):
            stamp(cluster, 0)
        shard, epoch = ShardId(0), cluster.sequencer.epoch
        resend = ResendRequest(shard, 1, epoch, SequenceNumber(2))
        assert cluster.sequencer.on_resend(resend) == []
        resend = ResendRequest(shard, 1, epoch, SequenceNumber(3))
        (sent,) = cluster.sequencer.on_resend(resend)
        assert isinstance(sent, Send)
        assert sent.to == ReplicaAddress(shard, 1)
        assert isinstance(sent.message, Stamped)
        assert sent.message.stamp.numbers == {0: 3}
        assert not isinstance(
            cluster.sequencer.on_resend(ResendRequest(shard, 1, Epoch(1), SequenceNumber(3)))[0], Send
        )

    def test_a_flush_shows_that_the_last_message_was_lost(self) -> None:
        cluster = Cluster()
        cluster.kept = 10
        cluster.change_epoch()
        stamp(cluster, 0)
        cluster.lose(Stamped, host=2)
        cluster.run_without(2)
        assert cluster.log(2) == []

        cluster.carry(cluster.sequencer.on_timer("flush"))
        assert cluster.on_wire(Flush)
        cluster.run()

        assert cluster.log(2) == cluster.log(0) != []


class TestPeers:
    def test_a_peer_has_it(self) -> None:
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.lose(Stamped, host=2)
        stamp(cluster, 0)
        cluster.run()
        assert cluster.log(2) == []

        cluster.fire(2)
        assert not cluster.on_wire(FindTransaction), "peers first"
        cluster.run()

        assert cluster.log(2) == cluster.log(0)

    def test_a_peer_holds_it_back_itself(self) -> None:
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.lose(Stamped)  # nobody gets the first
        stamp(cluster, 0)
        cluster.lose(Stamped, host=2)
        stamp(cluster, 0)
        cluster.run()
        cluster.give(2, _stamped(cluster, 0, 1))
        cluster.fire(2)
        cluster.run()

        assert len(cluster.log(2)) == 3, "the second came from what the others hold back"

    def test_answers_of_another_view_or_epoch_do_not_count(self) -> None:
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.run()
        late = SlotRequest(
            ShardId(0), 2, Epoch(9), cluster.replica(0).record.view, cluster.replica(0).last_slot
        )
        cluster.give(0, late)
        assert not cluster.wire


def _stamped(cluster: Cluster, shard: int, number: int) -> Stamped:
    """The transaction of this number, made again as the sequencer made it."""
    waiting = list(cluster.client.outstanding.values())[number - 1]
    from kvstore.eris.messages import MultiStamp
    from kvstore.types import Timestamp

    clock = Timestamp(cluster.now)
    return Stamped(MultiStamp(Epoch(1), 0, clock, {ShardId(shard): SequenceNumber(number)}), waiting.request)


class TestTheCoordinator:
    def test_what_nobody_has_is_dropped_everywhere(self) -> None:
        cluster = Cluster(shards=2)
        stamp(cluster, 0, 1)
        cluster.lose(Stamped)
        stamp(cluster, 0, 1)
        settle(cluster)

        for host in range(3):
            for shard in range(2):
                gap, kept = cluster.log(host, shard)
                assert gap is None
                assert kept is not None
        assert cluster.coordinator.record.dropped == {name(0, 1), name(1, 1)}

    def test_what_another_shard_has_is_given_to_all(self) -> None:
        cluster = Cluster(shards=2)
        stamp(cluster, 0, 1)
        cluster.lose(Stamped, shard=0)
        cluster.lose(Stamped, host=0, shard=1)  # its learner, too
        stamp(cluster, 0)
        settle(cluster)

        first = cluster.log(2, 1)[0]
        assert first is not None
        for host in range(3):
            assert cluster.log(host, 0)[0] == first
        assert not cluster.coordinator.record.dropped

    def test_one_shard_without_a_promise_of_its_learner_keeps_it_undecided(self) -> None:
        cluster = Cluster(shards=2)
        stamp(cluster, 0)
        cluster.lose(Stamped)
        stamp(cluster, 0)
        cluster.run()
        cluster.fire_all()
        cluster.run_without()
        cluster.carry([Send(COORDINATOR, FindTransaction(ShardId(0), 1, name(0, 1)))])
        cluster.step()
        cluster.lose(TransactionRequest, host=0, shard=1)  # the learner of the other shard
        cluster.run()

        assert not cluster.coordinator.record.dropped
        settle(cluster)
        assert cluster.coordinator.record.dropped == {name(0, 1)}

    def test_a_promise_binds_whatever_comes_later(self) -> None:
        """M1, on a foreign name: the shard is asked about another shard's name of the transaction."""
        cluster = Cluster(shards=2)
        stamp(cluster, 0, 1)
        stamped = cluster.on_wire(Stamped)[0].message
        assert isinstance(stamped, Stamped)
        cluster.wire.clear()
        cluster.give(0, TransactionRequest(ShardId(1), name(0, 1)), shard=1)
        assert cluster.replica(0, 1).record.temp_drops == {name(0, 1)}

        cluster.give(0, stamped, shard=1)
        assert cluster.log(0, 1) == []

        cluster.give(0, TransactionDropped(ShardId(1), Epoch(1), (name(0, 1),)), shard=1)
        assert cluster.log(0, 1) == [None]

    def test_promises_and_decisions_survive_a_crash(self) -> None:
        cluster = Cluster(shards=2)
        cluster.give(0, TransactionRequest(ShardId(1), name(0, 7)), shard=1)
        cluster.give(0, TransactionDropped(ShardId(1), Epoch(1), (name(1, 9),)), shard=1)
        cluster.wire.clear()
        cluster.crash(0)
        cluster.restart(0)

        record = cluster.replica(0, 1).record
        assert record.temp_drops == {name(0, 7)}
        assert record.perm_drops == {name(1, 9)}

    def test_found_is_never_dropped_and_dropped_never_found(self) -> None:
        """DECISION-1: a HAS-TXN that comes after the drop of another of its names drops all of them."""
        cluster = Cluster(shards=2)
        stamp(cluster, 0, 1)
        stamped = cluster.on_wire(Stamped)[0].message
        assert isinstance(stamped, Stamped)
        cluster.lose(Stamped)
        stamp(cluster, 0)
        settle(cluster)
        assert name(0, 1) in cluster.coordinator.record.dropped

        cluster.carry([Send(COORDINATOR, HasTransaction(name(1, 1), stamped))])
        settle(cluster)

        assert cluster.coordinator.record.dropped == {name(0, 1), name(1, 1)}
        assert not cluster.coordinator.record.found

    def test_the_unsafe_schedule_of_the_published_implementation(self) -> None:
        """T to {0,1} is lost at all of shard 0, and X to {1} at all of shard 1, so T waits in shard 1's
        hold-back queues. U to {0,1} arrives. Asked about shard 0's name of T, shard 1 must not promise it
        away and execute it later: with names matched by own shard only, shard 0 ends as U, T and shard 1 as
        T, U. Here the requests of the coordinator to shard 1 come before T does."""
        cluster = Cluster(shards=2)
        cluster.submit({1: [put("x", 1)]})
        cluster.step_roles()
        cluster.lose(Stamped)
        t = cluster.submit({0: [add("t")], 1: [add("t")]})
        cluster.step_roles()
        cluster.lose(Stamped, shard=0)
        late = cluster.on_wire(Stamped, shard=1)
        cluster.lose(Stamped, shard=1)
        u = cluster.submit({0: [add("u")], 1: [add("u")]})
        cluster.step_roles()
        cluster.lose(Stamped, shard=1)
        cluster.run()
        cluster.carry([Send(COORDINATOR, FindTransaction(ShardId(0), 0, name(0, 1)))])
        cluster.run()
        assert name(0, 1) in cluster.coordinator.record.dropped, "T is dropped at shard 0"

        cluster.wire += late
        settle(cluster)
        cluster.carry(cluster.client.on_timer("retry"))
        settle(cluster)

        orders = []
        for shard in range(2):
            log = cluster.log(0, shard)
            requests = [stamped.request.request for stamped in log if stamped is not None]
            orders.append([request for request in dict.fromkeys(requests) if request in (t, u)])
        assert orders[0] == orders[1], "one order of T and U on both shards"
        for host in range(3):
            for shard in range(2):
                assert cluster.values(host, shard) | {"x": 1} == {"t": 1, "u": 1, "x": 1}


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


@pytest.mark.parametrize("status", ["epoch change"])
def test_no_promise_is_made_in_an_epoch_change(status: str) -> None:
    cluster = Cluster()
    cluster.begin_epoch()
    cluster.deliver(0)
    cluster.give(0, TransactionRequest(ShardId(0), name(0, 1)))
    assert not cluster.replica(0).record.temp_drops

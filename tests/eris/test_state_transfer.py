"""Images (section 6.4: "application state transfer"): who needs one, who may give it, and IMAGE-1 to
IMAGE-3."""

from __future__ import annotations

import pytest

from kvstore.engine import log_retention
from kvstore.eris import image_request
from kvstore.eris.effects import COORDINATOR, Dropped, Send
from kvstore.eris.messages import (
    EpochChangeRequest,
    HasTransaction,
    Image,
    ImageRequest,
    SlotAnswer,
    Stamped,
    StartView,
    SyncReply,
    TempDroppedTransaction,
    TransactionDropped,
    TransactionRequest,
)
from kvstore.eris.shard_state import Status, decode_record
from kvstore.storage.memory_environment import MemoryFolder
from kvstore.types import Epoch, ShardId, Slot
from tests.support.cluster import Cluster, name
from tests.support.scenes import find, stamp

S = ShardId(0)
HOSTS = range(3)


def ask(cluster: Cluster, host: int, shard: int = 0) -> None:
    """Have a replica ask for an image."""
    cluster.replica(host, shard).needs_image = True
    cluster.fire(host, shard, "image")


def is_whole(cluster: Cluster, host: int, other: int, shard: int = 0) -> bool:
    """Whether two replicas have the same tables, and the same in every slot that both have."""
    slots, others = cluster.slots(host, shard), cluster.slots(other, shard)
    assert cluster.problems(host) == []
    return cluster.cells(host, shard) == cluster.cells(other, shard) and all(
        slots[slot] == others[slot] for slot in slots.keys() & others.keys()
    )


def diverged(cluster: Cluster, *shards: int) -> Stamped:
    """The learner, host 0, alone executes a transaction, and then hears that it was dropped. Hosts 1 and 2
    are in view 1, and have a NO-OP in its place."""
    sent = stamp(cluster, *shards)
    cluster.wire.clear()
    for shard in shards:
        cluster.give(0, sent, shard)
    cluster.wire.clear()
    for shard in range(cluster.shards):
        cluster.fire(2, shard, "suspect")
    cluster.run_without(0)
    find(cluster, sent.stamp.ids()[0], host=1)
    cluster.run_without(0)
    return sent


@pytest.fixture
def short_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are cut within a short story, where ``retention`` is 0."""
    monkeypatch.setattr(log_retention, "MARK_BYTES_MIN", 150)


class TestWhoNeedsOne:
    def test_a_learner_that_executed_what_was_dropped(self) -> None:
        cluster = Cluster()
        lost = diverged(cluster, 0)
        assert cluster.values(0) == {"n": 1}
        cluster.carry(cluster.give(0, TransactionDropped(S, Epoch(1), tuple(lost.stamp.ids()))))
        assert cluster.replica(0).has_diverged()
        assert cluster.on_wire(ImageRequest)
        cluster.run()

        assert cluster.replica(0).status is Status.NORMAL
        assert cluster.log(0) == [None]
        assert cluster.values(0) == {}
        assert is_whole(cluster, 0, 1)

    @pytest.mark.usefixtures("short_logs")
    def test_one_whose_peers_have_cut_what_it_lacks(self) -> None:
        cluster = Cluster(retention=0)
        for _ in range(20):
            stamp(cluster, 0)
            cluster.run_without(2)
        assert cluster.record(0).head[0] > 1
        stamp(cluster, 0)
        cluster.run()
        cluster.fire(2)
        cluster.run_until(SlotAnswer)
        assert all(packet.message.is_truncated for packet in cluster.on_wire(SlotAnswer))  # type: ignore[attr-defined]
        cluster.settle()

        assert cluster.record(2).head[0] > 1, "it has not got it slot by slot"
        assert cluster.values(2) == {"n": 21}
        assert is_whole(cluster, 2, 0)

    @pytest.mark.usefixtures("short_logs")
    def test_one_that_cannot_follow_into_a_view(self) -> None:
        cluster = Cluster(retention=0)
        for _ in range(20):
            stamp(cluster, 0)
            cluster.run_without(2)
        cluster.fire(0, 0, "suspect")
        cluster.run_until(StartView)
        cluster.settle()

        assert {cluster.replica(host).status for host in HOSTS} == {Status.NORMAL}
        assert cluster.record(2).view >= 1
        assert is_whole(cluster, 2, 0)

    def test_one_that_cannot_begin_an_epoch(self) -> None:
        cluster = Cluster()
        for _ in range(3):
            stamp(cluster, 0)
            cluster.run_without(2)
        cluster.start_coordinator(0)
        cluster.run_until(ImageRequest)
        assert cluster.record(2).last_normal_epoch == 1
        cluster.run()

        assert cluster.record(2).last_normal_epoch == 3
        assert is_whole(cluster, 2, 0)

    def test_the_next_peer_is_asked_when_none_comes(self) -> None:
        cluster = Cluster()
        ask(cluster, 2)
        (first,) = cluster.on_wire(ImageRequest)
        cluster.wire.clear()
        cluster.fire_all()
        (second,) = cluster.on_wire(ImageRequest)

        assert {first.to, second.to} == set(cluster.replica(2).peers())


class TestWhoGivesOne:
    def test_nobody_who_executed_what_is_not_stable(self) -> None:
        """IMAGE-2: it may be dropped yet, and whoever got it could not take it back."""
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.deliver(0)
        (effect,) = cluster.give(0, ImageRequest(S, 2, Epoch(1)))

        assert isinstance(effect, Dropped)
        assert "not stable" in effect.reason

    def test_nor_on_another_shard_of_its_host(self) -> None:
        """IMAGE-2: a transaction over both is stable on this one, and may be dropped for the other one's
        sake."""
        cluster = Cluster(shards=2)
        stamp(cluster, 1)
        cluster.deliver(0)
        (effect,) = cluster.give(0, ImageRequest(S, 2, Epoch(1)))

        assert isinstance(effect, Dropped)

    def test_and_it_tells_what_came_in_the_same_batch_and_still_waits(self) -> None:
        cluster = Cluster(shards=2)
        sent = stamp(cluster, 0, 1)
        cluster.wire.clear()
        host, epoch, view = cluster.hosts[0], cluster.record(0).epoch, cluster.record(0).view
        replied = SyncReply(S, 1, epoch, view, Slot(1))

        host.begin()
        outbox = host.handle([(S, sent), (S, replied), (S, ImageRequest(S, 2, epoch))])
        host.abort()

        (image,) = (send.message for send in outbox if isinstance(send.message, Image))
        assert decode_record(image.record).waiting == (1,), "the piece of shard 1 has not come"

    def test_nobody_who_is_behind_the_one_that_asks(self) -> None:
        cluster = Cluster()
        (effect,) = cluster.give(1, ImageRequest(S, 2, Epoch(2)))

        assert isinstance(effect, Dropped)
        assert "later epoch" in effect.reason

    def test_one_that_was_not_asked_for_is_not_taken(self) -> None:
        cluster = Cluster()
        stamp(cluster, 0)
        cluster.run()
        cluster.carry(cluster.give(1, ImageRequest(S, 2, Epoch(1))))
        (packet,) = cluster.on_wire(Image)
        before = cluster.record(2)
        (effect,) = cluster.give(2, packet.message)  # type: ignore[arg-type]  # an Image

        assert isinstance(effect, Dropped)
        assert cluster.record(2) == before


class TestWhatWasSaidIsKept:
    """IMAGE-1"""

    def test_what_was_logged_above_the_end_of_the_image(self) -> None:
        """It acknowledged the second transaction, which may rest on that."""
        cluster = Cluster()
        first, second = stamp(cluster, 0), stamp(cluster, 0)
        cluster.wire.clear()
        for sent in (first, second):
            cluster.give(0, sent)
        cluster.wire.clear()
        cluster.fire(2, 0, "suspect")
        cluster.run_without(0)
        find(cluster, name(0, 1), host=1)
        cluster.run_without(0)
        cluster.carry(cluster.give(0, TransactionDropped(S, Epoch(1), (name(0, 1),))))
        cluster.run_until(Image)
        cluster.deliver(0)

        assert cluster.log(0) == [None, second]
        assert cluster.values(0) == {}, "it follows now, and executes what is stable"
        cluster.settle()
        assert cluster.log(1)[:2] == [None, second]
        assert is_whole(cluster, 0, 1)

    def test_what_was_promised(self) -> None:
        cluster = Cluster(shards=2)
        lost = diverged(cluster, 0)
        cluster.give(0, TransactionRequest(S, name(1, 7)))
        cluster.wire.clear()
        cluster.carry(cluster.give(0, TransactionDropped(S, Epoch(1), tuple(lost.stamp.ids()))))
        cluster.run_until(Image)
        cluster.deliver(0)

        assert cluster.record(0).temp_drops >= {name(1, 7)}
        assert cluster.record(0).perm_drops >= set(lost.stamp.ids())

    def test_and_nobody_is_in_a_view_with_what_he_promised_away(self) -> None:
        """In the image it is not stable, so it may be dropped yet: a later view has to begin first."""
        cluster = Cluster()
        lost = diverged(cluster, 0)
        cluster.give(0, TransactionRequest(S, name(0, 2)))
        cluster.wire.clear()
        second = stamp(cluster, 0)
        cluster.wire.clear()
        cluster.give(2, second)
        view = cluster.record(2).view
        cluster.carry(cluster.give(0, TransactionDropped(S, Epoch(1), tuple(lost.stamp.ids()))))
        cluster.run_until(Image)
        cluster.deliver(0)

        assert cluster.log(0) == [None, second]
        assert cluster.replica(0).status is Status.VIEW_CHANGE
        assert cluster.record(0).view == view + 1
        cluster.settle()
        assert is_whole(cluster, 0, 1)
        assert cluster.log(0)[:2] == [None, second], "it was found"

    def test_an_image_that_would_leave_a_hole_does_not_help(self) -> None:
        """The peer ends below what is left of the own log."""
        cluster = Cluster()
        ask(cluster, 2)
        cluster.run_until(Image)
        for _ in range(3):
            stamp(cluster, 0)
        image = cluster.on_wire(Image)
        cluster.lose(Image)
        cluster.run()
        cluster.hosts[2].begin()
        cluster.replica(2).log.truncate_before(cluster.replica(2).log.last, 9)
        cluster.hosts[2].finish()
        cluster.hosts[2].commit()
        (effect,) = cluster.give(2, image[0].message)  # type: ignore[arg-type]  # an Image

        assert isinstance(effect, Dropped)
        assert effect.reason == "it does not help"


class TestWhatMayHaveBeenCut:
    @pytest.mark.usefixtures("short_logs")
    def test_is_not_promised_away(self) -> None:
        """IMAGE-3: shard 1 lacks it, and in the image of shard 0 it was executed, and is gone from the log.
        IMAGE-3: shard 1 lacks it, and in the image of shard 0 it was executed, and is gone from the log."""
        cluster = Cluster(shards=2, retention=0)
        for _ in range(20):
            stamp(cluster, 0, 1)
            cluster.run_without(2)
        ask(cluster, 2)
        cluster.run_until(Image)
        cluster.deliver(2)
        assert cluster.record(2, 0).head[0] > 1
        assert cluster.record(2, 1).head == (1, 0, 0)

        for number in (1, 2):
            (effect,) = cluster.give(2, TransactionRequest(S, name(1, number)))
            assert isinstance(effect, Dropped)
        assert not cluster.record(2).temp_drops

    @pytest.mark.usefixtures("short_logs")
    def test_but_what_came_later_is(self) -> None:
        cluster = Cluster(shards=2, retention=0)
        for _ in range(20):
            stamp(cluster, 0)
            cluster.run_without(2)
        ask(cluster, 2)
        cluster.run_until(Image)
        cluster.deliver(2)
        cluster.wire.clear()
        later = stamp(cluster, 0, 1)
        cluster.wire.clear()
        cluster.give(2, later, 0)
        effects = cluster.give(2, TransactionRequest(S, name(1, 1)))
        assert effects == [Send(COORDINATOR, HasTransaction(name(1, 1), later))]
        effects = cluster.give(2, TransactionRequest(S, name(0, 30)))
        assert [type(effect.message) for effect in effects if isinstance(effect, Send)] == [
            TempDroppedTransaction
        ]


class TestTheOtherShardsOfTheHost:
    def test_keep_the_bodies_that_stood_in_the_log_that_was_replaced(self) -> None:
        """A body stands with the lowest participant, and shard 1's log refers to it."""
        cluster = Cluster(shards=2)
        sent = [stamp(cluster, 0, 1) for _ in range(3)]
        cluster.run()
        one_more = stamp(cluster, 0, 1)
        cluster.wire.clear()
        cluster.give(2, one_more, 0)
        cluster.give(2, one_more, 1)
        ask(cluster, 2, 0)
        cluster.run()

        assert cluster.log(2, 0) == cluster.log(2, 1) == [*sent, one_more]
        assert cluster.problems(2) == []
        cluster.crash(2)
        cluster.restart(2)
        assert cluster.log(2, 1) == [*sent, one_more]

    @pytest.mark.usefixtures("short_logs")
    def test_keep_them_too_when_the_image_has_them_no_more(self) -> None:
        cluster = Cluster(shards=2, retention=0)
        sent = stamp(cluster, 0, 1)
        cluster.deliver(2)
        cluster.run()
        for _ in range(20):
            stamp(cluster, 0)
            cluster.run_without(2)
        if sent in cluster.log(0, 0):
            pytest.fail("it was to be cut")
        assert cluster.log(2, 1) == [sent]
        ask(cluster, 2, 0)
        cluster.run()

        assert cluster.log(2, 1) == [sent]
        assert cluster.record(2, 0).head[0] > 1
        assert cluster.problems(2) == []

    def test_execute_their_part_of_what_came_with_it_once_and_do_not_wait(self) -> None:
        cluster = Cluster(shards=2)
        sent = stamp(cluster, 0, 1)
        cluster.run_without(2)
        ask(cluster, 2, 0)
        cluster.run()
        assert cluster.values(2, 0) == {"n": 1}
        assert cluster.values(2, 1) == {}
        cluster.settle()

        assert cluster.log(2, 1) == [sent]
        assert cluster.values(2, 0) == cluster.values(2, 1) == {"n": 1}
        assert not cluster.record(2, 0).waiting + cluster.record(2, 1).waiting

    def test_and_what_waited_for_a_piece_that_came_with_it_goes_on(self) -> None:
        cluster = Cluster(shards=2)
        stamp(cluster, 0, 1)
        cluster.lose(Stamped, host=2, shard=0)
        cluster.run()
        assert cluster.record(2, 1).waiting == (1,)
        assert cluster.values(2, 1) == {}
        ask(cluster, 2, 0)
        cluster.run()

        assert cluster.values(2, 0) == cluster.values(2, 1) == {"n": 1}
        assert not cluster.record(2, 1).waiting


class TestAForgottenDisk:
    def forget(self, cluster: Cluster, host: int = 2) -> Epoch:
        """The disk is empty, and what was on it is not known; it may rejoin with an epoch after this one."""
        rejoin = Epoch(cluster.coordinator.record.epoch + 1)
        cluster.crash(host)
        cluster.disk.folders[str(host)] = MemoryFolder()
        cluster.restart(host)
        restarted = cluster.hosts[host]
        restarted.begin()
        restarted.keeper.forget(rejoin)
        for replica in restarted.replicas:
            image_request.forget(replica, rejoin)
        restarted.touch_all()
        restarted.finish()
        restarted.commit()
        restarted.timers.clear()
        cluster.fire(host, 0, "image")
        return rejoin

    def test_has_an_epoch_begin_and_takes_only_an_image_of_that(self) -> None:
        cluster = Cluster()
        cluster.start_coordinator(0)
        cluster.run()
        cluster.begin_stamping(keep_client=True)
        for _ in range(3):
            stamp(cluster, 0)
            cluster.run()
        rejoin = self.forget(cluster)
        assert cluster.on_wire(EpochChangeRequest)
        cluster.lose(EpochChangeRequest)
        cluster.settle()

        assert cluster.record(2).last_normal_epoch >= rejoin
        assert cluster.replica(2).status is Status.NORMAL
        assert cluster.values(2) == {"n": 3}
        assert is_whole(cluster, 2, 0)

    def test_does_not_take_one_of_an_epoch_that_it_was_in(self) -> None:
        """What it said in that is forgotten, and may count."""
        cluster = Cluster()
        self.forget(cluster)
        cluster.wire.clear()
        given = cluster.give(1, ImageRequest(S, 2, Epoch(1)))
        cluster.carry(given)
        (effect, *_) = cluster.give(2, cluster.on_wire(Image)[0].message)  # type: ignore[arg-type]  # an Image

        assert isinstance(effect, Dropped)
        assert effect.reason == "it does not help"
        assert cluster.replica(2).has_diverged()

    def test_takes_part_in_nothing_until_then(self) -> None:
        cluster = Cluster()
        cluster.start_coordinator(0)
        cluster.run()
        cluster.begin_stamping(keep_client=True)
        self.forget(cluster)
        cluster.wire.clear()
        epoch = cluster.coordinator.record.epoch
        sent = stamp(cluster, 0)
        cluster.wire.clear()
        for message in [
            sent,
            TransactionRequest(S, name(0, 1, epoch)),
            cluster.coordinator.record.start_epochs[0],
        ]:
            effects = cluster.give(2, message)  # type: ignore[arg-type]  # each is one it would take
            assert [type(effect) for effect in effects] == [Dropped]
        assert not cluster.on_wire(SyncReply)

    def test_does_not_forget_over_a_crash_that_it_has_forgotten(self) -> None:
        cluster = Cluster()
        rejoin = self.forget(cluster)
        cluster.crash(2)
        cluster.restart(2)

        assert cluster.replica(2).has_diverged()
        assert cluster.record(2).rejoin == rejoin
        cluster.wire.clear()
        cluster.fire(2, 0, "image")
        assert [packet.message for packet in cluster.on_wire(EpochChangeRequest)] == [
            EpochChangeRequest(S, 2, rejoin)
        ]

"""Crossing into a new epoch (Eris, SOSP 2017, section 6.5), where one transcript is not enough.

The single claims are transcripts: ``epoch_ack``, ``start_epoch``, ``epoch_completes`` and others.
"""

from __future__ import annotations

import pytest

from kvstore.eris.effects import Send
from kvstore.eris.messages import (
    EpochChange,
    EpochChangeAck,
    MultiStamp,
    Request,
    Stamped,
    StartEpoch,
)
from kvstore.types import (
    ClientId,
    Epoch,
    RequestId,
    SequenceNumber,
    ShardId,
    Timestamp,
)
from tests.support.cluster import SECOND, Cluster, add, put

S = ShardId(0)


def a_transaction(number: int) -> Stamped:
    """One of shard 0 that adds to ``n``."""
    return Stamped(
        MultiStamp(Epoch(1), 0, Timestamp(2000 * SECOND + number), {S: SequenceNumber(number)}),
        Request(ClientId(1), RequestId(number), RequestId(0), {S: (add("n"),)}),
    )


def test_epoch_change_ack_shows_a_long_log_as_a_whole() -> None:
    cluster = Cluster()
    for number in range(1, 601):
        cluster.give(1, a_transaction(number))

    effect = cluster.give(1, EpochChange(Epoch(2)))[0]

    assert isinstance(effect, Send)
    assert isinstance(effect.message, EpochChangeAck)
    assert [entry.slot for entry in effect.message.entries] == list(range(1, 601))


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
        """COORDINATOR-1: the epoch was started, with one meaning, and no host forgets it."""
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

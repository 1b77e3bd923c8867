"""Hosts fail at any batch, and openings are cut off anywhere: what a client was answered is in every epoch
that follows, once, and any other transaction is at all of its participants or at none (COORDINATOR-2,
COORDINATOR-3, SHARD-1)."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.engine import log_retention
from kvstore.eris.messages import Stamped, StartEpoch, SyncCommit, SyncReply
from kvstore.types import RequestId
from tests.support.cluster import Cluster, add

HOSTS = (0, 1, 2)
SHARDS = 3

Step = tuple[str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 2**SHARDS - 1)),
        st.tuples(st.just("submit"), st.integers(1, 2**SHARDS - 1)),
        st.tuples(st.just("deliver"), st.sampled_from(HOSTS)),
        st.tuples(st.just("deliver"), st.sampled_from(HOSTS)),
        st.tuples(st.just("replies"), st.just(0)),
        st.tuples(st.just("retry"), st.just(0)),
        st.tuples(st.just("lose words of synchronization"), st.just(0)),
        st.tuples(st.just("fail"), st.sampled_from(HOSTS)),
        st.tuples(st.just("reopen without"), st.sampled_from(HOSTS)),
        st.tuples(st.just("reopen"), st.integers(0, 12)),
    ),
    max_size=45,
)


class Story:
    """A cluster, and what its clients asked for. Transaction ``t`` adds 1 to ``t`` at each participant."""

    def __init__(self, retention: int) -> None:
        self.cluster = Cluster(shards=SHARDS, retention=retention)
        self.submitted = 0
        self.asked: dict[str, list[int]] = {}
        self.requests: dict[RequestId, str] = {}
        self.answered: set[str] = set()

    def play(self, step: Step) -> None:
        cluster = self.cluster
        match step:
            case "submit", mask:
                name = f"t{self.submitted}"
                self.submitted += 1
                self.asked[name] = [shard for shard in range(SHARDS) if mask >> shard & 1]
                self.requests[cluster.submit({shard: [add(name)] for shard in self.asked[name]})] = name
                cluster.step_roles()
            case "deliver", host if host in cluster.hosts:
                cluster.deliver(host)
            case "replies", _:
                cluster.step_roles()
            case "retry", _:
                cluster.carry(cluster.client.on_timer("retry"))
                cluster.step_roles()
            case "lose words of synchronization", _:
                words = SyncReply | SyncCommit
                cluster.wire = [packet for packet in cluster.wire if not isinstance(packet.message, words)]
            case "fail", host if host in cluster.hosts and len(cluster.hosts) == len(HOSTS):
                cluster.crash(host)
            case "reopen without", host:
                self.reopen([other for other in HOSTS if other != host])
            case "reopen", deliveries:
                self.cut_off_opening(deliveries)
                self.reopen(HOSTS)
        self.wire_to_the_living_only()
        self.answered |= {self.requests[request] for request in cluster.answers}

    def wire_to_the_living_only(self) -> None:
        living = self.cluster.hosts
        self.cluster.wire = [
            packet
            for packet in self.cluster.wire
            if getattr(packet.to, "replica", None) is None or packet.to.replica in living  # type: ignore[union-attr]
        ]

    # -- opening, as the driver does it ------------------------------------------------------

    def begin_opening(self, up: Collection[int]) -> set[int]:
        """Load these hosts and deliver a saved START-EPOCH; return those that can be consulted."""
        cluster = self.cluster
        cluster.wire.clear()
        self.answered |= {self.requests[request] for request in cluster.answers}
        self.requests.clear()
        cluster.answers.clear()
        cluster.crash(*list(cluster.hosts))
        cluster.restart(*up)
        saved = cluster.newest_record()
        for host in up:
            if self.epochs(host) != {saved.last_started}:
                for message in saved.start_epochs:
                    cluster.give(host, message, message.shard)
        cluster.wire.clear()
        return {host for host in up if self.epochs(host) == {saved.last_started}}

    def epochs(self, host: int) -> set[int]:
        return {self.cluster.record(host, shard).last_normal_epoch for shard in range(SHARDS)}

    def cut_off_opening(self, deliveries: int) -> None:
        """An opening that ends after so many deliveries to one host each."""
        whole = self.begin_opening(HOSTS)
        self.cluster.crash(*(set(HOSTS) - whole))
        self.cluster.begin_epoch(*whole, complete=True)
        for at in range(deliveries):
            self.cluster.step_roles()
            self.cluster.deliver(sorted(whole)[at % len(whole)])

    def reopen(self, up: Collection[int]) -> None:
        cluster = self.cluster
        whole = self.begin_opening(up)
        assert len(whole) >= 2, "any two of the three can go on"
        cluster.crash(*(set(cluster.hosts) - whole))
        cluster.change_epoch(*whole, complete=True)
        epoch = cluster.coordinator.record.epoch
        began = {host for host in cluster.hosts if self.epochs(host) == {epoch}}
        assert began == whole
        self.check(began)
        cluster.crash(*(set(cluster.hosts) - began))
        for host in set(HOSTS) - began:
            cluster.disk.copy(str(cluster.learner.number), str(host))
            cluster.restart(host)

    # -- what must hold ----------------------------------------------------------------------

    def check(self, hosts: Collection[int]) -> None:
        cluster = self.cluster
        for host in hosts:
            assert cluster.problems(host) == []
            found = [cluster.values(host, shard) for shard in range(SHARDS)]
            assert {name for values in found for name in values} <= self.asked.keys(), "dropped for ever"
            for name, shards in self.asked.items():
                there = [found[shard].get(name) for shard in shards]
                assert there in ([1] * len(shards), [None] * len(shards)), f"{name} is {there} at {shards}"
                assert name not in self.answered or there[0] == 1, f"{name} was answered"
            for shard in range(SHARDS):
                slots, others = cluster.slots(host, shard), cluster.slots(next(iter(hosts)), shard)
                assert all(slots[at] == others[at] for at in slots.keys() & others.keys())
                clocks = [entry.stamp.clock for entry in slots.values() if entry is not None]
                assert all(before < after for before, after in pairwise(clocks)), "REPLICA-3"
        # A transaction that is not there now never will be.
        anywhere = {name for shard in range(SHARDS) for name in cluster.values(next(iter(hosts)), shard)}
        self.asked = {name: shards for name, shards in self.asked.items() if name in anywhere}


@settings(max_examples=120)
@given(steps, st.sampled_from([1, 1 << 30]))
def test_nothing_answered_is_lost_and_nothing_is_halved(story: list[Step], retention: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_retention, "MARK_BYTES_MIN", 150)  # so that logs are cut within a short story
        told = Story(retention)
        for step in story:
            told.play(step)
        told.reopen(HOSTS)
        told.cluster.submit({shard: [add("after")] for shard in range(SHARDS)})
        told.cluster.run()
        assert len(told.cluster.answers) == 1


def test_stories_reach_what_they_are_about() -> None:
    """One by hand, so that the checks above are known to see something."""
    told = Story(1 << 30)
    for step in [
        ("submit", 7),
        ("deliver", 0),
        ("deliver", 2),
        ("replies", 0),
        ("submit", 5),
        ("deliver", 1),
    ]:
        told.play(step)

    assert told.answered == {"t0"}
    told.play(("reopen without", 0))

    assert told.asked == {"t0": [0, 1, 2], "t1": [0, 2]}
    assert told.cluster.values(1, 2) == {"t0": 1, "t1": 1}
    assert not told.cluster.on_wire(Stamped)
    assert not told.cluster.on_wire(StartEpoch)

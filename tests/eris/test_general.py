"""General transactions on the roles themselves: random mixes of them. The single claims, of
contracts A1, A2, A6 and C2, are transcripts: ``general_waits``, ``general_votes``, ``general_crash`` and
others."""

from __future__ import annotations

from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris import executor
from kvstore.eris.messages import Conclusory, Preliminary, Stamped
from kvstore.execution.operations import Operation
from kvstore.types import RequestId
from tests.support.cluster import Cluster, add, check, put, reserve


def opened(*, shards: int = 2, replicas: int = 1) -> Cluster:
    """Shard s has a<s> and b<s> at version 1, with the value 0."""
    cluster = Cluster(shards=shards, replicas=replicas)
    cluster.submit({shard: [put(f"a{shard}", 0), put(f"b{shard}", 0)] for shard in range(shards)})
    cluster.run()
    return cluster


def test_without_a_general_transaction_no_locks_are_looked_at() -> None:
    cluster = opened(shards=3, replicas=3)
    with mock.patch.object(executor, "footprint", side_effect=AssertionError("H3")):
        for number in range(20):
            cluster.submit({number % 3: [put("x", 1)]})
            cluster.submit({shard: [add("n")] for shard in range(3)})
        cluster.run()
    assert cluster.values(0, 0)["n"] == 20


SHARDS = 3
KEYS = ["a", "b", "c"]
step = st.one_of(
    st.tuples(
        st.just("write"), st.sets(st.tuples(st.integers(0, SHARDS - 1), st.sampled_from(KEYS)), min_size=1)
    ),
    st.tuples(
        st.just("lock"), st.sets(st.tuples(st.integers(0, SHARDS - 1), st.sampled_from(KEYS)), min_size=1)
    ),
    st.tuples(st.just("end"), st.tuples(st.integers(0, 5), st.booleans())),
    st.tuples(st.just("crash"), st.none()),
)


@settings(max_examples=120)
@given(st.lists(step, max_size=25), st.sampled_from([1, 3]))
def test_any_mix_ends_as_if_run_one_after_another_in_the_order_of_the_log(
    steps: list[tuple[str, object]], replicas: int
) -> None:
    """Each writes its number to its keys, so the last writer of the log shows, whoever overtook whom. A
    general transaction counts at the place of its preliminary. And nothing is ever seen by halves."""
    cluster = Cluster(shards=SHARDS, replicas=replicas)
    Mix(cluster).run(steps)


class Mix:
    """Runs steps on a cluster, and remembers what they should come to."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.order: list[tuple[int, set[tuple[int, str]]]] = []
        """What writes, in the order of the log."""
        self.open: dict[RequestId, tuple[int, set[tuple[int, str]]]] = {}
        self.aborted: set[int] = set()
        self.number = 0

    def run(self, steps: list[tuple[str, object]]) -> None:
        for kind, what in steps:
            getattr(self, kind)(what)
            self.cluster.run()
            self.cluster.client.park()
            self.check_whole()
        for number in list(self.open):
            self.finish(number, commit=True)
            self.cluster.run()
        self.check_end()

    def write(self, places: set[tuple[int, str]]) -> None:
        self.number += 1
        self.order.append((self.number, places))
        parts: dict[int, list[Operation]] = {}
        for shard, key in sorted(places):
            parts.setdefault(shard, []).append(put(key, self.number))
        self.cluster.submit(parts)

    def lock(self, places: set[tuple[int, str]]) -> None:
        self.number += 1
        self.order.append((self.number, places))
        parts: dict[int, list[Operation]] = {}
        for shard, key in sorted(places):
            parts.setdefault(shard, []).extend([check(key, 0), reserve(key)])
        request = self.cluster.submit_general(parts, {}, keeps_locks=True)
        self.open[request] = (self.number, places)

    def end(self, which: tuple[int, bool]) -> None:
        voted = [request for request in self.open if request in self.cluster.answers]
        if voted:
            self.finish(voted[which[0] % len(voted)], commit=which[1])

    def finish(self, request: RequestId, *, commit: bool) -> None:
        number, places = self.open.pop(request)
        commit = commit and request in self.cluster.answers
        if not commit:
            self.aborted.add(number)
        parts: dict[int, list[Operation]] = {}
        for shard, key in sorted(places):
            parts.setdefault(shard, []).append(put(key, number))
        self.cluster.conclude(request, parts if commit else None)

    def crash(self, _: object) -> None:
        """All clients die; the next opening aborts what they left."""
        hosts = range(self.cluster.replicas)
        self.cluster.crash(*hosts)
        self.cluster.restart(*hosts)
        self.cluster.change_epoch()
        self.cluster.release_dead()
        self.aborted |= {number for number, _ in self.open.values()}
        self.open.clear()
        self.cluster.answers.clear()

    def check_whole(self) -> None:
        """Where a transaction shows in one of its keys, it or a later one shows in all of them."""
        learner = self.cluster.learner.number
        shown = {
            (shard, str(key)): int(str(value))
            for shard in range(SHARDS)
            for key, value in self.cluster.values(learner, shard).items()
        }
        places = dict(self.order)
        for number in set(shown.values()):
            assert number not in self.aborted
            for place in places[number]:
                assert shown.get(place, 0) >= number, "half of a transaction shows"

    def check_end(self) -> None:
        expected: dict[tuple[int, str], int] = {}
        for number, places in self.order:
            if number not in self.aborted:
                expected |= dict.fromkeys(places, number)
        self.cluster.submit({shard: [put("end", 0)] for shard in range(SHARDS)})
        self.cluster.run()
        for host in range(self.cluster.replicas):
            assert self.cluster.problems(host) == []
            for shard in range(SHARDS):
                assert self.cluster.record(host, shard).waiting == ()
                found = {
                    (shard, str(k)): v for k, v in self.cluster.values(host, shard).items() if k != "end"
                }
                assert found == {place: number for place, number in expected.items() if place[0] == shard}


def test_the_messages_of_both_halves_survive_their_encoding() -> None:
    from kvstore.eris.messages import decode_stamped, encode

    cluster = opened()
    number = cluster.submit_general({0: [check("a0", 1)], 1: [reserve("a1")]}, {1: [put("a1", 2)]})
    halves = []
    while number not in cluster.answers:
        cluster.step()
        halves += [packet.message for packet in cluster.on_wire(Stamped)]
    assert {type(half.request.half) for half in halves if isinstance(half, Stamped)} == {
        Preliminary,
        Conclusory,
    }
    for half in halves:
        assert decode_stamped(encode(half)) == half

"""General transactions on the roles themselves: the schedules of contracts A1, A2, A6 and C2, by hand."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris import executor
from kvstore.eris.log_tail import committed_after
from kvstore.eris.messages import Conclusory, Preliminary, Reply, Request, Stamped
from kvstore.execution.operations import CheckRange, Operation
from kvstore.execution.stored_value import decoded_value
from kvstore.execution.validation import decode_current, digest_of
from kvstore.storage import MemoryEnvironment
from kvstore.types import RequestId, ShardId, Slot
from tests.support.cluster import Cluster, add, check, delete, put, reserve


def opened(*, shards: int = 2, replicas: int = 1) -> Cluster:
    """Shard s has a<s> and b<s> at version 1, with the value 0."""
    cluster = Cluster(shards=shards, replicas=replicas)
    cluster.submit({shard: [put(f"a{shard}", 0), put(f"b{shard}", 0)] for shard in range(shards)})
    cluster.run()
    return cluster


def lock(cluster: Cluster, *shards: int, keeps_locks: bool = False) -> RequestId:
    """A preliminary on a<s> of these shards has its locks; its second half has not been stamped."""
    parts: dict[int, list[Operation]] = {s: [check(f"a{s}", 1), reserve(f"a{s}")] for s in shards}
    writes: dict[int, list[Operation]] = {s: [put(f"a{s}", 7)] for s in shards}
    number = cluster.submit_general(parts, writes, keeps_locks=keeps_locks)
    while not cluster.on_wire(Request) or not is_conclusory(cluster):
        cluster.step()
    return number


def is_conclusory(cluster: Cluster) -> bool:
    return any(
        isinstance(packet.message, Request) and isinstance(packet.message.half, Conclusory)
        for packet in cluster.on_wire(Request)
    )


def hold_back(cluster: Cluster) -> list[Request]:
    """Take second halves off the wire, for later."""
    held = [p.message for p in cluster.on_wire(Request) if isinstance(p.message, Request) and p.message.half]
    cluster.wire = [packet for packet in cluster.wire if packet.message not in held]
    return held


def chain(cluster: Cluster, shard: int) -> list[tuple[int, dict[str, object]]]:
    """What a shard's chain shows: slots that changed something, up to the resolved end."""
    view = MemoryEnvironment(cluster.disk, "0").view()
    found = []
    for committed in committed_after(view, [Slot(0)] * cluster.shards):
        for piece in committed.pieces:
            if piece.shard == shard and piece.changes:
                changes = {
                    key.decode("latin-1")[2:4]: value and decoded_value(bytes(8) + value)
                    for key, value in piece.changes.items()
                }
                found.append((int(piece.slot), changes))
    return found


class TestWaitingInOrder:
    def test_a1_chains_never_tell_two_orders(self) -> None:
        """G holds a1; T{a0,a1} waits; U{b0,b1} overtakes T. Both chains are G, T, U."""
        cluster = opened()
        lock(cluster, 1)
        held = hold_back(cluster)

        cluster.submit({0: [put("a0", 1)], 1: [put("a1", 1)]})
        cluster.run()
        cluster.submit({0: [put("b0", 2)], 1: [put("b1", 2)]})
        cluster.run()

        assert cluster.values(0, 0)["b0"] == cluster.values(0, 1)["b1"] == 2, "U overtook"
        assert [slot for slot, _ in chain(cluster, 0)] == [1], "the chain ends before T"
        assert [slot for slot, _ in chain(cluster, 1)] == [1], "the chain ends before G"
        for request in held:
            cluster.carry(cluster.sequencer.handle(request, cluster.sequencer.clock))
        cluster.run()
        assert [list(changes.items()) for _, changes in chain(cluster, 0)[1:]] == [[("a0", 1)], [("b0", 2)]]
        assert [list(changes.items()) for _, changes in chain(cluster, 1)[1:]] == [
            [("a1", 7)],
            [("a1", 1)],
            [("b1", 2)],
        ]

    def test_a2_what_waits_on_one_shard_waits_on_all(self) -> None:
        cluster = opened()
        lock(cluster, 1)
        held = hold_back(cluster)

        cluster.submit({0: [put("b0", 1)], 1: [put("a1", 1)]})
        cluster.run()

        assert cluster.values(0, 0)["b0"] == 0, "half of it would show"
        assert cluster.record(0, 0).waiting == (2,)
        assert cluster.record(0, 0).resolved_end == 1
        cluster.submit({0: [put("b0", 2)]})
        cluster.run()
        assert cluster.values(0, 0)["b0"] == 0, "it keeps its place in every queue"
        for request in held:
            cluster.carry(cluster.sequencer.handle(request, cluster.sequencer.clock))
        cluster.run()
        assert cluster.values(0, 0)["b0"] == 2
        assert cluster.values(0, 1)["a1"] == 1
        assert cluster.record(0, 0).waiting == cluster.record(0, 1).waiting == ()

    def test_the_writes_have_place_version_and_slot_of_the_preliminary(self) -> None:
        cluster = opened()
        number = lock(cluster, 0, 1)
        cluster.submit({0: [put("b0", 1)]})
        cluster.run()

        assert cluster.answers[number].committed
        assert cluster.answers[number].slots == {0: 2, 1: 2}
        assert cluster.cells(0, 0)["a0"] == (7, 2)
        assert cluster.cells(0, 0)["b0"] == (1, 4)

    def test_without_a_general_transaction_nobody_looks_at_locks(self) -> None:
        cluster = opened(shards=3, replicas=3)
        with mock.patch.object(executor, "footprint", side_effect=AssertionError("H3")):
            for number in range(20):
                cluster.submit({number % 3: [put("x", 1)]})
                cluster.submit({shard: [add("n")] for shard in range(3)})
            cluster.run()
        assert cluster.values(0, 0)["n"] == 20

    def test_readers_of_one_key_do_not_wait_for_each_other(self) -> None:
        cluster = opened()
        for _ in range(2):
            cluster.submit_general({0: [check("a0", 1)], 1: [reserve("z")]}, {1: []}, keeps_locks=True)
        cluster.submit_general({0: [check("a0", 1)], 1: [check("b1", 1)]}, {}, keeps_locks=True)
        cluster.run()

        assert [answer.committed for answer in cluster.answered[1:]] == [True, True, True]

    def test_a_waiting_transaction_that_is_aborted_frees_nobody_too_early(self) -> None:
        """G1 holds a0, G2 waits for it, T waits for G2. Without G2, T still waits for G1."""
        cluster = opened()
        lock(cluster, 0, 1)
        held = hold_back(cluster)
        second = cluster.submit_general({0: [reserve("a0"), reserve("b0")], 1: []}, {}, keeps_locks=True)
        cluster.run()
        cluster.submit({0: [put("a0", 3), put("b0", 3)]})
        cluster.run()
        assert cluster.record(0, 0).waiting == (2, 3, 4)

        cluster.conclude(second, None)
        cluster.run()

        assert cluster.answers[second].committed is False
        assert cluster.values(0, 0)["a0"] == 0
        assert cluster.record(0, 0).waiting == (2, 4)
        for request in held:
            cluster.carry(cluster.sequencer.handle(request, cluster.sequencer.clock))
        cluster.run()
        assert cluster.values(0, 0)["a0"] == 3


class TestTheTwoHalves:
    def test_c2_what_has_changed_is_told_and_stays_locked(self) -> None:
        cluster = opened()
        cluster.submit({0: [put("a0", 50)]})
        cluster.run()
        number = cluster.submit_general(
            {0: [check("a0", 1), reserve("b0")], 1: [check("a1", 1)]}, {}, keeps_locks=True
        )
        cluster.run()

        answer = cluster.answers[number]
        assert answer.committed is None
        assert not answer.outcomes[ShardId(1)].refused
        now = decode_current(answer.outcomes[ShardId(0)].results[0])  # type: ignore[arg-type]
        assert now.changed == put("a0", 0).key
        held = {key: cell and decoded_value(cell) for key, cell in now.cells.items()}
        assert held == {put("a0", 0).key: 50, put("b0", 0).key: 0}
        cluster.submit({0: [put("a0", 51)]})
        cluster.submit({1: [put("a1", 51)]})
        cluster.run()
        assert cluster.values(0, 0)["a0"] == 50, "the locks stay"
        assert cluster.values(0, 1)["a1"] == 0, "there too"
        cluster.conclude(number, {0: [put("b0", 50)]})
        cluster.run()
        assert cluster.answers[number].committed
        assert cluster.values(0, 0) == {"a0": 51, "b0": 50}

    @pytest.mark.parametrize("change", ["insert", "delete", "update"])
    def test_c2_a_scanned_range_is_validated_as_a_range(self, change: str) -> None:
        cluster = opened()
        start, stop = put("a", 0).key, put("c", 0).key
        rows = [(put("a0", 0).key, (1).to_bytes(8, "big")), (put("b0", 0).key, (1).to_bytes(8, "big"))]
        scan = CheckRange(start, stop, digest_of(rows))
        first = cluster.submit_general({0: [scan], 1: [reserve("z")]}, {1: [put("z", 1)]})
        cluster.run()
        assert cluster.answers[first].committed
        changes: dict[str, Operation] = {"insert": put("bb", 1), "delete": delete("a0"), "update": add("b0")}
        cluster.submit({0: [changes[change]]})
        cluster.run()

        second = cluster.submit_general({0: [scan], 1: [reserve("z")]}, {1: [put("z", 2)]})
        cluster.run()

        assert cluster.answers[second].committed is False
        assert cluster.values(0, 1)["z"] == 1

    def test_a_range_is_locked_as_a_range(self) -> None:
        cluster = opened()
        scan = CheckRange(put("a", 0).key, put("c", 0).key, b"not this")
        number = cluster.submit_general({0: [scan], 1: [reserve("z")]}, {}, keeps_locks=True)
        cluster.run()
        cluster.submit({0: [put("bb", 1)]})
        cluster.submit({0: [put("d", 1)]})
        cluster.run()

        assert "bb" not in cluster.values(0, 0)
        assert cluster.values(0, 0)["d"] == 1
        cluster.conclude(number, None)
        cluster.run()
        assert cluster.values(0, 0)["bb"] == 1

    def test_of_two_second_halves_the_first_in_the_order_counts_everywhere(self) -> None:
        cluster = opened(replicas=3)
        number = lock(cluster, 0, 1)
        commits = hold_back(cluster)

        cluster.conclude_for(cluster.client.client, number, {0: [], 1: []}, commit=False)
        cluster.run()
        for request in commits:
            cluster.carry(cluster.sequencer.handle(request, cluster.sequencer.clock))
        cluster.run()

        assert cluster.answers[number].committed is False, "its client is told the truth"
        for host in range(3):
            assert cluster.values(host, 0)["a0"] == cluster.values(host, 1)["a1"] == 0

    def test_an_abort_that_comes_late_changes_nothing(self) -> None:
        cluster = opened()
        number = lock(cluster, 0, 1)
        while number not in cluster.answers:
            cluster.step()

        cluster.conclude_for(cluster.client.client, number, {0: [], 1: []}, commit=False)
        cluster.run()

        assert cluster.values(0, 0)["a0"] == cluster.values(0, 1)["a1"] == 7

    def test_a_late_copy_of_the_preliminary_locks_nothing(self) -> None:
        """The tombstone. Its client has no answer yet, so it may well send it again."""
        cluster = opened()
        number = lock(cluster, 0, 1)
        preliminary = cluster.client.outstanding[number].request
        hold_back(cluster)
        cluster.conclude_for(cluster.client.client, number, {0: [], 1: []}, commit=False)
        cluster.run()

        cluster.carry(cluster.sequencer.handle(preliminary, cluster.sequencer.clock))
        cluster.run()
        cluster.submit({0: [put("a0", 1)]})
        cluster.run()

        assert cluster.values(0, 0)["a0"] == 1, "nothing is locked"
        assert cluster.record(0, 0).waiting == ()

    def test_an_abort_that_comes_before_its_preliminary_keeps_it_from_locking(self) -> None:
        cluster = opened()
        number = cluster.submit_general({0: [reserve("a0")], 1: [reserve("a1")]}, {}, keeps_locks=True)
        preliminary = cluster.client.outstanding[number].request
        cluster.wire.clear()

        cluster.conclude_for(cluster.client.client, number, {0: [], 1: []}, commit=False)
        cluster.run()
        cluster.carry(cluster.sequencer.handle(preliminary, cluster.sequencer.clock))
        cluster.run()

        assert cluster.record(0, 0).waiting == ()
        assert cluster.answers[number].committed is False

    def test_a_copy_of_a_preliminary_that_holds_its_locks_gets_its_vote_again(self) -> None:
        cluster = opened()
        number = cluster.submit_general({0: [reserve("a0")], 1: [reserve("a1")]}, {})
        cluster.step()
        cluster.step()
        cluster.lose(Reply)

        cluster.carry(cluster.client.on_timer("retry"))
        cluster.run()

        assert cluster.answers[number].committed
        assert cluster.record(0, 0).waiting == ()


class TestCrashes:
    @pytest.mark.parametrize("replicas", [1, 3])
    def test_a6_locks_and_queues_are_rebuilt_and_nothing_runs_twice(self, replicas: int) -> None:
        cluster = opened(replicas=replicas)
        lock(cluster, 1)
        hold_back(cluster)
        cluster.submit({0: [add("b0", 1)], 1: [add("a1", 1)]})
        cluster.run()
        for _ in range(3):
            cluster.submit({0: [add("a0", 1)], 1: [add("b1", 1)]})
            cluster.run()
        assert cluster.values(0, 0) == {"a0": 3, "b0": 0}

        for _ in range(2):
            hosts = range(replicas)
            cluster.crash(*hosts)
            cluster.restart(*hosts)
            cluster.change_epoch()
            for host in hosts:
                assert cluster.values(host, 0) == {"a0": 3, "b0": 0}, "what overtook is not run twice"
                assert cluster.record(host, 0).waiting == (2,)
                assert cluster.record(host, 1).waiting == (2, 3)
        cluster.submit({1: [add("a1", 10)]})
        cluster.run()
        assert cluster.values(0, 1)["a1"] == 0, "the lock and the queue are there again"
        cluster.release_dead()
        cluster.run()
        for host in range(replicas):
            assert cluster.values(host, 0) == {"a0": 3, "b0": 1}
            assert cluster.values(host, 1) == {"a1": 11, "b1": 3}
            assert cluster.problems(host) == []

    def test_a_window_stays_small_while_one_request_waits(self) -> None:
        cluster = opened()
        lock(cluster, 0, 1)
        hold_back(cluster)
        for _ in range(50):
            cluster.client.park()
            cluster.submit({0: [put("b0", 1)]})
            cluster.run()

        window = cluster.record(0, 0).windows[cluster.client.client]
        assert len(window.outcomes) <= 2


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

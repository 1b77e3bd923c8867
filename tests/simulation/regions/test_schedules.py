"""The schedules of contracts A1, D1, D2 and D3: each is what goes wrong where the rule is not kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvstore import keys, values
from kvstore.database.routing import Routing
from kvstore.engine.request import ClientRequest, Conclusion, PendingRequest
from kvstore.eris.client import SecondHalf
from kvstore.eris.effects import Send
from kvstore.eris.messages import Stamped
from kvstore.eris.shard_state import REGISTERS, table_name
from kvstore.errors import Failed
from kvstore.execution.operations import (
    Add,
    Check,
    Import,
    Marker,
    Operation,
    Operations,
    Piece,
    Put,
    Segment,
    Skip,
    Spend,
)
from kvstore.execution.stored_value import value_of
from kvstore.simulation.simulated_region import RegionSimulator, SimulatedRegion
from kvstore.types import RegionId, ShardId, Slot, Timestamp
from tests.simulation.regions.run import check_convergence

NEVER = 0
SECOND_NS = 10**9
A, B = ShardId(0), ShardId(1)
EVERYTHING = 1 << 60


class World(RegionSimulator):
    """Two regions of two shards, without faults."""

    def __init__(self) -> None:
        self.routing = Routing(2, None)
        super().__init__(1, ("eu", "us"), 2, lambda *_: self.routing.owns)
        self.eu, self.us = self.regions
        for region in self.regions:
            region.syncs_at_once = True
            region.start()
        self._names = {shard: self._keys_of(shard) for shard in (A, B)}

    def _keys_of(self, shard: ShardId) -> Iterator[bytes]:
        for number in range(1000):
            encoded = keys.encode(f"k{number}")
            if self.routing.shard_of_encoded(encoded) == shard:
                yield encoded

    def key(self, shard: ShardId) -> bytes:
        """Another key of this shard."""
        return next(self._names[shard])

    def go_on(self, seconds: float = 1.0) -> None:
        self.run_until(self.now + int(seconds * 1_000_000))


@pytest.fixture
def world() -> World:
    return World()


def pending(*writes: Operation) -> PendingRequest:
    """A request of these operations, each of which has a key."""
    routing = Routing(2, None)
    operations: Operations = {}
    for write in writes:
        shard = routing.shard_of_encoded(write.key)  # type: ignore[union-attr]  # puts and adds
        operations[shard] = (*operations.get(shard, ()), write)
    return PendingRequest(ClientRequest(operations, 0, 1))


def put(key: bytes, value: object) -> Put:
    return Put(key, values.encode(value))


def shown(region: SimulatedRegion, key: bytes) -> object:
    shard = Routing(2, None).shard_of_encoded(key)
    payload = value_of(region.view.table(table_name(shard, REGISTERS)).get(key))
    return None if payload is None else values.decode(payload)


def order(region: SimulatedRegion, shard: ShardId) -> list[bytes]:
    """The first key that each node of a chain of eu put, as this region has it."""
    segments = dict(region.log().read(RegionId(0), (Slot(0), Slot(0)), EVERYTHING))
    items = segments[shard].items if shard in segments else ()
    return [item.effects[0].key for item in items if isinstance(item, Piece)]


class TestA1:
    def test_two_shards_never_tell_two_orders(self, world: World) -> None:
        """G holds a1; T of a1 and b1 waits; U of a2 and b2 overtakes it. Both chains tell the same order."""
        a1, a2, b1, b2 = world.key(A), world.key(A), world.key(B), world.key(B)
        holding = PendingRequest(
            ClientRequest(
                {A: (Check(a1, NEVER),)}, 0, 1, second_half=SecondHalf({A: (put(a1, "G"),)}, keeps_locks=True)
            )
        )
        world.eu.process([holding])
        assert holding.answer is not None
        assert holding.answer.committed is None, "it holds a1"
        waiting, overtaking = pending(put(a1, "T"), put(b1, "T")), pending(put(a2, "U"), put(b2, "U"))

        world.eu.process([waiting])
        world.eu.process([overtaking])
        assert waiting.answer is None
        assert overtaking.answer is not None
        world.go_on()
        assert shown(world.eu, b2) == "U"
        assert shown(world.us, b2) is None, "a chain is shipped only up to what is resolved"

        conclusion = Conclusion(holding.answer.request, commits=True)
        ending = PendingRequest(ClientRequest({A: (put(a1, "G"),)}, 0, 1, conclusion=conclusion))
        world.eu.process([ending])
        world.go_on()
        for region in world.regions:
            assert [key for key in order(region, A) if key in (a1, a2)] == [a1, a1, a2], "G, T, U"
            assert [key for key in order(region, B) if key in (b1, b2)] == [b1, b2], "T, U"
        check_convergence(world.regions)

    def test_a_general_transaction_stands_where_its_first_half_does(self, world: World) -> None:
        key, other = world.key(A), world.key(A)
        holding = PendingRequest(
            ClientRequest(
                {A: (Check(key, NEVER),)}, 0, 1, second_half=SecondHalf({A: (put(key, 1),)}, keeps_locks=True)
            )
        )
        world.eu.process([holding])
        world.eu.process([pending(put(other, 2))])
        assert holding.answer is not None
        conclusion = Conclusion(holding.answer.request, commits=True)
        ending = PendingRequest(ClientRequest({A: (put(key, 1),)}, 0, 1, conclusion=conclusion))
        world.eu.process([ending])
        world.go_on()

        assert order(world.us, A) == [key, other]
        check_convergence(world.regions)


class TestSkips:
    def test_each_keeps_its_edges_and_waits_for_no_more(self, world: World) -> None:
        """A refusal, then one behind something on the other shard: as one skip either would wait for what
        waits for it, or what comes behind it for too little."""
        account = world.key(A)
        for _ in range(2):
            world.eu.process([pending(Spend(account, 1))])
            world.eu.process([pending(put(world.key(B), 1))])
        world.eu.process([pending(Spend(account, 1))])
        world.eu.process([pending(put(world.key(A), 2))])

        items = dict(world.eu.log().read(RegionId(0), (Slot(0), Slot(0)), EVERYTHING))[A].items
        assert items[:-1] == (Skip(Slot(1)), Skip(Slot(2), {B: Slot(1)}), Skip(Slot(3), {B: Slot(2)}))
        assert isinstance(items[-1], Piece)
        world.go_on()
        check_convergence(world.regions)

    def test_a_copy_of_a_request_ships_nothing(self, world: World) -> None:
        key = world.key(A)
        world.eu.process([pending(Add(key, values.encode(5)))])
        cluster = world.eu.cluster
        assert cluster is not None
        learner = cluster.learner
        learner.begin()
        stamped = learner.replicas[A].logged(Slot(1))
        assert stamped is not None
        (sent,) = cluster.sequencer.handle(stamped.request, Timestamp(world.eu.clock()))
        assert isinstance(sent, Send)
        assert isinstance(sent.message, Stamped)
        learner.handle([(A, sent.message)])
        learner.finish()
        learner.commit()
        world.eu.process([pending(put(world.key(A), 1))])
        world.go_on()

        assert shown(world.eu, key) == shown(world.us, key) == 5
        check_convergence(world.regions)


class TestD1:
    def test_a_put_is_later_than_what_its_region_imported(self, world: World) -> None:
        """The other clock is five seconds ahead: a local put that is acknowledged after that wins."""
        key = world.key(A)
        world.us.offset = 5 * SECOND_NS
        world.us.process([pending(put(key, "from the future"))])
        world.go_on()
        assert shown(world.eu, key) == "from the future"

        world.eu.process([pending(put(key, "after it"))])
        world.go_on()
        assert shown(world.eu, key) == shown(world.us, key) == "after it"

    def test_what_is_too_far_ahead_waits_and_is_told_of(self, world: World) -> None:
        key, other = world.key(A), world.key(B)
        world.us.offset = 60 * SECOND_NS
        world.us.process([pending(put(key, "far ahead"))])
        world.go_on()
        assert shown(world.eu, key) is None
        assert RegionId(1) in world.eu.shipping.importer.held

        world.eu.process([pending(put(other, "here"))])
        world.go_on()
        assert shown(world.us, other) == "here", "nobody else waits"
        world.eu.offset = 59 * SECOND_NS
        world.go_on()
        assert shown(world.eu, key) == "far ahead"
        assert world.eu.shipping.importer.held == {}


class TestD2:
    def test_what_power_can_take_back_does_not_leave_the_region(self, world: World) -> None:
        key = world.key(A)
        world.eu.syncs_at_once = False
        world.eu.process([pending(put(key, "not on disk"))])
        world.go_on()
        assert shown(world.eu, key) == "not on disk"
        assert shown(world.us, key) is None

        world.eu.lose_power()
        world.eu.start()
        world.go_on()
        assert shown(world.eu, key) is None
        assert shown(world.us, key) is None, "it lives nowhere"

        world.eu.process([pending(put(key, "on disk"))])
        world.eu.sync()
        world.go_on()
        assert shown(world.us, key) == "on disk"


class TestD3:
    def test_two_importers_do_no_harm(self, world: World) -> None:
        """The same run is imported twice: the second time everything in it is here already."""
        key = world.key(A)
        for _ in range(3):
            world.us.process([pending(Add(key, values.encode(5)))])
        segments = dict(world.us.log().read(RegionId(1), (Slot(0), Slot(0)), EVERYTHING))
        operations: Operations = {shard: (Import((segment,)),) for shard, segment in segments.items()}
        for _ in range(2):
            after = max(item.time for item in segments[A].items if isinstance(item, Piece))
            again = PendingRequest(ClientRequest(operations, 0, 1, after=after))
            world.eu.process([again])

        assert shown(world.eu, key) == 15
        world.go_on()
        assert shown(world.eu, key) == shown(world.us, key) == 15

    def test_an_old_run_takes_nothing_back(self, world: World) -> None:
        """What its region has seen does not become less by importing once more what is long here."""
        key = world.key(A)
        world.us.process([pending(put(key, "first"))])
        segments = dict(world.us.log().read(RegionId(1), (Slot(0), Slot(0)), EVERYTHING))
        imports: Operations = {A: (Import((segments[A],)),)}
        old = PendingRequest(ClientRequest(imports, 0, 1, after=Timestamp(1)))
        world.us.process([pending(put(key, "second"))])
        world.go_on()
        world.eu.process([old])
        world.eu.process([pending(put(key, "has seen the second"))])
        world.go_on()

        check_convergence(world.regions)

    def test_what_leaves_out_a_slot_stops_the_region(self, world: World) -> None:
        for value in range(2):
            world.us.process([pending(put(world.key(A), value))])
        (whole,) = (part for _, part in world.us.log().read(RegionId(1), (Slot(0), Slot(0)), EVERYTHING))
        gap = PendingRequest(
            ClientRequest({A: (Import((Segment(RegionId(1), Slot(2), whole.items[1:]),)),)}, 0, 1)
        )
        with pytest.raises(Failed, match="REGION-2"):
            world.eu.process([gap])

    def test_a_region_goes_on_behind_what_it_imported(self, world: World) -> None:
        keys_of_a = [world.key(A) for _ in range(4)]
        for number, key in enumerate(keys_of_a[:2]):
            world.us.process([pending(put(key, number))])
        world.go_on()
        before = world.eu.log().ends()[RegionId(1)]
        world.eu.lose_power()
        for number, key in enumerate(keys_of_a[2:]):
            world.us.process([pending(put(key, number))])
        world.eu.start()

        assert world.eu.shipping.importer.received()[RegionId(1)] == before
        world.go_on()
        assert [shown(world.eu, key) for key in keys_of_a] == [0, 1, 0, 1]

    def test_idle_regions_fall_silent(self, world: World) -> None:
        """Each hears of the other's imports, and makes none of them."""
        world.us.process([pending(put(world.key(A), 1))])
        world.eu.process([pending(put(world.key(B), 2))])
        world.go_on()
        ends = [region.executed() for region in world.regions]
        world.go_on(5)

        assert [region.executed() for region in world.regions] == ends
        chain = dict(world.eu.log().read(RegionId(0), (Slot(0), Slot(0)), EVERYTHING))
        assert sum(isinstance(item, Marker) for part in chain.values() for item in part.items) == 1
        for one, other in (world.regions, world.regions[::-1]):
            assert one.shipping.importer.applied()[other.number] == tuple(other.executed())

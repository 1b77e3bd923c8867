"""A coordinator that crashed and begins again is another one: it takes no epoch that it had before."""

from __future__ import annotations

from kvstore.eris.coordinator_replication import ReplicatedCoordinator
from tests.eris.test_coordinator_replication import World
from tests.support.cluster import COORDINATORS


def begin_again(world: World) -> None:
    world.coordinators[0] = ReplicatedCoordinator(
        number=0, life=1, coordinators=COORDINATORS, hosts=3, shards=1
    )


def test_that_led() -> None:
    world = World()
    first = world.lead(0)
    begin_again(world)

    assert world.lead(0) > first


def test_whose_record_was_saved_nowhere_yet() -> None:
    world = World()
    world.prepare(0)
    while not world.coordinators[0].leading:
        world.deliver(world.wire[0])
    world.wire = []  # its SAVEs are under way
    first = world.coordinators[0].epoch
    begin_again(world)
    world.prepare(0)
    world.run()

    assert world.coordinators[0].epoch > first, "two lives would share a ballot"

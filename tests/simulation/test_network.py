"""The network of the simulator: what links do."""

from __future__ import annotations

import random

from kvstore.simulation.simulated_network import Endpoint, SimulatedNetwork

A, B, C = Endpoint("host", 0), Endpoint("host", 1), Endpoint("client", 7)


def network(**weather: float) -> SimulatedNetwork:
    return SimulatedNetwork(random.Random(1), **weather)  # type: ignore[arg-type]  # by the names of its fields


def test_a_message_arrives_once_and_in_its_time() -> None:
    for _ in range(100):
        (delay,) = network().arrivals((A, B))
        assert 200 <= delay <= 1_500


def test_loss_and_repeats_are_about_as_often_as_was_asked_for() -> None:
    bad = network(loss=0.2, repeats=0.1)
    arrivals = [len(bad.arrivals((A, B))) for _ in range(10_000)]

    assert 1_800 < arrivals.count(0) == bad.counts["lost"] < 2_200
    assert 600 < arrivals.count(2) == bad.counts["repeated"] < 1_000


def test_a_cut_is_one_way_or_both_and_is_healed() -> None:
    links = network()
    links.cut_off({A}, {B, C}, both_ways=False)
    assert links.arrivals((A, B)) == links.arrivals((A, C)) == []
    assert links.arrivals((B, A))

    links.cut_off({B}, {A})
    assert links.arrivals((B, A)) == []
    assert links.arrivals((B, C))

    links.heal()
    assert links.arrivals((A, B))


def test_what_is_clogged_waits_until_it_is_opened() -> None:
    links = network()
    links.clog((A, B))
    links.clogged[A, B].append("waits")

    assert links.unclog((A, B)) == ["waits"]
    assert links.unclog((A, B)) == []

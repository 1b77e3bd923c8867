"""Each invariant that is asserted in fuzzylog/ is broken once: the state is made wrong by hand, and the
assertion that fails names its label and the numbers."""

from __future__ import annotations

import pytest

from kvstore.execution.operations import Piece, Segment, Skip
from kvstore.fuzzylog import importing
from kvstore.fuzzylog.ancestry import Ancestry
from kvstore.fuzzylog.causes import Causes
from kvstore.fuzzylog.importing import Importer, Run
from kvstore.fuzzylog.messages import Identity, Shipment, Want
from kvstore.fuzzylog.rebalancing import Rebalancing
from kvstore.fuzzylog.shipping import PullAnswer, Shipping
from kvstore.types import RegionId, ShardId, Slot, Timestamp
from tests.support.broken import broken

OWN, EU = RegionId(0), RegionId(1)
A, B = ShardId(0), ShardId(1)


@pytest.fixture
def importer() -> Importer:
    return Importer(OWN, {EU: (Slot(0), Slot(0))}, {}, skew=10)


@pytest.fixture
def shipping(importer: Importer) -> Shipping:
    return Shipping(Identity("us", ("us", "eu"), "world", 2, None), importer)


def test_an_edge_leads_to_what_was_executed() -> None:
    causes = Causes(2)
    causes.observe([Slot(4), Slot(5)])

    with broken("CAUSES-1", "(4, 5)", "(4, 3)"):
        causes.observe([Slot(4), Slot(3)])


def test_no_slot_of_a_chain_is_left_out(importer: Importer) -> None:
    chain = importer.chains[EU, A]
    chain.items.append(Skip(Slot(1)))
    chain.copied = Slot(9)

    with broken("IMPORT-1", "slot 1", "slot 9"):
        importer.imported(Run({}, Timestamp(0), 0, {(EU, A): 1}))


def test_a_node_waits_for_the_clock(importer: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    early = Run({}, Timestamp(111), 0, {})
    monkeypatch.setattr(importing._Walk, "run", lambda walk: early)

    with broken("IMPORT-2", 111, 110):
        importer.next_run(Timestamp(100))


def test_what_may_be_taken_back_is_not_shipped(shipping: Shipping) -> None:
    answer = PullAnswer({}, {OWN: (Slot(5), Slot(5))}, {}, {OWN: (Slot(0), Slot(0))})

    with broken("SHIP-1", "{0: 6}", "(5, 5)"):
        shipping.finish(answer, {OWN: {A: Segment(OWN, Slot(1), (Skip(Slot(6)),))}})


def test_a_copy_is_a_beginning_of_its_chain(shipping: Shipping) -> None:
    """More was read of a copy than imports made, and what is noted behind the copy would not follow it."""
    shipping.importer.chains[EU, A].copied = Slot(4)
    answer = PullAnswer({}, {EU: (Slot(4), Slot(0))}, {}, {EU: (Slot(0), Slot(0))})

    with broken("SHIP-2", "slot 4", "slot 6"):
        shipping.finish(answer, {EU: {A: Segment(EU, Slot(1), (Skip(Slot(6)),))}})


def test_a_region_takes_no_shipment_of_its_own(shipping: Shipping) -> None:
    with broken("SHIP-2", "region 0", "{1: (7, 7)}"):
        shipping.take(Shipment(shipping.identity, {}, {EU: (Slot(7), Slot(7))}, {}))


class TestAncestry:
    def test_takes_a_chain_in_its_order(self) -> None:
        ancestry = Ancestry(Timestamp(0))
        ancestry.take(A, Segment(EU, Slot(1), (Skip(Slot(3)),)))

        with broken("CHAIN-1", "slot 2", "slot 3"):
            ancestry.take(A, Segment(EU, Slot(1), (Skip(Slot(2)),)))

    def test_takes_pieces_that_know_their_place(self) -> None:
        piece = Piece(Slot(3), Timestamp(10), places={A: Slot(4), B: Slot(1)})

        with broken("CHAIN-2", "slot 3", "{0: 4, 1: 1}"):
            Ancestry(Timestamp(0)).take(A, Segment(EU, Slot(1), (piece,)))

    def test_sees_a_node_that_comes_behind_itself(self) -> None:
        ancestry = Ancestry(Timestamp(0))
        ancestry.take(A, Segment(EU, Slot(1), (Piece(Slot(1), Timestamp(10), edges={A: Slot(2)}),)))

        with broken("CAUSES-1", "node (10, 1)"):
            ancestry.causes([((EU, A), Slot(1))])


class TestRebalancing:
    def test_gives_what_it_has(self) -> None:
        with broken("RIGHTS-1", 0, -3):
            Rebalancing(OWN, 3).grant(Want(A, b"k", 10, EU, 2), rights=-3, takers=0)

    def test_asks_for_something(self) -> None:
        with broken("RIGHTS-2", 0, b"k"):
            Rebalancing(OWN, 3).want(A, b"k", 0)

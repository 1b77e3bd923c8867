"""Hints for rights: who asks, who gives, who passes on."""

from __future__ import annotations

from kvstore.fuzzylog.messages import Want
from kvstore.fuzzylog.rebalancing import WANTS_MAX, Rebalancing
from kvstore.types import RegionId, ShardId

OWN, OTHER = RegionId(0), RegionId(1)
A = ShardId(0)


def want(amount: int, hops: int = 2, taker: RegionId = OTHER) -> Want:
    return Want(A, b"k", amount, taker, hops)


def test_it_asks_until_it_has_enough() -> None:
    region = Rebalancing(OWN, 3)
    region.want(A, b"k", 10)
    assert region.wants(lambda *_: (9, 99)) == (Want(A, b"k", 10, OWN, 2),)
    assert region.wants(lambda *_: (10, 99)) == ()
    assert region.wants(lambda *_: (0, 99)) == (), "it was satisfied once"


def test_it_does_not_ask_for_more_than_there_is() -> None:
    region = Rebalancing(OWN, 3)
    region.want(A, b"k", 10)
    assert region.wants(lambda *_: (0, 9)) == ()


def test_of_two_that_ran_short_only_the_later_gives() -> None:
    earlier, later = Rebalancing(OWN, 3), Rebalancing(OTHER, 3)
    for region in (earlier, later):
        region.want(A, b"k", 10)
    assert earlier.grant(want(10), rights=6, takers=4) == 0
    assert later.grant(want(10, taker=OWN), rights=6, takers=4) == 3


def test_it_gives_what_is_lacking_and_at_most_half() -> None:
    region = Rebalancing(OWN, 3)
    assert region.grant(want(10), rights=100, takers=4) == 6
    assert region.grant(want(10), rights=6, takers=0) == 3
    assert region.grant(want(10), rights=0, takers=0) == 0
    assert region.grant(want(10), rights=100, takers=10) == 0, "what it gave is seen here already"


def test_what_it_cannot_give_it_passes_on_once() -> None:
    region = Rebalancing(OWN, 3)
    region.grant(want(10, hops=2), rights=0, takers=0)
    assert region.wants(lambda *_: (0, 99)) == (want(10, hops=1),)
    assert region.wants(lambda *_: (0, 99)) == ()
    region.grant(want(10, hops=1), rights=0, takers=0)
    assert region.wants(lambda *_: (0, 99)) == (), "it came far enough"


def test_its_own_wants_come_back_to_nobody() -> None:
    region = Rebalancing(OWN, 3)
    assert region.grant(want(10, taker=OWN), rights=100, takers=0) == 0
    assert region.wants(lambda *_: (0, 99)) == ()


def test_many_wants_take_turns() -> None:
    region = Rebalancing(OWN, 3)
    for number in range(WANTS_MAX + 10):
        region.want(A, b"%d" % number, 1)
    asked = {one.key for _ in range(2) for one in region.wants(lambda *_: (0, 99))}
    assert len(asked) == WANTS_MAX + 10

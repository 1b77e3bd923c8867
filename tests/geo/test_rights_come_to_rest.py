"""Two regions that both run short of one account: rights move for a while, and then come to rest."""

from __future__ import annotations

import time

import pytest

import kvstore


def places(geo: kvstore.Geo) -> list[object]:
    return [geo[name].status()["logs"] for name in geo.regions()]


def wait_until_at_rest(geo: kvstore.Geo) -> None:
    deadline = time.monotonic() + 20
    before: list[object] = []
    while time.monotonic() < deadline:
        geo.settle(60)
        now = places(geo)
        if now == before:
            return
        before = now
        time.sleep(0.6)
    raise AssertionError(f"rights still go back and forth: {before}")


def test_two_that_want_what_is_not_there_any_more_come_to_rest() -> None:
    with kvstore.Geo(":memory:", regions=["a", "b"], shards=1) as geo:
        geo["a"].bounded("gift").add(60)
        geo["a"].bounded("gift").add(40, to="b")
        geo.settle(60)
        geo.cut("a", "b")
        for name in geo.regions():
            with pytest.raises(kvstore.InsufficientRights):
                geo[name].bounded("gift").spend(90)
        geo["b"].bounded("gift").spend(30)
        geo.heal("a", "b")

        wait_until_at_rest(geo)

        assert geo["a"].bounded("gift").value() == geo["b"].bounded("gift").value() == 70

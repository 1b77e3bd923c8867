"""The exchange with neighbours, message by message: what is asked, answered, refused (NEIGHBOUR-1 to 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from kvstore.errors import Corrupt, DuplicateRegion, Error, WrongFormat, WrongShape
from kvstore.execution.crdt.escrow import Funds
from kvstore.execution.operations import ChainItem, Grant, Piece, Put, Segment
from kvstore.fuzzylog import neighbours
from kvstore.fuzzylog.exchange_effects import (
    AnswerPull,
    ExchangeEffect,
    Importable,
    Refused,
    SendTo,
    Stopped,
    Wanted,
)
from kvstore.fuzzylog.importing import Importer
from kvstore.fuzzylog.messages import Identity, LinkMessage, News, Pull, Shipment, Tails, Vector, Want
from kvstore.fuzzylog.neighbours import NEWS_EVERY_NS, PULL_EVERY_NS, Neighbours
from kvstore.types import RegionId, ShardId, Slot, Timestamp
from tests.simulation.regions import breaks
from tests.support.broken import broken

AP, EU, US = map(RegionId, range(3))
A = ShardId(0)
NAMES = ("ap", "eu", "us")
OPENED = Timestamp(1_000_000_000)
NOW = 10**12


class FakeChains:
    """A store of one shard."""

    def __init__(self, end: int) -> None:
        self.own_end = end
        self.tails: dict[ShardId, tuple[Slot, Timestamp]] = {}
        self.rights: dict[RegionId, int] = {}

    def executed(self) -> tuple[Slot, ...]:
        return (Slot(self.own_end),)

    def end(self) -> tuple[Slot, ...]:
        return self.executed()

    def ends(self) -> Vector:
        return {AP: self.end(), EU: (Slot(0),), US: (Slot(0),)}

    def has(self, tails: Mapping[ShardId, tuple[Slot, Timestamp]]) -> bool:
        return all(self.tails.get(shard) == tail for shard, tail in tails.items())

    def funds(self, shard: ShardId, key: bytes, region: RegionId) -> Funds:
        return Funds(self.rights.get(region, 0), sum(self.rights.values()))


class Region:
    """The region ap, whose neighbours are eu and us."""

    def __init__(self, end: int = 5) -> None:
        self.chains = FakeChains(end)
        importer = Importer(AP, {EU: (Slot(0),), US: (Slot(0),)}, {}, 10**9)
        self.machine = Neighbours(
            identity("ap"), ["us", "eu"], self.chains, importer, opened=OPENED, location="here"
        )
        self.now = NOW
        self.machine.tick(self.now)  # the first pull from all

    def hears(self, name: str, message: LinkMessage) -> list[ExchangeEffect]:
        return self.machine.handle(name, message, self.now)

    def after(self, nanoseconds: int) -> list[ExchangeEffect]:
        self.now += nanoseconds
        return self.machine.tick(self.now)

    def pulled_from(self, nanoseconds: int = 0) -> list[str]:
        """The neighbours that are pulled from at the next tick, so much later."""
        return [name for name, message in sent(self.after(nanoseconds)) if isinstance(message, Pull)]


def identity(name: str, **claims: Any) -> Identity:
    return msgspec.structs.replace(Identity(name, NAMES, "world", 1, None), **claims)


def pull(name: str, received: Vector | None = None, tails: Tails | None = None) -> Pull:
    return Pull(identity(name), received or {}, {}, (), tails or {})


def shipment(name: str, region: RegionId = EU, slots: range = range(0), end: int = 0) -> Shipment:
    items: tuple[ChainItem, ...] = tuple(
        Piece(Slot(slot), Timestamp(slot), (Put(b"k", b"v"),)) for slot in slots
    )
    segments: tuple[Segment, ...] = (Segment(region, Slot(slots.start), items),)
    chains = {A: segments} if items else {}
    ends: Vector = {region: (Slot(max(end, slots.stop - 1)),)}
    return Shipment(identity(name), chains, ends, {region: Timestamp(OPENED + 1)})


def sent(effects: list[ExchangeEffect]) -> list[tuple[str, LinkMessage]]:
    return [(effect.neighbour, effect.message) for effect in effects if isinstance(effect, SendTo)]


class TestWhoANeighbourIs:
    @pytest.mark.parametrize(
        ("claims", "error"),
        [
            ({"format": 2}, WrongFormat),
            ({"region": "us"}, DuplicateRegion),
            ({"shards": 2}, WrongShape),
            ({"placement": 1}, WrongShape),
            ({"names": ("eu", "ap")}, WrongShape),
            ({"world": "another"}, WrongShape),
        ],
    )
    def test_one_that_does_not_fit_has_no_effect(self, claims: dict[str, Any], error: type[Error]) -> None:
        """NEIGHBOUR-1."""
        region = Region()
        stranger = msgspec.structs.replace(
            shipment("eu", slots=range(1, 3)), identity=identity("eu", **claims)
        )

        (refused,) = region.hears("eu", stranger)
        assert isinstance(refused, Refused)
        assert isinstance(refused.problem, error)
        assert region.machine.shipping.importer.received()[EU] == (0,)
        assert region.hears("eu", stranger) == [], "it is reported once"
        assert region.machine.staleness(OPENED)["eu"].problem == str(refused.problem)

    def test_one_that_asks_hears_who_it_has_asked(self) -> None:
        region = Region()
        effects = region.hears("eu", msgspec.structs.replace(pull("eu"), identity=identity("eu", shards=2)))
        assert sent(effects) == [("eu", Shipment(identity("ap"), {}, {}, {}))]
        assert region.after(0) == [], "its pull is not answered"

    def test_one_that_fits_again_is_listened_to(self) -> None:
        region = Region()
        region.machine.refuse("eu", WrongFormat("noise", path="eu"))
        region.hears("eu", shipment("eu"))
        assert region.machine.problems == {}

    def test_all_are_heard_when_each_has_said_who_it_is(self) -> None:
        region = Region()
        region.hears("eu", News(EU))
        region.hears("us", pull("us"))
        assert not region.machine.has_heard_all(), "News says nothing of its sender"
        region.hears("eu", shipment("eu"))
        assert region.machine.has_heard_all()


class TestPulling:
    def test_all_are_asked_again_and_again(self) -> None:
        region = Region()
        assert region.pulled_from(PULL_EVERY_NS - 1) == []
        assert region.pulled_from(1) == ["eu", "us"]
        assert region.machine.next_tick() == region.now + PULL_EVERY_NS

    def test_all_are_asked_at_once_if_somebody_wants_that(self) -> None:
        region = Region()
        region.machine.pull_soon()
        assert region.pulled_from() == ["eu", "us"]

    def test_news_is_followed_by_a_pull(self) -> None:
        region = Region()
        region.hears("eu", shipment("eu"))
        region.hears("eu", News(EU))
        assert region.pulled_from() == ["eu"]

    def test_news_waits_for_the_answer_that_may_be_under_way(self) -> None:
        """NEIGHBOUR-5."""
        region = Region()
        region.hears("eu", News(EU))
        assert region.pulled_from() == []
        region.hears("eu", shipment("eu"))
        assert region.pulled_from() == ["eu"]

    def test_one_busy_neighbour_does_not_put_off_the_others(self) -> None:
        region = Region()
        for _ in range(9):
            region.hears("eu", shipment("eu"))
            region.hears("eu", News(EU))
            assert region.pulled_from(PULL_EVERY_NS // 10) == ["eu"]
        assert region.pulled_from(PULL_EVERY_NS // 10) == ["eu", "us"]

    def test_what_an_answer_left_out_is_asked_for(self) -> None:
        region = Region()
        assert region.hears("eu", shipment("eu", slots=range(1, 3), end=9)) == [Importable()]
        (asked,) = region.after(0)
        assert isinstance(asked, SendTo)
        assert isinstance(asked.message, Pull)
        assert asked.message.received == {AP: (5,), EU: (2,), US: (0,)}

    def test_an_answer_with_nothing_in_it_is_not_followed_by_a_pull(self) -> None:
        region = Region()
        region.hears("eu", shipment("eu", end=9))
        assert region.pulled_from() == []

    def test_while_much_waits_only_the_clock_pulls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(neighbours, "WAITING_MAX", 2)
        region = Region()
        region.hears("eu", shipment("eu", slots=range(1, 3), end=9))
        assert region.pulled_from() == []
        assert region.pulled_from(PULL_EVERY_NS) == ["eu", "us"]

        run = region.machine.next_run(OPENED)
        assert run is not None
        assert [name for name, _ in sent(region.machine.imported(run, region.now))] == ["eu"]

    def test_nothing_is_asked_for_beyond_what_has_come(self) -> None:
        """NEIGHBOUR-3."""
        region = Region()
        region.hears("eu", shipment("eu", slots=range(1, 3), end=9))
        with breaks.asked_beyond_what_is_known(), pytest.raises(AssertionError, match="NEIGHBOUR-3"):
            region.after(0)


class TestAnswers:
    def test_an_answer_that_comes_twice_is_taken_once(self) -> None:
        """NEIGHBOUR-2."""
        region = Region()
        for _ in range(2):
            region.hears("eu", shipment("eu", slots=range(1, 3)))
        region.hears("us", shipment("us", slots=range(2, 5)))
        items = region.machine.shipping.importer.chains[EU, A].items
        assert [item.last for item in items] == [1, 2, 3, 4]

        with breaks.answer_taken_twice(), pytest.raises(AssertionError, match="NEIGHBOUR-2"):
            region.hears("eu", shipment("eu", slots=range(1, 3)))

    def test_pulls_that_came_together_are_answered_together(self) -> None:
        region = Region()
        last = pull("eu", {EU: (Slot(7),)})
        for asked in (pull("eu"), last):
            assert region.hears("eu", asked) == []
        assert region.after(0) == [AnswerPull("eu", last)]
        assert region.after(0) == []

    def test_an_answer_is_sent_to_whom_it_was_begun_for(self) -> None:
        region = Region()
        answer = region.machine.begin_answer(pull("eu"), region.chains.ends(), OPENED)
        assert answer.after == {AP: (0,)}
        ((name, message),) = sent(region.machine.finish_answer("eu", answer, {}))
        assert (name, type(message)) == ("eu", Shipment)

    def test_rights_that_are_asked_for_are_granted(self) -> None:
        region = Region()
        want = Want(A, b"k", 10, EU, 2)
        assert region.hears("eu", msgspec.structs.replace(pull("eu"), wants=(want,))) == [Wanted((want,))]
        assert region.machine.grant(want) is None
        region.chains.rights = {AP: 100, EU: 4}
        assert region.machine.grant(want) == {A: (Grant(b"k", 6, EU),)}

    def test_rights_are_asked_for_with_the_next_pull(self) -> None:
        region = Region()
        region.chains.rights = {AP: 1, EU: 99}
        region.machine.want(A, b"k", 10)
        messages = [message for _, message in sent(region.after(0))]
        assert [message.wants for message in messages if isinstance(message, Pull)] == [
            (Want(A, b"k", 10, AP, 2),)
        ] * 2


class TestNews:
    def test_is_sent_of_what_was_committed_for_a_while(self) -> None:
        region = Region()
        region.machine.on_commit(region.now)
        region.machine.on_commit(region.now + 1)
        assert region.machine.next_tick() == region.now + NEWS_EVERY_NS
        assert region.after(NEWS_EVERY_NS - 1) == []
        assert sent(region.after(1)) == [("eu", News(AP)), ("us", News(AP))]
        assert region.machine.next_tick() == NOW + PULL_EVERY_NS

    def test_is_not_sent_of_what_has_not_left_the_region(self) -> None:
        region = Region()
        for _ in range(2):
            region.machine.on_commit(region.now)
            last = region.after(NEWS_EVERY_NS)
        assert last == []


class TestOldCopies:
    """NEIGHBOUR-4."""

    @pytest.mark.parametrize(
        "message",
        [
            pull("eu", {AP: (Slot(6),)}),
            shipment("eu", AP, end=6),
            pull("eu", {AP: (Slot(5),)}, {AP: {A: (Slot(5), Timestamp(50))}}),
        ],
    )
    def test_stop_by_name_and_for_good(self, message: LinkMessage) -> None:
        region = Region()
        answer = region.machine.begin_answer(pull("us"), region.chains.ends(), OPENED)
        region.hears("us", pull("us"))
        region.hears("us", shipment("us", US, range(1, 3)))

        (stopped,) = region.hears("eu", message)
        assert isinstance(stopped, Stopped)
        assert isinstance(stopped.problem, Corrupt)
        assert "of ap" in str(stopped.problem) or "another ap" in str(stopped.problem)
        assert region.machine.failure is stopped.problem
        assert region.after(0) == [], "the pull that waited is not answered"
        assert region.machine.finish_answer("us", answer, {}) == []
        assert region.machine.next_run(OPENED) is None
        assert region.hears("us", shipment("us", US, range(3, 5))) == []
        assert region.machine.shipping.importer.received()[US] == (2,)
        assert region.pulled_from(PULL_EVERY_NS) == ["eu", "us"], "so neighbours hear that it is there"

    def test_are_not_those_whose_copies_are_copies_of_theirs(self) -> None:
        region = Region()
        region.chains.tails = {A: (Slot(5), Timestamp(50))}
        region.hears("eu", pull("eu", {AP: (Slot(5),)}, {AP: {A: (Slot(5), Timestamp(50))}}))
        assert region.machine.failure is None

    def test_are_found_by_their_last_nodes_once_for_each_neighbour(self) -> None:
        region = Region()
        other = pull("eu", {AP: (Slot(5),)}, {AP: {A: (Slot(5), Timestamp(50))}})
        region.hears("eu", pull("eu"))
        assert region.hears("eu", other) == [], "what it had at first was compared"
        assert [
            type(effect)
            for effect in region.hears("us", msgspec.structs.replace(other, identity=identity("us")))
        ] == [Stopped]


class TestStaleness:
    def test_says_how_much_is_known_of_and_how_old_it_is(self) -> None:
        region = Region()
        region.hears("eu", shipment("eu", slots=range(1, 3), end=9))
        assert region.machine.staleness(Timestamp(OPENED + 10**9))["eu"] == (9, 1.0, "")

    def test_is_none_of_what_is_applied(self) -> None:
        region = Region()
        region.hears("eu", shipment("eu", slots=range(1, 3)))
        run = region.machine.next_run(OPENED)
        assert run is not None
        region.machine.imported(run, region.now)
        stale = region.machine.staleness(Timestamp(OPENED + 1))["eu"]
        assert stale == (0, 0.0, "")

    def test_names_the_link_that_failed_until_it_works(self) -> None:
        region = Region()
        assert region.machine.link_failed("eu", "broken pipe")
        assert not region.machine.link_failed("eu", "broken pipe")
        assert region.machine.staleness(OPENED)["eu"].problem == "broken pipe"
        region.hears("eu", News(EU))
        assert region.machine.staleness(OPENED)["eu"].problem == ""

    def test_names_a_clock_that_is_ahead(self) -> None:
        region = Region()
        ahead = Shipment(
            identity("eu"),
            {
                A: (
                    Segment(
                        EU, Slot(1), (Piece(Slot(1), Timestamp(OPENED + 3 * 10**9), (Put(b"k", b"v"),)),)
                    ),
                )
            },
            {EU: (Slot(1),)},
            {},
        )
        region.hears("eu", ahead)
        assert region.machine.next_run(OPENED) is None
        assert "3.0 s ahead" in region.machine.staleness(OPENED)["eu"].problem


class TestAWrongStateIsSeen:
    """Each label is broken once: the state is made wrong by hand."""

    def test_a_neighbour_that_does_not_fit_is_listened_to(self) -> None:
        region = Region()
        region.machine.problems["eu"] = Corrupt("it does not fit", record="there")
        with broken("NEIGHBOUR-1", "it does not fit"):
            region.machine._accept("eu", pull("eu"))

    def test_an_answer_is_taken_twice(self) -> None:
        region = Region()
        region.hears("eu", shipment("eu", slots=range(1, 3)))
        with breaks.answer_taken_twice(), broken("NEIGHBOUR-2", "region 1", "chain 0"):
            region.hears("eu", shipment("eu", slots=range(1, 3)))

    def test_a_chain_is_asked_for_beyond_what_has_come(self) -> None:
        region = Region()
        region.hears("eu", shipment("eu", slots=range(1, 3), end=9))
        with breaks.asked_beyond_what_is_known(), broken("NEIGHBOUR-3", "(9,)", "(2,)"):
            region.after(0)

    def test_an_old_copy_goes_on(self) -> None:
        region = Region()
        answer = region.machine.begin_answer(pull("us"), region.chains.ends(), OPENED)
        region.machine.is_old = True
        with broken("NEIGHBOUR-4", "None"):
            region.machine._shipment(answer, {})
        with broken("NEIGHBOUR-4", "(0,)"):
            region.machine.next_run(OPENED)

    def test_a_neighbour_is_asked_again_before_it_has_answered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        region = Region()
        region.hears("eu", News(EU))
        said = iter([False, True])
        monkeypatch.setattr(region.machine, "_is_asked", lambda *_: next(said))
        with broken("NEIGHBOUR-5", "eu", NOW):
            region.after(0)

    def test_a_message_comes_from_where_no_link_leads(self) -> None:
        region = Region()
        with broken("NEIGHBOUR-6", "mars"):
            region.hears("mars", News(EU))
        with broken("NEIGHBOUR-6", "mars"):
            region.machine.link_failed("mars", "closed")

    def test_the_own_chains_become_shorter(self) -> None:
        region = Region()
        region.machine.on_commit(region.now)
        region.after(NEWS_EVERY_NS)
        region.chains.own_end = 4
        region.machine.on_commit(region.now)
        with broken("NEIGHBOUR-7", "(4,)", "(5,)"):
            region.after(NEWS_EVERY_NS)

"""The coordinator's record at the hosts (contracts B1): MAJORITY-1, MAJORITY-2, and coordinators that come,
pause and go."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.coordinator_replication import RecordKeeper, ReplicatedCoordinator
from kvstore.eris.coordinator_state import CoordinatorRecord, encode_record
from kvstore.eris.effects import (
    CoordinatorAddress,
    Dropped,
    Effect,
    HostAddress,
    ReplicaAddress,
    Send,
    SetTimer,
)
from kvstore.eris.messages import (
    CoordinatorMessage,
    EpochChange,
    EpochChangeAck,
    EpochChangeRequest,
    FindTransaction,
    HasTransaction,
    LogEntry,
    MultiStamp,
    Prepare,
    Prepared,
    RecordSaved,
    Request,
    SaveRecord,
    Stamped,
    StartEpoch,
    TempDroppedTransaction,
    TransactionDropped,
    TransactionFound,
    TransactionRequest,
)
from kvstore.eris.shard_state import HOST_TABLE
from kvstore.ports import Table
from kvstore.storage import MemoryDisk, MemoryEnvironment
from kvstore.types import (
    ClientId,
    Epoch,
    RequestId,
    SequenceNumber,
    ShardId,
    Slot,
    Timestamp,
    TransactionId,
    ViewNumber,
)
from tests.support.cluster import COORDINATORS, add, name

S = ShardId(0)
HOSTS = 3


def a_table() -> Table:
    """A host's table, in a batch that stays open."""
    environment = MemoryEnvironment(MemoryDisk(), "host")
    environment.begin()
    return environment.table(HOST_TABLE)


class World:
    """Hosts and coordinators of a store with one shard. What they tell each other lies on ``wire`` until it
    is delivered; what a coordinator tells replicas is ``said``."""

    def __init__(self) -> None:
        self.keepers = [RecordKeeper(host, a_table()) for host in range(HOSTS)]
        self.coordinators = [
            ReplicatedCoordinator(number=number, coordinators=COORDINATORS, hosts=HOSTS, shards=1)
            for number in range(COORDINATORS)
        ]
        self.wire: list[Send] = []
        self.said: list[msgspec.Struct] = []
        self.others: list[Effect] = []

    def carry(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if not isinstance(effect, Send):
                self.others.append(effect)
            elif isinstance(effect.to, ReplicaAddress):
                self.said.append(effect.message)
            else:
                self.wire.append(effect)

    def prepare(self, number: int, at_least: int = 1) -> None:
        self.carry(self.coordinators[number].prepare(Epoch(at_least)))

    def give(self, number: int, message: CoordinatorMessage | Prepared | RecordSaved) -> None:
        self.carry(self.coordinators[number].handle(message))

    def fire(self, number: int, timer: str) -> None:
        self.carry(self.coordinators[number].on_timer(timer))

    def deliver(self, send: Send) -> None:
        """Take one message off the wire, and let its receiver have it."""
        self.wire.remove(send)
        match send.to:
            case HostAddress(host):
                self.carry(self.keepers[host].handle(send.message))  # type: ignore[arg-type]  # as addressed
            case CoordinatorAddress(number):
                self.give(number, send.message)  # type: ignore[arg-type]  # as addressed

    def run(self, *hosts: int) -> None:
        """Deliver everything; what is for other hosts than these, if any are named, is lost."""
        while self.wire:
            send = self.wire[0]
            if hosts and isinstance(send.to, HostAddress) and send.to.host not in hosts:
                self.wire.remove(send)
            else:
                self.deliver(send)

    def leads(self, number: int) -> bool:
        return self.coordinators[number].leading is not None

    def heard(self, kind: type[msgspec.Struct]) -> list[msgspec.Struct]:
        """What was said to replicas, of this kind."""
        return [message for message in self.said if isinstance(message, kind)]

    def lead(self, number: int) -> Epoch:
        """Have a coordinator begin an epoch, with all that belongs to it."""
        self.prepare(number)
        self.run()
        epoch = self.coordinators[number].epoch
        for host in (0, 1):
            self.give(number, ack(host, epoch))
        self.run()
        assert self.leads(number)
        assert [start.epoch for start in self.heard(StartEpoch)[-HOSTS:]] == [epoch] * HOSTS  # type: ignore[attr-defined]
        return epoch


def ack(
    host: int, epoch: int, began: int = 0, *, base: int = 0, shown: Iterable[LogEntry] = ()
) -> EpochChangeAck:
    return EpochChangeAck(
        Epoch(epoch), S, host, Epoch(began), ViewNumber(0), Slot(base), Slot(base), Timestamp(0),
        tuple(shown),
    )  # fmt: skip


def a_transaction(epoch: int, number: int) -> Stamped:
    return Stamped(
        MultiStamp(Epoch(epoch), 0, Timestamp(100 * epoch + number), {S: SequenceNumber(number)}),
        Request(ClientId(1), RequestId(number), RequestId(0), {S: (add("n"),)}),
    )


def find(epoch: int, number: int) -> FindTransaction:
    return FindTransaction(S, 1, name(0, number, epoch))


def has(epoch: int, number: int) -> HasTransaction:
    return HasTransaction(name(0, number, epoch), a_transaction(epoch, number))


def promise(host: int, view: int, epoch: int, number: int) -> TempDroppedTransaction:
    return TempDroppedTransaction(S, host, ViewNumber(view), name(0, number, epoch))


class TestACoordinatorThatBegins:
    def test_asks_all_hosts_to_take_no_lower_epoch(self) -> None:
        world = World()
        world.prepare(1)

        assert world.wire == [Send(HostAddress(host), Prepare(1, Epoch(1))) for host in range(HOSTS)]
        assert world.others == [SetTimer("prepare", 40)]

    def test_leads_with_the_promises_of_a_majority(self) -> None:
        world = World()
        world.prepare(0)
        world.run(0)
        assert not world.leads(0)

        world.fire(0, "prepare")
        world.run(0, 2)

        assert world.leads(0)

    def test_counts_each_host_once(self) -> None:
        world = World()
        world.prepare(0)
        (first, *_) = world.wire
        for _ in range(3):
            world.carry(world.keepers[0].handle(first.message))  # type: ignore[arg-type]  # a Prepare
        world.run(0)

        assert not world.leads(0)

    def test_begins_an_epoch_above_the_newest_record(self) -> None:
        world = World()
        first = world.lead(0)
        second = world.lead(1)

        assert first < second
        assert [keeper.record().epoch for keeper in world.keepers] == [second] * HOSTS

    def test_never_takes_an_epoch_that_another_one_could_take(self) -> None:
        taken = []
        for number in range(COORDINATORS):
            world = World()
            for at_least in (1, 1, 5, 9, 9, 10):
                world.prepare(number, at_least)
                taken.append(world.coordinators[number].epoch)

        assert len(set(taken)) == len(taken)

    def test_goes_on_with_a_higher_epoch_where_it_is_refused(self) -> None:
        world = World()
        world.prepare(0, 30)
        world.run()
        world.prepare(1)
        world.run()

        assert world.coordinators[1].epoch > world.coordinators[0].epoch
        assert world.leads(1)

    def test_begins_where_nobody_leads_when_a_replica_asks_it_for_something(self) -> None:
        """It gave up when another one came first; that one may be dead by now."""
        world = World()
        world.lead(0)
        world.lead(1)
        world.give(0, has(3, 1))
        world.run()
        assert not world.leads(0)
        world.give(0, EpochChangeRequest(S, 1, Epoch(1)))
        world.run()

        assert world.leads(0)
        assert world.coordinators[0].epoch > world.coordinators[1].epoch


class TestNobodyHearsOfARecord:
    """MAJORITY-1"""

    def test_of_an_epoch_before_a_majority_keeps_its_number(self) -> None:
        world = World()
        world.prepare(0)
        while not any(isinstance(send.message, SaveRecord) for send in world.wire):
            world.deliver(world.wire[0])
        saves = [send for send in world.wire if isinstance(send.message, SaveRecord)]
        assert len(saves) == HOSTS
        assert not world.heard(EpochChange)

        world.run(0)
        assert not world.heard(EpochChange), "one of three"
        world.fire(0, "save")
        world.run(0, 1)
        assert len(world.heard(EpochChange)) == HOSTS

    def test_of_a_start_before_a_majority_keeps_what_it_means(self) -> None:
        world = World()
        world.prepare(0)
        world.run()
        epoch = world.coordinators[0].epoch
        for host in (0, 1):
            world.give(0, ack(host, epoch))
        assert not world.heard(StartEpoch)

        world.run()
        assert len(world.heard(StartEpoch)) == HOSTS
        assert all(keeper.record().start_epochs for keeper in world.keepers)

    def test_of_a_decision_before_a_majority_keeps_it(self) -> None:
        world = World()
        epoch = world.lead(0)
        world.give(0, has(epoch, 1))
        assert not world.heard(TransactionFound)

        world.run(2)
        assert not world.heard(TransactionFound)
        world.fire(0, "save")
        world.run(1, 2)
        assert world.heard(TransactionFound)

    def test_nor_of_what_comes_after_it(self) -> None:
        """An answer that rests on a decision which is not kept yet waits with it."""
        world = World()
        epoch = world.lead(0)
        world.give(0, has(epoch, 1))
        world.said.clear()
        world.give(0, find(epoch, 1))
        assert world.said == []

        world.run()
        assert [type(message) for message in world.said] == [TransactionFound] * (HOSTS + 1)

    def test_and_what_is_kept_already_is_said_at_once(self) -> None:
        world = World()
        epoch = world.lead(0)
        world.said.clear()
        world.give(0, find(epoch, 4))

        assert world.said == [TransactionRequest(S, name(0, 4, epoch))] * HOSTS
        assert world.wire == []

    def test_twice_for_two_words_of_one_host(self) -> None:
        world = World()
        epoch = world.lead(0)
        world.give(0, has(epoch, 1))
        counter = world.coordinators[0].leading.record.counter  # type: ignore[union-attr]  # it leads
        for _ in range(3):
            world.give(0, RecordSaved(2, epoch, counter))

        assert not world.heard(TransactionFound)


class TestAPausedCoordinator:
    """MAJORITY-2"""

    def test_says_nothing_when_it_wakes_after_another_one_began(self) -> None:
        world = World()
        epoch = world.lead(0)
        world.lead(1)
        world.said.clear()
        world.give(0, has(epoch, 1))
        world.run()

        assert world.said == []
        assert not world.leads(0), "it gave up"

    def test_does_not_say_what_waited_when_it_was_paused(self) -> None:
        world = World()
        epoch = world.lead(0)
        world.give(0, has(epoch, 1))
        late, world.wire = world.wire, []
        world.lead(1)
        world.said.clear()
        world.wire = late
        world.run()

        assert world.said == []
        assert all(not keeper.record().found for keeper in world.keepers)

    def test_that_did_not_lead_yet_comes_later(self) -> None:
        world = World()
        world.prepare(0)
        late, world.wire = world.wire, []
        second = world.lead(1)
        world.wire = late
        world.run()

        assert world.coordinators[0].epoch > second


class TestWhatWasDecidedBeforeAFailover:
    def test_is_in_what_the_next_one_starts_with(self) -> None:
        """The decision is kept by two hosts; one of those and the third answer the next coordinator."""
        world = World()
        first = world.lead(0)
        world.give(0, has(first, 1))
        world.run(0, 2)
        assert world.heard(TransactionFound)
        world.prepare(1)
        world.run(1, 2)
        second = world.coordinators[1].epoch
        for host in (1, 2):
            world.give(1, ack(host, second, first))
        world.run(1, 2)

        start = world.heard(StartEpoch)[-1]
        assert isinstance(start, StartEpoch)
        assert (start.epoch, start.follows) == (second, first)
        assert start.entries == (LogEntry(Slot(1), a_transaction(first, 1)),)

    def test_is_not_in_it_if_it_was_dropped(self) -> None:
        world = World()
        first = world.lead(0)
        world.give(0, find(first, 1))
        for host in (0, 1):
            world.give(0, promise(host, 0, first, 1))
        world.run(0, 1)
        assert world.heard(TransactionDropped)
        world.prepare(1)
        world.run(1, 2)
        second = world.coordinators[1].epoch
        world.give(1, ack(1, second, first))
        world.give(1, ack(2, second, first, shown=[LogEntry(Slot(1), a_transaction(first, 1))]))
        world.run(1, 2)

        start = world.heard(StartEpoch)[-1]
        assert isinstance(start, StartEpoch)
        assert start.entries == (LogEntry(Slot(1), None),)
        assert name(0, 1, first) in start.dropped

    def test_may_be_lost_if_nobody_heard_of_it(self) -> None:
        world = World()
        first = world.lead(0)
        world.give(0, has(first, 1))
        world.run(0)
        assert not world.heard(TransactionFound)
        world.prepare(1)
        world.run(1, 2)
        second = world.coordinators[1].epoch
        for host in (1, 2):
            world.give(1, ack(host, second, first))
        world.run(1, 2)

        start = world.heard(StartEpoch)[-1]
        assert isinstance(start, StartEpoch)
        assert start.entries == ()


class TestAHost:
    def test_keeps_the_newest_record_by_epoch_and_counter(self) -> None:
        keeper = RecordKeeper(0, a_table())
        newer = CoordinatorRecord(Epoch(3), 7)
        for epoch, counter in [(3, 6), (3, 7), (3, 5), (2, 9)]:
            record = CoordinatorRecord(Epoch(epoch), counter)
            keeper.handle(SaveRecord(0, Epoch(epoch), counter, encode_record(record)))

        assert keeper.record() == newer

    def test_refuses_what_is_older_than_its_promise_and_says_what_it_promised(self) -> None:
        keeper = RecordKeeper(2, a_table())
        keeper.handle(Prepare(1, Epoch(4)))
        old = SaveRecord(0, Epoch(3), 1, encode_record(CoordinatorRecord(Epoch(3), 1)))

        nothing = encode_record(CoordinatorRecord())
        assert keeper.handle(old) == [Send(CoordinatorAddress(0), Prepared(2, Epoch(3), Epoch(4), nothing))]
        assert keeper.record() == CoordinatorRecord()

    def test_answers_twice_who_asks_twice(self) -> None:
        keeper = RecordKeeper(0, a_table())
        prepare = Prepare(1, Epoch(4))
        assert keeper.handle(prepare) == keeper.handle(prepare)
        save = SaveRecord(1, Epoch(4), 1, encode_record(CoordinatorRecord(Epoch(4), 1)))
        assert keeper.handle(save) == keeper.handle(save) == [
            Send(CoordinatorAddress(1), RecordSaved(0, Epoch(4), 1))
        ]  # fmt: skip

    def test_remembers_its_promise(self) -> None:
        table = a_table()
        RecordKeeper(0, table).handle(Prepare(1, Epoch(4)))

        assert RecordKeeper(0, table).promised() == 4

    def test_that_forgot_is_silent_until_it_has_a_newer_record(self) -> None:
        """What it kept may have been what a majority rested on."""
        keeper = RecordKeeper(0, a_table())
        keeper.forget(Epoch(5))
        for epoch in (2, 6):
            (effect,) = keeper.handle(Prepare(0, Epoch(epoch)))
            assert isinstance(effect, Dropped)
        old = CoordinatorRecord(Epoch(4), 3)
        keeper.handle(SaveRecord(0, Epoch(4), 3, encode_record(old)))
        assert keeper.record() == CoordinatorRecord(), "it promised to take nothing of before"
        new = CoordinatorRecord(Epoch(6), 1)
        keeper.handle(SaveRecord(0, Epoch(6), 1, encode_record(new)))

        (answer,) = keeper.handle(Prepare(1, Epoch(7)))
        assert answer == Send(CoordinatorAddress(1), Prepared(0, Epoch(7), Epoch(7), encode_record(new)))


NUMBERS = range(1, 4)


class Story:
    """Two coordinators, lossy messages to and from the hosts, and replicas that keep their own promises.

    ``logs``: with what each epoch began, as it was said. ``found``, ``dropped``: what was said of them.
    """

    def __init__(self) -> None:
        self.world = World()
        self.promised = [0] * HOSTS
        """The epoch that each replica has heard of last, and the last one that it began."""
        self.began = [0] * HOSTS
        self.logs: dict[int, list[Stamped | None]] = {0: []}
        self.found: set[TransactionId] = set()
        self.dropped: set[TransactionId] = set()
        self.read = 0

    def play(self, verb: str, number: int, what: int) -> None:
        """One of two coordinators, and a number that says which of several things."""
        world, wire = self.world, self.world.wire
        match verb:
            case "prepare":
                world.prepare(number)
            case "deliver" if wire:
                world.deliver(wire[what % len(wire)])
            case "lose" if wire:
                wire.pop(what % len(wire))
            case "repeat" if wire:
                wire.append(wire[what % len(wire)])
            case "timers":
                for timer in ("prepare", "save", "epoch"):
                    world.fire(number, timer)
            case "ack":
                self.acknowledge(number, [{0, 1}, {0, 2}, {1, 2}][what % 3], shows=what % 2 == 0)
            case "adopt":
                self.adopt(what % HOSTS)
            case "has" | "promise":
                self.tell(number, verb, NUMBERS[what % len(NUMBERS)])
        self.listen()

    def acknowledge(self, number: int, hosts: Collection[int], *, shows: bool) -> None:
        """These replicas answer what the coordinator asked last; those with a transaction show it."""
        epoch = self.world.coordinators[number].epoch
        if not any(message.epoch == epoch for message in self.world.heard(EpochChange)):  # type: ignore[attr-defined]
            return
        for host in hosts:
            if self.promised[host] <= epoch and self.began[host] < epoch:
                self.promised[host] = epoch
                began = self.began[host]
                base = len(self.logs[began])
                shown = [LogEntry(Slot(base + n), a_transaction(began, n)) for n in NUMBERS] if shows else []
                self.world.give(number, ack(host, epoch, began, base=base, shown=shown if began else []))

    def adopt(self, host: int) -> None:
        newest = max(self.logs)
        if self.promised[host] <= newest:
            self.promised[host] = self.began[host] = newest

    def tell(self, number: int, verb: str, which: int) -> None:
        """Of the replicas that are in the coordinator's epoch, one has a transaction, or all promise."""
        role = self.world.coordinators[number]
        inside = [host for host in range(HOSTS) if self.began[host] == self.promised[host] == role.epoch]
        if role.leading is None or not inside:
            return
        if verb == "has":
            self.world.give(number, has(role.epoch, which))
            return
        self.world.give(number, find(role.epoch, which))
        for host in inside:
            self.world.give(number, promise(host, role.leading.record.view, role.epoch, which))

    def listen(self) -> None:
        """Take down what was said, and judge it."""
        new, self.read = self.world.said[self.read :], len(self.world.said)
        for message in new:
            match message:
                case TransactionFound():
                    self.found.update(message.stamped.stamp.ids())
                case TransactionDropped():
                    self.dropped.update(message.ids)
                case StartEpoch():
                    assert all(
                        entry.slot == message.stable + at for at, entry in enumerate(message.entries, 1)
                    )
                    log = [
                        *self.logs[message.follows][: message.stable],
                        *(entry.stamped for entry in message.entries),
                    ]
                    assert self.logs.setdefault(message.epoch, log) == log, "one meaning"
                case _:
                    pass
        assert not self.found & self.dropped, "found xor dropped"
        for epoch, log in self.logs.items():
            names = {one for stamped in log if stamped is not None for one in stamped.stamp.ids()}
            assert not names & self.dropped
            assert {one for one in self.found if one.epoch < epoch} <= names, "MAJORITY-2"


verbs = ["deliver"] * 5 + ["ack", "adopt", "has", "promise", "prepare", "lose", "repeat", "timers"]
step = st.tuples(st.sampled_from(verbs), st.integers(0, 1), st.integers(0, 11))


@settings(max_examples=300, deadline=None)
@given(st.lists(step, max_size=90))
def test_whatever_is_lost_decisions_are_never_contradicted(steps: list[tuple[str, int, int]]) -> None:
    story = Story()
    for verb, number, what in steps:
        story.play(verb, number, what)
        if verb == "prepare" or what == 0:
            for _ in range(9 if what % 2 else 0):
                story.play("deliver", number, 0)


@pytest.mark.parametrize("seed", range(20))
def test_stories_reach_what_they_are_about(seed: int) -> None:
    """With most messages delivered, epochs begin, and transactions are found and dropped in them."""
    story = Story()
    for lead in (0, 1, 0):
        story.play("prepare", lead, 0)
        for what in range(60):
            story.play("deliver", lead, what + seed)
        story.play("ack", lead, seed)
        for what in range(60):
            story.play("deliver", lead, what)
        for host in range(HOSTS):
            story.play("adopt", lead, host)
        story.play("has", lead, 0)
        story.play("promise", lead, 1)
        for what in range(60):
            story.play("deliver", lead, what)

    assert len(story.logs) == 4
    assert len(story.found) == len(story.dropped) == 3

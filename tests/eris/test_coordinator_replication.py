"""The coordinator's record at the hosts (contracts B1): random stories of several coordinators.

The single claims are transcripts: ``coordinator_begins``, ``coordinator_speaks_late``, ``keeper`` and others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.coordinator_replication import RecordKeeper, ReplicatedCoordinator
from kvstore.eris.effects import (
    CoordinatorAddress,
    Effect,
    HostAddress,
    ReplicaAddress,
    Send,
)
from kvstore.eris.messages import (
    CoordinatorMessage,
    EpochChange,
    EpochChangeAck,
    FindTransaction,
    HasTransaction,
    LogEntry,
    MultiStamp,
    Prepared,
    RecordSaved,
    Request,
    Stamped,
    StartEpoch,
    TempDroppedTransaction,
    TransactionDropped,
    TransactionFound,
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

    def carry(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.to, ReplicaAddress):
                self.said.append(effect.message)
            elif isinstance(effect, Send):
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

    def heard(self, kind: type[msgspec.Struct]) -> list[msgspec.Struct]:
        """What was said to replicas, of this kind."""
        return [message for message in self.said if isinstance(message, kind)]


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


def test_a_coordinator_never_takes_an_epoch_that_another_one_could_take() -> None:
    taken = []
    for number in range(COORDINATORS):
        world = World()
        for at_least in (1, 1, 5, 9, 9, 10):
            world.prepare(number, at_least)
            taken.append(world.coordinators[number].epoch)

    assert len(set(taken)) == len(taken)


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

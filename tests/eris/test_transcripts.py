"""Runs of the whole protocol, recorded in ``tests/transcripts/eris``: read those. ``UPDATE=1`` rewrites them.

    cluster SHARDS REPLICAS       a new cluster; it comes with epoch 1 begun
    submit PART...                a part is SHARD:put:KEY:VALUE, SHARD:add:KEY:AMOUNT or SHARD:delete:KEY
    step [COUNT]                  deliver what is on the wire, in one batch for each host
    run                           deliver until nothing is under way, and show only what was answered
    deliver HOST                  deliver what is on the wire for one host
    lose KIND [host=N] [shard=N]  take messages off the wire
    fire                          the client's retry timer
    crash HOST... | restart HOST...
    epoch [HOST...]               begin an epoch change; only these hosts are consulted
    stamp                         the sequencer and the client of the new epoch begin
    wire | status | log

Messages are shown as ``to <- message``; s0.r1 is replica 1 of shard 0, and runs on host 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from kvstore import keys, values
from kvstore.eris import messages
from kvstore.eris.effects import Address, ClientAddress, GroupAddress, ReplicaAddress
from kvstore.eris.messages import (
    EpochChange,
    EpochChangeAck,
    LogEntry,
    Reply,
    Request,
    Stamped,
    StartEpoch,
    StartEpochAck,
    SyncCommit,
    SyncReply,
)
from kvstore.execution.operations import Add, Delete, Operation, Outcome, Put
from kvstore.types import ShardId
from tests.support.cluster import Cluster, Packet, add, delete, put
from tests.support.transcript import check_transcript

FILES = sorted((Path(__file__).parent.parent / "transcripts" / "eris").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    check_transcript(path, Player().play)


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 5


class Player:
    """Carries out the commands of one transcript."""

    def __init__(self) -> None:
        self.cluster: Cluster
        self.shown = 0
        """Answers that were printed already."""

    def play(self, verb: str, arguments: list[str]) -> list[str]:
        command = getattr(self, f"_{verb}", None)
        assert command is not None, f"there is no command {verb}"
        lines: list[str] = command(*arguments)
        return [*lines, *self._new_answers()]

    def _new_answers(self) -> list[str]:
        answers = list(self.cluster.answers.values())
        new, self.shown = answers[self.shown :], len(answers)
        return [f"caller <- {shown_answer(answer)}" for answer in new]

    def _cluster(self, shards: str, replicas: str) -> list[str]:
        self.cluster = Cluster(shards=int(shards), replicas=int(replicas))
        self.shown = 0
        return []

    def _submit(self, *parts: str) -> list[str]:
        wanted: dict[int, list[Operation]] = {}
        for part in parts:
            shard, verb, key, *value = part.split(":")
            made: Operation = {"put": put, "add": add, "delete": delete}[verb](key, *map(int, value))  # type: ignore[operator]
            wanted.setdefault(int(shard), []).append(made)
        self.cluster.submit(wanted)
        return self._wire()

    def _step(self, count: str = "1") -> list[str]:
        for _ in range(int(count)):
            self.cluster.step()
        return self._wire()

    def _run(self) -> list[str]:
        self.cluster.run()
        return []

    def _deliver(self, host: str) -> list[str]:
        self.cluster.deliver(int(host))
        return self._wire()

    def _lose(self, kind: str, *where: str) -> list[str]:
        bounds = {name: int(number) for name, number in (part.split("=") for part in where)}
        self.cluster.lose(getattr(messages, kind), **bounds)
        return self._wire()

    def _fire(self) -> list[str]:
        self.cluster.carry(self.cluster.client.on_timer("retry"))
        return self._wire()

    def _crash(self, *hosts: str) -> list[str]:
        self.cluster.crash(*map(int, hosts))
        return []

    def _restart(self, *hosts: str) -> list[str]:
        self.cluster.restart(*map(int, hosts))
        return []

    def _epoch(self, *hosts: str) -> list[str]:
        self.cluster.wire.clear()
        self.cluster.begin_epoch(*map(int, hosts))
        return self._wire()

    def _stamp(self) -> list[str]:
        self.cluster.begin_stamping()
        self.cluster.answers.clear()
        self.shown = 0
        return []

    def _wire(self) -> list[str]:
        return [shown_packet(packet) for packet in self.cluster.wire]

    def _status(self) -> list[str]:
        return [
            self._status_of(host, shard)
            for host in sorted(self.cluster.hosts)
            for shard in range(self.cluster.shards)
        ]

    def _status_of(self, host: int, shard: int) -> str:
        record = self.cluster.record(host, shard)
        learner = " learner" if self.cluster.replica(host, shard).is_learner else ""
        state = ", ".join("=".join(map(str, item)) for item in self.cluster.values(host, shard).items())
        return (
            f"s{shard}.r{host} epoch {record.epoch} view {record.view} log 1..{record.head[1]}"
            f" stable {record.stable} executed {record.executed}{learner}: {state or 'empty'}"
        )

    def _log(self) -> list[str]:
        return [
            f"s{shard}.r{host}: " + (", ".join(map(shown_stamped, self.cluster.log(host, shard))) or "empty")
            for host in sorted(self.cluster.hosts)
            for shard in range(self.cluster.shards)
        ]


def shown_address(address: Address) -> str:
    match address:
        case ReplicaAddress(shard, replica):
            return f"s{shard}.r{replica}"
        case GroupAddress(shard):
            return f"s{shard}"
        case ClientAddress():
            return "client"
        case _:
            return address.name


def shown_packet(packet: Packet) -> str:
    return f"{shown_address(packet.to)} <- {shown_message(packet.message)}"


def shown_message(message: msgspec.Struct) -> str:
    match message:
        case Request():
            return (
                f"Request {message.request}, answered {message.answered}: {shown_parts(message.operations)}"
            )
        case Stamped():
            return f"Stamped {shown_stamped(message)}"
        case Reply():
            outcome = "" if message.outcome is None else f": {shown_outcome(message.outcome)}"
            who = f"s{message.shard}.r{message.replica} in epoch {message.epoch} view {message.view}"
            return f"Reply {message.request} of {who}, slot {message.slot}{outcome}"
        case SyncReply():
            return f"SyncReply of s{message.shard}.r{message.replica}, slot {message.slot}"
        case SyncCommit():
            return f"SyncCommit slot {message.slot}"
        case EpochChange():
            return f"EpochChange {message.epoch}"
        case EpochChangeAck():
            who = f"s{message.shard}.r{message.replica} of epoch {message.last_normal_epoch}"
            entries = shown_entries(message.entries)
            return f"EpochChangeAck {message.epoch} of {who}, stable {message.stable}{entries}"
        case StartEpoch():
            place = f"view {message.view}, stable {message.stable}"
            return f"StartEpoch {message.epoch}, {place}{shown_entries(message.entries)}"
        case StartEpochAck():
            return f"StartEpochAck {message.epoch} of s{message.shard}.r{message.replica}"
        case _:
            raise AssertionError(f"{message} was never on the wire")


def shown_parts(parts: dict[ShardId, tuple[Operation, ...]]) -> str:
    return "; ".join(f"s{shard} {', '.join(map(shown_operation, part))}" for shard, part in parts.items())


def shown_operation(operation: Operation) -> str:
    match operation:
        case Put(key, value):
            return f"put {shown_key(key)}={values.decode(value)}"
        case Add(key, amount):
            return f"add {shown_key(key)} {values.decode(amount)}"
        case Delete(key):
            return f"delete {shown_key(key)}"
        case _:
            return str(operation)


def shown_key(encoded: bytes) -> str:
    return str(keys.decode(encoded))


def shown_stamped(stamped: Stamped | None) -> str:
    if stamped is None:
        return "NO-OP"
    places = " ".join(f"s{shard}#{number}" for shard, number in stamped.stamp.numbers.items())
    return f"[{places}] of epoch {stamped.stamp.epoch}: request {stamped.request.request}"


def shown_entries(entries: Iterable[LogEntry]) -> str:
    shown = ", ".join(f"{entry.slot} {shown_stamped(entry.stamped)}" for entry in entries)
    return f", log {shown}" if shown else ""


def shown_outcome(outcome: Outcome) -> str:
    found = ", ".join(
        str(what if isinstance(what, bool) else values.decode(what)) for what in outcome.results
    )
    return "refused" if outcome.refused else f"done {found}".strip()


def shown_answer(answer: messages.Answer) -> str:
    parts = (
        f"s{shard} slot {slot}: {shown_outcome(answer.outcomes[shard])}"
        for shard, slot in sorted(answer.slots.items())
    )
    return f"Answer {answer.request}, {'; '.join(parts)}"

"""Carries out the commands of the transcripts in ``tests/transcripts/eris``; the head of
``tests/eris/test_transcripts.py`` lists them."""

from __future__ import annotations

from collections.abc import Iterable
from unittest import mock

import msgspec

from kvstore import values
from kvstore.engine import log_retention
from kvstore.eris import image_request, messages
from kvstore.eris.coordinator_state import CoordinatorRecord, encode_record
from kvstore.eris.effects import (
    COORDINATOR,
    SEQUENCER,
    Address,
    CancelTimer,
    ClientAddress,
    CoordinatorAddress,
    Dropped,
    Effect,
    HostAddress,
    ReplicaAddress,
    Send,
    SetTimer,
)
from kvstore.eris.messages import EpochChangeAck, LogEntry, Reply, Stamped
from kvstore.execution.operations import Outcome
from kvstore.storage.memory_environment import MemoryFolder
from kvstore.types import ClientId, Epoch, RequestId, ShardId, Slot, TransactionId
from tests.support.cluster import SECOND, Cluster, Packet
from tests.support.eris_disks import Disks, grouped
from tests.support.eris_text import (
    joined,
    parsed,
    parsed_name,
    parsed_replica,
    shown_answer,
    shown_name,
    shown_packets,
    shown_stamped,
)

MARK_BYTES = 150
"""How often a log is marked with ``retention``, so that it is truncated within a short story."""


class Player(Disks):
    """Carries out the commands of one transcript."""

    def __init__(self) -> None:
        self.shown = 0
        """How many answers were printed already."""
        self.discards: dict[tuple[int, str], int] = {}
        """How often each host has discarded a message, by reason, when a command ended."""
        self.seen: dict[TransactionId, Stamped] = {}
        """Every transaction that was stamped, by each of its names."""
        self.delayed: list[Packet] = []

    def play(self, verb: str, arguments: list[str]) -> list[str]:
        """Carry out one command; return the lines it prints."""
        command = getattr(self, f"_{verb}", None)
        assert command is not None, f"there is no command {verb}"
        with mock.patch.object(log_retention, "MARK_BYTES_MIN", MARK_BYTES):
            lines: list[str] = command(*arguments)
        for packet in self.cluster.wire:
            if isinstance(packet.message, Stamped):
                self.seen.update(dict.fromkeys(packet.message.stamp.ids(), packet.message))
        return [*lines, *self._new_discards(), *self._new_answers()]

    def _new_answers(self) -> list[str]:
        answers = self.cluster.answered
        new, self.shown = answers[self.shown :], len(answers)
        return [f"caller <- {shown_answer(answer)}" for answer in new]

    def _new_discards(self) -> list[str]:
        now = {
            (number, reason): count
            for number, host in sorted(self.cluster.hosts.items())
            for reason, count in host.dropped.items()
        }
        new = [each for each, count in now.items() if count > self.discards.get(each, 0)]
        self.discards = now
        reasons = dict.fromkeys(reason for _, reason in new)
        return [
            f"{joined(f'h{number}' for number, why in new if why == reason)} discards: {reason}"
            for reason in reasons
        ]

    # -- a cluster, and what its client asks for ----------------------------------------------

    def _cluster(self, shards: str, replicas: str, *options: str) -> list[str]:
        given = {name: int(number) for name, number in (option.split("=") for option in options)}
        kept = given.pop("kept", 0)
        self.cluster = Cluster(shards=int(shards), replicas=int(replicas), **given)
        if kept:
            self.cluster.kept = kept
            self.cluster.begin_stamping()
        self.shown = 0
        self.discards = {}
        return []

    def _submit(self, *parts: str) -> list[str]:
        self.cluster.submit(parsed(parts))
        return self._wire()

    def _stamped(self, *parts: str) -> list[str]:
        self.cluster.submit(parsed(parts))
        self.cluster.step_roles()
        return self._wire()

    def _write(self, count: str, *parts: str) -> list[str]:
        last = parts.index("without") if "without" in parts else len(parts)
        for _ in range(int(count)):
            self.cluster.submit(parsed(parts[:last]))
            self.cluster.run_without(*map(int, parts[last + 1 :]))
        self.shown = max(self.shown, len(self.cluster.answered) - 1)
        return []

    def _general(self, *parts: str, keeps_locks: bool = False) -> list[str]:
        middle = parts.index("|")
        locked, writes = parsed(parts[:middle]), parsed(parts[middle + 1 :])
        self.cluster.submit_general(locked, writes, keeps_locks=keeps_locks)
        return self._wire()

    def _keep(self, *parts: str) -> list[str]:
        return self._general(*parts, keeps_locks=True)

    def _conclude(self, request: str, *parts: str) -> list[str]:
        self.cluster.conclude(RequestId(int(request)), parsed(parts))
        return self._wire()

    def _abort(self, request: str) -> list[str]:
        self.cluster.conclude(RequestId(int(request)), None)
        return self._wire()

    def _release(self) -> list[str]:
        self.cluster.release_dead()
        return self._wire()

    def _late(self, request: str, *parts: str) -> list[str]:
        self.cluster.conclude_for(ClientId(1), RequestId(int(request)), parsed(parts), commit=True)
        return self._wire()

    def _foreign(self, request: str, *shards: str) -> list[str]:
        nothing = {int(shard): () for shard in shards}
        self.cluster.conclude_for(self.cluster.client.client, RequestId(int(request)), nothing, commit=False)
        return self._wire()

    def _park(self) -> list[str]:
        self.cluster.client.park()
        return []

    def _fire(self) -> list[str]:
        self.cluster.carry(self.cluster.client.on_timer("retry"))
        return self._wire()

    def _clock(self, seconds: str) -> list[str]:
        self.cluster.now += int(seconds) * SECOND
        return []

    # -- messages ------------------------------------------------------------------------------

    def _step(self, count: str = "1") -> list[str]:
        for _ in range(int(count)):
            self.cluster.step()
        return self._wire()

    def _roles(self) -> list[str]:
        self.cluster.step_roles()
        return self._wire()

    def _quiet(self, *parts: str) -> list[str]:
        """A transaction that all hosts log, while no learner hears of that."""
        self.cluster.submit(parsed(parts))
        while self.cluster.wire:
            self.cluster.step()
            self.cluster.wire = [
                packet for packet in self.cluster.wire if not isinstance(packet.message, messages.SyncReply)
            ]
        return []

    def _run(self, without: str = "", *hosts: str) -> list[str]:
        assert without in ("", "without")
        if hosts:
            self.cluster.run_without(*map(int, hosts))
        else:
            self.cluster.run()
        return []

    def _until(self, kind: str) -> list[str]:
        self.cluster.run_until(getattr(messages, kind))
        return self._wire()

    def _settle(self) -> list[str]:
        self.cluster.settle()
        return []

    def _deliver(self, host: str) -> list[str]:
        self.cluster.deliver(int(host))
        return self._wire()

    def _where(self, *where: str) -> dict[str, object]:
        """Read which packets are meant: a kind of message, a host and a shard, each if it is named."""
        bounds: dict[str, object] = {}
        for part in where:
            name, _, number = part.partition("=")
            bounds |= {name: int(number)} if number else {"kind": getattr(messages, name)}
        return bounds

    def _lose(self, *where: str) -> list[str]:
        self.cluster.lose(**self._where(*where))  # type: ignore[arg-type]  # by their names
        return self._wire()

    def _repeat(self, *where: str) -> list[str]:
        self.cluster.repeat(**self._where(*where))  # type: ignore[arg-type]  # by their names
        return self._wire()

    def _delay(self, *where: str) -> list[str]:
        packets = self.cluster.on_wire(**self._where(*where))  # type: ignore[arg-type]  # by their names
        assert packets, "there is nothing to delay"
        self.delayed += packets
        self.cluster.wire = [packet for packet in self.cluster.wire if packet not in packets]
        return self._wire()

    def _copy(self, *where: str) -> list[str]:
        packets = self.cluster.on_wire(**self._where(*where))  # type: ignore[arg-type]  # by their names
        assert packets, "there is nothing to copy"
        self.delayed += packets
        return []

    def _arrive(self) -> list[str]:
        self.cluster.wire += self.delayed
        self.delayed = []
        return self._wire()

    def _overtake(self) -> list[str]:
        self.cluster.wire.reverse()
        return self._wire()

    def _give(self, to: str, *message: str) -> list[str]:
        address, made = self._made(to, message)
        before = len(self.cluster.wire)
        effects = self._effects(address, made)
        new = self.cluster.wire[before:]
        others = [shown_effect(effect) for effect in effects if not isinstance(effect, Send)]
        return [*others, *shown_packets(new)]

    def _effects(self, address: Address, message: msgspec.Struct) -> list[Effect]:
        """Hand a message to a role; lay on the wire what follows from it."""
        cluster = self.cluster
        match address:
            case ReplicaAddress(shard, host):
                mark = len(cluster.wire)
                effects = cluster.give(host, message, shard)  # type: ignore[arg-type]  # as addressed
                at_the_end = cluster.wire[mark:]
                del cluster.wire[mark:]
                cluster.carry(effect for effect in effects if isinstance(effect, Send))
                cluster.wire += at_the_end
                return effects
            case HostAddress(host):
                cluster.hosts[host].begin()
                effects = cluster.hosts[host].keeper.handle(message)  # type: ignore[arg-type]  # as addressed
                cluster.hosts[host].commit()
            case CoordinatorAddress(number):
                effects = cluster.coordinators[number].handle(message)  # type: ignore[arg-type]  # as addressed
            case ClientAddress():
                effects = cluster.client.handle(message)  # type: ignore[arg-type]  # as addressed
            case _ if address == SEQUENCER:
                effects = cluster.sequencer.on_resend(message)  # type: ignore[arg-type]  # as addressed
            case _:
                effects = cluster.coordinator.handle(message)  # type: ignore[arg-type]  # as addressed
        cluster.carry(effect for effect in effects if isinstance(effect, Send))
        return effects

    def _send(self, to: str, *message: str) -> list[str]:
        address, made = self._made(to, message)
        self.cluster.wire.append(Packet(address, made))
        return self._wire()

    def _made(self, to: str, message: tuple[str, ...]) -> tuple[Address, msgspec.Struct]:
        """Read an address, and a message by its kind and fields or by the name of a transaction."""
        address = self._address(to)
        kind, fields = message[0], dict(field.split("=") for field in message[1:])
        given = {name: self._value(name, text) for name, text in fields.items()}
        if "#" in kind:
            return address, changed(self._transaction(kind), given)
        made = getattr(messages, kind)
        for name in made.__struct_fields__:
            default = self._default(made, name, address, given)
            if name not in given and default is not None:
                given[name] = default
        return address, made(**given)

    def _address(self, text: str) -> Address:
        if text.startswith("s") and ".r" in text:
            return parsed_replica(text)
        if text.startswith("h"):
            return HostAddress(int(text[1:]))
        if text.startswith("coordinator."):
            return CoordinatorAddress(int(text.partition(".")[2]))
        if text == "client":
            return ClientAddress(self.cluster.client.client)
        return {"coordinator": COORDINATOR, "sequencer": SEQUENCER}[text]

    def _value(self, name: str, text: str) -> object:
        """Read a field of a message."""
        epoch = self.cluster.sequencer.epoch
        match name:
            case "id":
                return parsed_name(text, epoch)
            case "ids" | "dropped":
                return tuple(parsed_name(one, epoch) for one in text.split(",") if one)
            case "stamped":
                return self._transaction(text)
            case "entries":
                return self._entries(text.split(","))
            case _:
                return int(text)

    def _default(
        self, kind: type[msgspec.Struct], name: str, to: Address, given: dict[str, object]
    ) -> object | None:
        """What a field is that is not named: as its receiver has it."""
        own = self.cluster.record(to.replica, to.shard) if isinstance(to, ReplicaAddress) else None
        begun = self.cluster.coordinator.record
        match name:
            case "shard":
                return to.shard if isinstance(to, ReplicaAddress) else ShardId(0)
            case "epoch":
                return own.epoch if own else begun.epoch
            case "view":
                return own.view if own else 0
            case "client":
                return self.cluster.client.client
            case "outcome" if kind is Reply and given["replica"] == given["view"] % self.cluster.replicas:  # type: ignore[operator]  # numbers
                return Outcome(results=(values.encode(1),))
            case "last_normal_epoch" | "follows":
                return begun.last_started
            case "stable" if kind is EpochChangeAck:
                return given["base"]
            case "base" | "clock" | "counter" | "coordinator":
                return 0
            case "entries":
                return ()
            case "record":
                return encode_record(
                    CoordinatorRecord(Epoch(int(str(given["epoch"]))), int(str(given["counter"])))
                )
            case _:
                return None

    def _transaction(self, text: str) -> Stamped:
        return self.seen[parsed_name(text, self.cluster.sequencer.epoch)]

    def _entries(self, texts: Iterable[str]) -> tuple[LogEntry, ...]:
        """Read ``3=s0#1`` or ``4=-``, which is a NO-OP."""
        entries = []
        for text in texts:
            slot, _, name = text.partition("@")
            entries.append(LogEntry(Slot(int(slot)), None if name == "-" else self._transaction(name)))
        return tuple(entries)

    def _wire(self) -> list[str]:
        return shown_packets(self.cluster.wire)

    # -- timers, and what else happens to replicas ----------------------------------------------

    def _gap(self, host: str, shard: str = "0") -> list[str]:
        return self._fire_replica(host, shard, "gap")

    def _suspect(self, host: str, shard: str = "0") -> list[str]:
        return self._fire_replica(host, shard, "suspect")

    def _heartbeat(self, host: str, shard: str = "0") -> list[str]:
        return self._fire_replica(host, shard, "heartbeat")

    def _silence(self, host: str) -> list[str]:
        return self._fire_replica(host, "0", "silence")

    def _image(self, host: str, shard: str = "0") -> list[str]:
        self.cluster.replica(int(host), int(shard)).needs_image = True
        return self._fire_replica(host, shard, "image")

    def _fire_replica(self, host: str, shard: str, name: str) -> list[str]:
        self.cluster.fire(int(host), int(shard), name)
        return self._wire()

    def _timers(self) -> list[str]:
        return [
            f"s{address.shard}.r{address.replica}: {name}" for address, name in sorted(self.cluster.timers)
        ]

    def _expire(self) -> list[str]:
        self.cluster.fire_all()
        return self._wire()

    def _flush(self) -> list[str]:
        self.cluster.carry(self.cluster.sequencer.on_timer("flush"))
        return self._wire()

    def _crash(self, *hosts: str) -> list[str]:
        self.cluster.crash(*map(int, hosts))
        return []

    def _restart(self, *hosts: str) -> list[str]:
        self.cluster.restart(*map(int, hosts))
        return []

    def _forget(self, host: str) -> list[str]:
        rejoin, cluster = Epoch(self.cluster.coordinator.record.epoch + 1), self.cluster
        cluster.crash(int(host))
        cluster.disk.folders[host] = MemoryFolder()
        cluster.restart(int(host))
        restarted = cluster.hosts[int(host)]
        restarted.begin()
        restarted.keeper.forget(rejoin)
        for replica in restarted.replicas:
            image_request.forget(replica, rejoin)
        restarted.touch_all()
        restarted.finish()
        restarted.commit()
        restarted.timers.clear()
        return self._fire_replica(host, "0", "image")

    # -- epochs and coordinators -----------------------------------------------------------------

    def _epoch(self, *hosts: str) -> list[str]:
        self.cluster.wire.clear()
        self.cluster.begin_epoch(*map(int, hosts))
        return self._wire()

    def _stamp(self, on: str = "") -> list[str]:
        self.cluster.begin_stamping(keep_client=bool(on))
        if on:
            return []
        self.cluster.answered.clear()
        self.shown = 0
        return []

    def _coordinator(self, number: str) -> list[str]:
        self.cluster.start_coordinator(int(number))
        return self._wire()

    def _again(self, number: str) -> list[str]:
        life = self.cluster.coordinators[int(number)].life + 1
        self.cluster.start_coordinator(int(number))
        role = self.cluster.coordinators[int(number)]
        role.life, role.epoch = life, Epoch(0)
        self.cluster.wire = [packet for packet in self.cluster.wire if not isinstance(packet.to, HostAddress)]
        self.cluster.carry(role.prepare(Epoch(2)))
        return self._wire()

    def _timer(self, number: str, name: str) -> list[str]:
        self.cluster.fire_coordinator(int(number), name)
        return self._wire()

    def _decided(self) -> list[str]:
        record = self.cluster.coordinator.record
        found = "".join(f", found {shown_stamped(stamped)}" for stamped in record.found)
        dropped = "".join(f", dropped {shown_name(name)}" for name in sorted(record.dropped))
        return [
            f"record {record.epoch}.{record.counter}: epoch {record.last_started} started"
            f" in view {record.view}{found}{dropped}"
        ]

    def _records(self) -> list[str]:
        lines = []
        for number, host in sorted(self.cluster.hosts.items()):
            host.begin()
            record, promised = host.coordinator_record(), host.keeper.promised()
            host.abort()
            found = "".join(f", found {shown_stamped(stamped)}" for stamped in record.found)
            lines.append(
                (f"h{number}", f" keeps {record.epoch}.{record.counter}, promised {promised}{found}")
            )
        return grouped(lines)


def changed(stamped: Stamped, given: dict[str, object]) -> Stamped:
    """A transaction as another sequencer might have stamped it, or another client have sent it."""
    of_stamp: dict[str, object] = {name: given[name] for name in ("epoch", "clock") if name in given}
    if "number" in given:
        of_stamp["numbers"] = dict.fromkeys(stamped.stamp.numbers, given["number"])
    of_request = {name: given[name] for name in ("request", "client", "answered") if name in given}
    return Stamped(
        msgspec.structs.replace(stamped.stamp, **of_stamp),
        msgspec.structs.replace(stamped.request, **of_request),
    )


def shown_effect(effect: Effect) -> str:
    """What a role asks for besides sending."""
    match effect:
        case Dropped(_, reason):
            return f"discarded: {reason}"
        case SetTimer(name, after):
            return f"timer {name} in {after} ms"
        case CancelTimer(name):
            return f"timer {name} off"
        case Send():
            raise AssertionError("a message is shown on the wire")

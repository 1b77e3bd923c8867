"""The roles of one store on memory disks; the test controls every message between them.

Nothing is delivered by itself. A role's messages stay on ``wire``, in order, until the test delivers them;
the test can lose, repeat or reorder them. A host processes its messages in one batch, as a real host does.

    cluster = Cluster(shards=2, replicas=3)
    cluster.submit({0: [put("k", 1)]})   the client's request is on the wire
    cluster.step()                       the sequencer stamps it: one message for each replica
    cluster.lose(host=2)                 replica 2 never gets its message
    cluster.run()                        deliver everything else, until the wire is empty
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from kvstore import keys, values
from kvstore.engine.host import Host
from kvstore.engine.manifest import Manifest
from kvstore.engine.upkeep.verify import verify
from kvstore.eris.client import Client, SecondHalf
from kvstore.eris.coordinator_replication import ReplicatedCoordinator
from kvstore.eris.coordinator_state import CoordinatorRecord
from kvstore.eris.effects import (
    COORDINATOR,
    SEQUENCER,
    Address,
    ClientAddress,
    CoordinatorAddress,
    Effect,
    GroupAddress,
    HostAddress,
    ReplicaAddress,
    Send,
    SetTimer,
)
from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.log import read_body
from kvstore.eris.messages import (
    Answer,
    Conclusory,
    ReplicaMessage,
    Reply,
    Request,
    ResendRequest,
    Stamped,
)
from kvstore.eris.replica import Replica
from kvstore.eris.sequencer import Sequencer
from kvstore.eris.shard_state import (
    HOST_TABLE,
    REGISTERS,
    ShardRecord,
    decode_record,
    log_name,
    record_key,
    table_name,
)
from kvstore.execution.operations import Add, Check, Delete, IdempotencyToken, Operation, Put, Reserve
from kvstore.execution.stored_value import decoded_value, stored_version
from kvstore.keys import Key
from kvstore.ports import CommitView
from kvstore.storage import MemoryDisk, MemoryEnvironment
from kvstore.types import (
    ClientId,
    Epoch,
    HostId,
    RequestId,
    SequenceNumber,
    ShardId,
    Slot,
    Timestamp,
    TransactionId,
)

SECOND = 10**9
COORDINATORS = 3
ROWS_ALL = 1 << 20

Parts = Mapping[int, Iterable[Operation]]
"""Operations of a transaction, by shard number."""


class Packet(NamedTuple):
    """A message on its way to one role."""

    to: Address
    message: msgspec.Struct


class Cluster:
    """All roles of one store, which are in epoch 1 when the constructor returns."""

    def __init__(self, *, shards: int = 1, replicas: int = 3, retention: int = 1 << 30) -> None:
        self.shards = shards
        self.replicas = replicas
        self.retention = retention
        self.disk = MemoryDisk()
        self.now = 1_000 * SECOND
        """Physical time in nanoseconds, which only the test advances."""
        self.wire: list[Packet] = []
        self.answers: dict[RequestId, Answer] = {}
        """Last answer to each request; an answer with votes is followed by one with the outcome."""
        self.answered: list[Answer] = []
        """All answers, in order."""
        self.effects: list[Effect] = []
        """Effects of the roles other than sends, and sends without a receiver here, in order."""
        self.timers: dict[tuple[ReplicaAddress, str], int] = {}
        """Armed timers of replicas, with their milliseconds."""
        self.kept = 0
        """Number of last messages to each shard that the sequencer keeps."""
        self.hosts: dict[int, Host] = {number: self._load(number) for number in range(replicas)}
        self.sequencer: Sequencer
        self.client: Client
        self.coordinator: FailureCoordinator
        """Coordinator that leads."""
        self.coordinators: dict[int, ReplicatedCoordinator] = {}
        """Coordinators that ``start_coordinator`` started; without any, the leading one never fails."""
        self.turned_to = 0
        """Number of the started coordinator to which the roles send."""
        self.change_epoch()

    # -- hosts -------------------------------------------------------------------------------

    def _load(self, number: int) -> Host:
        return Host(
            HostId(number),
            MemoryEnvironment(self.disk, str(number)),
            shards=self.shards,
            replicas=self.replicas,
            retention=self.retention,
            owns=lambda shard, encoded: True,
        )

    def crash(self, *numbers: int) -> None:
        """Crash these hosts: their memory and the messages to them are lost, their disks stay."""
        for number in numbers:
            del self.hosts[number]
        self.wire = [packet for packet in self.wire if _host_of(packet.to) not in numbers]

    def restart(self, *numbers: int) -> None:
        """Rebuild crashed hosts from their disks."""
        for number in numbers:
            self.hosts[number] = self._load(number)

    def replica(self, host: int, shard: int = 0) -> Replica:
        return self.hosts[host].replicas[shard]

    @property
    def learner(self) -> Host:
        return self.hosts[self.coordinator.record.view % self.replicas]

    # -- messages ----------------------------------------------------------------------------

    def submit(self, parts: Parts, token: IdempotencyToken | None = None) -> RequestId:
        """Have the client send a request; nothing is delivered yet."""
        operations = {ShardId(shard): tuple(part) for shard, part in parts.items()}
        self.carry(self.client.submit(operations, token))
        return self.client.last_request

    def submit_general(self, parts: Parts, writes: Parts, *, keeps_locks: bool = False) -> RequestId:
        """Have the client send a preliminary; both halves have all participants."""
        shards = sorted({*parts, *writes})
        operations = {ShardId(shard): tuple(parts.get(shard, ())) for shard in shards}
        second_half = SecondHalf(
            {ShardId(shard): tuple(writes.get(shard, ())) for shard in shards}, keeps_locks=keeps_locks
        )
        self.carry(self.client.submit_general(operations, second_half))
        return self.client.last_request

    def conclude(self, preliminary: RequestId, writes: Parts | None) -> None:
        """Have the client commit a preliminary whose votes it has, or abort it (None)."""
        if writes is None:
            self.carry(self.client.conclude(preliminary))
            return
        waiting = self.client.outstanding.get(preliminary) or self.client.parked[preliminary]
        shards = waiting.request.operations
        self.carry(
            self.client.conclude(preliminary, {shard: tuple(writes.get(shard, ())) for shard in shards})
        )

    def conclude_for(self, client: ClientId, preliminary: RequestId, writes: Parts, *, commit: bool) -> None:
        """Have the client send another client's second half; ``writes`` has a part for each participant."""
        half = Conclusory(client, preliminary, commit)
        self.carry(self.client.submit({ShardId(s): tuple(part) for s, part in writes.items()}, half=half))

    def release_dead(self) -> None:
        """Have the client abort every transaction that is between its halves, as an opening does."""
        for stamped in self.learner.executor.outstanding():
            request = stamped.request
            nothing: Parts = dict.fromkeys(request.operations, ())
            self.conclude_for(request.client, request.request, nothing, commit=False)

    def carry(self, effects: Iterable[Effect]) -> None:
        """Put sends on the wire, one packet for each replica of a group."""
        for effect in effects:
            match effect:
                case Send(GroupAddress(shard), message):
                    group = (ReplicaAddress(shard, number) for number in range(self.replicas))
                    self.wire += [Packet(address, message) for address in group]
                case Send(_, Answer() as answer):
                    self.answers[answer.request] = answer
                    self.answered.append(answer)
                case Send(to, message):
                    self.wire.append(Packet(to, message))
                case _:
                    self.effects.append(effect)

    def step(self) -> None:
        """Deliver the packets that are on the wire now, and put the resulting sends on it."""
        packets, self.wire = self.wire, []
        for number in sorted(self.hosts):
            self._give_host(number, [packet for packet in packets if _host_of(packet.to) == number])
        for packet in packets:
            if _host_of(packet.to) is None:
                self._give_role(packet)

    def step_roles(self) -> None:
        """Deliver the packets on the wire for the sequencer, the coordinator and the client only."""
        packets = [packet for packet in self.wire if _host_of(packet.to) is None]
        self.wire = [packet for packet in self.wire if _host_of(packet.to) is not None]
        for packet in packets:
            self._give_role(packet)

    def run(self) -> None:
        """Deliver until the wire is empty."""
        for _ in range(100):
            if not self.wire:
                return
            self.step()
        raise AssertionError(f"there is no end to {self.wire}")

    def run_until(self, kind: type[msgspec.Struct]) -> None:
        """Deliver until a message of this kind is on the wire."""
        while not self.on_wire(kind):
            assert self.wire, f"no {kind.__name__} will come"
            self.step()

    def settle(self) -> None:
        """Deliver everything, send the learners' heartbeats, fire timers, begin started epochs, and have the
        client retry, until nothing happens any more."""
        for number in range(200):
            self.run()
            for host in self.hosts:
                for shard in range(self.shards):
                    self.fire(host, shard, "heartbeat")
            self.run()
            self.fire_all()
            for coordinator in self.coordinators:
                for timer in ("prepare", "save", "epoch"):
                    self.fire_coordinator(coordinator, timer)
            if self.coordinator.is_normal and self.coordinator.record.epoch > self.sequencer.epoch:
                self.begin_stamping(keep_client=True)
            self.carry(self.sequencer.on_timer("flush"))
            if number % 10 == 9:
                if not self.client.outstanding and not self.timers:
                    break
                self.carry(self.client.on_timer("retry"))
        self.run()

    def run_without(self, *hosts: int) -> None:
        """Deliver until the wire is empty, and lose the packets to these hosts."""
        while self.wire:
            self.wire = [packet for packet in self.wire if _host_of(packet.to) not in hosts]
            self.step()

    def deliver(self, host: int) -> None:
        """Deliver all packets on the wire for one host, in one batch."""
        packets = [packet for packet in self.wire if _host_of(packet.to) == host]
        self.wire = [packet for packet in self.wire if _host_of(packet.to) != host]
        self._give_host(host, packets)

    def _give_host(self, number: int, packets: list[Packet]) -> None:
        if packets:
            host = self.hosts[number]
            host.begin()
            sends: list[Send] = []
            for to, message in packets:
                if isinstance(to, ReplicaAddress):
                    sends += host.handle([(to.shard, message)])  # type: ignore[list-item]  # as addressed
                else:
                    kept = host.keeper.handle(message)  # type: ignore[arg-type]  # as addressed
                    sends += [effect for effect in kept if isinstance(effect, Send)]
            sends += host.finish()
            host.commit()
            self.carry(sends)
            self._take_timers(host)

    def _take_timers(self, host: Host) -> None:
        for address, effect in host.timers:
            self.effects.append(effect)
            if isinstance(effect, SetTimer):
                self.timers[address, effect.name] = effect.after_ms
            else:
                self.timers.pop((address, effect.name), None)
        host.timers.clear()

    def fire(self, host: int, shard: int = 0, name: str = "gap") -> None:
        """Fire a replica's timer, which must be armed unless it is a timer of the driver."""
        self.timers.pop((ReplicaAddress(ShardId(shard), host), name), None)
        self.hosts[host].begin()
        sends = self.hosts[host].fire(ShardId(shard), name)
        sends += self.hosts[host].finish()
        self.hosts[host].commit()
        self.carry(sends)
        self._take_timers(self.hosts[host])

    def fire_all(self) -> None:
        """Fire every timer that is armed now."""
        for address, name in sorted(self.timers):
            if (address, name) in self.timers and address.replica in self.hosts:
                self.fire(address.replica, address.shard, name)

    def _give_role(self, packet: Packet) -> None:
        match packet:
            case Packet(to, Request() as request) if to == SEQUENCER:
                self.carry(self.sequencer.handle(request, Timestamp(self.now)))
            case Packet(ClientAddress(), Reply() as reply):
                self.carry(self.client.handle(reply))
            case Packet(CoordinatorAddress(number), message):
                self._give_coordinator(number, message)
            case Packet(to, message) if to == COORDINATOR and self.coordinators:
                self._give_coordinator(self.turned_to, message)
            case Packet(to, message) if to == COORDINATOR:
                before = self.coordinator.record
                effects = self.coordinator.handle(message)  # type: ignore[arg-type]  # it takes what it is sent
                if self.coordinator.record is not before:
                    self._save_coordinator()
                self.carry(effects)
            case Packet(to, ResendRequest() as resend) if to == SEQUENCER:
                self.carry(self.sequencer.on_resend(resend))
            case _:
                self.effects.append(Send(packet.to, packet.message))

    def _give_coordinator(self, number: int, message: msgspec.Struct) -> None:
        if number in self.coordinators:  # else the coordinator is dead
            role = self.coordinators[number]
            self.carry(role.handle(message))  # type: ignore[arg-type]  # as addressed
            if role.leading is not None and number == self.turned_to:
                self.coordinator = role.leading

    def _save_coordinator(self) -> None:
        for host in self.hosts.values():
            host.begin()
            host.save_coordinator_record(self.coordinator.record)
            host.commit()

    def give(self, host: int, message: ReplicaMessage, shard: int = 0) -> list[Effect]:
        """Hand one message to one replica in a batch of its own; return its immediate effects.

        The replica's sends at the end of the batch are put on the wire.
        """
        self.hosts[host].begin()
        effects = self.replica(host, shard).handle(message)
        self.hosts[host].touch_all()
        sends = self.hosts[host].finish()
        self.hosts[host].commit()
        self.carry(sends)
        return effects

    def on_wire(
        self, kind: type[msgspec.Struct] | None = None, *, host: int | None = None, shard: int | None = None
    ) -> list[Packet]:
        """Return the packets of this kind, to this host, about this shard."""
        return [packet for packet in self.wire if _matches(packet, kind, host, shard)]

    def lose(
        self, kind: type[msgspec.Struct] | None = None, *, host: int | None = None, shard: int | None = None
    ) -> None:
        """Remove packets from the wire; there must be some."""
        lost = self.on_wire(kind, host=host, shard=shard)
        assert lost, "there is nothing to lose"
        self.wire = [packet for packet in self.wire if packet not in lost]

    def repeat(
        self, kind: type[msgspec.Struct] | None = None, *, host: int | None = None, shard: int | None = None
    ) -> None:
        """Put packets on the wire a second time; there must be some."""
        again = self.on_wire(kind, host=host, shard=shard)
        assert again, "there is nothing to repeat"
        self.wire += again

    # -- epochs ------------------------------------------------------------------------------

    def begin_epoch(self, *consulted: int, complete: bool = False) -> None:
        """Put the EPOCH-CHANGEs of a new epoch on the wire; all hosts are consulted if none is named.

        With ``complete``, the coordinator has replicas that are behind completed, as an opening does.
        """
        hosts = [self.hosts[number] for number in consulted or sorted(self.hosts)]
        self.coordinator = FailureCoordinator(
            record=self.newest_record(),
            shards=self.shards,
            replicas=self.replicas,
            consulted=frozenset(replica.address for host in hosts for replica in host.replicas),
        )
        epochs = [replica.record.epoch for host in hosts for replica in host.replicas]
        epoch = Epoch(1 + max(self.coordinator.record.epoch, *epochs))
        ends = (
            min(replica.last_slot for replica in replicas)
            for replicas in zip(*(host.replicas for host in hosts), strict=True)
        )
        since = {ShardId(shard): end for shard, end in enumerate(ends)}
        self.carry(self.coordinator.begin(epoch, since if complete else None))

    def start_coordinator(self, number: int) -> None:
        """Start a coordinator that keeps its record at the hosts, by messages; from now on the roles send to
        this coordinator. Earlier coordinators live on."""
        self.coordinators[number] = role = ReplicatedCoordinator(
            number=number,
            coordinators=COORDINATORS,
            hosts=self.replicas,
            shards=self.shards,
            clients_from=self.client.client,
        )
        self.turned_to = number
        self.carry(role.prepare(Epoch(2)))  # epoch 1 began without messages

    def fire_coordinator(self, number: int, name: str) -> None:
        """Fire a coordinator's timer."""
        self.carry(self.coordinators[number].on_timer(name))

    def newest_record(self) -> CoordinatorRecord:
        """Return the newest coordinator's record on the disks of the living hosts."""
        records = []
        for host in self.hosts.values():
            host.begin()
            records.append(host.coordinator_record())
            host.abort()
        return max(records, key=lambda record: (record.epoch, record.counter))

    def begin_stamping(self, *, keep_client: bool = False) -> None:
        """Start the sequencer and the client of the started epoch, or keep the old client."""
        record = self.coordinator.record
        clock = max(start.clock for start in record.start_epochs)
        self.sequencer = Sequencer(epoch=record.epoch, shards=self.shards, clock=clock, kept=self.kept)
        if keep_client:
            return
        self.client = Client(client=ClientId(record.epoch), replicas=self.replicas)

    def change_epoch(self, *consulted: int, complete: bool = False) -> None:
        """Do a whole epoch change: earlier messages are lost, its own are not."""
        self.wire.clear()
        self.begin_epoch(*consulted, complete=complete)
        self.run()
        assert self.coordinator.record.last_started == self.coordinator.record.epoch
        self.begin_stamping()

    # -- what is on the disks ----------------------------------------------------------------

    def _view(self, host: int) -> CommitView:
        return MemoryEnvironment(self.disk, str(host)).view()

    def record(self, host: int, shard: int = 0) -> ShardRecord:
        """Return the durable record of a replica."""
        return _record(self._view(host), ShardId(shard))

    def log(self, host: int, shard: int = 0) -> list[Stamped | None]:
        """Return the durable log of a replica, from its first slot on; None is a NO-OP."""
        return list(self.slots(host, shard).values())

    def slots(self, host: int, shard: int = 0) -> dict[int, Stamped | None]:
        """Return the durable log of a replica, by slot."""
        view = self._view(host)

        def records(number: ShardId, first: int, count: int) -> list[tuple[int, bytes]]:
            return view.log(log_name(number), _record(view, number).head).read(first, count)

        def referred(number: ShardId, slot: Slot) -> bytes:
            return records(number, slot, 1)[0][1]

        return {slot: read_body(body, referred) for slot, body in records(ShardId(shard), 0, ROWS_ALL)}

    def cells(self, host: int, shard: int = 0) -> dict[Key, tuple[object, int | None]]:
        """Return value and version by key, as a replica has them on disk."""
        table = self._view(host).table(table_name(ShardId(shard), REGISTERS))
        rows = table.scan(b"", b"\xff", limit=ROWS_ALL)
        return {keys.decode(key): (decoded_value(cell), stored_version(cell)) for key, cell in rows}

    def values(self, host: int, shard: int = 0) -> dict[Key, object]:
        return {key: value for key, (value, _) in self.cells(host, shard).items()}

    def problems(self, host: int) -> list[str]:
        """Return the problems that ``verify`` finds on one host's disk; here any shard may hold any key."""
        manifest = Manifest(uuid="", shards=self.shards, replicas=self.replicas)
        environment = MemoryEnvironment(self.disk, str(host))
        return verify(environment, manifest, owns=lambda _shard, _key: True)[1]


def _record(view: CommitView, shard: ShardId) -> ShardRecord:
    stored = view.table(HOST_TABLE).get(record_key(shard))
    return ShardRecord() if stored is None else decode_record(stored)


def _host_of(address: Address) -> int | None:
    match address:
        case ReplicaAddress(_, host) | HostAddress(host):
            return host
        case _:
            return None


def _matches(packet: Packet, kind: type[msgspec.Struct] | None, host: int | None, shard: int | None) -> bool:
    return (
        (kind is None or isinstance(packet.message, kind))
        and (host is None or _host_of(packet.to) == host)
        and (shard is None or getattr(packet.to, "shard", None) == shard)
    )


def name(shard: int, number: int, epoch: int = 1) -> TransactionId:
    """Return one of a transaction's ids."""
    return TransactionId(Epoch(epoch), ShardId(shard), SequenceNumber(number))


def put(key: Key, value: object) -> Put:
    return Put(keys.encode(key), values.encode(value))


def add(key: Key, amount: float = 1) -> Add:
    return Add(keys.encode(key), values.encode(amount))


def delete(key: Key, *, report: bool = False) -> Delete:
    return Delete(keys.encode(key), report)


def check(key: Key, version: int | None) -> Check:
    return Check(keys.encode(key), version)


def reserve(key: Key) -> Reserve:
    return Reserve(keys.encode(key))

"""Whole clusters in virtual time, from one seed: the roles of the store on a network and disks that fail.

The roles are those that the embedded store runs. Hosts, sequencers, coordinators and clients are nodes. Their
messages go over a network that loses, repeats, delays and reorders (``simulated_network.py``), and hosts
crash, pause and lose their disks (``simulated_host.py``). There is one thread, one heap of events and one
source of randomness, so a seed determines the run to the last message. The hash of the trace shows whether
two runs are equal.

Failover of each role:

* A sequencer belongs to an epoch. When the coordinator sends START-EPOCH, a new sequencer begins, and clients
  learn of it after a delay. The old one may continue; replicas ignore its messages.
* One coordinator leads; earlier ones may continue, and believe that they lead.
* Locks of a client that has crashed, or is slow, are released by a host that has seen them held for too long:
  the
  host sends an Abort through the sequencer, as a client does (section 7).
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

import msgspec

from kvstore.eris.client import Client
from kvstore.eris.coordinator_replication import ReplicatedCoordinator
from kvstore.eris.effects import (
    COORDINATOR,
    SEQUENCER,
    Address,
    CancelTimer,
    ClientAddress,
    CoordinatorAddress,
    Effect,
    GroupAddress,
    HostAddress,
    ReplicaAddress,
    Send,
    SetTimer,
)
from kvstore.eris.messages import Answer, Conclusory, Request, ResendRequest, StartEpoch, encode
from kvstore.eris.sequencer import Sequencer
from kvstore.simulation.simulated_host import InboxItem, Letter, Shape, SimulatedHost, asking_host
from kvstore.simulation.simulated_network import Direction, Endpoint, Micros, SimulatedNetwork
from kvstore.storage import MemoryDisk
from kvstore.types import ClientId, Epoch, ShardId, Timestamp

COORDINATORS = 3
RECENT = 40
"""Number of messages that a sequencer can send again, for each shard."""
ROUTE_US = 10_000
"""The longest time until a client knows a new sequencer."""
LOCKS_US = 25_000
"""The period with which hosts look for locks that are held for too long."""
PHYSICAL_START = 1_000 * 10**9
"""Physical time at the start of a run, in nanoseconds."""

Packet = tuple[Endpoint, Endpoint, InboxItem | msgspec.Struct]
"""Sender, receiver and message."""


class Observer(Protocol):
    """A checker, which raises if an invariant is violated."""

    def committed(self, host: SimulatedHost, sends: list[Send]) -> None:
        """Check a host that has committed a batch, and is about to send these messages."""

    def spoke(self, coordinator: CoordinatorNode, sends: list[Send]) -> None:
        """Check the messages that a coordinator sends."""


@dataclass
class CoordinatorNode:
    """A coordinator. Its record is stored by the hosts; a crash loses the rest of its state."""

    number: int
    role: ReplicatedCoordinator
    is_up: bool = True
    is_paused: bool = False
    waiting: list[msgspec.Struct] = field(default_factory=list)
    timers: dict[str, int] = field(default_factory=dict)


@dataclass
class SequencerNode:
    """The sequencer of one epoch."""

    role: Sequencer
    is_up: bool = True
    is_paused: bool = False
    waiting: list[msgspec.Struct] = field(default_factory=list)


@dataclass
class ClientNode:
    """A client; ``told`` is called with its answers."""

    role: Client
    told: Callable[[Answer], None]
    endpoint: Endpoint
    """The node that the client runs on: its own, or a host."""
    route: Epoch = Epoch(0)  # noqa: RUF009  # an int
    is_up: bool = True
    timer: int = 0


class Simulator:
    """A store and its environment. Virtual time passes only in ``run_until``."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self.seed = seed
        self.shape = shape
        self.chance = random.Random(seed)
        self.now: Micros = 0
        self.clock_error = 0
        """The error of the sequencer's clock, in nanoseconds."""
        self.network = SimulatedNetwork(random.Random(self.chance.random()))
        self.disk = MemoryDisk()
        self.faults: Counter[str] = Counter()
        self.observers: list[Observer] = []
        self.hosts = [SimulatedHost(number, self, shape) for number in range(shape.replicas)]
        self.sequencers: dict[Epoch, SequencerNode] = {}
        self.coordinators: dict[int, CoordinatorNode] = {}
        self.leading = 0
        """The coordinator that the other nodes send to."""
        self.clients: dict[ClientId, ClientNode] = {}
        self._last_client = 0
        self._events: list[tuple[Micros, int, Callable[[], None]]] = []
        self.events = 0
        """Number of events that have happened. A bound on it ends a run that makes no progress."""
        self._scheduled = 0
        self._trace = hashlib.sha256()
        for host in self.hosts:
            host.start()
        self.start_coordinator(0)
        self.after(LOCKS_US, self._watch_locks)

    # -- time --------------------------------------------------------------------------------

    def after(self, delay: Micros, action: Callable[[], None]) -> None:
        """Call the action after this delay."""
        self._scheduled += 1
        heappush(self._events, (self.now + delay, self._scheduled, action))

    def run_until(self, end: Micros, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass until ``end``; return True early, when ``done`` returns true."""
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heappop(self._events)
            self.events += 1
            action()
            if done is not None and done():
                return True
        self.now = end
        return False

    def trace(self) -> str:
        """Return the hash of all events so far."""
        return self._trace.hexdigest()

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self._trace.update(f"{self.now} {what}\n".encode())

    def physical(self) -> Timestamp:
        """Return the time that the sequencer's clock shows."""
        return Timestamp(max(0, PHYSICAL_START + self.now * 1000 + self.clock_error))

    # -- messages ----------------------------------------------------------------------------

    def send(self, source: Endpoint, to: Address, message: msgspec.Struct) -> None:
        """Hand a message to the network, once for each receiver."""
        for node, item in self._receivers(source, to, message):
            self._transmit((source, node, item))

    def _receivers(
        self, source: Endpoint, to: Address, message: msgspec.Struct
    ) -> list[tuple[Endpoint, InboxItem | msgspec.Struct]]:
        match to:
            case ReplicaAddress(shard, replica):
                return [(self.hosts[replica].node, Letter(shard, message))]  # type: ignore[arg-type]  # as addressed
            case GroupAddress(shard):
                return [(host.node, Letter(shard, message)) for host in self.hosts]  # type: ignore[arg-type]  # as addressed
            case HostAddress(number):
                return [(self.hosts[number].node, message)]
            case CoordinatorAddress(number) if number < 0:
                return [(self.hosts[asking_host(number)].node, message)]
            case CoordinatorAddress(number):
                return [(Endpoint("coordinator", number), message)]
            case ClientAddress(client):
                return [(Endpoint("client", client), message)] if client in self.clients else []
            case _ if to == COORDINATOR:
                return [(Endpoint("coordinator", self.leading), message)]
            case _ if isinstance(message, ResendRequest):
                return [(Endpoint("sequencer", message.epoch), message)]
            case _:
                assert to == SEQUENCER, to
                return [(Endpoint("sequencer", self.clients[ClientId(source.number)].route), message)]

    def _transmit(self, packet: Packet) -> None:
        link = self._link(packet)
        if link in self.network.clogged:
            self.network.clogged[link].append(packet)
            return
        for delay in self.network.arrivals(link):
            self.after(delay, lambda: self._deliver(packet))

    def _link(self, packet: Packet) -> Direction:
        return self._place(packet[0]), self._place(packet[1])

    def _place(self, node: Endpoint) -> Endpoint:
        """Return the endpoint on which a node runs."""
        return self.clients[ClientId(node.number)].endpoint if node.kind == "client" else node

    def unclog(self, link: Direction) -> None:
        """Open a link, and deliver the messages that waited in it."""
        for packet in self.network.unclog(link):
            self.after(self.network.fastest, lambda packet=packet: self._deliver(packet))  # type: ignore[misc]  # a lambda keeps its own

    def _deliver(self, packet: Packet) -> None:
        source, node, item = packet
        self._trace_delivery(source, node, item)
        match node.kind:
            case "host":
                self.hosts[node.number].receive(item)  # type: ignore[arg-type]  # as addressed
            case "client":
                self._give_client(self.clients[ClientId(node.number)], item)
            case "coordinator":
                self._give_coordinator(node.number, item)  # type: ignore[arg-type]  # as addressed
            case _:
                self._give_sequencer(Epoch(node.number), item)  # type: ignore[arg-type]  # as addressed

    def _trace_delivery(self, source: Endpoint, node: Endpoint, item: InboxItem | msgspec.Struct) -> None:
        message = item.message if isinstance(item, Letter) else item
        self._trace.update(f"{self.now} {source} {node} ".encode())
        self._trace.update(encode(message))

    # -- sequencers --------------------------------------------------------------------------

    def _begin_stamping(self, epoch: Epoch, clock: Timestamp) -> None:
        """Start the sequencer of an epoch, and let clients learn of it."""
        if epoch <= max(self.sequencers, default=0):
            return
        role = Sequencer(epoch=epoch, shards=self.shape.shards, clock=clock, kept=RECENT)
        self.sequencers[epoch] = SequencerNode(role)
        self.note(f"sequencer of epoch {epoch}")
        self._flush(epoch)
        for client in self.clients.values():
            self.after(self.chance.randint(0, ROUTE_US), lambda client=client: self._route(client, epoch))  # type: ignore[misc]  # a lambda keeps its own

    @staticmethod
    def _route(client: ClientNode, epoch: Epoch) -> None:
        client.route = max(client.route, epoch)

    def _flush(self, epoch: Epoch) -> None:
        """Run the sequencer's timer."""
        node = self.sequencers[epoch]
        if not node.is_up:
            return
        effects = node.role.on_timer("flush")
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.after(effect.after_ms * 1000, lambda: self._flush(epoch))
            elif isinstance(effect, Send) and not node.is_paused:
                self.send(Endpoint("sequencer", epoch), effect.to, effect.message)

    def _give_sequencer(self, epoch: Epoch, message: Request | ResendRequest) -> None:
        node = self.sequencers.get(epoch)
        if node is None or not node.is_up:
            return
        if node.is_paused:
            node.waiting.append(message)
            return
        if isinstance(message, Request):
            effects = node.role.handle(message, self.physical())
        else:
            effects = node.role.on_resend(message)
        for effect in effects:
            if isinstance(effect, Send):
                self.send(Endpoint("sequencer", epoch), effect.to, effect.message)

    def crash_sequencer(self) -> None:
        """Stop the sequencer of the latest epoch for good; its state is soft."""
        self.sequencers[max(self.sequencers)].is_up = False

    def pause_sequencer(self, epoch: Epoch, *, paused: bool) -> None:
        """Pause a sequencer, or resume it with the messages received meanwhile."""
        node = self.sequencers[epoch]
        node.is_paused = paused
        waiting, node.waiting = node.waiting, []
        for message in waiting:
            self._give_sequencer(epoch, message)  # type: ignore[arg-type]  # as it came

    # -- coordinators ------------------------------------------------------------------------

    def start_coordinator(self, number: int) -> None:
        """Start a coordinator and let it lead; earlier ones may continue."""
        role = ReplicatedCoordinator(
            number=number,
            life=self._scheduled,
            coordinators=COORDINATORS,
            hosts=self.shape.replicas,
            shards=self.shape.shards,
            clients_from=self._oldest_client(),
        )
        node = self.coordinators[number] = CoordinatorNode(number, role)
        self.leading = number
        self._carry_out(node, role.prepare(Epoch(1)))

    def crash_coordinator(self) -> None:
        self.coordinators[self.leading].is_up = False

    def pause_coordinator(self, number: int, *, paused: bool) -> None:
        node = self.coordinators[number]
        node.is_paused = paused
        waiting, node.waiting = node.waiting, []
        for message in waiting:
            self._give_coordinator(number, message)

    def _oldest_client(self) -> ClientId:
        """Return the number of the oldest client that is up; all clients below it have ended."""
        living = (client for client, node in self.clients.items() if node.is_up)
        return min(living, default=ClientId(self._last_client + 1))

    def _give_coordinator(self, number: int, message: msgspec.Struct) -> None:
        node = self.coordinators.get(number)
        if node is None or not node.is_up:
            return
        if node.is_paused:
            node.waiting.append(message)
            return
        node.role.clients_from = self._oldest_client()
        self._carry_out(node, node.role.handle(message))  # type: ignore[arg-type]  # as addressed

    def _carry_out(self, node: CoordinatorNode, effects: list[Effect]) -> None:
        sends = [effect for effect in effects if isinstance(effect, Send)]
        for observer in self.observers:
            observer.spoke(node, sends)
        for effect in effects:
            if isinstance(effect, Send):
                self.send(Endpoint("coordinator", node.number), effect.to, effect.message)
                if isinstance(effect.message, StartEpoch):
                    self._begin_stamping(effect.message.epoch, effect.message.clock)
            elif isinstance(effect, SetTimer):
                self._set_coordinator_timer(node, effect)

    def _set_coordinator_timer(self, node: CoordinatorNode, effect: SetTimer) -> None:
        self._scheduled += 1
        node.timers[effect.name] = number = self._scheduled
        self.after(effect.after_ms * 1000, lambda: self._coordinator_timer(node, effect, number))

    def _coordinator_timer(self, node: CoordinatorNode, effect: SetTimer, number: int) -> None:
        if not node.is_up or self.coordinators[node.number] is not node:
            return
        if node.is_paused:
            self._set_coordinator_timer(node, effect)
        elif node.timers.get(effect.name) == number:
            self._carry_out(node, node.role.on_timer(effect.name))

    # -- clients -----------------------------------------------------------------------------

    def start_client(self, told: Callable[[Answer], None], endpoint: Endpoint | None = None) -> ClientNode:
        """Start a client under a new number."""
        self._last_client += 1
        number = ClientId(self._last_client)
        role = Client(client=number, replicas=self.shape.replicas)
        node = ClientNode(role, told, endpoint or Endpoint("client", number))
        node.route = max(self.sequencers, default=Epoch(0))
        self.clients[number] = node
        return node

    def ask(self, node: ClientNode, effects: list[Effect]) -> None:
        """Carry out the effects of a client."""
        source = Endpoint("client", node.role.client)
        for effect in effects:
            match effect:
                case Send(_, Answer() as answer):
                    node.told(answer)
                case Send(to, message):
                    self.send(source, to, message)
                case SetTimer():
                    node.timer += 1
                    number, delay = node.timer, effect.after_ms * 1000
                    self.after(delay, lambda number=number: self._retry(node, number))  # type: ignore[misc]  # a lambda keeps its own
                case CancelTimer():
                    node.timer += 1
                case _:
                    raise AssertionError(effect)

    def _retry(self, node: ClientNode, number: int) -> None:
        if node.timer == number and self._lives(node):
            self.ask(node, node.role.on_timer("retry"))

    def _lives(self, node: ClientNode) -> bool:
        return node.is_up and (node.endpoint.kind != "host" or self.hosts[node.endpoint.number].is_up)

    def _give_client(self, node: ClientNode, reply: InboxItem | msgspec.Struct) -> None:
        if self._lives(node):
            self.ask(node, node.role.handle(reply))  # type: ignore[arg-type]  # as addressed

    # -- locks -------------------------------------------------------------------------------

    def _watch_locks(self) -> None:
        """Abort the general transactions that hosts have seen holding locks for too long."""
        self.after(LOCKS_US, self._watch_locks)
        for host in self.hosts:
            for request in host.overdue_locks():
                self._release(request, host.node)

    def _release(self, request: Request, endpoint: Endpoint) -> None:
        self.faults["locks released"] += 1
        node = self.start_client(lambda answer: self._end_client(node), endpoint)
        half = Conclusory(request.client, request.request, commit=False)
        self.ask(node, node.role.submit(dict.fromkeys(request.operations, ()), half=half))

    @staticmethod
    def _end_client(node: ClientNode) -> None:
        node.is_up = False

    # -- observing --------------------------------------------------------------------------

    def committed(self, host: SimulatedHost, sends: list[Send]) -> None:
        for observer in self.observers:
            observer.committed(host, sends)

    def living(self) -> list[SimulatedHost]:
        """Return the hosts that are up and have a vote."""
        return [host for host in self.hosts if host.host is not None]

    def shards(self) -> list[ShardId]:
        return [ShardId(shard) for shard in range(self.shape.shards)]

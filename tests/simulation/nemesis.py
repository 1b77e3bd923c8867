"""What goes wrong in a simulated store, and when: drawn from the seed, and bounded by what can be survived.

At most f hosts ever lose their tables: it is always the same that may forget something and that may have
executed what is dropped. And no two coordinators live while one has forgotten something. More is outside the
fault model (contracts E). Everything else may happen at once, to anybody.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from kvstore.simulation.simulated_host import SimulatedHost
from kvstore.simulation.simulated_network import Direction, Endpoint, Micros, SimulatedNetwork
from kvstore.simulation.simulator import COORDINATORS, Simulator
from kvstore.storage.memory_environment import MemoryFolder
from kvstore.storage.sorted_map import SortedMap
from kvstore.types import Epoch
from tests.simulation.workload import Workload

EVERY_US = 60_000
"""About so often something happens."""
SHORT_US, LONG_US = 20_000, 250_000
LATE_US = 100_000
YEAR_NS = 365 * 86_400 * 10**9

Fault = Callable[["Nemesis"], None]


class Nemesis:
    """Does one thing after another, until it is told to stop."""

    def __init__(
        self, simulator: Simulator, workload: Workload, chance: random.Random, faults: list[str]
    ) -> None:
        self.simulator = simulator
        self.workload = workload
        self.chance = chance
        self.is_over = False
        self._faults = faults
        self._older: dict[int, SortedMap] = {}
        self._flipped: set[int] = set()
        """Hosts whose disks are damaged, and that do not know it yet."""

    def start(self) -> None:
        self._next()

    def _next(self) -> None:
        if self._faults:
            self.simulator.after(self.chance.randint(1, 2 * EVERY_US), self._act)

    def _act(self) -> None:
        if self.is_over:
            return
        name = self.chance.choice(self._faults)
        self.simulator.note(name)
        FAULTS[name](self)
        self._next()

    def count(self, fault: str) -> None:
        self.simulator.faults[fault] += 1

    def later(self, action: Callable[[], None]) -> None:
        """Undo something, after a while."""
        self.simulator.after(self.chance.randint(SHORT_US, LONG_US), action)

    # -- hosts -------------------------------------------------------------------------------

    def _a_host(self) -> SimulatedHost | None:
        living = [host for host in self.simulator.hosts if host.is_up and not host.is_paused]
        return self.chance.choice(living) if living else None

    def crash(self) -> None:
        """A host ends, and comes back."""
        host = self._a_host()
        if host is not None:
            self.count("host crash")
            host.crash()
            self.later(lambda: self._restart(host))

    @staticmethod
    def _restart(host: SimulatedHost) -> None:
        if not host.is_up:
            host.start()

    def crash_all(self) -> None:
        """The power fails, for everybody."""
        self.count("power failure")
        for host in self.simulator.hosts:
            if host.is_up:
                host.crash()
                self.later(lambda host=host: self._restart(host))  # type: ignore[misc]  # a lambda keeps its own

    def pause(self) -> None:
        """A host stands still, and goes on as if nothing had been: an old learner, perhaps."""
        host = self._a_host()
        if host is not None:
            self.count("host pause")
            host.is_paused = True
            life = host.life
            self.later(lambda: host.resume() if host.is_up and host.life == life else None)

    def fail_writes(self) -> None:
        """A disk refuses, after some commits."""
        host = self._a_host()
        if host is not None:
            self.simulator.disk.commits_left[str(host.number)] = self.chance.randint(0, 5)

    # -- disks -------------------------------------------------------------------------------

    def _who_may_forget(self) -> SimulatedHost | None:
        host = self.simulator.hosts[self.chance.choice(self.simulator.shape.ahead)]
        return host if self._may_forget() and host.is_up and not host.lacks_vote else None

    def _may_forget(self) -> bool:
        self._flipped = {number for number in self._flipped if not self.simulator.hosts[number].is_up}
        forgotten = len({h.number for h in self.simulator.hosts if h.lacks_vote} | self._flipped)
        coordinators = sum(node.is_up for node in self.simulator.coordinators.values())
        return forgotten < self.simulator.shape.replicas // 2 and coordinators == 1

    def keep_image(self) -> None:
        """Remember what is on a disk, to bring it back some day."""
        host = self.chance.choice(self.simulator.hosts)
        if host.host is not None:
            self._older[host.number] = host.folder.committed

    def bring_back(self) -> None:
        """A disk is found to be older than what the peers were told."""
        host = self._who_may_forget()
        older = None if host is None else self._older.get(host.number)
        if host is not None and older is not None:
            self.count("stale disk")
            host.crash()
            host.lose_disk(older)
            self.later(lambda: self._restart(host))

    def flip(self) -> None:
        """One bit of one record is another one; it shows when it is read, or at the next start."""
        host = self._who_may_forget()
        if host is not None and host.host is not None:
            self.count("bit flip")
            self._flipped.add(host.number)
            version = host.folder.committed.fork()
            rows = version.rows(b"", reverse=False, limit=1 << 20)
            key, value = self.chance.choice(rows)
            at = self.chance.randrange(len(value))
            version.put(
                key, value[:at] + bytes([value[at] ^ 1 << self.chance.randrange(8)]) + value[at + 1 :]
            )
            host.crash()
            self.simulator.disk.folders[str(host.number)] = MemoryFolder(committed=version, synced=version)
            self.later(lambda: self._restart(host))

    # -- sequencers, coordinators, clients ---------------------------------------------------

    def crash_sequencer(self) -> None:
        if self.simulator.sequencers:
            self.count("sequencer crash")
            self.simulator.crash_sequencer()

    def pause_sequencer(self) -> None:
        """The old one lives on, and stamps in an epoch that is over."""
        if self.simulator.sequencers:
            self.count("sequencer pause")
            epoch = max(self.simulator.sequencers)
            self.simulator.pause_sequencer(epoch, paused=True)
            self.later(lambda: self.simulator.pause_sequencer(epoch, paused=False))

    def crash_coordinator(self) -> None:
        self.count("coordinator crash")
        self.simulator.crash_coordinator()
        self.later(self.start_coordinator)

    def pause_coordinator(self) -> None:
        """Another one takes over, and the first does not know it."""
        if any(host.lacks_vote for host in self.simulator.hosts):
            return
        self.count("coordinator pause")
        number = self.simulator.leading
        node = self.simulator.coordinators[number]
        self.simulator.pause_coordinator(number, paused=True)
        self.later(self.start_coordinator)
        self.later(lambda: self._go_on(number, node))

    def _go_on(self, number: int, node: object) -> None:
        if self.simulator.coordinators[number] is node:
            self.simulator.pause_coordinator(number, paused=False)

    def start_coordinator(self) -> None:
        """A coordinator where none is, or where the one that leads may be dead."""
        node = self.simulator.coordinators[self.simulator.leading]
        forgotten = any(host.lacks_vote for host in self.simulator.hosts)
        if not node.is_up or (node.is_paused and not forgotten):
            self.simulator.start_coordinator((self.simulator.leading + 1) % COORDINATORS)

    def crash_client(self) -> None:
        self.count("client crash")
        self.workload.crash_client()

    def jump(self) -> None:
        """The sequencer's clock is wrong."""
        self.count("clock jump")
        self.simulator.clock_error = self.chance.choice([0, YEAR_NS, -YEAR_NS, 10**9, -(10**9)])

    # -- the network -------------------------------------------------------------------------

    def _nodes(self) -> list[Endpoint]:
        """All that there is."""
        simulator = self.simulator
        clients = [node.endpoint for node in simulator.clients.values() if node.is_up]
        others = [
            Endpoint("sequencer", max(simulator.sequencers, default=0)),
            Endpoint("coordinator", simulator.leading),
        ]
        return [*(host.node for host in simulator.hosts), *others, *dict.fromkeys(clients)]

    def _heal_later(self) -> None:
        self.later(self.simulator.network.cut.clear)

    def isolate(self) -> None:
        """A host is alone."""
        self.count("isolation")
        host = self.chance.choice(self.simulator.hosts).node
        self.simulator.network.cut_off({host}, set(self._nodes()))
        self._heal_later()

    def cut_one_way(self) -> None:
        """A host is heard and does not hear, or the other way round."""
        self.count("one-way cut")
        host, others = {self.chance.choice(self.simulator.hosts).node}, set(self._nodes())
        some, rest = (host, others) if self.chance.random() < 0.5 else (others, host)
        self.simulator.network.cut_off(some, rest, both_ways=False)
        self._heal_later()

    def split(self) -> None:
        """Two halves of the world."""
        self.count("split")
        nodes = self._nodes()
        some = set(self.chance.sample(nodes, self.chance.randint(1, len(nodes) - 1)))
        self.simulator.network.cut_off(some, set(nodes) - some)
        self._heal_later()

    def ring(self) -> None:
        """Every host reaches only its two neighbours."""
        self.count("ring")
        hosts = [host.node for host in self.simulator.hosts]
        self.chance.shuffle(hosts)
        for at, host in enumerate(hosts):
            near = {host, hosts[at - 1], hosts[(at + 1) % len(hosts)]}
            self.simulator.network.cut_off({host}, set(hosts) - near)
        self._heal_later()

    def swizzle(self) -> None:
        """Links are clogged one after another, and opened in another order."""
        self.count("swizzle")
        nodes = self._nodes()
        links = [(one, other) for one in nodes for other in nodes if one != other]
        chosen = self.chance.sample(links, min(8, len(links)))
        for link in chosen:
            self.simulator.after(self.chance.randint(0, SHORT_US), lambda link=link: self._clog(link))  # type: ignore[misc]  # a lambda keeps its own
        self.chance.shuffle(chosen)
        for link in chosen:
            self.later(lambda link=link: self.simulator.unclog(link))  # type: ignore[misc]  # a lambda keeps its own

    def _clog(self, link: tuple[Endpoint, Endpoint]) -> None:
        if not self.is_over:
            self.simulator.network.clog(link)

    def bad_weather(self) -> None:
        """For a while much is lost, repeated and late."""
        self.count("bad weather")
        network = self.simulator.network
        network.loss = self.chance.choice([0.01, 0.05, 0.2, 0.5])
        network.repeats = self.chance.choice([0.0, 0.05])
        network.stragglers = self.chance.choice([0.0, 0.05, 0.2])
        self.later(self._fair_weather)

    def _fair_weather(self) -> None:
        network = self.simulator.network
        network.loss, network.repeats, network.stragglers = 0.0, 0.0, 0.0

    def lose_stamps(self) -> None:
        """For a while much of what sequencers send is lost or late, and they keep nothing of it."""
        self.count("stamps lost")
        network = self.simulator.network
        network.arrivals = self._arrivals_of_stamps
        self.later(self._lose_no_stamps)

    def _arrivals_of_stamps(self, link: Direction) -> list[Micros]:
        usual = SimulatedNetwork.arrivals(self.simulator.network, link)
        if link[0].kind != "sequencer":
            return usual
        for recent in self.simulator.sequencers[Epoch(link[0].number)].role._recent:
            recent.clear()
        fate = self.chance.random()
        if fate < 0.5:
            return []
        return [delay + self.chance.randint(0, LATE_US) for delay in usual] if fate < 0.8 else usual

    def _lose_no_stamps(self) -> None:
        vars(self.simulator.network).pop("arrivals", None)

    # -- the end -----------------------------------------------------------------------------

    def stop(self) -> None:
        """Heal everything; what is dead comes back. From here on all has to end well."""
        self.is_over = True
        simulator = self.simulator
        simulator.note("heal")
        simulator.network.heal()
        self._lose_no_stamps()
        for link in list(simulator.network.clogged):
            simulator.unclog(link)
        simulator.disk.commits_left.clear()
        for host in simulator.hosts:
            if not host.is_up:
                host.start()
            elif host.is_paused:
                host.resume()
        for epoch, sequencer in simulator.sequencers.items():
            if sequencer.is_paused:
                simulator.pause_sequencer(epoch, paused=False)
        for number, coordinator in simulator.coordinators.items():
            if coordinator.is_paused:
                simulator.pause_coordinator(number, paused=False)
        self.start_coordinator()


FAULTS: dict[str, Fault] = {
    "crash": Nemesis.crash,
    "crash all": Nemesis.crash_all,
    "pause": Nemesis.pause,
    "fail writes": Nemesis.fail_writes,
    "keep image": Nemesis.keep_image,
    "stale disk": Nemesis.bring_back,
    "bit flip": Nemesis.flip,
    "crash sequencer": Nemesis.crash_sequencer,
    "pause sequencer": Nemesis.pause_sequencer,
    "crash coordinator": Nemesis.crash_coordinator,
    "pause coordinator": Nemesis.pause_coordinator,
    "crash client": Nemesis.crash_client,
    "clock jump": Nemesis.jump,
    "isolate": Nemesis.isolate,
    "one-way cut": Nemesis.cut_one_way,
    "split": Nemesis.split,
    "ring": Nemesis.ring,
    "swizzle": Nemesis.swizzle,
    "bad weather": Nemesis.bad_weather,
}

PROFILES: dict[str, list[str]] = {
    "calm": [],
    "network": ["isolate", "one-way cut", "split", "ring", "swizzle", "bad weather", "bad weather"],
    "crashes": ["crash", "crash", "crash all", "pause", "fail writes", "crash client", "bad weather"],
    "disks": ["crash", "fail writes", "keep image", "stale disk", "bit flip", "bad weather"],
    "roles": [
        "crash sequencer",
        "pause sequencer",
        "crash coordinator",
        "pause coordinator",
        "clock jump",
        "pause",
        "bad weather",
    ],
}
PROFILES["all"] = list(FAULTS)

FAULTS["lose stamps"] = Nemesis.lose_stamps
PROFILES["losses"] = ["lose stamps"] * 5 + ["pause", "isolate", "one-way cut", "crash", "bad weather"]
"""For bugs in what is done about lost messages, and in views that begin meanwhile."""
PROFILES["gaps"] = ["lose stamps"] * 5 + [
    "crash sequencer",
    "pause sequencer",
    "crash coordinator",
    "crash",
    "pause",
    "isolate",
]
"""For bugs in what becomes of lost messages when an epoch ends meanwhile."""


def drawn(profile: str, chance: random.Random) -> list[str]:
    """The faults of a run. "swarm" takes some at random: what is left out matters as much as what is in."""
    if profile != "swarm":
        return PROFILES[profile]
    names = PROFILES["all"]
    return sorted(chance.sample(names, chance.randint(1, len(names))))

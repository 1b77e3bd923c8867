"""Every schedule of a small store, bounded by delays: two transactions over two shards of three replicas.

Messages are delivered in the order they were sent, but for some, which come late: every one of them, by one
of several numbers of deliveries. So all runs are played that have at most so many delays (Emmi, Qadeer and
Rakamaric, "Delay-bounded scheduling", POPL 2011): one, and with ``KVSTORE_DELAYS`` more. A state that was
reached before, with as many delays left, is not followed again; nor is one where the followers are exchanged.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from kvstore.eris.effects import ReplicaAddress
from kvstore.eris.messages import encode
from kvstore.eris.replica import Replica
from tests.support.cluster import Cluster, add, put

DELAYS = int(os.environ.get("KVSTORE_DELAYS", "1"))
STEPS_MAX = 60
LATER = (1, 3, 8)
"""By how many deliveries a message is late."""


Names = tuple[int, int, int]
"""What each host is called; called so twice, it has its own name again."""


def _named(thing: Any, names: Names) -> Any:
    """An address or a message, with other names of hosts."""
    if not hasattr(thing, "replica"):
        return thing
    renamed = names[thing.replica]
    if isinstance(thing, ReplicaAddress):
        return ReplicaAddress(thing.shard, renamed)
    return msgspec.structs.replace(thing, replica=renamed)


def _memory(replica: Replica, names: Names) -> tuple[object, ...]:
    """What a replica knows and its disk does not."""
    synced = sorted((names[peer], slot) for peer, slot in replica.sync_replies.items())
    gap = sorted(replica.held), replica.announced, replica.missing, replica.asked
    return replica.status.value, replica.reported, synced, gap


class Schedule:
    """One run: which deliveries come late, and by how much."""

    def __init__(self, late: dict[int, int], *, lost: int | None) -> None:
        self.cluster = cluster = Cluster(shards=2)
        cluster.kept = 4
        cluster.change_epoch()
        cluster.submit({0: [add("n"), put("k", 1)], 1: [add("n")]})
        cluster.submit({0: [add("n"), put("k", 2)], 1: [add("n")]})
        self.steps = 0
        self.seen: list[bytes] = []
        """The state before each delivery."""
        self._late = late
        self._lost = lost

    def play(self) -> None:
        while self.cluster.wire and self.steps < STEPS_MAX:
            self.seen.append(self._fingerprint())
            wire = self.cluster.wire
            packet = wire.pop(0)
            late = self._late.get(self.steps, 0)
            if late:
                wire.insert(late, packet)
            elif self.steps != self._lost:
                self._deliver_alone(packet)
            self.steps += 1
        self._settle()

    def _deliver_alone(self, packet: object) -> None:
        waiting, self.cluster.wire = self.cluster.wire, [packet]  # type: ignore[list-item]  # as it was
        self.cluster.step()
        self.cluster.wire = waiting + self.cluster.wire

    def _settle(self) -> None:
        for _ in range(6):
            self.cluster.run()
            self.cluster.carry(self.cluster.sequencer.on_timer("flush"))
            self.cluster.carry(self.cluster.client.on_timer("retry"))
            self.cluster.run()
            self.cluster.fire_all()
        self.cluster.run()

    def state_after(self, step: int) -> bytes:
        return self.seen[min(step + 1, len(self.seen) - 1)]

    def _fingerprint(self) -> bytes:
        """Equal for states that differ only in which of the two followers is which (contracts E)."""
        return min(self._digest((0, 1, 2)), self._digest((0, 2, 1)))

    def _digest(self, names: Names) -> bytes:
        """What is on the disks, in the roles' memories and on the wire."""
        digest = blake2b(digest_size=16)
        for host in names:
            rows = self.cluster.disk.folders[str(host)].committed.rows(b"", reverse=False, limit=1 << 16)
            for key, value in rows:
                digest.update(key + value)
            for replica in self.cluster.hosts[host].replicas:
                digest.update(repr(_memory(replica, names)).encode())
        for packet in self.cluster.wire:
            digest.update(repr(_named(packet.to, names)).encode() + encode(_named(packet.message, names)))
        for waiting in self.cluster.client.outstanding.values():
            replies = [reply for some in (waiting.replies or {}).values() for reply in some]
            digest.update(b"".join(sorted(encode(_named(reply, names)) for reply in replies)))
        return digest.digest()

    def check(self) -> None:
        cluster = self.cluster
        assert not cluster.client.outstanding
        for shard in range(2):
            logs = [cluster.log(host, shard) for host in range(3)]
            assert logs[0] == logs[1] == logs[2]
            assert all(cluster.values(host, shard)["n"] == 2 for host in range(3))
        orders = [
            list(dict.fromkeys(s.request.request for s in cluster.log(0, shard) if s is not None))
            for shard in range(2)
        ]
        assert orders[0] == orders[1]


@pytest.mark.parametrize("lost", [None, 5])
def test_all_agree_whatever_comes_late(lost: int | None) -> None:
    first = Schedule({}, lost=lost)
    first.play()
    first.check()
    known: set[tuple[bytes, int]] = set()
    frontier: list[dict[int, int]] = [{}]
    for left in range(DELAYS, 0, -1):
        following: list[dict[int, int]] = []
        for late in frontier:
            for step in range(max(late, default=-1) + 1, first.steps):
                for by in LATER:
                    schedule = Schedule(late | {step: by}, lost=lost)
                    schedule.play()
                    schedule.check()
                    state = schedule.state_after(step), left
                    if state not in known:
                        known.add(state)
                        following.append(late | {step: by})
        frontier = following
    assert len(known) > first.steps

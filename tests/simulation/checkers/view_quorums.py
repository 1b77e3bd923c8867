"""View-consistent quorums: whatever a client is told, a majority of each shard said it about one slot, in one
epoch and in one view, and the learner of that view did (section 6.2). Replies of different views may not be
put together: the learner of an old one may have executed what was dropped afterwards. And a view begins when
a majority has joined it, its learner included (section 6.4)."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from kvstore.eris.effects import Send
from kvstore.eris.messages import Answer, Reply, StartView, ViewChange
from kvstore.simulation.simulated_host import SimulatedHost
from kvstore.types import ClientId, Epoch, RequestId, ShardId, Slot, ViewNumber
from tests.simulation.ledger import Checker, Ledger, require
from tests.simulation.workload import Asked


class About(NamedTuple):
    """What a reply is about."""

    client: ClientId
    request: RequestId
    shard: ShardId
    slot: Slot


class ViewQuorums(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._said: defaultdict[About, defaultdict[tuple[Epoch, ViewNumber], set[int]]] = defaultdict(
            lambda: defaultdict(set)
        )
        self._joined: defaultdict[tuple[ShardId, Epoch, ViewNumber], set[int]] = defaultdict(set)

    def sent(self, host: SimulatedHost, sends: list[Send]) -> None:
        for send in sends:
            match send.message:
                case Reply() as reply:
                    about = About(reply.client, reply.request, reply.shard, reply.slot)
                    self._said[about][reply.epoch, reply.view].add(reply.replica)
                case ViewChange() as shown:
                    self._joined[shown.shard, shown.epoch, shown.view].add(host.number)
                case StartView() as start:
                    joined = {host.number, *self._joined[start.shard, start.epoch, start.view]}
                    begins = 2 * len(joined) > self.ledger.simulator.shape.replicas
                    where = f"view {start.view} of epoch {start.epoch}, shard {start.shard}"
                    require(begins, f"{where} begins, and only hosts {joined} joined it")
                case _:
                    pass

    def answered(self, asked: Asked, answer: Answer) -> None:
        replicas = self.ledger.simulator.shape.replicas
        for shard, slot in answer.slots.items():
            about = About(asked.client.role.client, answer.request, shard, slot)
            together = any(
                view % replicas in said and 2 * len(said) > replicas
                for (_, view), said in self._said[about].items()
            )
            require(
                together, f"{about} was answered, and no view's majority said so: {dict(self._said[about])}"
            )

"""One order: the orders in which the shards have their transactions, put together, have no cycle."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from tests.simulation.ledger import Checker, Violation


class OneOrder(Checker):
    def settled(self) -> None:
        order: TopologicalSorter[tuple[int, int]] = TopologicalSorter()
        for shard in self.ledger.simulator.shards():
            requests = [
                (stamped.request.client, stamped.request.request)
                for _, stamped in self.ledger.executed(shard)
            ]
            for earlier, later in pairwise(requests):
                order.add(later, earlier)
        try:
            order.prepare()
        except CycleError as error:
            raise Violation(f"shards disagree about the order of {error.args[1]}") from error

"""All or nothing, and at most once: each request takes effect at all its participants as the same copy, or at
none; and the counters come to what was counted."""

from __future__ import annotations

from collections import Counter, defaultdict

from kvstore import keys, values
from kvstore.eris.messages import Answer, Preliminary, Stamped
from kvstore.eris.shard_state import REGISTERS, table_name
from kvstore.execution.operations import Add
from kvstore.execution.stored_value import decoded_value
from kvstore.storage.memory_environment import MemoryView
from kvstore.types import ShardId
from tests.simulation.ledger import Checker, Ledger, require
from tests.simulation.workload import Asked, Place


class Atomicity(Checker):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._counted: defaultdict[Place, set[object]] = defaultdict(set)

    def answered(self, asked: Asked, answer: Answer) -> None:
        """No two adds were told the same sum."""
        for place in asked.counters:
            (told,) = answer.outcomes[place[0]].results
            value = values.decode(told) if isinstance(told, bytes) else told
            require(value not in self._counted[place], f"two adds to {place} came to {value}")
            self._counted[place].add(value)

    def settled(self) -> None:
        copies: defaultdict[tuple[int, int], dict[ShardId, Stamped]] = defaultdict(dict)
        sums: Counter[Place] = Counter()
        for shard in self.ledger.simulator.shards():
            for _, stamped in self.ledger.executed(shard):
                request = stamped.request
                copies[request.client, request.request][shard] = stamped
                if type(request.half) is not Preliminary:
                    for operation in request.operations[shard]:
                        if isinstance(operation, Add):
                            sums[shard, str(keys.decode(operation.key))] += 1
        self._compare_copies(copies)
        self._compare_sums(sums)

    def _compare_copies(self, copies: dict[tuple[int, int], dict[ShardId, Stamped]]) -> None:
        for request, by_shard in copies.items():
            first = next(iter(by_shard.values()))
            participants = set(first.request.operations)
            require(by_shard.keys() == participants, f"{request} is at {set(by_shard)} of {participants}")
            clocks = {stamped.stamp.clock for stamped in by_shard.values()}
            require(len(clocks) == 1, f"{request} took effect as different copies: {clocks}")

    def _compare_sums(self, sums: Counter[Place]) -> None:
        folder = self.ledger.simulator.living()[0].folder
        view = MemoryView("checker", folder.committed)
        for (shard, name), expected in sums.items():
            cell = view.table(table_name(shard, REGISTERS)).get(keys.encode(name))
            found = 0 if cell is None else decoded_value(cell)
            require(found == expected, f"shard {shard}: {name} is {found}, {expected} were added")
            told = self._counted[shard, name]
            require(len(told) <= expected, f"shard {shard}: {name} was told {len(told)} sums of {expected}")

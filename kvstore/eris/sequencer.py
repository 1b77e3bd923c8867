"""The sequencer: one number per participant shard, all assigned at once (Eris, SOSP 2017, section 5).

Soft state only: an epoch, a clock and a counter per shard. It never stamps a request twice the same
way; a retry gets a new stamp and a new slot.

INVARIANTS
    S1  Within an epoch each shard's numbers are 1, 2, 3, ... without gap or repeat.
    S2  The clock is unique and rises with every stamp, above every time in any log (contracts D1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvstore.eris.effects import Effect, GroupAddress, Send
from kvstore.eris.messages import MultiStamp, Request, Stamped
from kvstore.types import Epoch, SequenceNumber, ShardId, Timestamp


@dataclass(slots=True, kw_only=True)
class Sequencer:
    """The one active sequencer of an epoch."""

    epoch: Epoch
    shards: int
    clock: Timestamp
    """The greatest time in any log when the epoch began, then the last time stamped."""
    sequencer: int = 0
    numbers: list[SequenceNumber] = field(init=False)
    _groups: list[GroupAddress] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = [SequenceNumber(0)] * self.shards
        self._groups = [GroupAddress(ShardId(shard)) for shard in range(self.shards)]

    def handle(self, request: Request, now: Timestamp) -> list[Effect]:
        """Stamp the request and send it to every participant's group, lowest shard first.

        ``now`` is physical time in nanoseconds; it may stand still or go back, the clock does not.
        """
        self.clock = clock = Timestamp(max(now, self.clock + 1, request.after + 1))
        assigned, groups = self.numbers, self._groups
        participants = request.operations if len(request.operations) == 1 else sorted(request.operations)
        numbers: dict[ShardId, SequenceNumber] = {}
        for shard in participants:
            assigned[shard] = numbers[shard] = SequenceNumber(assigned[shard] + 1)
        stamped = Stamped(MultiStamp(self.epoch, self.sequencer, clock, numbers), request)
        return [Send(groups[shard], stamped) for shard in numbers]

"""The sequencer: one number per participant shard, all assigned at once (Eris, SOSP 2017, section 5).

The sequencer has soft state only: an epoch, a clock and a counter per shard. It never repeats a stamp; a
retried request gets a new stamp and a new slot. It may keep its recent messages, and sends them again,
unchanged, to a replica that missed them. When it is idle it announces its last number, so that the loss of a
shard's last message is noticed (Hydra, NSDI 2023).

INVARIANTS
    SEQUENCER-1  Within an epoch each shard's numbers are 1, 2, 3, ... without gap or repeat.
    SEQUENCER-2  The clock is unique and rises with every stamp, above every time in any log (contracts D1).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from kvstore.eris.effects import Dropped, Effect, GroupAddress, ReplicaAddress, Send, SetTimer
from kvstore.eris.messages import Flush, MultiStamp, Request, ResendRequest, Stamped
from kvstore.types import Epoch, SequenceNumber, ShardId, Timestamp

FLUSH_MS = 20


@dataclass(slots=True, kw_only=True)
class Sequencer:
    """The one active sequencer of an epoch."""

    epoch: Epoch
    shards: int
    clock: Timestamp
    """The last time stamped; at the start of the epoch the greatest time in any log."""
    sequencer: int = 0
    kept: int = 0
    """Number of the last messages to each shard that the sequencer can send again."""
    numbers: list[SequenceNumber] = field(init=False)
    _groups: list[GroupAddress] = field(init=False)
    _recent: list[deque[Stamped]] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = [SequenceNumber(0)] * self.shards
        self._recent: list[deque[Stamped]] = [deque(maxlen=self.kept) for _ in range(self.shards)]
        self._groups = [GroupAddress(ShardId(shard)) for shard in range(self.shards)]

    def handle(self, request: Request, now: Timestamp) -> list[Effect]:
        """Stamp the request and send it to every participant's group, lowest shard first.

        ``now`` is physical time in nanoseconds; it may stand still or go back, the clock does not.
        """
        clock = Timestamp(max(now, self.clock + 1, request.after + 1))
        assert clock > self.clock, f"SEQUENCER-2: clock {clock} is not after {self.clock}"
        self.clock = clock
        assigned, groups = self.numbers, self._groups
        participants = request.operations if len(request.operations) == 1 else sorted(request.operations)
        numbers: dict[ShardId, SequenceNumber] = {}
        for shard in participants:
            number = SequenceNumber(assigned[shard] + 1)
            assert number > assigned[shard], (
                f"SEQUENCER-1: number {number} of shard {shard} follows {assigned[shard]}"
            )
            assigned[shard] = numbers[shard] = number
        stamped = Stamped(MultiStamp(self.epoch, self.sequencer, clock, numbers), request)
        if self.kept:
            for shard in numbers:
                self._recent[shard].append(stamped)
        return [Send(groups[shard], stamped) for shard in numbers]

    def on_resend(self, request: ResendRequest) -> list[Effect]:
        """Send a replica a message again, unchanged; nothing if it is too old, or of another epoch."""
        if request.epoch != self.epoch:
            return [Dropped(request, f"of epoch {request.epoch}, this is epoch {self.epoch}")]
        shard, number = request.shard, request.number
        found = next((kept for kept in self._recent[shard] if kept.stamp.numbers[shard] == number), None)
        return [] if found is None else [Send(ReplicaAddress(shard, request.replica), found)]

    def on_timer(self, name: str) -> list[Effect]:
        """ "flush": announce the epoch and the last number of each shard, periodically."""
        assert name == "flush", name
        flushes: list[Effect] = [
            Send(group, Flush(group.shard, self.epoch, number))
            for group, number in zip(self._groups, self.numbers, strict=True)
        ]
        return [*flushes, SetTimer("flush", FLUSH_MS)]

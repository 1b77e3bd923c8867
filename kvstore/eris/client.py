"""The client: sends each request once, waits for a quorum of every participant, retries for ever.

A shard has answered when f+1 of its replicas replied with *equal* epoch, view and slot, and the
designated learner of that view is among them (Eris, SOSP 2017, section 6.2). The learner's outcome
is the shard's answer; the transaction is answered when all its participants are.

INVARIANTS
    C1  A request is never given up: its id is answered or outstanding, for ever (eris.md, 2.4).
    C2  ``answered`` of a request names only ids whose answers went to the caller.
    C3  The "retry" timer is armed exactly while requests are outstanding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvstore.eris.effects import CALLER, SEQUENCER, CancelTimer, Effect, Send, SetTimer
from kvstore.eris.messages import Answer, Reply, Request
from kvstore.execution.operations import Call, Operation, Outcome, Token
from kvstore.types import ClientId, RequestId, ShardId, Slot, Timestamp

RETRY_MS = 100
"""How long replies may take before the request is sent again, under a new stamp."""
NONE_YET = RequestId(0)
_ARM, _DISARM = SetTimer("retry", RETRY_MS), CancelTimer("retry")


class Outstanding:
    """A request and the replies to it so far."""

    __slots__ = ("outcomes", "replies", "request", "slots")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.replies: dict[ShardId, list[Reply]] | None = None
        """Replies of shards without a quorum yet; a shard of one replica never has any."""
        self.slots: dict[ShardId, Slot] = {}
        self.outcomes: dict[ShardId, Outcome] = {}


@dataclass(slots=True, kw_only=True)
class Client:
    """One client of one opening; its id is the epoch of that opening (contracts C4)."""

    client: ClientId
    replicas: int
    outstanding: dict[RequestId, Outstanding] = field(default_factory=dict)
    last_request: RequestId = NONE_YET

    def submit(
        self,
        operations: dict[ShardId, tuple[Operation, ...]],
        token: Token | None = None,
        call: Call | None = None,
    ) -> list[Effect]:
        """Send a new request; its id is ``last_request`` afterwards."""
        first = not self.outstanding
        answered = self.last_request if first else RequestId(next(iter(self.outstanding)) - 1)
        self.last_request = number = RequestId(self.last_request + 1)
        request = Request(self.client, number, answered, operations, Timestamp(0), token, call)
        self.outstanding[number] = Outstanding(request)
        send = Send(SEQUENCER, request)
        return [send, _ARM] if first else [send]

    def handle(self, reply: Reply) -> list[Effect]:
        """Count the reply; when it was the last one needed, answer the caller."""
        number, shard = reply.request, reply.shard
        waiting = self.outstanding.get(number)
        if waiting is None or reply.client != self.client or shard in waiting.slots:
            return []
        outcome = reply.outcome if self.replicas == 1 else self._quorum_outcome(waiting, reply)
        if outcome is None:
            return []
        slots, outcomes = waiting.slots, waiting.outcomes
        slots[shard] = reply.slot
        outcomes[shard] = outcome
        if len(slots) < len(waiting.request.operations):
            return []
        del self.outstanding[number]
        answer = Send(CALLER, Answer(number, slots, outcomes))
        return [answer] if self.outstanding else [answer, _DISARM]

    def _quorum_outcome(self, waiting: Outstanding, reply: Reply) -> Outcome | None:
        """The learner's outcome, if this reply completed a view-consistent quorum of its shard."""
        if waiting.replies is None:
            waiting.replies = {}
        votes = waiting.replies.setdefault(reply.shard, [])
        votes.append(reply)
        learner, voters = None, set()
        for vote in votes:
            if (vote.epoch, vote.view, vote.slot) == (reply.epoch, reply.view, reply.slot):
                voters.add(vote.replica)
                if vote.replica == vote.view % self.replicas:
                    learner = vote
        if learner is None or 2 * len(voters) <= self.replicas:
            return None
        assert learner.outcome is not None, "the learner's reply has an outcome"
        return learner.outcome

    def on_timer(self, name: str) -> list[Effect]:
        """Replies are late: send everything outstanding again. The stamps will be new."""
        assert name == "retry", name
        resent: list[Effect] = [Send(SEQUENCER, waiting.request) for waiting in self.outstanding.values()]
        return [*resent, _ARM] if resent else []

"""The client: sends each request once, waits for a quorum of every participant, and retries without end.

A shard has answered when f+1 of its replicas replied with *equal* epoch, view and slot, and the
designated learner of that view is among them (Eris, SOSP 2017, section 6.2). The learner's outcome
is the shard's answer; the transaction is answered when all its participants are.

Of a general transaction the client leads both halves (section 7; contracts C2). When every participant
voted that all is as it was read, the Commit follows at once, and carries the writes. Otherwise either an
Abort follows, or the votes are answered and the caller says later how it ends: the locks wait for that.

INVARIANTS
    CLIENT-1  The client never gives a request up: each id is answered or outstanding (eris.md, 2.4). A
        preliminary is outstanding until it is concluded.
    CLIENT-2  What a request says is ``answered`` names only ids whose answers went to the caller.
    CLIENT-3  The "retry" timer is armed exactly while requests are outstanding.
    CLIENT-4  Only participants answer; both halves of a general transaction have the same.
    CLIENT-5  The outcome of a shard is its learner's, and what counts for it is one reply of each replica.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import msgspec

from kvstore.eris.client_window import IdRange
from kvstore.eris.effects import CALLER, SEQUENCER, CancelTimer, Effect, Send, SetTimer
from kvstore.eris.general import ABORTED
from kvstore.eris.messages import Answer, Conclusory, Preliminary, Reply, Request
from kvstore.execution.operations import Call, IdempotencyToken, Operations, Outcome
from kvstore.types import ClientId, RequestId, ShardId, Slot, Timestamp

RETRY_MS = 100
"""The time after which a request without all replies is sent again, under a new stamp."""
UNANSWERED_RANGES_MAX = 16
"""Most ranges of ids that a request carries; further ranges are joined, which only makes windows larger."""
NONE_YET = RequestId(0)
NO_TIME = Timestamp(0)
NO_EDGES: dict[ShardId, Slot] = {}
_ARM, _DISARM = SetTimer("retry", RETRY_MS), CancelTimer("retry")


class SecondHalf(NamedTuple):
    """The writes of a general transaction, which follow when it has its locks and no read has changed.

    If a read has changed, the transaction is aborted; with ``keeps_locks`` the caller gets the votes and
    concludes.
    """

    writes: Operations
    token: IdempotencyToken | None = None
    keeps_locks: bool = False


class Outstanding(msgspec.Struct):
    """A request and the replies to it so far.

    Attributes:
        replies: replies of shards without a quorum yet; a shard of one replica never has any.
        second_half: of a preliminary, what follows once its locks are held.
        concluded_by: of a preliminary, the id of its conclusory when that is under way.
        concludes: of a conclusory of this client, the id of its preliminary.
    """

    request: Request
    replies: dict[ShardId, list[Reply]] | None = None
    slots: dict[ShardId, Slot] = {}
    outcomes: dict[ShardId, Outcome] = {}
    second_half: SecondHalf | None = None
    concluded_by: RequestId | None = None
    concludes: RequestId | None = None

    def is_complete(self) -> bool:
        return len(self.slots) == len(self.request.operations)


@dataclass(slots=True, kw_only=True)
class Client:
    """One client of one opening; its id is the epoch of that opening (contracts C4)."""

    client: ClientId
    replicas: int
    outstanding: dict[RequestId, Outstanding] = field(default_factory=dict)
    parked: dict[RequestId, Outstanding] = field(default_factory=dict)
    """Requests that have waited for locks, or for their caller; all are older than ``outstanding``."""
    last_request: RequestId = NONE_YET
    _unanswered: tuple[IdRange, ...] | None = ()
    """Ranges that cover the parked ids; None when they are to be found anew."""

    def submit(
        self,
        operations: Operations,
        token: IdempotencyToken | None = None,
        call: Call | None = None,
        half: Preliminary | Conclusory | None = None,
        after: Timestamp = NO_TIME,
        edges: dict[ShardId, Slot] = NO_EDGES,
    ) -> list[Effect]:
        """Send a new request, whose id is then ``last_request``; return the effects."""
        first = not self.outstanding
        answered = self.last_request if first else RequestId(next(iter(self.outstanding)) - 1)
        self.last_request = number = RequestId(self.last_request + 1)
        unanswered = self._unanswered
        if unanswered is None:
            unanswered = self._unanswered = _ranges(self.parked)
        request = Request(
            self.client, number, answered, operations, after, token, call, unanswered, half, edges
        )
        assert first or answered not in self.outstanding, (
            f"CLIENT-2: request {number} calls {answered} answered, and it is outstanding"
        )
        self.outstanding[number] = Outstanding(request)
        send = Send(SEQUENCER, request)
        return [send, _ARM] if first and not self.parked else [send]

    def submit_general(
        self, operations: Operations, second_half: SecondHalf, edges: dict[ShardId, Slot] = NO_EDGES
    ) -> list[Effect]:
        """Send a preliminary, which names what is read and what may be written.

        The participants of both halves are the same: ``operations`` and ``writes`` have equal shards.
        """
        assert operations.keys() == second_half.writes.keys(), (
            f"CLIENT-4: the halves have shards {sorted(operations)} and {sorted(second_half.writes)}"
        )
        effects = self.submit(operations, half=Preliminary(), edges=edges)
        self.outstanding[self.last_request].second_half = second_half
        return effects

    def conclude(
        self,
        preliminary: RequestId,
        writes: Operations | None = None,
        token: IdempotencyToken | None = None,
    ) -> list[Effect]:
        """End a general transaction whose votes were answered: commit these writes, or abort it (None).

        A transaction that another client has ended meanwhile is answered as aborted.
        """
        found = self._find(preliminary)
        if found is None or found.concluded_by is not None:
            return [Send(CALLER, Answer(preliminary, {}, {}, committed=False))]
        nothing: Operations = dict.fromkeys(found.request.operations, ())
        operations = nothing if writes is None else writes
        assert operations.keys() == found.request.operations.keys(), (
            f"CLIENT-4: the halves have shards {sorted(found.request.operations)} and {sorted(operations)}"
        )
        half = Conclusory(self.client, preliminary, writes is not None)
        effects = self.submit(operations, token, half=half)
        found.concluded_by = self.last_request
        self.outstanding[self.last_request].concludes = preliminary
        return effects

    def park(self) -> None:
        """Park the outstanding requests, which take long: later requests name them apart, which keeps windows
        small."""
        if self.outstanding:
            oldest, parked = next(iter(self.outstanding)), next(reversed(self.parked), NONE_YET)
            assert parked < oldest, f"CLIENT-2: request {parked} was parked, and {oldest} is outstanding"
            self.parked.update(self.outstanding)
            self.outstanding.clear()
            self._unanswered = None

    def _find(self, number: RequestId) -> Outstanding | None:
        return self.outstanding.get(number) or self.parked.get(number)

    def handle(self, reply: Reply) -> list[Effect]:
        """Count the reply; when it was the last one needed, go on or answer the caller."""
        waiting = self.outstanding.get(reply.request) or self.parked.get(reply.request)
        if waiting is None or reply.client != self.client or reply.shard in waiting.slots:
            return []
        outcome = reply.outcome if self.replicas == 1 else self._quorum_outcome(waiting, reply)
        return [] if outcome is None else self._take(waiting, reply, outcome)

    def on_vote(self, reply: Reply) -> list[Effect]:
        """Take the learner's word for its shard's vote, before the commit that both halves share.

        For a driver that commits both halves in one batch: either both are at a quorum, or the client never
        existed (contracts C2). Other replies are left for ``handle``.
        """
        waiting = self._find(reply.request)
        if waiting is None or waiting.second_half is None or reply.client != self.client:
            return []
        if reply.outcome is None or reply.shard in waiting.slots:
            return []
        return self._take(waiting, reply, reply.outcome)

    def _take(self, waiting: Outstanding, reply: Reply, outcome: Outcome) -> list[Effect]:
        """Take the outcome of one shard; continue when it was the last one."""
        operations = waiting.request.operations
        assert reply.shard in operations, (
            f"CLIENT-4: shard {reply.shard} answers request {reply.request}, and takes no part in it"
        )
        waiting.slots[reply.shard] = reply.slot
        waiting.outcomes[reply.shard] = outcome
        if len(waiting.slots) < len(operations):
            return []
        if waiting.second_half is not None:
            return self._on_votes(waiting, waiting.second_half)
        if waiting.concludes is not None:
            return self._on_concluded(waiting, waiting.concludes)
        number = waiting.request.request
        return self._answer(number, Answer(number, waiting.slots, waiting.outcomes))

    def _on_votes(self, waiting: Outstanding, second_half: SecondHalf) -> list[Effect]:
        """Send the second half, or answer with the votes: all participants have voted, and hold the locks."""
        if waiting.concluded_by is not None:
            return []
        number = waiting.request.request
        if ABORTED in waiting.outcomes.values():  # another client aborted it before it had its locks
            answer = Answer(number, waiting.slots, waiting.outcomes, committed=False)
            return self._answer(number, answer)
        if not any(vote.refused for vote in waiting.outcomes.values()):
            return self.conclude(number, second_half.writes, second_half.token)
        if second_half.keeps_locks:
            return [Send(CALLER, Answer(number, waiting.slots, waiting.outcomes))]
        return self.conclude(number)

    def _on_concluded(self, waiting: Outstanding, preliminary: RequestId) -> list[Effect]:
        half = waiting.request.half
        assert type(half) is Conclusory
        won = not any(outcome.refused for outcome in waiting.outcomes.values())
        locked = self._forget(preliminary)
        committed = half.commit if won else not half.commit
        answer = Answer(preliminary, locked.slots, locked.outcomes, committed)
        return self._answer(waiting.request.request, answer)

    def _answer(self, number: RequestId, answer: Answer) -> list[Effect]:
        self._forget(number)
        send = Send(CALLER, answer)
        return [send] if self.outstanding or self.parked else [send, _DISARM]

    def _forget(self, number: RequestId) -> Outstanding:
        if number in self.outstanding:
            return self.outstanding.pop(number)
        self._unanswered = None
        waiting = self.parked.pop(number)
        assert waiting.is_complete() or waiting.concluded_by is not None, (
            f"CLIENT-1: request {number} is given up, and of {sorted(waiting.request.operations)} only "
            f"{sorted(waiting.slots)} have answered"
        )
        return waiting

    def _quorum_outcome(self, waiting: Outstanding, reply: Reply) -> Outcome | None:
        """Return the learner's outcome if this reply completes a view-consistent quorum, else None."""
        if waiting.replies is None:
            waiting.replies = {}
        votes = waiting.replies.setdefault(reply.shard, [])
        votes.append(reply)
        assert reply.replica < self.replicas, (
            f"CLIENT-5: replica {reply.replica} of shard {reply.shard} votes, and there are {self.replicas}"
        )
        learner, voters = None, set()
        for vote in votes:
            if (vote.epoch, vote.view, vote.slot) == (reply.epoch, reply.view, reply.slot):
                voters.add(vote.replica)
                if vote.replica == vote.view % self.replicas:
                    learner = vote
        if learner is None or 2 * len(voters) <= self.replicas:
            return None
        assert learner.outcome is not None, (
            f"CLIENT-5: replica {learner.replica}, the learner of view {learner.view}, replies about slot "
            f"{learner.slot} without an outcome"
        )
        return learner.outcome

    def on_timer(self, name: str) -> list[Effect]:
        """Send every unanswered request again, because replies are late. It gets a new stamp."""
        assert name == "retry", name
        all_outstanding = chain(self.parked.values(), self.outstanding.values())
        unanswered = [waiting for waiting in all_outstanding if not waiting.is_complete()]
        resent: list[Effect] = [Send(SEQUENCER, waiting.request) for waiting in unanswered]
        return [*resent, _ARM] if self.outstanding or self.parked else []


def _ranges(parked: dict[RequestId, Outstanding]) -> tuple[IdRange, ...]:
    """Return a few ranges that cover all these ids, which are mostly in order."""
    ranges: list[IdRange] = []
    for number in sorted(parked):
        if ranges and (number == ranges[-1][1] + 1 or len(ranges) == UNANSWERED_RANGES_MAX):
            ranges[-1] = ranges[-1][0], number
        else:
            ranges.append((number, number))
    return tuple(ranges)

"""At most once: what a shard remembers of a client's requests (contracts C4; Eris, section 6.1).

A client has many requests outstanding, so one "latest" cell is not enough: the window keeps the
outcome of every request the client has not yet seen answered, and nothing of those it has. A general
transaction counts as answered when it is concluded; until then a tombstone says how, so that the half
that comes late finds the first one's decision, and a late copy of the preliminary locks nothing.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from kvstore.execution.operations import Outcome
from kvstore.types import RequestId

Kept = TypeVar("Kept")
IdRange = tuple[RequestId, RequestId]
"""From the first id to the last, both included."""


class Answered:
    """Marks a request that the client itself said is answered."""


ANSWERED: Final = Answered()


class ClientWindow(msgspec.Struct, array_like=True):
    """One client's requests at one shard.

    ``answered``, ``unanswered``: the latest word of the client: it has the answers of all ids up to
    ``answered``, except those in the ranges ``unanswered``. ``newest``: the highest id executed.

    INVARIANTS
        WINDOW-1  No id in ``outcomes`` or ``tombstones`` is answered.
        WINDOW-2  The end of a general transaction is recorded once, and not changed.
    """

    answered: RequestId = RequestId(0)
    outcomes: dict[RequestId, Outcome] = msgspec.field(default_factory=dict)
    unanswered: tuple[IdRange, ...] = ()
    newest: RequestId = RequestId(0)
    tombstones: dict[RequestId, bool] = msgspec.field(default_factory=dict)
    """Whether a general transaction was committed, by the id of its preliminary."""

    def outcome_of(self, request: RequestId) -> Outcome | Answered | None:
        """Return the outcome of an executed request; ANSWERED if it is no longer kept, None if new."""
        if self._is_answered(request):
            return ANSWERED
        return self.outcomes.get(request)

    def _is_answered(self, request: RequestId) -> bool:
        if request > self.answered:
            return False
        return not self.unanswered or not any(first <= request <= last for first, last in self.unanswered)

    def record(
        self,
        request: RequestId,
        answered: RequestId,
        outcome: Outcome,
        unanswered: tuple[IdRange, ...] = (),
    ) -> None:
        """Remember an executed request, and forget those the client has the answers of."""
        newer = request > self.newest
        if newer:
            self.newest = request
        if answered > self.answered or (
            newer and answered == self.answered and unanswered != self.unanswered
        ):
            self.answered, self.unanswered = answered, unanswered
            if self.outcomes:
                self.outcomes = self._kept(self.outcomes)
            if self.tombstones:
                self.tombstones = self._kept(self.tombstones)
        if newer:
            self.outcomes[request] = outcome
            return
        # On a follower a request that waited may be executed after the client has its answer.
        if not self._is_answered(request):
            self.outcomes[request] = outcome
        oldest = next(iter(self.outcomes), self.answered + 1)
        assert self.unanswered or oldest > self.answered, (
            f"WINDOW-1: the outcome of request {oldest} is kept, and all up to {self.answered} are answered"
        )

    def _kept(self, memory: dict[RequestId, Kept]) -> dict[RequestId, Kept]:
        answered = self.answered
        if not self.unanswered:
            return {number: kept for number, kept in memory.items() if number > answered}
        return {number: kept for number, kept in memory.items() if not self._is_answered(number)}

    def conclude(self, preliminary: RequestId, vote: Outcome, *, committed: bool) -> None:
        """Remember how a general transaction ended, unless the client knows."""
        assert preliminary not in self.tombstones, (
            f"WINDOW-2: preliminary {preliminary} ended with commit {self.tombstones[preliminary]}, and ends "
            f"again with {committed}"
        )
        if not self._is_answered(preliminary):
            self.outcomes[preliminary] = vote
            self.tombstones[preliminary] = committed

"""At most once: what a shard remembers of a client's requests (contracts C4; Eris, section 6.1).

A client has many requests outstanding, so one "latest" cell is not enough: the window keeps the
outcome of every request the client has not yet seen answered, and nothing of those it has.
"""

from __future__ import annotations

from typing import Final

import msgspec

from kvstore.execution.operations import Outcome
from kvstore.types import RequestId


class Answered:
    """Marks a request that the client itself said is answered."""


ANSWERED: Final = Answered()


class ClientWindow(msgspec.Struct, array_like=True):
    """One client's requests at one shard.

    INVARIANT W1: every id in ``outcomes`` is above ``answered``.
    """

    answered: RequestId = RequestId(0)
    outcomes: dict[RequestId, Outcome] = msgspec.field(default_factory=dict)

    def outcome_of(self, request: RequestId) -> Outcome | Answered | None:
        """The outcome of a request executed before; ANSWERED if long ago; None if it is new."""
        if request <= self.answered:
            return ANSWERED
        return self.outcomes.get(request)

    def record(self, request: RequestId, answered: RequestId, outcome: Outcome) -> None:
        """Remember an executed request, and forget those the client has the answers of."""
        if answered > self.answered:
            self.answered = answered
            if self.outcomes:
                kept = {number: kept for number, kept in self.outcomes.items() if number > answered}
                self.outcomes = kept
        self.outcomes[request] = outcome

"""One shard on one host: its execution, its outcomes and its replies.

The replica of the shard (``replica.py``) decides which slots may be executed; the host's executor
(``executor.py``) decides when. Execution stages the effects of a transaction and writes them to the tables
only when all of it succeeded (contracts A5).

INVARIANT SHARD-1: a request is executed at most once; its copies get the outcome of the first (contracts C4).

EXECUTE-2, PROCEDURE-2 and REGION-1 are asserted here, where outcome and effects come together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kvstore.eris.client_window import ANSWERED, Answered, ClientWindow
from kvstore.eris.effects import ClientAddress, Effect, ReplicaAddress, Send
from kvstore.eris.log import TransactionLog, effects_key
from kvstore.eris.messages import LogEntry, Reply, Request, Stamped
from kvstore.eris.shard_state import ShardRecord, ShardTables, Status
from kvstore.execution import operations, procedures
from kvstore.execution.applied import RegionExecution, encode_effects
from kvstore.execution.execute import Executed, apply, execute
from kvstore.execution.operations import Call, Check, CheckRange, Expire, IdempotencyToken, Outcome
from kvstore.execution.outcomes import OutcomeRecord, expire, remember
from kvstore.execution.procedure_context import Owns
from kvstore.execution.validation import execute_validated
from kvstore.types import ClientId, Slot


@dataclass(slots=True, kw_only=True)
class Shard:
    """One shard on one host, on tables and a log of the host's open batch."""

    address: ReplicaAddress
    replicas: int
    record: ShardRecord
    """The durable state that is not in log or tables; written by ``save`` once per batch."""
    log: TransactionLog
    tables: ShardTables
    owns: Owns
    """Returns whether a key belongs to a shard, for procedures."""
    region: RegionExecution | None = None
    """The execution of this shard's parts in a region; None in a plain store."""
    status: Status = Status.NORMAL
    last_slot: Slot = field(init=False)
    is_learner: bool = field(init=False)

    def has_diverged(self) -> bool:
        return self.status is Status.DIVERGED

    def entries_up_to(self, last: Slot) -> Iterator[LogEntry]:
        """Yield the logged slots after ``executed``, up to ``last``."""
        return self.log.walk(Slot(self.record.executed + 1), last)

    def logged(self, slot: Slot) -> Stamped | None:
        """Return the transaction in a slot of the log; None for a NO-OP, and for a truncated slot."""
        return None if slot < self.log.first else self.log.read(slot, 1)[0].stamped

    def has_passed(self, stamped: Stamped, *, is_settled: bool) -> bool:
        """Return whether this shard's part of a transaction, which does not wait, is executed: an image
        contained it.

        ``is_settled``: a later epoch began with the transaction, so it is in the logs of all participants.
        Before that, the transaction may still turn out to be dropped.
        """
        record, stamp = self.record, stamped.stamp
        if stamp.epoch != record.last_normal_epoch:
            return is_settled and stamp.epoch < record.last_normal_epoch
        slot = Slot(record.base + stamp.numbers[self.address.shard])
        return slot <= record.executed and slot not in record.waiting

    def execute(self, stamped: Stamped, slot: Slot) -> list[Effect]:
        """Carry out this shard's part of an independent transaction; return the learner's reply."""
        request, state = stamped.request, self.tables.state
        operations = request.operations[self.address.shard]
        if self.region is not None:
            outcome = self._execute_in_region(self.region, stamped, slot)
        else:
            if request.call is not None and self.address.shard in request.call.keys:
                effects, outcome, plain = self._run_procedure(request.call, stamped, slot)
            elif operations and type(operations[0]) in (Check, CheckRange):
                effects, outcome, plain = execute_validated(operations, state, slot)
            else:
                effects, outcome, plain = execute(operations, state, slot)
            assert not outcome.refused or not effects, f"EXECUTE-2: slot {slot} is refused, and has {effects}"
            apply(effects, state)
            if not plain:
                self.log.note_effects(slot, effects)
        if operations and type(operations[0]) is Expire:
            expire(operations[0].before, outcomes=self.tables.outcomes, expiry=self.tables.expiry)
        reply = self.reply(request, slot, outcome)
        self.remember(stamped, slot, outcome)
        return reply

    def _execute_in_region(self, region: RegionExecution, stamped: Stamped, slot: Slot) -> Outcome:
        request, shard, time = stamped.request, self.address.shard, stamped.stamp.clock
        operations = request.operations[shard]
        if request.call is not None and shard in request.call.keys:
            applied = region.call(request.call, slot, time, shard, self.owns)
        else:
            applied = region.execute(operations, slot, time)
        assert not applied.changes or not (applied.outcome.refused or applied.outcome.failure), (
            f"REGION-1: slot {slot} came to {applied.outcome}, and changes {applied.changes}"
        )
        if applied.changes is not None:
            self.log.note_changes(slot, applied.changes)
        if applied.effects is not None:
            self.note_shipped(slot, applied.effects)
        return applied.outcome

    def note_nothing(self, slot: Slot) -> None:
        """Note that this slot has no effects, whatever its operations are."""
        self.log.note_effects(slot, {})
        if self.region is not None:
            self.note_shipped(slot, ())

    def note_shipped(self, slot: Slot, effects: tuple[operations.KeyEffect, ...]) -> None:
        """Keep a slot's effects for other regions, because they do not follow from its operations."""
        assert slot <= self.last_slot, f"LOG-2: effects of slot {slot}, and the log ends at {self.last_slot}"
        self.tables.shipped.put(effects_key(slot), encode_effects(effects))

    def _run_procedure(self, call: Call, stamped: Stamped, slot: Slot) -> Executed:
        shard, time = self.address.shard, stamped.stamp.clock
        executed = procedures.run(call, self.tables.state, slot, shard=shard, time=time, owns=self.owns)
        assert not executed.outcome.failure or not executed.effects, (
            f"PROCEDURE-2: slot {slot} raised {executed.outcome.failure}, and has {executed.effects}"
        )
        return executed

    def remember(self, stamped: Stamped, slot: Slot, outcome: Outcome) -> None:
        """Keep the outcome for copies of the request, and for its idempotency key (contracts C4)."""
        request = stamped.request
        window = self.record.windows.get(request.client) or self.window_of(request.client)
        assert request.request not in window.outcomes, (
            f"SHARD-1: request {request.request} of client {request.client} is executed again, in slot {slot}"
        )
        window.record(request.request, request.answered, outcome, request.unanswered)
        token = request.token
        if token is not None and not (token.result and outcome.refused):  # a refused function runs again
            self._remember_token(token, stamped, slot, outcome)

    def known_outcome(self, stamped: Stamped) -> Outcome | Answered | None:
        """Return the outcome of a request that was executed before; None if it is new.

        A request of a client that had ended when the epoch began counts as answered.
        """
        record, request = self.record, stamped.request
        if request.client < record.clients_from and stamped.stamp.epoch == record.last_normal_epoch:
            return ANSWERED
        window = record.windows.get(request.client)
        if window is None or (request.request > window.newest and not window.tombstones):
            return None  # the client's window has neither an outcome nor a tombstone of it
        return window.outcome_of(request.request)

    def window_of(self, client: ClientId) -> ClientWindow:
        """Return the window of a client's requests."""
        window = self.record.windows.get(client)
        if window is None:
            window = self.record.windows[client] = ClientWindow()
        return window

    def _remember_token(
        self, token: IdempotencyToken, stamped: Stamped, slot: Slot, outcome: Outcome
    ) -> None:
        is_record_shard = token.record_shard == self.address.shard
        if is_record_shard and token.result:
            outcome = Outcome(results=(token.result,))
        participants = tuple(stamped.request.operations)
        memory = OutcomeRecord(slot, outcome, stamped.stamp.clock, token.digest, participants)
        tables = self.tables
        remember(
            token, memory, is_record_shard=is_record_shard, outcomes=tables.outcomes, expiry=tables.expiry
        )

    def reply(self, request: Request, slot: Slot, outcome: Outcome) -> list[Effect]:
        """Return the learner's reply; a follower replies when it logs the transaction."""
        if not self.is_learner:
            return []
        record, (shard, replica) = self.record, self.address
        client, number = request.client, request.request
        reply = Reply(client, number, shard, replica, record.epoch, record.view, slot, outcome)
        return [Send(ClientAddress(client), reply)]

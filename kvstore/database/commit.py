"""Running transactions: a function runs, and its writes are committed by the cheapest path, or it runs again.

The first run is a reconnaissance (contracts C2). If the transaction is general, a preliminary locks the keys
it read and will write. If no value has changed, the transaction is committed in that group. If a value has
changed, the function runs again on the locked values, and then its commit cannot fail, unless it takes
longer than the lease. If this run touches another key, the next attempt locks that key too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import msgspec

from kvstore import keys, values
from kvstore.database.reconnaissance import LockedReads, LockSets, Reconnaissance
from kvstore.database.retry import Backoff
from kvstore.database.routing import Route, Routing, route_of
from kvstore.database.snapshot import Snapshot
from kvstore.database.transaction import Transaction, Written
from kvstore.engine.interrupts import uninterrupted
from kvstore.engine.request import ClientRequest, Conclusion, PendingRequest
from kvstore.engine.store import WritingStore
from kvstore.eris.client import SecondHalf
from kvstore.eris.messages import Answer
from kvstore.errors import Conflict, Error, OutcomeUnknown, TimedOut
from kvstore.execution.operations import IdempotencyToken, Operation, Operations, Reserve
from kvstore.execution.reentrancy import refuse_unfinished, running
from kvstore.execution.validation import Current, decode_current
from kvstore.keys import Key
from kvstore.types import RequestId, ShardId

UNLOCKED_ATTEMPTS = 3
"""Number of attempts that validate a one-shard transaction without locks; later attempts take locks."""

CHECK_BYTES = 64
"""Approximate size of an operation in a request, besides its key and value."""


class Task(NamedTuple):
    """A function to run as a transaction, with its number of retries and its timeout in seconds, or None."""

    name: str
    body: Callable[[Transaction], Any]
    max_retries: int
    timeout: float | None
    token: IdempotencyToken | None = None
    expected: tuple[bytes, ...] = ()
    """Encoded keys of a known read set, which are locked before they are read."""


class Plan(NamedTuple):
    """How a transaction is to be committed.

    ``operations`` are those of its only round, or of its preliminary; in the latter case ``writes`` are the
    operations of its second half.
    """

    route: Route
    operations: Operations
    writes: Operations
    reserved: set[bytes]
    size: int
    """Size of the writes in bytes."""


class ReadSetChanged(Exception):  # not an error: caught in this module
    """An attempt was not committed: its read set changed. ``locks``: the least that the next one locks."""

    def __init__(self, key: Key | None, locks: LockSets | None = None) -> None:
        super().__init__()
        self.key = key
        self.locks = locks


class TransactionRunner:
    """Runs and commits the transactions of one database."""

    def __init__(
        self,
        store: WritingStore,
        routing: Routing,
        snapshot: Callable[[], Snapshot],
    ) -> None:
        self._store = store
        self._routing = routing
        self._snapshot = snapshot

    # -- overridden by regions -----------------------------------------------------------------

    def _transaction(
        self,
        reads: Reconnaissance | LockedReads,
        commit: Callable[[Transaction], Route] | None = None,
    ) -> Transaction:
        return Transaction(reads, self._routing, commit)

    def _checks_of(self, written: Written) -> tuple[Operation, ...]:
        """Return the operations by which a preliminary checks the writes to one key, besides its lock."""
        return ()

    def _may_refuse(self, transaction: Transaction) -> bool:
        """Return whether shards may refuse the transaction's writes."""
        return False

    def _raise_refusal(self, answer: Answer) -> None:
        """Raise the error of a refused write, if a shard refused one."""

    # -- transactions --------------------------------------------------------------------------

    def begin(self) -> Transaction:
        """Return a transaction that its owner commits."""
        reads = Reconnaissance(self._snapshot, self._routing)

        def commit(transaction: Transaction) -> Route:
            plan = self._plan(transaction, reads, LockSets(), None)
            try:
                if plan.route.path != "general":
                    self._one_round(plan, reads, None)
                else:
                    answer = self._preliminary(plan, SecondHalf(plan.writes), Backoff(None), "commit")
                    if not answer.committed:
                        self._raise_refusal(answer)
                        raise ReadSetChanged(self._changed_key(answer, reads))
            except ReadSetChanged as changed:
                raise _conflict(changed, "the transaction", 1) from None
            return plan.route

        return self._transaction(reads, commit)

    def run(self, task: Task) -> Any:
        """Run the function until it is committed; return its result.

        Raises:
            Conflict: its read set changed in the first attempt and in each of ``max_retries`` retries.
            TimedOut: it was not committed in time; nothing happened.
            Every exception of the function: the transaction was rolled back.
        """
        patience = Backoff(task.timeout)
        wanted = LockSets()
        attempt = 1
        while True:
            try:
                if attempt == 1 and task.expected:
                    return self._attempt_known(task, patience)
                return self._attempt(task, wanted, patience, locks=attempt > UNLOCKED_ATTEMPTS)
            except ReadSetChanged as changed:
                if changed.locks is not None:
                    wanted.include(changed.locks)
                if attempt > task.max_retries:
                    raise _conflict(changed, task.name, attempt) from changed.__cause__
            patience.pause(attempt)
            patience.check(task.name)
            attempt += 1

    # -- one attempt -------------------------------------------------------------------------

    def _attempt(self, task: Task, wanted: LockSets, patience: Backoff, *, locks: bool) -> Any:
        reads = Reconnaissance(self._snapshot, self._routing)
        transaction = self._transaction(reads)
        try:
            result = _call(task, transaction)
            patience.check(task.name)
            reads.read_again(wanted)
            token = _with_result(task.token, result)
            plan = self._plan(transaction, reads, wanted, token, locks=locks)
            if plan.route.path != "general":
                self._one_round(plan, reads, token)
            else:
                second_half = SecondHalf(plan.writes, token, keeps_locks=True)
                answer = self._preliminary(plan, second_half, patience, task.name)
                if not answer.committed:
                    result = self._run_again(task, plan, reads, answer, patience)
            transaction.end("committed", plan.route)
            return result
        finally:
            if transaction.is_open:
                transaction.end("rolled back")

    def _attempt_known(self, task: Task, patience: Backoff) -> Any:
        """Lock the known read set, then run the function: two rounds, whatever other callers do."""
        reads = Reconnaissance(self._snapshot, self._routing)
        try:
            reads.expect(task.expected)
            locks = LockSets(written=set(task.expected))
            plan = self._plan(self._transaction(reads), reads, locks, task.token, locks=True)
            answer = self._preliminary(plan, SecondHalf(plan.writes, keeps_locks=True), patience, task.name)
            return self._run_again(task, plan, reads, answer, patience)
        finally:
            reads.close()

    def _run_again(
        self, task: Task, plan: Plan, reads: Reconnaissance, answer: Answer, patience: Backoff
    ) -> Any:
        """Run the function on the locked values and commit its writes; on any error release the locks."""
        key = self._changed_key(answer, reads)
        if answer.committed is not None:
            raise ReadSetChanged(key)  # the preliminary was aborted
        transaction = None
        try:
            self._raise_refusal(answer)
            locked = LockedReads(reads, _held(answer), plan.reserved)
            transaction = self._transaction(locked)
            result = _call_locked(task, transaction, locked)
            if self._may_refuse(transaction):
                raise ReadSetChanged(key)  # the shards checked other writes than these
            if not locked.missed.is_empty():
                raise ReadSetChanged(
                    key, _union(reads.sets(), LockSets(written=plan.reserved), locked.missed)
                )
            patience.check(task.name)
            token = _with_result(task.token, result)
            writes = _writes_of(transaction, plan.operations)
            if not self._conclude(answer.request, writes, transaction.size, token).committed:
                raise ReadSetChanged(key)  # the lease expired
            transaction.end("committed", plan.route)
            return result
        except BaseException as error:
            if transaction is not None:
                transaction.end("rolled back")
            self._abort(answer.request, error)
            raise

    # -- what is sent ------------------------------------------------------------------------

    def _plan(
        self,
        transaction: Transaction,
        reads: Reconnaissance,
        wanted: LockSets,
        token: IdempotencyToken | None,
        *,
        locks: bool = False,
    ) -> Plan:
        """Choose the path. ``locks``: take locks even if one shard could validate all reads."""
        written = {entry.shard for entry in transaction.written.values()}
        if token is not None:
            written.add(token.record_shard)
        route = route_of(transaction.read_shards, written)
        reserved = transaction.written.keys() | wanted.written
        if route.path == "general" or (locks and reads.shards):
            operations = self._first_half(transaction, reads, wanted.written, written)
            route = Route("general", tuple(operations), 2)
            writes = _writes_of(transaction, operations)
            return Plan(route, operations, writes, reserved, transaction.size)
        writes = _writes_of(transaction, written)
        if route.path == "one-shard":
            shard = ShardId(route.shards[0])
            writes = {shard: (*reads.checks().get(shard, ()), *writes[shard])}
        return Plan(route, writes, {}, set(), transaction.size)

    def _first_half(
        self, transaction: Transaction, reads: Reconnaissance, wanted: set[bytes], written: set[ShardId]
    ) -> Operations:
        """Return the preliminary's checks and reservations by shard; all shards in ``written`` take part."""
        operations: dict[ShardId, list[Operation]] = reads.checks()
        for shard in written:
            operations.setdefault(shard, [])
        for key, entry in transaction.written.items():
            operations[entry.shard] += (Reserve(key), *self._checks_of(entry))
        for key in sorted(wanted - transaction.written.keys()) if wanted else ():
            operations.setdefault(self._routing.shard_of_encoded(key), []).append(Reserve(key))
        return {shard: tuple(operations[shard]) for shard in sorted(operations)}

    def _one_round(self, plan: Plan, reads: Reconnaissance, token: IdempotencyToken | None) -> None:
        """Send the plan's only request, if there is one. Raises ``ReadSetChanged``."""
        if not plan.operations:
            return
        pending = _pending(plan.operations, size=plan.size, token=token)
        with uninterrupted() if token else nullcontext():
            self._store.run(pending)
        assert pending.answer is not None, "a request is answered or fails"
        self._raise_refusal(pending.answer)
        for outcome in pending.answer.outcomes.values():
            if outcome.refused:
                raise ReadSetChanged(self._name(_payload(outcome.results[0]), reads))

    def _preliminary(self, plan: Plan, second_half: SecondHalf, patience: Backoff, name: str) -> Answer:
        """Send the first half; return the answer: committed, aborted, or the votes, with the locks held.

        Raises ``TimedOut`` if it waits for its locks beyond the deadline.
        """
        pending = _pending(plan.operations, plan.writes, size=plan.size, second_half=second_half)
        with uninterrupted() if second_half.token else nullcontext():
            if not self._store.run(pending, patience.deadline):
                self._take_back(pending, patience.timed_out(name))
        assert pending.answer is not None, "a request is answered or fails"
        return pending.answer

    def _take_back(self, pending: PendingRequest, timed_out: TimedOut) -> None:
        """Abort a preliminary that waited for its locks too long; raise ``TimedOut`` unless it was committed.

        Raises ``OutcomeUnknown`` if the abort fails too.
        """
        assert pending.number is not None, "the request was sent, and waits for locks"
        ended = self._abort(pending.number, timed_out)
        if pending.answer is not None and pending.answer.committed:
            return
        if not ended and pending.answer is None:
            message = "the transaction waits for locks, could not be aborted, and may be committed later"
            raise OutcomeUnknown(message) from timed_out
        raise timed_out

    def _conclude(
        self, preliminary: RequestId, writes: Operations, size: int, token: IdempotencyToken | None
    ) -> Answer:
        conclusion = Conclusion(preliminary, commits=True)
        pending = _pending(writes, size=size, conclusion=conclusion, token=token)
        with uninterrupted() if token else nullcontext():
            self._store.run(pending)
        assert pending.answer is not None, "a request is answered or fails"
        return pending.answer

    def _abort(self, preliminary: RequestId, error: BaseException) -> bool:
        """Abort the preliminary because of this error; return whether that succeeded. If it did not, the
        lease will release the locks that are held."""
        pending = _pending({}, conclusion=Conclusion(preliminary, commits=False))
        try:
            self._store.run(pending)
        except Error as trouble:
            error.add_note(f"the transaction's locks could not be released: {trouble}")
            return False
        return True

    # -- what an error names -----------------------------------------------------------------

    def _changed_key(self, answer: Answer, reads: Reconnaissance) -> Key | None:
        """Return a key that had changed when the votes were taken, or None if it is not known."""
        for vote in answer.outcomes.values():
            if vote.refused and vote.results:
                return self._name(decode_current(_payload(vote.results[0])).changed, reads)
        return None

    def _name(self, changed: bytes, reads: Reconnaissance) -> Key | None:
        """Return the changed key, or the first key that differs now in a range that starts at it."""
        with self._snapshot() as now:
            found = reads.first_difference(changed, now)
        return None if found is None else keys.decode(found)


def _call(task: Task, transaction: Transaction) -> Any:
    """Run the function. A ``Conflict`` that the function raises is retried like one of the store."""
    try:
        with running(task.name, transaction):
            result = task.body(transaction)
        refuse_unfinished(task.name, result)
    except Conflict as conflict:
        raise ReadSetChanged(conflict.key) from conflict
    return result


def _held(answer: Answer) -> dict[ShardId, Current]:
    """Return the present values of the shards that voted that their reads had changed."""
    return {
        shard: decode_current(_payload(vote.results[0]))
        for shard, vote in answer.outcomes.items()
        if vote.refused and vote.results
    }


def _call_locked(task: Task, transaction: Transaction, locked: LockedReads) -> Any:
    """Run the function on the locked values; ignore its exception if it touched an unlocked key."""
    try:
        return _call(task, transaction)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        if locked.missed.is_empty():
            raise
        return None


def _with_result(token: IdempotencyToken | None, result: Any) -> IdempotencyToken | None:
    """Return the token with the function's result. Raises ``ValueNotSupported``."""
    return None if token is None else msgspec.structs.replace(token, result=values.encode(result))


def _writes_of(transaction: Transaction, shards: Iterable[int]) -> Operations:
    """Return the writes of each of these shards, which may be none."""
    writes: dict[ShardId, list[Operation]] = {ShardId(shard): [] for shard in shards}
    for written in transaction.written.values():
        writes[written.shard] += written.operations
    return {shard: tuple(part) for shard, part in writes.items()}


def _pending(
    *halves: Operations,
    size: int = 0,
    second_half: SecondHalf | None = None,
    conclusion: Conclusion | None = None,
    token: IdempotencyToken | None = None,
) -> PendingRequest:
    """Return a new request. ``size``: bytes of the written keys and values; checks are small."""
    weight = sum([len(part) for half in halves for part in half.values()])
    size += CHECK_BYTES * weight
    return PendingRequest(ClientRequest(halves[0], size, weight, None, second_half, conclusion, token))


def _union(*sets: LockSets) -> LockSets:
    union = LockSets()
    for one in sets:
        union.include(one)
    return union


def _payload(result: bytes | bool) -> bytes:
    assert isinstance(result, bytes)
    return result


def _conflict(changed: ReadSetChanged, name: str, attempts: int) -> Conflict:
    times = "once" if attempts == 1 else f"{attempts} times"
    where = "something it read" if changed.key is None else f"{changed.key!r}"
    message = f"{where} changed under {name}, which was tried {times}; nothing happened"
    return Conflict(message, hint="try again", key=changed.key, attempts=attempts)

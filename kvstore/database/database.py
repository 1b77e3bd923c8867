"""The embedded database: ``Database`` and its methods.

Reads go to the learner's last commit (contracts A3). A write becomes a request of the one client of
this opening and returns when every shard it touches has a quorum.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, overload

import msgspec

from kvstore import keys, values
from kvstore.database.batch import Batch, Commit
from kvstore.database.commit import Task, TransactionRunner
from kvstore.database.functions import (
    MAX_RETRIES,
    TIMEOUT_S,
    Bound,
    P,
    R,
    TransactionBody,
    bound,
    check_limits,
    task_of,
)
from kvstore.database.procedure_calls import check_declared, declare, results_of, size_of
from kvstore.database.routing import Route, Routing, route_of
from kvstore.database.snapshot import Snapshot, state_tables
from kvstore.database.transaction import Transaction
from kvstore.database.watch import Cursor, Watch
from kvstore.engine.idempotency import Claim, digest, digest_of_function, result_of
from kvstore.engine.interrupts import uninterrupted
from kvstore.engine.request import ClientRequest, PendingRequest
from kvstore.engine.store import Store, WritingStore
from kvstore.engine.upkeep import backup, status
from kvstore.engine.upkeep.compaction import compact
from kvstore.eris.messages import Answer
from kvstore.errors import Conflict, LimitExceeded, NotFound, ProcedureFailed, ReadOnly, UsageError
from kvstore.execution.numbers import check_amount, check_number
from kvstore.execution.operations import (
    Add,
    Delete,
    Expire,
    IdempotencyToken,
    Operation,
    Operations,
    Put,
    PutIf,
)
from kvstore.execution.procedures import procedure_named
from kvstore.execution.reentrancy import qualified_name, refuse_body, refuse_nested
from kvstore.execution.stored_value import VERSION_BYTES, stored_version, value_of
from kvstore.keys import Key
from kvstore.types import Kind, ShardId, Timestamp

DAY_NS = 86_400 * 10**9
DAYS_MAX = 1_000_000
"""Longest time that outcomes are kept, in days; a larger number counts as this one."""
EXPIRE_EVERY = 256
"""Number of requests with idempotency keys between two searches for expired outcomes."""


class Database:
    """A store that is open in this process; one handle serves any number of threads.

    Made by ``kvstore.open``. A database is not a Mapping: it is always true and cannot be iterated over.
    """

    __iter__ = None  # use scan() to iterate, count() to count
    _has_types = False
    """Whether keys have types that writes are checked against; True in regions only."""

    def __init__(self, store: Store, snapshot_lifetime: float) -> None:
        self._store = store
        self._readers = store.readers
        self._lifetime = snapshot_lifetime
        self._routing = Routing(store.manifest.shards, store.manifest.placement)
        self._tables = state_tables(store.manifest.shards)
        self._tokens_used = 0
        if isinstance(store, WritingStore):
            self._expire()

    # -- reading -----------------------------------------------------------------------------

    def get(self, key: Key, default: Any = None) -> Any:
        """Return the value, or ``default`` if there is none. Each call returns a new copy."""
        encoded = keys.encode(key)
        cell = self._readers.get(self._tables[self._routing.shard(key, encoded)], encoded)
        return default if cell is None else values.decode(cell[VERSION_BYTES:])

    def __getitem__(self, key: Key) -> Any:
        cell = self._cell(key)
        if cell is None:
            raise NotFound(f"no value at {key!r}", key=key)
        return values.decode(cell[VERSION_BYTES:])

    def __contains__(self, key: Key) -> bool:
        return self._cell(key) is not None

    def version(self, key: Key) -> int | None:
        """Return the slot of the key's last write, or None if there is no value."""
        return stored_version(self._cell(key))

    def _cell(self, key: Key) -> bytes | None:
        encoded = keys.encode(key)
        return self._readers.get(self._tables[self._routing.shard(key, encoded)], encoded)

    def _read(self, shard: ShardId, encoded: bytes) -> bytes | None:
        return self._readers.get(self._tables[shard], encoded)

    def snapshot(self) -> Snapshot:
        """Return a snapshot of the whole store; close it soon. Raises ``LimitExceeded`` if 1,000 are open."""
        return Snapshot(self._readers.begin(self._lifetime), self._routing, self._tables)

    def get_many(self, keys: Iterable[Key], default: Any = None) -> list[Any]:
        """Return the values at one moment, in the order of the keys; ``default`` for a missing key."""
        with self.snapshot() as view:
            return view.get_many(keys, default)

    def scan(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[Key, Any]]:
        """Return an iterator over ``(key, value)`` in key order, as of this call.

        ``start`` is included, ``stop`` is not; ``limit`` is the largest number of pairs, None is no limit.
        """
        view = self.snapshot()
        return view.scan_and_close(prefix=prefix, start=start, stop=stop, reverse=reverse, limit=limit)

    def count(self, *, prefix: Key | None = None, start: Key | None = None, stop: Key | None = None) -> int:
        """Return the number of keys in the range."""
        with self.snapshot() as view:
            return view.count(prefix=prefix, start=start, stop=stop)

    # -- watching ----------------------------------------------------------------------------

    def cursor(self) -> Cursor:
        """Return the cursor of this moment; ``watch(since=cursor)`` yields all later changes."""
        return self.watch().cursor

    def watch(
        self,
        *,
        prefix: Key | None = None,
        since: Cursor | int | None = None,
        timeout: float | None = None,
    ) -> Watch:
        """Return an iterator over changes as they are committed, in commit order: one ``Change`` per key.

        Args:
            prefix: only changes of keys with this prefix.
            since: a cursor; None for now; 0 for the oldest change. If the log was truncated, records
                older than the log come first, so that folding all changes gives the store's state.
            timeout: seconds without a change after which the iterator ends; it also ends at ``close``.

        Raises:
            CursorTrimmed: the log was truncated beyond the cursor, now or while the watch fell behind;
                ``oldest`` is the oldest usable cursor.
            UsageError: ``since`` is not a cursor of this store. KeyInvalid: the prefix is not a key.
            LimitExceeded: ``timeout`` is not a number from 0 on, or ``since`` is beyond the log's end.
        """
        if timeout is not None and (type(timeout) not in (int, float) or not timeout >= 0):
            raise LimitExceeded(f"timeout is a number of seconds from 0 on, not {timeout!r}", limit=0)
        return Watch(
            readers=self._readers,
            commits=self._store.commits_seen,
            routing=self._routing,
            snapshot=self.snapshot,
            bounds=keys.key_range(prefix=prefix, start=None, stop=None),
            since=since,
            timeout=timeout,
        )

    # -- writing -----------------------------------------------------------------------------

    def put(
        self,
        key: Key,
        value: Any,
        *,
        if_absent: bool = False,
        if_version: int | None = None,
        idempotency_key: Key | None = None,
    ) -> None:
        """Set the key; with ``if_absent`` or ``if_version``, only if the condition holds.

        Raises:
            Conflict: the condition did not hold; nothing changed.
            KeyInvalid, ValueNotSupported, LimitExceeded, ReadOnly: nothing was sent.
            DiskFull: the disk has no room; nothing changed. OutcomeUnknown: the commit failed.
        """
        encoded, payload = keys.encode(key), values.encode(value)
        shard = self._routing.shard(key, encoded)
        operation: Operation = Put(encoded, payload)
        conditional = if_absent or if_version is not None
        if conditional:
            operation = _conditional(encoded, payload, if_absent, if_version)
        request = ClientRequest({shard: (operation,)}, len(encoded) + len(payload), 1)
        check = self._type_check(key, "register") if self._has_types else None
        answer = self._send(request, idempotency_key, check)
        if conditional and answer.outcomes[shard].refused:
            wanted = "absent" if if_absent else f"at version {if_version}"
            raise Conflict(f"{key!r} was not {wanted}", key=key, attempts=1)

    def __setitem__(self, key: Key, value: Any) -> None:
        self.put(key, value)

    def delete(self, key: Key, *, idempotency_key: Key | None = None) -> None:
        """Remove the key, if it exists."""
        encoded = keys.encode(key)
        shard = self._routing.shard(key, encoded)
        check = self._type_check(key, "register", deletes=True)
        self._send(ClientRequest({shard: (Delete(encoded),)}, len(encoded), 1), idempotency_key, check)

    def __delitem__(self, key: Key) -> None:
        encoded = keys.encode(key)
        shard = self._routing.shard(key, encoded)
        check = self._type_check(key, "register", deletes=True)
        request = ClientRequest({shard: (Delete(encoded, report=True),)}, len(encoded), 1)
        answer = self._send(request, None, check)
        if answer.outcomes[shard].results == (False,):
            raise NotFound(f"no value at {key!r}", key=key)

    def add(self, key: Key, n: int | float = 1, *, idempotency_key: Key | None = None) -> Any:
        """Add ``n`` to the number at the key, or to 0, and return the new value.

        Raises:
            TypeClash: the present value is not a number; nothing was sent.
            LimitExceeded: the sum would be infinite, or too large to be a value.
        """
        encoded, amount = keys.encode(key), check_amount(n)
        shard = self._routing.shard(key, encoded)
        check_type = self._type_check(key, "counter")

        def check() -> None:
            if check_type is not None:
                check_type()
            check_number(key, value_of(self._read(shard, encoded)), n)

        request = ClientRequest({shard: (Add(encoded, amount),)}, len(encoded), 1)
        answer = self._send(request, idempotency_key, check)
        total = answer.outcomes[shard].results[0]
        assert isinstance(total, bytes)
        return values.decode(total)

    def _type_check(self, key: Key, wanted: Kind, *, deletes: bool = False) -> Callable[[], None] | None:
        """Return the check that raises ``TypeClash`` if the key has another type; only regions have types."""
        return None

    def call(self, name: str, args: Any = None, *, idempotency_key: Key | None = None) -> dict[int, Any]:
        """Run a stored procedure on every shard whose keys it declares; return each part's result by shard.

        The call takes one round over any number of shards. Before it is sent, the body is run once on the
        last commit, without effect, as a check.

        Raises:
            UnknownProcedure, KeyNotDeclared, NestedCall, KeyInvalid: nothing was sent.
            ProcedureFailed: the body raised on a shard, where it had no effect; parts on other shards had.
        """
        call = declare(procedure_named(name), args, self._routing)
        if not call.keys:
            self._writing_store()
            return {}

        def check() -> None:
            transaction = self._readers.begin(self._lifetime)
            try:
                check_declared(call, transaction, self._routing, Timestamp(time.time_ns()))
            finally:
                transaction.close()

        operations: Operations = dict.fromkeys(call.keys, ())
        answer = self._send(ClientRequest(operations, size_of(call), 1, call), idempotency_key, check)
        try:
            return results_of(call, answer.outcomes)
        except ProcedureFailed:
            self._writing_store().procedures_failed += 1
            raise

    def batch(self, *, idempotency_key: Key | None = None) -> Batch:
        """Return a batch, whose writes are committed together at the end of its ``with`` block."""
        self._writing_store().readers.check()
        return Batch(self._routing, self._read, self._commit, idempotency_key)

    def _commit(self, batch: Batch) -> None:
        request = self._request_of(batch)
        if request.operations:
            self._send(request, batch.idempotency_key)

    def _request_of(self, batch: Batch) -> ClientRequest:
        """Finish the batch and return it as a request. Raises ``Finished`` the second time."""
        return ClientRequest(batch.finish(), batch.size, batch.weight)

    def submit(self, batch: Batch, *, idempotency_key: Key | None = None) -> Future[Commit]:
        """Send a batch without waiting; return a future of its ``Commit``.

        The future is done when the batch is as durable as a returned ``put``, and cannot be cancelled. The
        call itself waits while 10,000 requests or 64 MiB are outstanding.

        Raises:
            UsageError: another database made the batch. Finished: it was committed or submitted before.
        """
        store = self._writing_store()
        if not batch.belongs_to(self._routing):
            raise UsageError("a batch can be submitted only to the database that made it")
        request, route = self._request_of(batch), batch.route
        future: Future[Commit] = Future()
        future.set_running_or_notify_cancel()
        if not request.operations:
            future.set_result(Commit({}, route))
            return future

        def complete(pending: PendingRequest) -> None:
            self._complete(future, pending, route)

        if idempotency_key is None:
            idempotency_key = batch.idempotency_key
        if idempotency_key is None:
            store.commits.submit(PendingRequest(request, complete))
            return future
        request, claim = self._claim(request, idempotency_key)
        pending = PendingRequest(request, complete)
        with uninterrupted(), claim:
            pending.answer = store.idempotency.take(claim)
            if pending.answer is not None:
                complete(pending)
                return future
            pending.on_done = claim.release
            store.commits.submit(pending)
            claim.handed_over = True
        return future

    def _complete(self, future: Future[Commit], pending: PendingRequest, route: Route) -> None:
        """Set the result or the exception of a submitted batch's future."""
        error = pending.error
        if error is None:
            assert pending.answer is not None, "a request is answered or fails"
            error = self._refusal(pending.answer)
        if error is not None:
            future.set_exception(error)
        else:
            assert pending.answer is not None, "a request is answered or fails"
            future.set_result(_committed(pending.answer, route))

    def _refusal(self, answer: Answer) -> Exception | None:
        """Return the error of a batch that the shards refused; only in regions may shards refuse a write."""
        return None

    def _send(
        self,
        request: ClientRequest,
        idempotency_key: Key | None,
        check: Callable[[], None] | None = None,
    ) -> Answer:
        """Return the answer of a request; ``check`` may raise first, unless the key was used before."""
        if idempotency_key is not None:
            return self._send_once(request, idempotency_key, check)
        if check is not None:
            self._writing_store()
            check()
        pending = PendingRequest(request)
        self._store.run(pending)
        assert pending.answer is not None, "a request is answered or fails"
        return pending.answer

    def _send_once(
        self, request: ClientRequest, idempotency_key: Key, check: Callable[[], None] | None
    ) -> Answer:
        """Return the first answer to a request with this key; send the request if there is no answer."""
        store = self._writing_store()
        request, claim = self._claim(request, idempotency_key)
        with uninterrupted(), claim:
            answer = store.idempotency.take(claim)
            return self._send(request, None, check) if answer is None else answer

    def _writing_store(self) -> WritingStore:
        refuse_nested()
        store = self._store
        if not isinstance(store, WritingStore):
            message = f"{store.directory.path} was opened with readonly=True"
            raise ReadOnly(message, path=store.directory.path)
        return store

    # -- transactions ------------------------------------------------------------------------

    def begin(self) -> Transaction:
        """Return a transaction that ends with its ``commit`` or ``rollback``, or with its ``with`` block.

        Any number of transactions may be open at once, and the store may be used beside them.
        """
        return self._attempts_of(self._writing_store()).begin()

    @overload
    def transaction(self, function: TransactionBody[P, R]) -> Bound[P, R]: ...
    @overload
    def transaction(
        self, *, max_retries: int = MAX_RETRIES, timeout: float | None = TIMEOUT_S
    ) -> Callable[[TransactionBody[P, R]], Bound[P, R]]: ...
    def transaction(
        self, function: Any = None, *, max_retries: int = MAX_RETRIES, timeout: float | None = TIMEOUT_S
    ) -> Any:
        """Decorate a function ``body(tx, ...)`` so that each call runs as one transaction.

        The decorator works with and without parentheses. A call whose first argument is a ``Transaction``
        joins that transaction. All reads of an attempt are of one moment. The body may run several times,
        so it must not have side effects.

        Args:
            max_retries: number of retries after a conflict, from 0 on; then a call raises ``Conflict``.
            timeout: seconds for all attempts together, then a call raises ``TimedOut``; None is no limit.

        Raises:
            BodyRefused: the function is async or a generator.
            LimitExceeded: ``max_retries`` or ``timeout`` is out of range.
        """
        check_limits(max_retries, timeout)
        if function is None:
            return lambda body: bound(self, body, max_retries, timeout)
        return bound(self, function, max_retries, timeout)

    def run(self, fn: Callable[..., R], *args: Any, idempotency_key: Key | None = None) -> R:
        """Run ``fn(tx, *args)`` as a transaction and return its result.

        With an idempotency key the transaction is committed once: later calls with this key, function and
        arguments return the first result, which must be a value that can be stored.

        Raises:
            Conflict, TimedOut: nothing happened. BodyRefused: ``fn`` is async or a generator.
            KeyReused: the key was used for another request.
            Abort, and every other exception of ``fn``: the transaction was rolled back.
        """
        refuse_body(fn)
        task = task_of(fn, args, {}, MAX_RETRIES, TIMEOUT_S)
        result: R = self._run_once(task, (qualified_name(fn), list(args)), idempotency_key)
        return result

    def general(
        self,
        reads: Iterable[Key],
        body: Callable[[Transaction], R],
        *,
        max_retries: int = MAX_RETRIES,
        timeout: float | None = TIMEOUT_S,
        idempotency_key: Key | None = None,
    ) -> R:
        """Run ``body(tx)`` on the keys ``reads``, which are locked before it runs; return its result.

        The transaction takes two rounds, however contended the keys are. If the body touches a key that is
        not among ``reads``, the transaction is retried as ``run`` retries one. Raises what ``run`` raises.
        """
        refuse_body(body)
        check_limits(max_retries, timeout)
        if isinstance(reads, str | bytes) or not isinstance(reads, Iterable):
            raise UsageError(f"reads is a list of keys, not {type(reads).__name__}")
        expected = tuple(dict.fromkeys(keys.encode(key) for key in reads))
        task = task_of(body, (), {}, max_retries, timeout)._replace(expected=expected)
        result: R = self._run_once(task, (qualified_name(body), list(expected)), idempotency_key)
        return result

    def run_task(self, task: Task) -> Any:
        """Run a decorated function's task as a transaction; return its result."""
        return self._attempts_of(self._writing_store()).run(task)

    def _attempts_of(self, store: WritingStore) -> TransactionRunner:
        store.readers.check()
        return TransactionRunner(store, self._routing, self.snapshot)

    def _run_once(self, task: Task, what: tuple[str, list[Any]], idempotency_key: Key | None) -> Any:
        store = self._writing_store()
        if idempotency_key is None:
            return self._attempts_of(store).run(task)
        token = self._token(idempotency_key, digest_of_function(values.encode(list(what))))
        with store.idempotency.claim(token) as claim:
            with uninterrupted():
                answer = store.idempotency.take(claim)
            if answer is not None:
                return result_of(answer, token)
            return self._attempts_of(store).run(task._replace(token=token))

    # -- idempotency keys --------------------------------------------------------------------

    def _claim(self, request: ClientRequest, idempotency_key: Key) -> tuple[ClientRequest, Claim]:
        """Return the request with its token, and a claim to the key, neither taken nor released yet."""
        half = request.second_half
        writes = request.operations if half is None else half.writes
        token = self._token(idempotency_key, digest(request.call or writes))
        operations = _with_participant(request.operations, token.record_shard)
        if half is not None:
            half = half._replace(writes=_with_participant(writes, token.record_shard), token=token)
        request = msgspec.structs.replace(request, operations=operations, second_half=half, token=token)
        return request, self._store.idempotency.claim(token)

    def _token(self, idempotency_key: Key, digest: bytes) -> IdempotencyToken:
        self._tokens_used += 1
        if self._tokens_used % EXPIRE_EVERY == 0:
            self._expire()
        encoded = keys.encode(idempotency_key)
        return IdempotencyToken(encoded, digest, self._routing.shard_of_bytes(encoded))

    def _expire(self) -> None:
        """Delete expired outcomes, by transactions of their own, until none are left."""
        days = min(self._store.manifest.idempotency_days, DAYS_MAX)
        before = Timestamp(max(0, time.time_ns() - int(days * DAY_NS)))
        while True:
            shards = [
                ShardId(shard)
                for shard in range(self._routing.shards)
                if self._store.idempotency.has_expired(ShardId(shard), before)
            ]
            if not shards:
                return
            self._send(ClientRequest({shard: (Expire(before),) for shard in shards}, 0, 1), None)

    # -- looking at it -----------------------------------------------------------------------

    def explain(self, what: Key | Batch | Transaction) -> Route:
        """Return the route of a write of this key, of a batch or of a transaction: path, shards, rounds."""
        if isinstance(what, Batch | Transaction):
            return what.route
        encoded = keys.encode(what)
        return route_of(set(), {self._routing.shard(what, encoded)})

    def status(self) -> dict[str, Any]:
        """Return the store's shape and state as a JSON-able dict."""
        return status.status(self._store)

    def verify(self) -> dict[str, Any]:
        """Check every record of every replica; return ``{"ok", "records", "problems"}``. Never raises for
        damage, but a damaged page pointer that LMDB follows may crash the process."""
        return status.verify(self._store, self._routing.owns)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write the last commit as a new store at ``path``, which must not hold anything yet.

        Raises ``UsageError``, ``NoParent``, ``NotAStore``, ``DiskFull``, ``Failed``.
        """
        backup.write(self._store, path)

    def compact(self) -> dict[str, Any]:
        """Rewrite every replica's file without its free pages; return ``{"before", "after", "replicas"}``.

        The sizes are bytes, in total and by replica. Readers continue, writers wait. Raises ``DiskFull``
        if the disk has no room for a copy.
        """
        return compact(self._writing_store())

    def close(self) -> None:
        """Commit all submitted batches, sync, and close the store. Does nothing the second time.

        Open snapshots and iterators end with ``Closed``.
        """
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<kvstore.Database {self._store.directory.path!r}>"


def _with_participant(operations: Operations, shard: ShardId) -> Operations:
    return {**operations, shard: operations.get(shard, ())}


def _conditional(key: bytes, value: bytes, if_absent: bool, if_version: int | None) -> PutIf:
    if if_absent and if_version is not None:
        raise UsageError("give if_absent or if_version, not both")
    if if_version is not None and (type(if_version) is not int or if_version < 1):
        raise LimitExceeded(f"if_version is an int from 1 on, not {if_version!r}", limit=1)
    return PutIf(key, value, if_version)


def _committed(answer: Answer, route: Route) -> Commit:
    return Commit({int(shard): int(slot) for shard, slot in sorted(answer.slots.items())}, route)

"""The embedded database: what users call.

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
"""More days than this are for ever."""
EXPIRE_EVERY = 256
"""Requests with idempotency keys between two looks for outcomes that may be forgotten."""


class Database:
    """A store, open in this process; one handle serves any number of threads.

    Not a Mapping: ``if db:`` is true and nobody walks it by accident. Made by ``kvstore.open``.
    """

    __iter__ = None  # say scan() to walk it, count() to count it
    _has_types = False
    """Whether keys have types that a write is checked against: in regions."""

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
        """The value, or ``default`` when there is none. Each call returns a copy of its own."""
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
        """The slot of the key's last write, or None when there is no value."""
        return stored_version(self._cell(key))

    def _cell(self, key: Key) -> bytes | None:
        encoded = keys.encode(key)
        return self._readers.get(self._tables[self._routing.shard(key, encoded)], encoded)

    def _read(self, shard: ShardId, encoded: bytes) -> bytes | None:
        return self._readers.get(self._tables[shard], encoded)

    def snapshot(self) -> Snapshot:
        """One moment of the whole store. Close it soon: use it in a ``with``."""
        return Snapshot(self._readers.begin(self._lifetime), self._routing, self._tables)

    def get_many(self, keys: Iterable[Key], default: Any = None) -> list[Any]:
        """The values of one moment, in the order of the keys."""
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
        """Iterate over ``(key, value)`` in key order, as of the moment of this call."""
        view = self.snapshot()
        return view.scan_and_close(prefix=prefix, start=start, stop=stop, reverse=reverse, limit=limit)

    def count(self, *, prefix: Key | None = None, start: Key | None = None, stop: Key | None = None) -> int:
        """How many keys there are in the range."""
        with self.snapshot() as view:
            return view.count(prefix=prefix, start=start, stop=stop)

    # -- watching ----------------------------------------------------------------------------

    def cursor(self) -> Cursor:
        """The place of now: ``watch(since=...)`` it for all that comes later."""
        return self.watch().cursor

    def watch(
        self,
        *,
        prefix: Key | None = None,
        since: Cursor | int | None = None,
        timeout: float | None = None,
    ) -> Watch:
        """Iterate over the changes, in commit order, as they come; one ``Change`` for each key.

        Args:
            prefix: only keys that begin so.
            since: a cursor; None for now; 0 for the oldest change. Where the log was cut the records
                that are older than it come first, so that folding all of it gives the store's state.
            timeout: seconds without a change after which it ends; it ends at ``close``, too.

        Raises:
            CursorTrimmed: the log was cut behind the cursor, here or while the watch fell behind;
                ``oldest`` is the oldest usable one.
            UsageError: ``since`` is no cursor of this store. KeyInvalid: of the prefix.
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
        """Set the key; with a condition, only if it holds.

        Raises:
            Conflict: the condition did not hold; nothing changed.
            KeyInvalid, ValueNotSupported, LimitExceeded, ReadOnly: nothing was sent.
            DiskFull: there is no room; nothing changed. OutcomeUnknown: the commit failed.
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
        """Remove the key; a missing one is fine."""
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
        """Add to the number at the key, or to 0, and return the new value.

        Raises:
            TypeClash: something that is not a number is there; nothing was sent.
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
        """What raises ``TypeClash`` where the key shows another type; only regions have types."""
        return None

    def call(self, name: str, args: Any = None, *, idempotency_key: Key | None = None) -> dict[int, Any]:
        """Run a stored procedure on every shard that it declares keys of; return each part's result.

        One round, over any shards. Before it is sent the body is run once for nothing.

        Raises:
            UnknownProcedure, KeyNotDeclared, NestedCall, KeyInvalid: nothing was sent.
            ProcedureFailed: the body raised on a shard; it had no effect there, elsewhere it had.
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
        """Collect writes; they are committed together at the end of the ``with`` block."""
        self._writing_store().readers.check()
        return Batch(self._routing, self._read, self._commit, idempotency_key)

    def _commit(self, batch: Batch) -> None:
        request = self._request_of(batch)
        if request.operations:
            self._send(request, batch.idempotency_key)

    def _request_of(self, batch: Batch) -> ClientRequest:
        """The batch as a request. Raises ``Finished`` the second time."""
        return ClientRequest(batch.finish(), batch.size, batch.weight)

    def submit(self, batch: Batch, *, idempotency_key: Key | None = None) -> Future[Commit]:
        """Send a batch without waiting; the future is done when it is as durable as a put.

        Waits itself while too much is outstanding. The future cannot be cancelled.
        """
        store = self._writing_store()
        if not batch.belongs_to(self._routing):
            raise UsageError("a batch is submitted to the database that made it")
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
        """Give the future of a submitted batch its result, or its exception."""
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
        """The error of a batch that the shards refused; only regions have writes that may be refused."""
        return None

    def _send(
        self,
        request: ClientRequest,
        idempotency_key: Key | None,
        check: Callable[[], None] | None = None,
    ) -> Answer:
        """Return the answer of a request; ``check`` may refuse it, unless it was answered before."""
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
        """Return the first answer of the requests with this key; send the request if there is none."""
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
        """A transaction that ends with its ``commit`` or ``rollback``, or with its ``with`` block.

        Any number may be open at once, and the store may be used beside them.
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
        """Decorate a function ``body(tx, ...)``: each call is one transaction, or joins one.

        With or without parentheses. The body may run several times, so it has no side effects; reads are of
        one moment. Given a ``Transaction`` as first argument it joins that one.

        Args:
            max_retries: how often it runs anew because what it read has changed, and then ``Conflict``.
            timeout: seconds for all attempts together, and then ``TimedOut``; None is for ever.

        Raises:
            BodyRefused: the function is async or a generator.
        """
        check_limits(max_retries, timeout)
        if function is None:
            return lambda body: bound(self, body, max_retries, timeout)
        return bound(self, function, max_retries, timeout)

    def run(self, fn: Callable[..., R], *args: Any, idempotency_key: Key | None = None) -> R:
        """Run ``fn(tx, *args)`` as a transaction and return its result.

        With an idempotency key it happens once: later calls with the key, the function and the arguments
        get the first result, which has to be a value that can be stored.

        Raises:
            Conflict, TimedOut: nothing happened. Abort, and all else that ``fn`` raises: it was rolled back.
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
        """Run ``body(tx)`` on known keys, locked before it runs: two rounds, however contended they are.

        Should it touch a key that is not among ``reads``, it runs again, as any other transaction does.
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
        """Run a function that was decorated."""
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
        """The request with its token, and the claim to the key, which is still to be taken and released."""
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
        """Forget old outcomes, by a transaction of its own, as long as there are any."""
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
        """How a write of this key, this batch or this transaction runs: path, shards, rounds."""
        if isinstance(what, Batch | Transaction):
            return what.route
        encoded = keys.encode(what)
        return route_of(set(), {self._routing.shard(what, encoded)})

    def status(self) -> dict[str, Any]:
        """What the store is and how it is doing; everything in it can be written as JSON."""
        return status.status(self._store)

    def verify(self) -> dict[str, Any]:
        """Walk every record of every replica: ``{"ok", "records", "problems"}``. Never raises for
        damage, but a page pointer that LMDB follows into nowhere may end the process."""
        return status.verify(self._store, self._routing.owns)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write the last commit as a new store at ``path``, which must not exist yet."""
        backup.write(self._store, path)

    def compact(self) -> dict[str, Any]:
        """Write every replica's file anew without its free pages; return the bytes before and after.

        Readers go on, writers wait. There must be room for a copy.
        """
        return compact(self._writing_store())

    def close(self) -> None:
        """Commit what was submitted, sync, and let go; a second time is fine.

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
        raise LimitExceeded(f"if_version is a version, an int from 1 on, not {if_version!r}", limit=1)
    return PutIf(key, value, if_version)


def _committed(answer: Answer, route: Route) -> Commit:
    return Commit({int(shard): int(slot) for shard, slot in sorted(answer.slots.items())}, route)

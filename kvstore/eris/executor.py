"""Execution of whole transactions on one host, in the order of its logs, except around transactions that
wait.

A host holds replicas of many shards, and waits as a whole (contracts A2). A transaction is executed on all of
its shards here in one step, when every replica has reached its slot and no earlier unresolved transaction
conflicts with it. Such conflicts are preliminaries between their two halves, and the transactions that wait
for them. All other transactions overtake. The slots of unresolved transactions are kept with each shard's
record (contracts A6); the rest of this state is rebuilt from the log.

INVARIANTS
    EXECUTOR-1  A transaction is executed on all hosted participants in one step, or on none, except on
        participants whose image contained it (``state_transfer.py``).
    EXECUTOR-2  Two transactions that conflict are executed in the order of the log.
    EXECUTOR-3  While no transaction waits, no transaction claims or looks up locks.
    EXECUTOR-4  When a host has caught up, each stable slot of its shards is executed, or waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from heapq import heappop, heappush, merge
from itertools import groupby
from operator import itemgetter

from kvstore.eris import general
from kvstore.eris.client_window import Answered
from kvstore.eris.effects import Effect
from kvstore.eris.locks import Footprint, Locks, footprint
from kvstore.eris.messages import Conclusory, Preliminary, Request, Stamped
from kvstore.eris.shard import Shard
from kvstore.execution.operations import Outcome
from kvstore.types import ClientId, RequestId, ShardId, Slot, Timestamp


class Unresolved:
    """A transaction in a slot of this host that is not resolved."""

    __slots__ = (
        "blocked",
        "blockers",
        "claims",
        "clock",
        "conclusories",
        "missing",
        "slots",
        "stamped",
        "votes",
    )  # fmt: skip

    def __init__(self, stamped: Stamped, hosted: int) -> None:
        self.stamped = stamped
        self.clock = stamped.stamp.clock
        self.missing = hosted
        """Number of pieces that have not arrived."""
        self.slots: dict[ShardId, Slot] = {}
        self.claims: dict[ShardId, Footprint] | None = None
        """Its claims, by shard; None while it needs none because no later transaction has arrived."""
        self.blockers: set[Unresolved] = _NONE
        self.blocked: set[Unresolved] = _NONE
        """Transactions that wait for this one. Empty sets are shared, and never changed."""
        self.votes: dict[ShardId, Outcome] | None = None
        """Votes by shard, of a preliminary that holds its locks; else None."""
        self.conclusories: tuple[Unresolved, ...] = ()
        """Conclusories of a preliminary that arrived before its locks: a Commit, and those after it."""

    def must_wait_with(self, conclusory: Conclusory) -> bool:
        """Return whether a conclusory must wait until this preliminary has its locks.

        An Abort that arrives before any Commit need not wait.
        """
        return self.votes is None and (conclusory.commit or bool(self.conclusories))


_NONE: set[Unresolved] = set()


class Executor:
    """The transactions of one host that are under way. Its replicas are added as they are loaded."""

    def __init__(self) -> None:
        self.replicas: dict[ShardId, Shard] = {}
        self.touched: set[ShardId] = set()
        """Shards whose waiting slots have changed, and are to be saved."""
        self.behind: list[Shard] = []
        """Shards that have stable slots to execute."""
        self._unresolved: dict[Timestamp, Unresolved] = {}
        self._requests: dict[tuple[ClientId, RequestId], Unresolved] = {}
        self._locks: dict[ShardId, Locks[Unresolved]] = {}
        """Locks by shard; only shards with claims have an entry."""
        self._copies: dict[Timestamp, dict[ShardId, Slot]] = {}
        """Slots received so far of each incomplete retransmission, by shard and timestamp of the copy."""
        self.arriving: Unresolved | None = None
        """The transaction whose pieces are arriving back to back; it is not registered yet."""
        self._unclaimed: list[Unresolved] = []
        """Unresolved transactions without claims: no later one has arrived that could overtake them."""
        self.ready: list[tuple[Timestamp, Unresolved]] = []
        self._is_restoring = False

    # -- arrivals ------------------------------------------------------------------------------

    def arrive(self, replica: Shard, slot: Slot, stamped: Stamped | None) -> list[Effect]:
        """Take the next slot of a shard, execute the transactions that are ready, and return the replies."""
        record = replica.record
        assert slot == record.executed + 1, f"EXECUTOR-2: slot {slot} is executed after {record.executed}"
        assert replica.is_learner or slot <= record.stable, (
            f"REPLICA-2: a follower executes slot {slot}, and slot {record.stable} is the last that is stable"
        )
        record.executed = slot
        if stamped is None:
            return []
        if self.arriving is not None:
            if self.arriving.clock == stamped.stamp.clock:
                return self._next_piece(self.arriving, replica, slot)
            self.settle_arriving()
        request = stamped.request
        known = replica.known_outcome(stamped)
        if known is not None:
            self._pass_over(replica, slot, stamped)
            return [] if isinstance(known, Answered) else replica.reply(request, slot, known)
        if self._unresolved:
            first = self._requests.get((request.client, request.request))
            if first is not None and first.clock != stamped.stamp.clock:
                return self._copy(replica, slot, stamped, first)
            if self._unclaimed and type(request.half) is not Conclusory:
                self._claim_all()
            if first is not None:
                return self._late_piece(first, replica, slot)
        if (
            request.half is None
            and len(request.operations) == 1
            and not (self._locks and self._blockers(replica, request))
        ):
            return replica.execute(stamped, slot)
        return self._next_piece(self._begin(stamped, {replica.address.shard}), replica, slot)

    def _pass_over(self, replica: Shard, slot: Slot, stamped: Stamped) -> None:
        """Let a copy wait without effects until all its pieces are here.

        Its slot is not resolved before, because another participant may need the copy from this one.
        """
        replica.note_nothing(slot)
        clock = stamped.stamp.clock
        assert slot <= replica.record.executed, (
            f"EXECUTOR-2: slot {slot} is passed over, and {replica.record.executed} is the last that came"
        )
        if len(stamped.stamp.numbers) > 1:
            slots = self._copies.setdefault(clock, {})
            slots[replica.address.shard] = slot
            if not self._missing(stamped, slots.keys()):
                del self._copies[clock]
            self.touched.update(slots)

    def _copy(self, replica: Shard, slot: Slot, stamped: Stamped, first: Unresolved) -> list[Effect]:
        """Return the vote of a request that is under way, to its copy; without a vote the first answers."""
        self._pass_over(replica, slot, stamped)
        vote = None if first.votes is None else first.votes.get(replica.address.shard)
        return [] if vote is None else replica.reply(first.stamped.request, slot, vote)

    def note_behind(self, replica: Shard) -> None:
        """Note that this replica has stable slots to execute."""
        assert replica.record.stable <= replica.last_slot, (
            f"REPLICA-2: slot {replica.record.stable} is stable, and the log ends at slot {replica.last_slot}"
        )
        if replica not in self.behind:
            self.behind.append(replica)

    def catch_up(self) -> list[Effect]:
        """On followers, execute the slots that a quorum holds, merged over all shards by time; return the
        replies of this host's learners. The order brings the pieces of a transaction together."""
        behind, self.behind = self.behind, []
        replies: list[Effect] = []
        if len(behind) == 1:
            replies = self.execute_up_to(behind[0], behind[0].record.stable)
        else:
            for _, replica, slot, stamped in merge(*map(_stable_entries, behind), key=itemgetter(0)):
                replies += self.arrive(replica, slot, stamped)
        for replica in behind:
            assert replica.record.executed >= replica.record.stable, (
                f"EXECUTOR-4: slot {replica.record.stable} is stable, and {replica.record.executed} executed"
            )
        return replies

    def execute_up_to(self, replica: Shard, slot: Slot) -> list[Effect]:
        """Execute the logged slots above ``executed``, up to and including ``slot``; return the replies."""
        replies: list[Effect] = []
        for entry in replica.entries_up_to(slot):
            replies += self.arrive(replica, entry.slot, entry.stamped)
        return replies

    def _missing(self, stamped: Stamped, here: Set[ShardId]) -> int:
        """Return how many pieces are still to arrive at this host besides these."""
        others = (self.replicas.keys() & stamped.stamp.numbers.keys()) - here
        if not others:
            return 0
        epoch = stamped.stamp.epoch
        is_settled = any(self.replicas[shard].record.last_normal_epoch > epoch for shard in here)
        return sum(not self.replicas[other].has_passed(stamped, is_settled=is_settled) for other in others)

    # -- waiting ------------------------------------------------------------------------------

    def _begin(self, stamped: Stamped, here: Set[ShardId]) -> Unresolved:
        """Register a transaction that lacks pieces; a piece that an image contained counts as executed."""
        assert self.arriving is None, (
            f"EXECUTOR-1: {stamped.stamp} begins to arrive, and one of {self.arriving.clock} is not whole"
        )
        hosted = len(here) + self._missing(stamped, here)
        self.arriving = transaction = Unresolved(stamped, hosted)
        return transaction

    def _next_piece(self, transaction: Unresolved, replica: Shard, slot: Slot) -> list[Effect]:
        """Add a piece to the arriving transaction; run or register it when it has all pieces."""
        transaction.slots[replica.address.shard] = slot
        transaction.missing -= 1
        assert transaction.missing >= 0, (
            f"EXECUTOR-1: the transaction of {transaction.clock} was whole before slot {slot} came"
        )
        if transaction.missing:
            return []
        self.arriving = None
        if not self._unresolved and transaction.stamped.request.half is None:
            return self._execute(transaction)
        self._register(transaction)
        return self._whole(transaction)

    def _late_piece(self, transaction: Unresolved, replica: Shard, slot: Slot) -> list[Effect]:
        """Add a piece to a transaction that is registered already."""
        shard = replica.address.shard
        transaction.slots[shard] = slot
        transaction.missing -= 1
        assert transaction.missing >= 0, (
            f"EXECUTOR-1: the transaction of {transaction.clock} was whole before slot {slot} came"
        )
        self.touched.add(shard)
        if transaction.claims is not None:
            self._claim(transaction)
        return [] if transaction.missing else self._whole(transaction)

    def _whole(self, transaction: Unresolved) -> list[Effect]:
        assert not transaction.missing, (
            f"EXECUTOR-1: the transaction of {transaction.clock} misses {transaction.missing} pieces"
        )
        if transaction.claims is None and self._is_blocked(transaction):
            self._unclaimed.remove(transaction)
            self._claim(transaction)
        if transaction.blockers:
            return []
        self._put_ready(transaction)
        return [] if self._is_restoring else self.run_ready()

    def settle_arriving(self) -> None:
        """Register the arriving transaction: another one has arrived, or the batch ends."""
        if self.arriving is not None:
            assert self.arriving.missing > 0, (
                f"EXECUTOR-1: the transaction of {self.arriving.clock} is whole, and was not executed"
            )
            self._register(self.arriving)
            self.arriving = None

    def _register(self, transaction: Unresolved) -> None:
        request = transaction.stamped.request
        assert (request.client, request.request) not in self._requests, (
            f"SHARD-1: request {request.request} of client {request.client} waits already, and comes at "
            f"{transaction.clock}"
        )
        self._unresolved[transaction.clock] = transaction
        self._requests[request.client, request.request] = transaction
        self.touched.update(transaction.slots)
        if type(request.half) is not Conclusory:
            self._unclaimed.append(transaction)

    def _blockers(self, replica: Shard, request: Request) -> list[Unresolved]:
        locks = self._locks.get(replica.address.shard)
        return [] if locks is None else locks.in_the_way_of(footprint(request, replica.address.shard))

    def _is_blocked(self, transaction: Unresolved) -> bool:
        if not self._locks:
            return False
        request = transaction.stamped.request
        return any(self._blockers(self.replicas[shard], request) for shard in transaction.slots)

    def _claim_all(self) -> None:
        """Claim locks for the transactions that a later one could overtake."""
        unclaimed, self._unclaimed = self._unclaimed, []
        for transaction in unclaimed:
            assert transaction.claims is None, (
                f"EXECUTOR-2: the transaction of {transaction.clock} has claims already: {transaction.claims}"
            )
            self._claim(transaction)

    def _claim(self, transaction: Unresolved) -> None:
        """Claim the keys of the pieces that have arrived, after all earlier claims on them."""
        assert transaction.clock in self._unresolved, (
            f"EXECUTOR-3: the transaction of {transaction.clock} claims, and is not one of the "
            f"{len(self._unresolved)} that wait"
        )
        if transaction.claims is None:
            transaction.claims = {}
            transaction.blockers, transaction.blocked = set(), set()
        for shard in transaction.slots:
            if shard not in transaction.claims:
                touched = footprint(transaction.stamped.request, shard)
                transaction.claims[shard] = touched
                if touched.is_empty():
                    continue
                locks = self._locks.setdefault(shard, Locks())
                for holder in locks.in_the_way_of(touched):
                    assert holder.clock < transaction.clock, (
                        f"EXECUTOR-2: the transaction of {transaction.clock} is to wait for {holder.clock}"
                    )
                    transaction.blockers.add(holder)
                    holder.blocked.add(transaction)
                locks.claim(touched, transaction)

    def _release(self, transaction: Unresolved) -> None:
        for shard, touched in (transaction.claims or {}).items():
            if not touched.is_empty():
                assert shard in self._locks, (
                    f"LOCKS-1: the transaction of {transaction.clock} has no claims on shard {shard}"
                )
                locks = self._locks[shard]
                locks.release(touched, transaction)
                if locks.is_empty():
                    del self._locks[shard]

    # -- execution -----------------------------------------------------------------------------

    def _put_ready(self, transaction: Unresolved) -> None:
        assert not transaction.blockers, (
            f"EXECUTOR-2: the transaction of {transaction.clock} is to be executed, and waits for "
            f"{sorted(other.clock for other in transaction.blockers)}"
        )
        heappush(self.ready, (transaction.clock, transaction))

    def run_ready(self) -> list[Effect]:
        """Execute the transactions that wait for no other, in the order of their stamps."""
        replies: list[Effect] = []
        while self.ready:
            clock, transaction = heappop(self.ready)
            assert clock in self._unresolved, f"SHARD-1: the transaction of {clock} is to be executed again"
            match transaction.stamped.request.half:
                case None:
                    replies += self._execute(transaction)
                    self._resolve(transaction)
                case Preliminary():
                    replies += self._vote(transaction)
                case Conclusory() as conclusory:
                    replies += self._conclude(transaction, conclusory)
        return replies

    def _execute(self, transaction: Unresolved) -> list[Effect]:
        replies: list[Effect] = []
        stamped, slots = transaction.stamped, transaction.slots
        assert len(slots) == len(stamped.stamp.numbers) or not self._missing(stamped, slots.keys()), (
            f"EXECUTOR-1: the transaction of {transaction.clock} is executed in slots {slots}, of "
            f"{stamped.stamp.numbers}"
        )
        for shard, slot in slots.items():
            replica = self.replicas[shard]
            replies += replica.execute(stamped, slot)
        return replies

    def _vote(self, transaction: Unresolved) -> list[Effect]:
        """Vote for a preliminary that has all its locks; it keeps them until it is concluded."""
        request = transaction.stamped.request
        replicas = self.replicas
        assert transaction.votes is None, (
            f"SHARD-1: the preliminary of {transaction.clock} votes again, after {transaction.votes}"
        )
        votes = {shard: general.vote(replicas[shard], request) for shard in transaction.slots}
        transaction.votes = votes
        for conclusory in transaction.conclusories:
            self._put_ready(conclusory)
        replies: list[Effect] = []
        for shard, slot in transaction.slots.items():
            replies += replicas[shard].reply(request, slot, votes[shard])
        return replies

    def _conclude(self, transaction: Unresolved, conclusory: Conclusory) -> list[Effect]:
        """Conclude a preliminary; the first conclusory in the order of the log decides."""
        assert not transaction.missing, (
            f"EXECUTOR-1: the conclusory of {transaction.clock} misses {transaction.missing} pieces"
        )
        preliminary = self._requests.get((conclusory.client, conclusory.preliminary))
        if preliminary is not None and preliminary.must_wait_with(conclusory):
            preliminary.conclusories += (transaction,)
            return []
        assert preliminary is None or transaction.slots.keys() <= preliminary.slots.keys(), (
            f"EXECUTOR-1: the conclusory of {transaction.clock} ends slots {preliminary.slots} in slots "
            f"{transaction.slots}"
        )
        replies: list[Effect] = []
        stamped = transaction.stamped
        for shard, slot in transaction.slots.items():
            replica = self.replicas[shard]
            locked = None
            if preliminary is not None:
                vote = general.ABORTED if preliminary.votes is None else preliminary.votes[shard]
                locked = general.LockedPreliminary(preliminary.slots[shard], preliminary.clock, vote)
            outcome = general.conclude(replica, stamped, slot, conclusory, locked)
            replies += replica.reply(stamped.request, slot, outcome)
        self._resolve(transaction)
        if preliminary is not None:
            self._resolve(preliminary)
        return replies

    def _resolve(self, transaction: Unresolved) -> None:
        """Remove a resolved transaction; those that waited for it now wait for its blockers, if any."""
        request = transaction.stamped.request
        assert not transaction.blockers or type(request.half) is Preliminary, (
            f"EXECUTOR-2: the transaction of {transaction.clock} is over, and waits for "
            f"{sorted(other.clock for other in transaction.blockers)}"
        )
        del self._unresolved[transaction.clock]
        del self._requests[request.client, request.request]
        self.touched.update(transaction.slots)
        if transaction.claims is None:
            if transaction in self._unclaimed:
                self._unclaimed.remove(transaction)
            return
        self._release(transaction)
        for earlier in transaction.blockers:
            earlier.blocked.discard(transaction)
        for later in transaction.blocked:
            later.blockers.discard(transaction)
            for earlier in transaction.blockers:
                later.blockers.add(earlier)
                earlier.blocked.add(later)
            if not later.blockers and not later.missing:
                self._put_ready(later)
        assert self._unresolved or not self._locks, (
            f"EXECUTOR-3: nothing waits, and shards {sorted(self._locks)} have locks"
        )

    # -- kept slots ----------------------------------------------------------------------------

    def waiting(self, shard: ShardId) -> tuple[Slot, ...]:
        """Return a shard's slots that are not resolved, in order."""
        self.settle_arriving()
        if not self._unresolved and not self._copies:
            return ()
        slots = (transaction.slots.get(shard) for transaction in self._unresolved.values())
        return tuple(sorted([*(slot for slot in slots if slot is not None), *self.copies(shard)]))

    def copies(self, shard: ShardId) -> tuple[Slot, ...]:
        """Return the waiting slots of copies, which have no effect and wait only for their pieces."""
        return tuple(sorted(pieces[shard] for pieces in self._copies.values() if shard in pieces))

    def restore(self) -> None:
        """Register the transactions that were not resolved when the host stopped (contracts A6).

        Transactions that are ready are executed in the next batch, because no batch is open now.
        """
        assert not self._unresolved, f"EXECUTOR-1: {len(self._unresolved)} wait before the others are read"
        pieces = [
            (stamped.stamp.clock, replica, slot, stamped)
            for replica in self.replicas.values()
            for slot in replica.record.waiting
            if (stamped := replica.logged(slot)) is not None  # otherwise the transaction is dropped
        ]
        self._is_restoring = True
        for _, together in groupby(sorted(pieces, key=itemgetter(0)), itemgetter(0)):
            self._restore(list(together))
        self._is_restoring = False
        self.touched.clear()

    def _restore(self, pieces: list[tuple[Timestamp, Shard, Slot, Stamped]]) -> None:
        _, first, slot, stamped = pieces[0]
        if slot in first.record.copies:
            for _, replica, slot, _ in pieces:
                self._pass_over(replica, slot, stamped)
            return
        self._claim_all()
        transaction = self._begin(stamped, {replica.address.shard for _, replica, _, _ in pieces})
        for _, replica, slot, _ in pieces:
            self._next_piece(transaction, replica, slot)
        self.settle_arriving()

    def rebuild(self, replaced: ShardId | None = None) -> list[Effect]:
        """Register all waiting transactions again, after an image or the beginning of an epoch; return the
        replies of those that are ready."""
        self.settle_arriving()
        if replaced is None and not self._unresolved and not self._copies:
            return []
        for shard, replica in self.replicas.items():
            if shard != replaced:
                record, waiting = replica.record, self.waiting(shard)
                assert not waiting or waiting[-1] <= record.executed, (
                    f"REPLICA-2: slot {waiting[-1]} waits, and slot {record.executed} is the last that came"
                )
                record.waiting, record.copies = waiting, self.copies(shard)
        for memory in (self._unresolved, self._requests, self._locks, self._copies):
            memory.clear()
        self._unclaimed.clear()
        self.ready.clear()
        self.restore()
        self.touched.update(self.replicas)
        return self.run_ready()

    def outstanding(self) -> list[Stamped]:
        """Yield the preliminaries that have no second half yet."""
        return [
            transaction.stamped
            for transaction in self._unresolved.values()
            if type(transaction.stamped.request.half) is Preliminary
        ]


def _stable_entries(replica: Shard) -> Iterator[tuple[Timestamp, Shard, Slot, Stamped | None]]:
    """Yield the entries that a follower may execute, by time; a NO-OP has the time of its predecessor."""
    clock = Timestamp(0)
    for entry in replica.entries_up_to(replica.record.stable):
        if entry.stamped is not None:
            clock = entry.stamped.stamp.clock
        yield clock, replica, entry.slot, entry.stamped

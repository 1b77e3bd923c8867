"""Messages that were lost, at a replica (Eris, SOSP 2017, section 6.3).

A gap in the numbers of a shard shows that a message is missing. The replica asks where it is cheapest: the
sequencer, which keeps its recent messages; then the peers; then the failure coordinator, which asks all
replicas and decides, for all participants alike, whether the transaction is kept or dropped. Later messages
are held back meanwhile; other shards continue.

A replica that has not seen a transaction promises the coordinator not to process it before the decision. A
transaction has one id for each participant, and the coordinator knows only one of them. So a promise or a
drop covers every transaction that has *any* of its ids, and is checked at every place where a transaction
enters the log.

INVARIANTS
    LOSS-1  After a promise about any of its ids, a transaction enters the log only if it was found.
    LOSS-2  A transaction with a dropped id never enters a log, and is removed from a log that has it.
    LOSS-3  Promises are made in normal status only.
    LOSS-4  A transaction truncated from a log is never promised away: the host has it in another shard's log,
        or a majority there does (``state_transfer.py``, IMAGE-3).
    LOSS-5  The number asked for is the next one of the shard, and is not here.

LOSS-2 is asserted where a transaction enters the log (``replica_state.py``), LOSS-1 also where a view begins
with one (``view_change.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from kvstore.eris import image_request
from kvstore.eris.effects import (
    COORDINATOR,
    SEQUENCER,
    CancelTimer,
    Dropped,
    Effect,
    ReplicaAddress,
    Send,
    SetTimer,
)
from kvstore.eris.messages import (
    FindTransaction,
    Flush,
    HasTransaction,
    ResendRequest,
    SlotAnswer,
    SlotRequest,
    Stamped,
    TempDroppedTransaction,
    TransactionDropped,
    TransactionFound,
    TransactionRequest,
)
from kvstore.eris.replica_state import ReplicaState
from kvstore.eris.shard import Shard
from kvstore.eris.shard_state import Status
from kvstore.types import SequenceNumber, Slot, TransactionId

GAP_MS = 10
"""The time after which a replica without an answer asks again, or asks the coordinator too."""
PEERS_ASKED_ALONE = 1
"""Number of times that only the peers are asked before the coordinator is asked too."""


# -- messages out of order ---------------------------------------------------------------------


def drain(replica: ReplicaState) -> list[Effect]:
    """Append the held transactions up to the first gap or promise; ask for the missing number."""
    effects: list[Effect] = []
    record = replica.record
    assert record.epoch == record.last_normal_epoch, (
        f"EPOCH-1: epoch {record.last_normal_epoch} goes on after the change to epoch {record.epoch}"
    )
    for number in [number for number in replica.held if number < replica.next_number]:
        del replica.held[number]  # the number is in the log meanwhile, with a view or from a peer
    while True:
        number = replica.next_number
        stamped = replica.held.pop(number, None)
        assert stamped is None or stamped.stamp.epoch == record.epoch, (
            f"EPOCH-1: number {number} is held, of epoch {stamped.stamp.epoch}; this is epoch {record.epoch}"
        )
        if TransactionId(record.epoch, replica.address.shard, number) in record.perm_drops:
            effects += replica.take(None)
        elif stamped is None:
            return effects + _ask_if_missing(replica)
        elif stamped.stamp.matches(record.perm_drops):
            effects += replica.take(None)
        elif stamped.stamp.matches(record.temp_drops) and not stamped.stamp.matches(record.un_drops):
            replica.held[number] = stamped
            return effects + _ask(replica, coordinator=True)  # LOSS-1
        else:
            stamp = stamped.stamp
            assert stamp.numbers[replica.address.shard] == number, (
                f"REPLICA-1: {stamp.numbers} is to be written into the slot of number {number}"
            )
            assert not stamp.matches(record.temp_drops) or stamp.matches(record.un_drops), (
                f"LOSS-1: {stamp.ids()} is promised away, and is to be written as number {number}"
            )
            effects += replica.take(stamped)


def go_on(replica: ReplicaState) -> list[Effect]:
    """Append held transactions that follow the log by now; return the effects."""
    return drain(replica) if replica.status is Status.NORMAL else []


def _ask_if_missing(replica: ReplicaState) -> list[Effect]:
    number = replica.next_number
    if replica.held or replica.announced >= number:
        return _ask(replica, coordinator=False)
    if replica.missing is None:
        return []
    assert replica.missing < number, f"LOSS-5: number {replica.missing} is asked for, and {number} is next"
    replica.missing = None
    return [CancelTimer("gap")]


def _ask(replica: ReplicaState, *, coordinator: bool) -> list[Effect]:
    """Ask for the next number, unless the replica does already."""
    number = replica.next_number
    if replica.missing == number:
        return []
    assert coordinator or number not in replica.held, f"LOSS-5: number {number} is asked for, and is held"
    replica.missing, replica.asked = number, 0
    record, (shard, own) = replica.record, replica.address
    if coordinator:
        question = Send(COORDINATOR, FindTransaction(shard, own, TransactionId(record.epoch, shard, number)))
    else:
        question = Send(SEQUENCER, ResendRequest(shard, own, record.epoch, number))
    return [question, SetTimer("gap", GAP_MS)]


def on_gap_timer(replica: ReplicaState) -> list[Effect]:
    """Ask the peers again, and after that the coordinator too: no answer has arrived in time."""
    if replica.missing is None or replica.status is not Status.NORMAL:
        return []
    number = replica.next_number
    assert replica.missing == number, f"LOSS-5: number {replica.missing} is asked for, and {number} is next"
    replica.asked += 1
    record, (shard, own) = replica.record, replica.address
    effects: list[Effect] = []
    if replica.asked > PEERS_ASKED_ALONE or replica.replicas == 1:
        name = TransactionId(record.epoch, shard, replica.missing)
        effects.append(Send(COORDINATOR, FindTransaction(shard, own, name)))
    slot = Slot(replica.last_slot + 1)
    question = SlotRequest(shard, own, record.epoch, record.view, slot)
    effects += [Send(peer, question) for peer in replica.peers()]
    return [*effects, SetTimer("gap", GAP_MS)]


def on_flush(replica: ReplicaState, flush: Flush) -> list[Effect]:
    """Note the sequencer's last number; ask for numbers up to it, whose messages may be lost."""
    if flush.epoch != replica.record.epoch or replica.status is not Status.NORMAL:
        return [Dropped(flush, f"of epoch {flush.epoch}, this is epoch {replica.record.epoch}")]
    record = replica.record
    assert record.epoch == record.last_normal_epoch, (
        f"EPOCH-1: the sequencer of epoch {flush.epoch} is listened to, and epoch {record.last_normal_epoch} "
        f"is the last that began"
    )
    replica.announced = max(replica.announced, flush.number)
    return drain(replica)


# -- peers (step 0) ----------------------------------------------------------------------------


def on_slot_request(replica: ReplicaState, request: SlotRequest) -> list[Effect]:
    """Answer from the log or the held transactions; do not answer if the slot is in neither."""
    record = replica.record
    if (request.epoch, request.view) != (record.epoch, record.view) or replica.status is not Status.NORMAL:
        return [Dropped(request, "of another epoch or view")]
    slot = request.slot
    if slot > replica.last_slot:
        stamped = replica.held.get(SequenceNumber(slot - record.base))
        if stamped is None:
            return [Dropped(request, "missing here too")]
    else:
        stamped = replica.logged(slot)
    is_truncated = slot < replica.log.first
    answer = SlotAnswer(request.shard, record.epoch, record.view, slot, stamped, is_truncated)
    return [Send(ReplicaAddress(request.shard, request.replica), answer)]


def on_slot_answer(replica: ReplicaState, answer: SlotAnswer) -> list[Effect]:
    """Take a peer's answer. The transaction enters the log only if no promise covers it."""
    record = replica.record
    if (answer.epoch, answer.view) != (record.epoch, record.view) or replica.status is not Status.NORMAL:
        return [Dropped(answer, "of another epoch or view")]
    if answer.slot <= replica.last_slot:
        return [Dropped(answer, "received before")]
    if answer.is_truncated:
        return image_request.ask(replica)
    number = SequenceNumber(answer.slot - record.base)
    name = TransactionId(record.epoch, replica.address.shard, number)
    if answer.stamped is None:
        assert name not in record.un_drops, f"DECISION-1: {name} was found, and is a NO-OP at a peer"
        record.perm_drops.add(name)
    else:
        assert name in answer.stamped.stamp.ids(), (
            f"REPLICA-1: a peer has {answer.stamped.stamp.ids()} in the slot of number {number}"
        )
        replica.held[number] = answer.stamped
    return drain(replica)


# -- the coordinator (steps 3 and 5) -----------------------------------------------------------


def on_transaction_request(replica: ReplicaState, request: TransactionRequest) -> list[Effect]:
    """Send the transaction, or promise not to process it before the decision (LOSS-1, LOSS-3)."""
    record, (shard, own) = replica.record, replica.address
    if request.id.epoch != record.epoch or replica.status is Status.EPOCH_CHANGE:
        return [Dropped(request, f"of epoch {request.id.epoch}, this is epoch {record.epoch}")]
    found = _find(replica, request.id)
    if found is not None:
        return [Send(COORDINATOR, HasTransaction(request.id, found))]
    if replica.status is not Status.NORMAL:
        return [Dropped(request, "promises are made in normal status only")]
    if _is_resolved(replica, request.id):
        return [Dropped(request, "resolved here")]
    assert record.epoch == record.last_normal_epoch, (
        f"LOSS-3: {request.id} is promised away during the change to epoch {record.epoch}"
    )
    end = record.base + request.id.sequence
    assert request.id.shard != shard or end > replica.last_slot, (
        f"LOSS-4: {request.id} is promised away, and was in slot {end}: the log ends at {replica.last_slot}"
    )
    record.temp_drops.add(request.id)
    return [Send(COORDINATOR, TempDroppedTransaction(shard, own, record.view, request.id))]


def _find(replica: ReplicaState, name: TransactionId) -> Stamped | None:
    """Return the transaction of this id, or None.

    It may be in the log of the shard that the id names, among the held ones, or only in this replica's log.
    """
    named = _named_here(replica, name)
    if named is not None and named.log.first <= (slot := Slot(named.record.base + name.sequence)):
        stamped = named.logged(slot) if slot <= named.last_slot else None
        if stamped is not None:
            return stamped
    candidates = chain(replica.held.values(), (stamped for _, stamped in unsettled(replica)))
    return next((stamped for stamped in candidates if stamped.stamp.matches([name])), None)


def _named_here(replica: ReplicaState, name: TransactionId) -> Shard | None:
    """Return this host's replica of the shard that an id names, if it has begun that epoch; else None."""
    named = replica.executor.replicas.get(name.shard)
    return named if named is not None and named.record.last_normal_epoch == name.epoch else None


def _is_resolved(replica: ReplicaState, name: TransactionId) -> bool:
    """Return whether the transaction may be resolved here, and may have been truncated."""
    named = _named_here(replica, name)
    if named is None or named.record.base + name.sequence <= named.last_slot:
        return True
    return named.record.clock < replica.record.truncated_clock  # an image may have come with a truncated log


def unsettled(replica: ReplicaState) -> Iterator[tuple[Slot, Stamped]]:
    """Yield transactions that other participants may lack: not stable, not executed, or incomplete."""
    record = replica.record
    end = min(record.stable, record.executed)
    yield from ((slot, stamped) for slot, stamped in replica.waiting() if slot <= end)
    for entry in replica.log.walk(Slot(end + 1), replica.last_slot):
        if entry.stamped is not None:
            yield entry.slot, entry.stamped


def on_transaction_found(replica: ReplicaState, found: TransactionFound) -> list[Effect]:
    """Keep the transaction: promises about it no longer bind."""
    record, stamp = replica.record, found.stamped.stamp
    if stamp.epoch != record.epoch or replica.status is Status.EPOCH_CHANGE:
        return [Dropped(found, f"of epoch {stamp.epoch}, this is epoch {record.epoch}")]
    assert not stamp.matches(record.perm_drops), (
        f"DECISION-1: {stamp.ids()} was found, and is one of {sorted(record.perm_drops)}, which are dropped"
    )
    record.un_drops.update(stamp.ids())
    number = stamp.numbers[replica.address.shard]
    if number >= replica.next_number:
        replica.held[number] = found.stamped
    return go_on(replica)


def on_transaction_dropped(replica: ReplicaState, dropped: TransactionDropped) -> list[Effect]:
    """Drop the transaction; in a log that has it already, a NO-OP takes its slot (LOSS-2)."""
    record = replica.record
    if dropped.epoch != record.epoch or replica.status is Status.EPOCH_CHANGE:
        return [Dropped(dropped, f"of epoch {dropped.epoch}, this is epoch {record.epoch}")]
    drop(replica, dropped.ids)
    return go_on(replica)


def drop(replica: ReplicaState, names: Iterable[TransactionId]) -> None:
    """Record dropped ids, and replace their transactions in the log by NO-OPs (LOSS-2)."""
    record = replica.record
    fresh = set(names) - record.perm_drops
    if not fresh:
        return
    assert fresh.isdisjoint(record.un_drops), (
        f"DECISION-1: {sorted(fresh & record.un_drops)} was found, and is dropped"
    )
    record.perm_drops |= fresh
    for slot in [slot for slot, stamped in unsettled(replica) if stamped.stamp.matches(fresh)]:
        if slot <= record.executed:
            replica.diverge()
            return
        replica.log.replace(slot, None)
    for slot, stamped in unsettled(replica):
        assert not stamped.stamp.matches(fresh), (
            f"LOSS-2: {sorted(fresh)} is dropped, and still in slot {slot}"
        )

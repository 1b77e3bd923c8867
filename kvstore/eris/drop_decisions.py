"""Messages that were lost, at the failure coordinator (Eris, SOSP 2017, section 6.3).

    FIND-TXN          a replica lacks a transaction, and knows one of its ids
    TXN-REQUEST       the coordinator asks all replicas of all shards: it does not know the participants
    HAS-TXN           a replica has the transaction: it is kept, unless one of its ids was dropped before
    TEMP-DROPPED-TXN  a replica lacks it, and promises to wait. With promises of a majority of *every* shard,
                      in one view and with its learner, it was not and will not be committed: it is dropped

A decision is part of the coordinator's record, and durable before any message announces it. It is forgotten
when the next epoch begins, because the logs of that epoch contain it.

INVARIANTS
    DECISION-1  No name is both found and dropped.
    DECISION-2  Decisions are about transactions of the epoch that has begun.
    DECISION-3  A transaction that no replica has shown is dropped only after the promises of a majority of
        every shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kvstore.eris.coordinator_state import CoordinatorState
from kvstore.eris.effects import Dropped, Effect, ReplicaAddress, Send
from kvstore.eris.messages import (
    DecisionMessage,
    FindTransaction,
    HasTransaction,
    Stamped,
    TempDroppedTransaction,
    TransactionDropped,
    TransactionFound,
    TransactionRequest,
)
from kvstore.types import ShardId, TransactionId


def on_decision_message(coordinator: CoordinatorState, message: DecisionMessage) -> list[Effect]:
    """Take a message about one transaction; those of another epoch, or during a change, are ignored."""
    if message.id.epoch != coordinator.record.epoch or not coordinator.is_normal:
        return [Dropped(message, f"of epoch {message.id.epoch}")]
    match message:
        case FindTransaction():
            return _on_find(coordinator, message)
        case HasTransaction():
            return _on_has(coordinator, message)
        case TempDroppedTransaction():
            return _on_temp_dropped(coordinator, message)


def _on_find(coordinator: CoordinatorState, message: FindTransaction) -> list[Effect]:
    """Answer with the decision, or ask all replicas."""
    asker = ReplicaAddress(message.shard, message.replica)
    if message.id in coordinator.record.dropped:
        ids = (message.id,)
        return [Send(asker, TransactionDropped(message.shard, message.id.epoch, ids))]
    stamped = _found(coordinator, message.id)
    if stamped is not None:
        return [Send(asker, TransactionFound(message.shard, stamped))]
    record = coordinator.record
    assert message.id.epoch == record.last_started, (
        f"DECISION-2: {message.id} is asked for, and epoch {record.last_started} is the last that began"
    )
    coordinator.promises.setdefault(message.id, {})
    return [
        Send(address, TransactionRequest(address.shard, message.id))
        for address in coordinator.addresses(range(coordinator.shards))
    ]


def _found(coordinator: CoordinatorState, name: TransactionId) -> Stamped | None:
    found = coordinator.record.found
    return next((stamped for stamped in found if stamped.stamp.matches([name])), None)


def _on_has(coordinator: CoordinatorState, message: HasTransaction) -> list[Effect]:
    """Keep the transaction that a replica has, unless one of its ids was dropped: then drop all its ids."""
    stamped, names = message.stamped, message.stamped.stamp.ids()
    if stamped.stamp.matches(coordinator.record.dropped):
        return _drop(coordinator, names)
    if _found(coordinator, message.id) is not None:
        return []
    assert stamped.stamp.epoch == message.id.epoch, (
        f"DECISION-2: {names} of epoch {stamped.stamp.epoch} is shown as {message.id}"
    )
    coordinator.decide(found=(*coordinator.record.found, stamped))
    for name in names:
        coordinator.promises.pop(name, None)
    return [
        Send(address, TransactionFound(address.shard, stamped))
        for address in coordinator.addresses(stamped.stamp.numbers)
    ]


def _on_temp_dropped(coordinator: CoordinatorState, message: TempDroppedTransaction) -> list[Effect]:
    """Count the promises of each shard in its newest view; drop the transaction when there are enough."""
    promises = coordinator.promises.get(message.id)
    if promises is None:
        return []  # decided already, or asked for by an earlier coordinator
    assert _found(coordinator, message.id) is None, (
        f"DECISION-1: {message.id} was found, and a promise of shard {message.shard} is counted against it"
    )
    promises[ReplicaAddress(message.shard, message.replica)] = message.view
    if not all(_has_promised(coordinator, ShardId(shard), message.id) for shard in range(coordinator.shards)):
        return []
    counts = Counter(address.shard for address in promises)
    assert all(2 * counts[ShardId(shard)] > coordinator.replicas for shard in range(coordinator.shards)), (
        f"DECISION-3: {message.id} is to be dropped, and the shards have promised {dict(counts)} times, of "
        f"{coordinator.replicas} replicas each"
    )
    return _drop(coordinator, [message.id])


def _has_promised(coordinator: CoordinatorState, shard: ShardId, name: TransactionId) -> bool:
    """Return whether a majority of the shard has promised in one view, its learner included."""
    promises = coordinator.promises[name]
    views = {address.replica: view for address, view in promises.items() if address.shard == shard}
    newest = max(views.values(), default=None)
    if newest is None:
        return False
    together = {replica for replica, view in views.items() if view == newest}
    return 2 * len(together) > coordinator.replicas and newest % coordinator.replicas in together


def _drop(coordinator: CoordinatorState, names: Iterable[TransactionId]) -> list[Effect]:
    ids = tuple(names)
    assert all(name.epoch == coordinator.record.last_started for name in ids), (
        f"DECISION-2: {ids} are to be dropped in epoch {coordinator.record.last_started}"
    )
    if not coordinator.record.dropped.issuperset(ids):
        coordinator.decide(dropped=coordinator.record.dropped.union(ids))
    for name in ids:
        coordinator.promises.pop(name, None)
    epoch = coordinator.record.epoch
    return [
        Send(address, TransactionDropped(address.shard, epoch, ids))
        for address in coordinator.addresses(range(coordinator.shards))
    ]

"""Synchronization: how followers learn what they may execute (Eris, SOSP 2017, section 6.6).

    1. When its batch commits, a follower tells the learner how far its log reaches: ``SyncReply``.
    2. With a quorum of those, itself included, the learner knows a new stable slot and sends
       ``SyncCommit``; it travels with the next batch, so followers execute one batch behind (A4).
    3. A follower executes up to the stable slot. The log up to there never changes again.

The paper opens with a SYNC-PREPARE that carries the learner's log to followers that missed some of
it; here a follower's own log is complete whenever it replies, so the reply needs no question.

INVARIANT SYNC-1: what is stable is in the logs of a majority, the learner's included.
"""

from __future__ import annotations

from kvstore.eris import dropped_messages, view_change
from kvstore.eris.effects import Dropped, Effect, ReplicaAddress, Send
from kvstore.eris.messages import SyncCommit, SyncReply
from kvstore.eris.replica_state import ReplicaState
from kvstore.eris.shard_state import Status
from kvstore.types import SequenceNumber, Slot


def on_batch_end(replica: ReplicaState) -> list[Effect]:
    """Step 1, at a follower: report the end of the log. A shard of one replica is its own quorum."""
    record = replica.record
    if replica.status is not Status.NORMAL:
        return []  # the next epoch may begin without the end of its log
    if replica.replicas == 1:
        record.stable = replica.last_slot
        return []
    assert record.stable <= replica.last_slot, (
        f"REPLICA-2: slot {record.stable} is stable, and the log ends at slot {replica.last_slot}"
    )
    if replica.is_learner:
        return _advance(replica)  # the learner may have waited for this replica
    if replica.reported == replica.last_slot:
        return []
    replica.reported = replica.last_slot
    shard, number = replica.address
    learner = ReplicaAddress(shard, record.view % replica.replicas)
    return [Send(learner, SyncReply(shard, number, record.epoch, record.view, replica.last_slot))]


def on_sync_reply(replica: ReplicaState, reply: SyncReply) -> list[Effect]:
    """Step 2, at the learner: take a follower's report, and announce a new stable slot."""
    if not _is_current(replica, reply) or not replica.is_learner:
        return [Dropped(reply, "of another epoch or view")]
    assert reply.replica != replica.address.replica, (
        f"SYNC-1: replica {reply.replica} counts its own log, up to slot {reply.slot}, a second time"
    )
    known = replica.sync_replies.get(reply.replica, Slot(0))
    replica.sync_replies[reply.replica] = max(reply.slot, known)
    advanced = _advance(replica)
    if not advanced and known < replica.record.stable:  # the follower was behind when the slot was announced
        return [Send(ReplicaAddress(reply.shard, reply.replica), _commit(replica))]
    return advanced


def on_heartbeat(replica: ReplicaState) -> list[Effect]:
    """Announce the stable slot again, in case a message was lost, and that the learner is alive."""
    if not replica.is_learner or replica.status is not Status.NORMAL:
        return []
    return [Send(peer, _commit(replica)) for peer in replica.peers()]


def _advance(replica: ReplicaState) -> list[Effect]:
    """Tell all followers of a new stable slot, if there is one."""
    stable = _quorum_slot(replica) if replica.sync_replies else Slot(0)
    if stable <= replica.record.stable:
        return []
    holders = 1 + sum(slot >= stable for slot in replica.sync_replies.values())
    assert 2 * holders > replica.replicas, (
        f"SYNC-1: slot {stable} is to be stable, and {holders} of {replica.replicas} logs have it"
    )
    replica.record.stable = stable
    if not replica.is_ahead:
        replica.executor.note_behind(replica)
    return [Send(peer, _commit(replica)) for peer in replica.peers()]


def _commit(replica: ReplicaState) -> SyncCommit:
    record = replica.record
    dropped = tuple(sorted(record.perm_drops))
    return SyncCommit(replica.address.shard, record.epoch, record.view, record.stable, dropped)


def _is_current(replica: ReplicaState, message: SyncReply | SyncCommit) -> bool:
    record = replica.record
    normal = replica.status is Status.NORMAL
    return normal and (message.epoch, message.view) == (record.epoch, record.view)


def _quorum_slot(replica: ReplicaState) -> Slot:
    """Return the highest slot that a majority, this replica included, has logged."""
    ends = sorted([replica.last_slot, *replica.sync_replies.values()], reverse=True)
    majority = replica.replicas // 2 + 1
    return min(replica.last_slot, ends[majority - 1]) if len(ends) >= majority else Slot(0)


def on_sync_commit(replica: ReplicaState, commit: SyncCommit) -> list[Effect]:
    """Step 3, at a follower; the host executes all newly stable slots at the end of the batch."""
    record = replica.record
    if (
        commit.epoch == record.epoch
        and commit.view > record.view
        and replica.status is not Status.EPOCH_CHANGE
    ):
        return view_change.join(replica, commit.view)  # the view began without this replica
    if not _is_current(replica, commit) or replica.is_learner:
        return [Dropped(commit, "of another epoch or view")]
    if replica.last_slot > commit.slot:
        replica.reported = None  # the reply may have been lost
    if commit.dropped:
        dropped_messages.drop(replica, commit.dropped)  # before the slot is executed
    record.stable = max(record.stable, min(commit.slot, replica.last_slot))
    assert record.stable <= replica.last_slot, (
        f"REPLICA-2: slot {record.stable} is stable, and the log ends at slot {replica.last_slot}"
    )
    replica.executor.note_behind(replica)
    if commit.slot <= replica.last_slot:
        return []
    number = SequenceNumber(commit.slot - record.base)
    replica.announced = max(replica.announced, number)  # slots are missing here
    return dropped_messages.drain(replica)

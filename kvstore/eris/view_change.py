"""The change of a shard's learner (Eris, SOSP 2017, section 6.4).

    1. A replica that suspects the learner joins the next view and announces it to the shard; a replica that
       hears of a later view joins it. None of them logs or promises anything until the view begins.
    2. VIEW-CHANGE: every replica sends the learner of the new view its unstable slots, its promises, and the
       decisions it knows.
    3. With the messages of a majority, itself included, the new learner has every committed transaction and
       every promise that counted: the union of all promises, and the longest log. Every dropped transaction
       in it becomes a NO-OP; for a transaction that was promised away the learner waits for the coordinator.
    4. START-VIEW: the other replicas adopt that log and those promises, and the shard continues.

The longest log is enough, because a slot holds the transaction of its number or a NO-OP, and a NO-OP was
decided by the coordinator. A follower whose log is longer than the new learner's keeps its slots: the learner
will ask for them. An old learner that executed a transaction which is dropped afterwards has diverged, and
must be rebuilt.

INVARIANTS
    VIEW-1  Views of an epoch never go back, and a view begins with all that was committed before it.
    VIEW-2  A replica that joined a view leads none, and takes part in none, until that view begins.
    VIEW-3  A view begins with every promise that counted: a majority has shown its promises, and a replica
        forgets none of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvstore.eris import dropped_messages, image_request
from kvstore.eris.effects import COORDINATOR, CancelTimer, Dropped, Effect, ReplicaAddress, Send, SetTimer
from kvstore.eris.messages import FindTransaction, LogEntry, StartView, ViewChange, ViewChangeRequest
from kvstore.eris.replica_state import ReplicaState
from kvstore.eris.shard_state import Status
from kvstore.types import Slot, TransactionId, ViewNumber

VIEW_MS = 50
"""The time after which the messages of a view that has not begun are sent again."""


def on_suspicion(replica: ReplicaState) -> list[Effect]:
    """Join the next view, because the learner has been silent for long (step 1)."""
    if replica.status is Status.EPOCH_CHANGE or replica.replicas == 1:
        return []
    return join(replica, ViewNumber(replica.record.view + 1))


def on_view_timer(replica: ReplicaState) -> list[Effect]:
    """Send the messages of the view again, if it has not begun."""
    if replica.status is not Status.VIEW_CHANGE:
        return []
    return [*_announce(replica), *image_request.on_image_timer(replica)]


def on_view_change_request(replica: ReplicaState, request: ViewChangeRequest) -> list[Effect]:
    """Join a later view, or show the learner of this one what it lacks."""
    record = replica.record
    if request.epoch != record.epoch or replica.status is Status.EPOCH_CHANGE or request.view < record.view:
        return [Dropped(request, "of another epoch, or an older view")]
    effects = join(replica, request.view) if request.view > record.view else []
    is_learners = request.replica == record.view % replica.replicas
    if request.last is not None and is_learners and replica.status is Status.VIEW_CHANGE:
        effects.append(_show(replica, min(request.last, record.stable)))
    return effects


def join(replica: ReplicaState, view: ViewNumber) -> list[Effect]:
    """Leave the view for a later one, which begins with a message of its learner."""
    before = replica.record.view
    assert view > before, f"VIEW-1: view {view} is to follow view {before}"
    replica.record.view = view
    replica.status = Status.VIEW_CHANGE
    replica.is_learner = False
    replica.forget_view()
    return [CancelTimer("gap"), *_announce(replica)]


def _announce(replica: ReplicaState) -> list[Effect]:
    record, (shard, own) = replica.record, replica.address
    takes_part = replica.is_learner or replica.status is not Status.VIEW_CHANGE
    assert not takes_part, (
        f"VIEW-2: view {record.view} is announced in status {replica.status.value}, by a replica that "
        f"{'leads' if replica.is_learner else 'is in'} view {record.normal_view}"
    )
    learner = record.view % replica.replicas
    last = replica.last_slot if own == learner else None
    request = ViewChangeRequest(shard, own, record.epoch, record.view, last)
    effects: list[Effect] = [Send(peer, request) for peer in replica.peers()]
    if own != learner:
        effects.append(_show(replica, record.stable))
    else:
        effects += _begin_if_possible(replica)
    return effects if replica.status is Status.NORMAL else [*effects, SetTimer("view", VIEW_MS)]


def _show(replica: ReplicaState, since: Slot) -> Effect:
    """Return the VIEW-CHANGE message: the log above a slot, promises and decisions (step 2)."""
    record, (shard, own) = replica.record, replica.address
    since = Slot(max(since, replica.log.first - 1))
    message = ViewChange(
        shard,
        own,
        record.epoch,
        record.view,
        since,
        replica.last_slot,
        tuple(replica.log.walk(Slot(since + 1), replica.last_slot)),
        frozenset(record.temp_drops),
        frozenset(record.perm_drops),
        frozenset(record.un_drops),
    )
    return Send(ReplicaAddress(shard, record.view % replica.replicas), message)


# -- the learner of the new view ---------------------------------------------------------------


def on_view_change(replica: ReplicaState, message: ViewChange) -> list[Effect]:
    """Collect the VIEW-CHANGE of a replica that has joined (step 3)."""
    record = replica.record
    if message.epoch != record.epoch or replica.status is Status.EPOCH_CHANGE:
        return [Dropped(message, "of another epoch")]
    effects = join(replica, message.view) if message.view > record.view else []
    if message.view == record.view and replica.is_learner:
        return [Send(ReplicaAddress(message.shard, message.replica), _start_view(replica, message.since))]
    if message.view < record.view or replica.status is not Status.VIEW_CHANGE:
        return [*effects, Dropped(message, "this view began, or is over")]
    if message.since > replica.last_slot:
        # A replica shows the slots that are not stable to it, and lower ones if asked, unless truncated.
        replica.needs_image = True
        ignored = f"shown after slot {message.since}, this log ends at {replica.last_slot}"
        return [*effects, Dropped(message, ignored)]
    assert message.view == record.view, (
        f"VIEW-1: replica {message.replica} joins view {message.view}, and counts for view {record.view}"
    )
    replica.view_changes[message.replica] = message
    return effects + _begin_if_possible(replica)


def _begin_if_possible(replica: ReplicaState) -> list[Effect]:
    """Begin the view if a majority has joined, and no promise covers a logged transaction."""
    record = replica.record
    if 2 * (len(replica.view_changes) + 1) <= replica.replicas:
        return []
    for message in replica.view_changes.values():
        record.temp_drops |= message.temp_drops
        record.un_drops |= message.un_drops
        dropped_messages.drop(replica, message.perm_drops)
    if replica.has_diverged():
        return []
    longest = max(replica.view_changes.values(), key=lambda message: message.last)
    append_all(replica, longest.entries)
    for other, shown in replica.view_changes.items():
        forgotten = shown.temp_drops - record.temp_drops
        assert not forgotten, (
            f"VIEW-3: replica {other} promised {sorted(forgotten)}, view {record.view} did not"
        )
    return _find_undecided(replica) or _begin(replica)


def resume(replica: ReplicaState) -> list[Effect]:
    """Begin the view if the coordinator's decision was the last thing that it waited for."""
    is_learners = replica.record.view % replica.replicas == replica.address.replica
    return _begin_if_possible(replica) if is_learners and replica.status is Status.VIEW_CHANGE else []


def append_all(replica: ReplicaState, entries: Iterable[LogEntry]) -> None:
    """Append the entries after the end of the log, dropped transactions as NO-OPs."""
    for entry in entries:
        if entry.slot > replica.last_slot:
            stamped = entry.stamped
            gone = stamped is not None and stamped.stamp.matches(replica.record.perm_drops)
            replica.append(None if gone else stamped)


def _find_undecided(replica: ReplicaState) -> list[Effect]:
    shard, own = replica.address
    return [Send(COORDINATOR, FindTransaction(shard, own, name)) for name in undecided(replica)]


def undecided(replica: ReplicaState) -> list[TransactionId]:
    """Return the ids of logged transactions that a replica promised away, and that were not found."""
    record = replica.record
    if not record.temp_drops:
        return []
    return [
        name
        for _, stamped in dropped_messages.unsettled(replica)
        if not stamped.stamp.matches(record.un_drops)
        for name in stamped.stamp.ids()
        if name in record.temp_drops
    ]


def _begin(replica: ReplicaState) -> list[Effect]:
    joined = replica.view_changes
    assert 2 * (len(joined) + 1) > replica.replicas, (
        f"VIEW-3: only {sorted(joined)} of {replica.replicas} replicas joined view {replica.record.view}"
    )
    last = max((message.last for message in joined.values()), default=replica.last_slot)
    assert replica.last_slot >= last, (
        f"VIEW-1: view {replica.record.view} begins with slot {replica.last_slot}, and slot {last} was shown"
    )
    since = min(message.since for message in replica.view_changes.values())
    start = _start_view(replica, min(since, replica.record.stable))
    effects: list[Effect] = [Send(peer, start) for peer in replica.peers()]
    effects += _be_normal(replica)
    effects += replica.execute_as_learner()
    return effects + dropped_messages.drain(replica)


def _start_view(replica: ReplicaState, since: Slot) -> StartView:
    record = replica.record
    since = Slot(max(since, replica.log.first - 1))
    return StartView(
        replica.address.shard,
        record.epoch,
        record.view,
        since,
        tuple(replica.log.walk(Slot(since + 1), replica.last_slot)),
        frozenset(record.temp_drops),
        frozenset(record.perm_drops),
        frozenset(record.un_drops),
    )


def _be_normal(replica: ReplicaState) -> list[Effect]:
    record = replica.record
    assert record.view > record.normal_view, (
        f"VIEW-1: view {record.view} is to begin after view {record.normal_view}"
    )
    promised = undecided(replica)
    assert not promised, f"LOSS-1: view {record.view} is to begin with {promised}, which are promised away"
    record.normal_view = record.view
    replica.status = Status.NORMAL
    replica.needs_image = False
    replica.is_learner = record.view % replica.replicas == replica.address.replica
    replica.forget_view()
    return [CancelTimer("view")]


# -- followers --------------------------------------------------------------------------------


def on_start_view(replica: ReplicaState, message: StartView) -> list[Effect]:
    """Take over the log that the view begins with (step 4)."""
    record = replica.record
    if message.epoch != record.epoch or replica.status is Status.EPOCH_CHANGE:
        return [Dropped(message, "of another epoch")]
    began = message.view == record.view and replica.status is Status.NORMAL
    if message.view < record.view or began:
        return [Dropped(message, "this view began, or is over")]
    if message.since > replica.last_slot:
        ignored = f"begins after slot {message.since}, this log ends at {replica.last_slot}"
        return [Dropped(message, ignored), *image_request.ask(replica)]
    assert message.view >= record.view, f"VIEW-1: view {message.view} begins after {record.view} was joined"
    promises = len(record.temp_drops)
    record.view = message.view
    replica.status = Status.VIEW_CHANGE
    replica.is_learner = False
    record.temp_drops |= message.temp_drops
    record.un_drops |= message.un_drops
    dropped_messages.drop(replica, message.perm_drops)
    if replica.has_diverged():
        return []
    append_all(replica, message.entries)
    assert len(record.temp_drops) >= promises, (
        f"VIEW-3: of {promises} promises view {record.view} leaves {len(record.temp_drops)}"
    )
    doubtful = _find_undecided(replica)
    if doubtful:  # after the end of the learner's log; START-VIEW is sent again
        return [*doubtful, SetTimer("view", VIEW_MS)]
    effects = _be_normal(replica)
    for entry in replica.log.walk(Slot(message.since + 1), replica.last_slot):
        # Clients may wait for a quorum in this view.
        effects += replica.acknowledge(entry.slot, entry.stamped)
    return effects + dropped_messages.drain(replica)

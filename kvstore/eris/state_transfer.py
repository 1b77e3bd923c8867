"""A replica that messages can no longer complete installs the state of a peer (Eris, SOSP 2017, section 6.4).

Such a replica was the learner and executed a transaction that was dropped afterwards; or its peers have
truncated slots that it lacks; or an epoch began with a log that its own cannot become. Executed transactions
cannot be undone, so tables, log and record are replaced by those of a peer. The other shards of the host
stay: each part of a transaction needs its own shard only, and a part that the image contains is not executed
again.

A replica keeps its word to others, whatever the image contains: the slots it logged in this epoch, and its
promises. They are carried over in the commit that installs the image. A replica whose disk lost state has
nothing to carry over. It is inactive until it has an image of an epoch that began after the loss, without it
(contracts B2); from then on no message that it sent before the loss counts.

INVARIANTS
    IMAGE-1  With its image, a replica has every slot of the current epoch that it had before, and keeps every
        promise that it made in it.
    IMAGE-2  Every transaction executed in an image is stable at all participants: none needs it from the
        receiver.
    IMAGE-3  A transaction that may be truncated from the log of an image is never promised away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvstore.eris import dropped_messages, epoch_change, view_change
from kvstore.eris.effects import CancelTimer, Dropped, Effect, ReplicaAddress, Send
from kvstore.eris.messages import Image, ImageRequest, LogEntry
from kvstore.eris.replica_state import ReplicaState
from kvstore.eris.shard_state import ShardRecord, Status, decode_record, encode_record
from kvstore.ports import Table
from kvstore.types import Epoch, SequenceNumber, Slot, Timestamp, ViewNumber

EVERY_KEY = b"", b"\xff" * 512
ROWS_ALL = 1 << 62

Rows = tuple[tuple[bytes, bytes], ...]


# -- the sender --------------------------------------------------------------------------------


def on_image_request(replica: ReplicaState, request: ImageRequest) -> list[Effect]:
    """Send an image, unless it cannot help or contains transactions that may still be dropped (IMAGE-2)."""
    record = replica.record
    if request.epoch > record.last_normal_epoch:
        return [Dropped(request, "of a later epoch")]
    hosted = replica.executor.replicas.values()
    if any(other.record.executed > other.record.stable or other.has_diverged() for other in hosted):
        return [Dropped(request, "something was executed here that is not stable")]
    entries = tuple(replica.log.walk(replica.log.first, replica.last_slot))
    record.waiting = replica.executor.waiting(replica.address.shard)
    assert not record.waiting or record.waiting[-1] <= record.executed, (
        f"REPLICA-2: slot {record.waiting[-1]} waits, and slot {record.executed} is the last that came"
    )
    record.copies = replica.executor.copies(replica.address.shard)
    record.head = replica.log.stored.head
    tables = tuple(_rows(table) for table in replica.tables.all())
    encoded = encode_record(record)
    image = Image(
        request.shard, record.last_normal_epoch, encoded, tables, entries, _truncated_clock(replica, entries)
    )
    return [Send(ReplicaAddress(request.shard, request.replica), image)]


def _rows(table: Table) -> Rows:
    return tuple(table.scan(*EVERY_KEY, limit=ROWS_ALL))


def _truncated_clock(replica: ReplicaState, entries: Iterable[LogEntry]) -> Timestamp:
    """Return the time up to which the log may be truncated; truncated slots are older than the first."""
    if replica.log.first <= replica.record.base + 1:
        return replica.record.truncated_clock
    first = next((entry.stamped for entry in entries if entry.stamped is not None), None)
    return replica.record.clock if first is None else first.stamp.clock


# -- the receiver ------------------------------------------------------------------------------


def on_image(replica: ReplicaState, image: Image) -> list[Effect]:
    """Replace this replica's state by the image; carry over its logged slots and its promises (IMAGE-1)."""
    theirs, own = decode_record(image.record), replica.record
    if not replica.needs_image:
        return [Dropped(image, "no image is needed")]
    if not _helps(replica, theirs):
        return [Dropped(image, "it does not help")]
    assert theirs.executed <= theirs.stable, (
        f"IMAGE-2: the image has executed slot {theirs.executed}, and is stable up to slot {theirs.stable}"
    )
    kept: list[LogEntry] = []
    if theirs.last_normal_epoch > own.last_normal_epoch:
        replica.held.clear()  # their epoch is over
        replica.announced = SequenceNumber(0)
    else:
        kept += replica.log.walk(Slot(theirs.head[1] + 1), replica.last_slot)
    replies = _install(replica, image, theirs)
    return [CancelTimer("image"), CancelTimer("gap"), *replies, *_carry_over(replica, own, kept)]


def _helps(replica: ReplicaState, theirs: ShardRecord) -> bool:
    """Return whether the image advances the replica and loses no slot or promise of this epoch."""
    own = replica.record
    if theirs.last_normal_epoch < max(own.last_normal_epoch, own.rejoin):
        return False
    if theirs.last_normal_epoch > own.last_normal_epoch:
        return True
    is_more = replica.has_diverged() or (
        replica.status is not Status.EPOCH_CHANGE and theirs.head[1] > replica.last_slot
    )
    return is_more and theirs.head[1] >= replica.log.first - 1


def _install(replica: ReplicaState, image: Image, theirs: ShardRecord) -> list[Effect]:
    replica.inline_bodies()
    for table, rows in zip(replica.tables.all(), image.tables, strict=True):
        for key, _ in _rows(table):
            table.delete(key)
        for key, value in rows:
            table.put(key, value)
    replica.log.reset(Slot(theirs.head[0]))
    for entry in image.entries:
        replica.log.append(entry.slot, entry.stamped)
    first, last, _ = theirs.head
    assert replica.log.last == last, (
        f"IMAGE-1: the image's log ends at slot {last}, and {replica.log.last} is the last that it brought"
    )
    assert first <= theirs.base + 1 or image.truncated_clock, (
        f"IMAGE-3: the image's log was cut, from slot {theirs.base + 1} to slot {first}, and it does not say "
        f"up to what time"
    )
    theirs.truncated_clock = image.truncated_clock
    theirs.rejoin = Epoch(0)
    replica.record = theirs
    replica.last_slot = replica.log.last
    replica.needs_image = False
    replica.forget_view()
    return replica.executor.rebuild(replica.address.shard)


def _carry_over(replica: ReplicaState, own: ShardRecord, kept: Sequence[LogEntry]) -> list[Effect]:
    record = replica.record
    record.epoch = max(record.epoch, own.epoch)
    replica.take_status()
    if own.last_normal_epoch == record.last_normal_epoch:
        record.view = max(record.view, own.view)
        record.normal_view = max(record.normal_view, own.normal_view)
        record.temp_drops |= own.temp_drops
        record.un_drops |= own.un_drops
        dropped_messages.drop(replica, own.perm_drops)
        if replica.has_diverged():
            return []
        view_change.append_all(replica, kept)
        assert not kept or replica.last_slot >= kept[-1].slot, (
            f"IMAGE-1: the log ended at slot {kept[-1].slot}, and with the image at slot {replica.last_slot}"
        )
        forgotten = own.temp_drops - record.temp_drops
        assert not forgotten, f"IMAGE-1: with the image {sorted(forgotten)} are not promised away any more"
        if view_change.undecided(replica):
            record.view = ViewNumber(record.view + 1)  # this view must not continue with such a transaction
        replica.take_status()
    effects = replica.execute_as_learner() if replica.is_learner else []
    return [
        *effects,
        *epoch_change.on_epoch_timer(replica),  # the image may be of an epoch before the one that is awaited
        *view_change.on_view_timer(replica),
        *dropped_messages.go_on(replica),
    ]

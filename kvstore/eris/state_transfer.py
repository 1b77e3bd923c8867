"""A replica that messages cannot complete any more gets the state of another (Eris, SOSP 2017, section 6.4).

It was the learner and executed what was dropped afterwards; or the others have cut from their logs what
it lacks; or an epoch began with a log that its own cannot be made into. What it executed cannot be taken
back, so its tables are replaced. Transactions reach over shards, so this is done to a host as a whole, by
an image of another host as of one commit (contracts A2). How the bytes come over is the driver's business.

What a replica told others it must keep to, whatever the image says: what it logged in this epoch, and what
it promised. So that is carried over into the image, in the same commit. From a disk that forgot something
there is nothing to carry over; such a host takes no part until it has an image of an epoch that began
afterwards, without it (contracts B2).

INVARIANT I1: with its image, a replica's log has every slot of the current epoch that it had before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvstore.eris import dropped_messages, view_change
from kvstore.eris.effects import Dropped, Effect, HostAddress, Send, SendImage, SetTimer
from kvstore.eris.messages import ImageRequest, LogEntry
from kvstore.eris.shard_state import ShardRecord
from kvstore.types import Slot, ViewNumber

if TYPE_CHECKING:
    from kvstore.eris.replica import Replica

IMAGE_MS = 40
"""How long an image may take to come before the next peer is asked."""


class Carried(NamedTuple):
    """What a replica takes along."""

    record: ShardRecord
    entries: list[LogEntry]


def ask(replica: Replica) -> list[Effect]:
    """Ask the peers for an image, one after another, until one came that helps."""
    peers = replica.peers()
    if not peers:
        return []
    replica.needs_image = True
    replica.image_asked += 1
    peer = peers[replica.image_asked % len(peers)]
    request = ImageRequest(*replica.address, replica.record.last_normal_epoch)
    return [Send(peer, request), SetTimer("image", IMAGE_MS)]


def on_image_timer(replica: Replica) -> list[Effect]:
    """None came yet, or none that helped."""
    return ask(replica) if replica.needs_image else []


def on_image_request(replica: Replica, request: ImageRequest) -> list[Effect]:
    """Give what this host has, if it can help."""
    if request.epoch > replica.record.last_normal_epoch:
        return [Dropped(request, "of a later epoch")]
    return [SendImage(HostAddress(request.replica))]


def helps(replica: Replica, image: ShardRecord) -> bool:
    """Whether an image, which has this record of the shard, can take the place of what the replica has."""
    began = replica.record.last_normal_epoch
    if image.diverged or image.last_normal_epoch < began:
        return False
    return image.last_normal_epoch > began or image.head[1] >= replica.log.first - 1


def carried(replica: Replica, image: ShardRecord) -> Carried:
    """What the replica has that the image of its shard may lack; by nothing, if its epoch is over there."""
    if image.last_normal_epoch > replica.record.last_normal_epoch:
        return Carried(replica.record, [])
    first = Slot(max(image.head[1] + 1, replica.log.first))
    return Carried(replica.record, list(replica.log.walk(first, replica.last_slot)))


def carry_over(replica: Replica, own: Carried) -> list[Effect]:
    """Put into a replica that was made of an image what it had before (I1)."""
    record = replica.record
    record.epoch = max(record.epoch, own.record.epoch)
    if own.record.last_normal_epoch == record.last_normal_epoch:
        record.view = max(record.view, own.record.view)
        record.normal_view = max(record.normal_view, own.record.normal_view)
        record.temp_drops |= own.record.temp_drops
        record.un_drops |= own.record.un_drops
        dropped_messages.drop(replica, own.record.perm_drops)
        if replica.has_diverged():
            return ask(replica)
        view_change.append_all(replica, own.entries)
        if view_change.undecided(replica):
            record.view = ViewNumber(record.view + 1)  # nobody is in a view with what he promised away
    replica.take_status()
    return replica.execute_as_learner() if replica.is_learner else []

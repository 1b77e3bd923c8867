"""The request of a replica for an image of a peer's state (``state_transfer.py``).

INVARIANT IMAGE-4: a replica whose disk lost state is inactive until it has an image of an epoch that began
afterwards (contracts B2).
"""

from __future__ import annotations

from kvstore.eris.effects import COORDINATOR, Effect, Send, SetTimer
from kvstore.eris.messages import EpochChangeRequest, ImageRequest
from kvstore.eris.replica_state import ReplicaState
from kvstore.types import Epoch

IMAGE_MS = 40
"""The time after which the next peer is asked for an image."""


def forget(replica: ReplicaState, rejoin: Epoch) -> list[Effect]:
    """Note that the disk cannot be trusted; ``rejoin`` is above every epoch that had begun by then."""
    began = replica.record.last_normal_epoch
    assert rejoin > began, f"IMAGE-4: it is to wait for epoch {rejoin}, and has begun epoch {began}"
    replica.record.rejoin = rejoin
    replica.diverge()
    return ask(replica)


def ask(replica: ReplicaState) -> list[Effect]:
    """Ask the next peer for an image; the timer repeats it until a useful image arrives."""
    peers = replica.peers()
    if not peers:
        return []
    record = replica.record
    assert not record.rejoin or replica.has_diverged(), (
        f"IMAGE-4: all before epoch {record.rejoin} is forgotten, and the status is {replica.status.value}"
    )
    replica.needs_image = True
    replica.image_asked += 1
    peer = peers[replica.image_asked % len(peers)]
    wanted = max(record.last_normal_epoch, record.rejoin)
    effects: list[Effect] = [Send(peer, ImageRequest(*replica.address, wanted)), SetTimer("image", IMAGE_MS)]
    if record.rejoin:
        effects.append(Send(COORDINATOR, EpochChangeRequest(*replica.address, record.rejoin)))
    return effects


def on_image_timer(replica: ReplicaState) -> list[Effect]:
    """Ask the next peer, if no useful image has arrived."""
    return ask(replica) if replica.needs_image or replica.has_diverged() else []

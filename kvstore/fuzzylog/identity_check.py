"""Whether a neighbour is the region that its link should lead to, of this world and of this shape."""

from __future__ import annotations

from kvstore.errors import DuplicateRegion, Error, WrongFormat, WrongShape
from kvstore.fuzzylog.messages import Identity

MUST_AGREE = {"shards": "shards", "placement": "placement", "regions": "names", "world": "world"}
"""By the name in the error, the field of ``Identity`` that all regions share."""


def misfit(own: Identity, neighbour: str, claimed: Identity) -> Error | None:
    """Return why this neighbour cannot be listened to, or None; ``claimed`` is what it says of itself."""
    if claimed.format != own.format:
        return WrongFormat(f"{neighbour} speaks format {claimed.format}, not {own.format}", path=neighbour)
    if claimed.region != neighbour:
        message = f"the neighbour {neighbour!r} says that it is {claimed.region!r}"
        return DuplicateRegion(message, region=claimed.region)
    for name, field in MUST_AGREE.items():
        found, expected = getattr(claimed, field), getattr(own, field)
        if found != expected:
            message = f"{neighbour} has {name}={found!r}, not {expected!r}"
            hint = "all regions are created with the same names, shards and placement"
            return WrongShape(message, hint=hint, path=neighbour, name=name, found=found, expected=expected)
    return None

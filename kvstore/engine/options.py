"""Options of an opening, and the default shape of a new store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvstore import storage
from kvstore.engine.manifest import RegionIdentity
from kvstore.execution.procedure_context import Owns

Durability = storage.Durability

SHARDS_DEFAULT, REPLICAS_DEFAULT = 4, 1
IDEMPOTENCY_DAYS_DEFAULT = 7


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an opening. A shape of ``None`` means the stored shape, or the default for a new store."""

    shards: int | None = None
    replicas: int | None = None
    placement: int | None = None
    idempotency_days: float = IDEMPOTENCY_DAYS_DEFAULT
    durability: Durability = "commit"
    create: bool = True
    watch_retention: int = 64 << 20
    region: RegionIdentity | None = None
    owner: Callable[[int, int | None], Owns]
    """Maker of the test whether a shard owns a key, from the number of shards and the placement."""

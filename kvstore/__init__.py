"""An embedded, sharded, transactional key-value store: ``kvstore.open("my.db")``."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvstore.database.batch import Batch, Commit
from kvstore.database.database import Database
from kvstore.database.functions import transactional
from kvstore.database.open import open
from kvstore.database.routing import Route
from kvstore.database.snapshot import Snapshot
from kvstore.database.transaction import Savepoint, Transaction
from kvstore.database.watch import Change, Watch
from kvstore.errors import (
    Abort,
    AlreadyOpen,
    BadLine,
    Behind,
    BodyRefused,
    Closed,
    Conflict,
    Corrupt,
    CursorTrimmed,
    Damage,
    DiskFull,
    DuplicateRegion,
    Error,
    Failed,
    Finished,
    ForeignSnapshot,
    Forked,
    HomeUnreachable,
    InsufficientFunds,
    InsufficientRights,
    KeyInvalid,
    KeyNotDeclared,
    KeyReused,
    LimitExceeded,
    Locked,
    NestedCall,
    NoParent,
    NotAStore,
    NotFound,
    OpenError,
    OutcomeUnknown,
    ProcedureFailed,
    ReadOnly,
    RetryLater,
    SnapshotExpired,
    TimedOut,
    TypeClash,
    UnknownColor,
    UnknownProcedure,
    UnknownRegion,
    UsageError,
    ValueNotSupported,
    WrongFormat,
    WrongShape,
)
from kvstore.execution.procedure_context import Part
from kvstore.execution.procedures import procedure
from kvstore.keys import Key
from kvstore.ports import Link

if TYPE_CHECKING:
    from kvstore.geo.public_log import Effect, Log, Node, NodeId, Playback
    from kvstore.geo.region import LostWrite, Region
    from kvstore.geo.replication import Staleness
    from kvstore.geo.world import Geo, open_region, regions_of

__version__ = "0.1.0"

__all__ = [
    "Abort",
    "AlreadyOpen",
    "BadLine",
    "Batch",
    "Behind",
    "BodyRefused",
    "Change",
    "Closed",
    "Commit",
    "Conflict",
    "Corrupt",
    "CursorTrimmed",
    "Damage",
    "Database",
    "DiskFull",
    "DuplicateRegion",
    "Effect",
    "Error",
    "Failed",
    "Finished",
    "ForeignSnapshot",
    "Forked",
    "Geo",
    "HomeUnreachable",
    "InsufficientFunds",
    "InsufficientRights",
    "Key",
    "KeyInvalid",
    "KeyNotDeclared",
    "KeyReused",
    "LimitExceeded",
    "Link",
    "Locked",
    "Log",
    "LostWrite",
    "NestedCall",
    "NoParent",
    "Node",
    "NodeId",
    "NotAStore",
    "NotFound",
    "OpenError",
    "OutcomeUnknown",
    "Part",
    "Playback",
    "ProcedureFailed",
    "ReadOnly",
    "Region",
    "RetryLater",
    "Route",
    "Savepoint",
    "Snapshot",
    "SnapshotExpired",
    "Staleness",
    "TimedOut",
    "Transaction",
    "TypeClash",
    "UnknownColor",
    "UnknownProcedure",
    "UnknownRegion",
    "UsageError",
    "ValueNotSupported",
    "Watch",
    "WrongFormat",
    "WrongShape",
    "open",
    "open_region",
    "procedure",
    "regions_of",
    "transactional",
]

logging.getLogger("kvstore").addHandler(logging.NullHandler())

_OF_REGIONS = {
    "Effect": "geo.public_log",
    "Geo": "geo.world",
    "Log": "geo.public_log",
    "LostWrite": "geo.region",
    "Node": "geo.public_log",
    "NodeId": "geo.public_log",
    "Playback": "geo.public_log",
    "Region": "geo.region",
    "Staleness": "geo.replication",
    "open_region": "geo.world",
    "regions_of": "geo.world",
}
"""Modules of the names that are loaded at first use: opening a store does not import the code of regions."""


def __getattr__(name: str) -> Any:
    if name not in _OF_REGIONS:
        raise AttributeError(f"module 'kvstore' has no attribute {name!r}")
    return getattr(import_module(f"kvstore.{_OF_REGIONS[name]}"), name)

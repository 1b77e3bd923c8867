"""An embedded, sharded, transactional key-value store: ``kvstore.open("my.db")``."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvstore.batch import Batch, Commit
from kvstore.database import Database
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
from kvstore.execution.part import Part
from kvstore.execution.procedures import procedure
from kvstore.functions import transactional
from kvstore.keys import Key
from kvstore.opening import open
from kvstore.ports import Link
from kvstore.routing import Route
from kvstore.snapshot import Snapshot
from kvstore.transaction import Savepoint, Transaction
from kvstore.watch import Change, Watch

if TYPE_CHECKING:
    from kvstore.drivers.exchange import Staleness
    from kvstore.fuzzy_log import Effect, Log, Node, NodeId, Playback
    from kvstore.geo import Geo, open_region, regions_of
    from kvstore.region_database import LostWrite, Region

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
    "Effect": "fuzzy_log",
    "Geo": "geo",
    "Log": "fuzzy_log",
    "LostWrite": "region_database",
    "Node": "fuzzy_log",
    "NodeId": "fuzzy_log",
    "Playback": "fuzzy_log",
    "Region": "region_database",
    "Staleness": "drivers.exchange",
    "open_region": "geo",
    "regions_of": "geo",
}
"""Loaded with the first use: a script that opens one store does not wait for what regions need."""


def __getattr__(name: str) -> Any:
    if name not in _OF_REGIONS:
        raise AttributeError(f"module 'kvstore' has no attribute {name!r}")
    return getattr(import_module(f"kvstore.{_OF_REGIONS[name]}"), name)

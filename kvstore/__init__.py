"""An embedded, sharded, transactional key-value store: ``kvstore.open("my.db")``."""

import logging

from kvstore.batch import Batch, Commit
from kvstore.database import Database
from kvstore.drivers.exchange import Staleness
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
from kvstore.fuzzy_log import Log, Node, NodeId, Playback
from kvstore.geo import Geo, open_region
from kvstore.keys import Key
from kvstore.opening import open
from kvstore.ports import Link
from kvstore.region_database import LostWrite, Region
from kvstore.routing import Route
from kvstore.snapshot import Snapshot
from kvstore.transaction import Savepoint, Transaction
from kvstore.watch import Change, Watch

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
    "transactional",
]

logging.getLogger("kvstore").addHandler(logging.NullHandler())

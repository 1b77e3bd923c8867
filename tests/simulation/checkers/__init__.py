"""What must be true of a simulated store, one property a file."""

from __future__ import annotations

from tests.simulation.checkers.atomicity import Atomicity
from tests.simulation.checkers.coordinator import FoundOrDropped
from tests.simulation.checkers.dropped import Dropped
from tests.simulation.checkers.durability import Durability
from tests.simulation.checkers.epochs import EpochBoundaries
from tests.simulation.checkers.kept_word import KeptWord
from tests.simulation.checkers.locks import NoLockLeft
from tests.simulation.checkers.one_order import OneOrder
from tests.simulation.checkers.prefixes import PrefixAgreement
from tests.simulation.checkers.promises import Promises
from tests.simulation.checkers.quorums import Quorums
from tests.simulation.checkers.truncation import Truncation
from tests.simulation.checkers.view_quorums import ViewQuorums

CHECKERS = [
    PrefixAgreement,
    Durability,
    Promises,
    Dropped,
    KeptWord,
    Quorums,
    ViewQuorums,
    FoundOrDropped,
    EpochBoundaries,
    Truncation,
    Atomicity,
    OneOrder,
    NoLockLeft,
]
"""All that look at the store from the inside; ``serializability.py`` judges what the clients saw."""

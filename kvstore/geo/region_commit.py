"""The commit of a region's transactions: debits are judged under locks; a refused one raises its error."""

from __future__ import annotations

from collections.abc import Callable

from kvstore.database.commit import TransactionRunner
from kvstore.database.reconnaissance import LockedReads, Reconnaissance
from kvstore.database.routing import Route, Routing
from kvstore.database.snapshot import Snapshot
from kvstore.database.transaction import Transaction, Written
from kvstore.engine.store import WritingStore
from kvstore.eris.messages import Answer
from kvstore.execution.crdt.escrow import decode_unaffordable
from kvstore.execution.operations import Operation
from kvstore.geo.region_transaction import RegionTransaction, debits_to_check, has_debit
from kvstore.geo.typed_keys import RegionNames


class RegionTransactionRunner(TransactionRunner):
    """Commits the transactions of one region."""

    def __init__(
        self,
        store: WritingStore,
        routing: Routing,
        snapshot: Callable[[], Snapshot],
        regions: RegionNames,
    ) -> None:
        super().__init__(store, routing, snapshot)
        self._regions = regions

    def _transaction(
        self,
        reads: Reconnaissance | LockedReads,
        commit: Callable[[Transaction], Route] | None = None,
    ) -> Transaction:
        return RegionTransaction(reads, self._routing, commit, regions=self._regions)

    def _checks_of(self, written: Written) -> tuple[Operation, ...]:
        return debits_to_check(written.operations)

    def _may_refuse(self, transaction: Transaction) -> bool:
        return has_debit(transaction)

    def _raise_refusal(self, answer: Answer) -> None:
        """Raise ``InsufficientFunds`` or ``InsufficientRights`` if a debit was refused."""
        for outcome in answer.outcomes.values():
            if outcome.unaffordable:
                raise self._regions.refusal(decode_unaffordable(outcome.unaffordable))

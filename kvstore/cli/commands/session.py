"""What a session keeps between its commands: settings, the open transaction, and what was run in it; of a
world of regions, in which one it is.

A transaction that fails at its commit, because something changed or the disk is full, can be run again: the
statements that took part in it are kept for ``retry``.
"""

from __future__ import annotations

import kvstore
from kvstore.cli.failures import Misuse
from kvstore.cli.formats.tables import Settings
from kvstore.cli.language.grammar import Statement
from kvstore.cli.language.printing import counted, show

NO_REGIONS = "this store has no regions: kvstore shell --geo PATH opens one that has"


class Session:
    """One person's or script's work with a store. At most one transaction is open in it.

    In a world of regions the store is that of the region it stands in.
    """

    def __init__(
        self, db: kvstore.Database, settings: Settings | None = None, world: kvstore.Geo | None = None
    ) -> None:
        self.db = db
        self.world = world
        self.settings = settings or Settings()
        self.transaction: kvstore.Transaction | None = None
        self.savepoints: dict[str, kvstore.Savepoint] = {}
        """Those of the open transaction, the oldest first."""
        self.to_retry: list[Statement] = []
        """What the last transaction ran that failed at its commit; until another one is committed."""
        self._statements: list[Statement] = []

    @property
    def records(self) -> kvstore.Database | kvstore.Transaction:
        """Where commands read and write: the open transaction, or the store itself."""
        return self.db if self.transaction is None else self.transaction

    @property
    def region(self) -> kvstore.Region:
        """The region it stands in.

        Raises:
            Misuse: the store has no regions.
        """
        if not isinstance(self.db, kvstore.Region):
            raise Misuse(NO_REGIONS)
        return self.db

    @property
    def regions(self) -> kvstore.Geo:
        """The world. Raises ``Misuse`` as ``region`` does."""
        if self.world is None:
            raise Misuse(NO_REGIONS)
        return self.world

    def move(self, name: str) -> None:
        """Stand in another region.

        Raises:
            Misuse: a transaction is open. kvstore.UnknownRegion: there is none of this name.
        """
        region = self.regions[name]
        if self.transaction is not None:
            raise Misuse("a transaction is open in this region: commit or rollback comes first")
        self.db = region
        self.to_retry = []

    @property
    def pending(self) -> int:
        """Keys that the open transaction would write. Instant: nothing is read for it."""
        return 0 if self.transaction is None else len(self.transaction.written)

    def opened(self) -> kvstore.Transaction:
        """The open transaction.

        Raises:
            Misuse: there is none.
        """
        if self.transaction is None:
            raise Misuse("no transaction is open: begin opens one")
        return self.transaction

    def begin(self) -> None:
        """Open a transaction.

        Raises:
            Misuse: one is open. kvstore.ReadOnly: the store was opened for reading.
        """
        if self.transaction is not None:
            raise Misuse("a transaction is open: commit or rollback comes first")
        self.transaction = self.db.begin()

    def record(self, statement: Statement) -> None:
        """Keep a statement that was run in the open transaction, if one still is."""
        if self.transaction is not None:
            self._statements.append(statement)

    def commit(self) -> kvstore.Route:
        """Commit the open transaction; return the way it took. It is over, whatever comes of it.

        Raises:
            kvstore.Conflict, kvstore.DiskFull: nothing happened; the hint offers ``retry``.
        """
        transaction = self.opened()
        statements = self._statements
        self._forget()
        try:
            transaction.commit()
        except (kvstore.Conflict, kvstore.DiskFull) as error:
            self.to_retry = statements
            raise _with_offer(error, len(statements)) from None
        self.to_retry = []
        return transaction.route

    def rollback(self) -> int:
        """Give the open transaction up; return how many writes were pending."""
        pending = self.pending
        transaction = self.opened()
        self._forget()
        transaction.rollback()
        return pending

    def close(self) -> str:
        """Roll back what is open; return a sentence about it, or nothing."""
        if self.transaction is None:
            return ""
        return f"the open transaction was rolled back: {counted(self.rollback(), 'write')} undone"

    def _forget(self) -> None:
        self.transaction = None
        self.savepoints = {}
        self._statements = []


def _with_offer(error: kvstore.Conflict | kvstore.DiskFull, statements: int) -> kvstore.Error:
    """The same error, which says how to go on; a conflict with its key as it is typed."""
    offer = f"type `retry` to run the {counted(statements, 'command')} of the transaction again"
    if isinstance(error, kvstore.DiskFull):
        error.hint = f"{error.hint}; then {offer}"
        return error
    changed = "something it read" if error.key is None else show(error.key)
    message = f"{changed} changed under the transaction; nothing happened"
    return kvstore.Conflict(message, hint=offer, key=error.key, attempts=error.attempts)

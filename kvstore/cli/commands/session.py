"""The state of a session between commands: settings, the open transaction and its statements, and the
current region of a store with regions.

A transaction whose commit fails with a conflict or a full disk can be run again: the statements that took
part in it are kept for ``retry``.
"""

from __future__ import annotations

import kvstore
from kvstore.cli.failures import Misuse
from kvstore.cli.formats.tables import Settings
from kvstore.cli.language.grammar import Statement
from kvstore.cli.language.printing import counted, show

NO_REGIONS = "this store has no regions: kvstore shell --geo PATH opens one that has"


class Session:
    """The work of a user or script with a store. At most one transaction is open.

    In a store with regions, ``db`` is the current region.
    """

    def __init__(
        self, db: kvstore.Database, settings: Settings | None = None, world: kvstore.Geo | None = None
    ) -> None:
        self.db = db
        self.world = world
        self.settings = settings or Settings()
        self.transaction: kvstore.Transaction | None = None
        self.savepoints: dict[str, kvstore.Savepoint] = {}
        """Savepoints of the open transaction, oldest first."""
        self.to_retry: list[Statement] = []
        """Statements of the last transaction whose commit failed, until another transaction is committed."""
        self._statements: list[Statement] = []

    @property
    def records(self) -> kvstore.Database | kvstore.Transaction:
        """The object that commands read and write: the open transaction, or the store."""
        return self.db if self.transaction is None else self.transaction

    @property
    def region(self) -> kvstore.Region:
        """The current region.

        Raises:
            Misuse: the store has no regions.
        """
        if not isinstance(self.db, kvstore.Region):
            raise Misuse(NO_REGIONS)
        return self.db

    @property
    def regions(self) -> kvstore.Geo:
        """The store with all its regions. Raises ``Misuse`` if the store has no regions."""
        if self.world is None:
            raise Misuse(NO_REGIONS)
        return self.world

    def move(self, name: str) -> None:
        """Change to another region.

        Raises:
            Misuse: a transaction is open. kvstore.UnknownRegion: there is no such region.
        """
        region = self.regions[name]
        if self.transaction is not None:
            raise Misuse("a transaction is open in this region: commit or rollback first")
        self.db = region
        self.to_retry = []

    @property
    def pending(self) -> int:
        """The number of keys that the open transaction would write, without reading anything."""
        return 0 if self.transaction is None else len(self.transaction.written)

    def opened(self) -> kvstore.Transaction:
        """Return the open transaction.

        Raises:
            Misuse: no transaction is open.
        """
        if self.transaction is None:
            raise Misuse("no transaction is open: begin opens one")
        return self.transaction

    def begin(self) -> None:
        """Open a transaction.

        Raises:
            Misuse: a transaction is open. kvstore.ReadOnly: the store was opened for reading.
        """
        if self.transaction is not None:
            raise Misuse("a transaction is open: commit or rollback first")
        self.transaction = self.db.begin()

    def record(self, statement: Statement) -> None:
        """Keep a statement for ``retry``, if a transaction is open."""
        if self.transaction is not None:
            self._statements.append(statement)

    def commit(self) -> kvstore.Route:
        """Commit the open transaction, which ends even if the commit fails; return its route.

        Raises:
            kvstore.Conflict, kvstore.DiskFull: nothing was committed; the hint offers ``retry``.
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
        """Roll back the open transaction; return the number of pending writes."""
        pending = self.pending
        transaction = self.opened()
        self._forget()
        transaction.rollback()
        return pending

    def close(self) -> str:
        """Roll back an open transaction; return a sentence that reports it, or ""."""
        if self.transaction is None:
            return ""
        return f"the open transaction was rolled back: {counted(self.rollback(), 'write')} undone"

    def _forget(self) -> None:
        self.transaction = None
        self.savepoints = {}
        self._statements = []


def _with_offer(error: kvstore.Conflict | kvstore.DiskFull, statements: int) -> kvstore.Error:
    """Return the error with an offer to retry as its hint; a conflict shows its key as it is typed."""
    offer = f"type `retry` to run the {counted(statements, 'command')} of the transaction again"
    if isinstance(error, kvstore.DiskFull):
        error.hint = f"{error.hint}; then {offer}"
        return error
    changed = "something it read" if error.key is None else show(error.key)
    message = f"{changed} changed under the transaction; nothing happened"
    return kvstore.Conflict(message, hint=offer, key=error.key, attempts=error.attempts)

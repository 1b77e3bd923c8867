"""A bank with contended accounts, whose clients' observations the history checker judges.

64 accounts on 8 shards, 16 threads, transfers that read the balance first, accounts chosen by Zipf's law
with exponent 1, and auditors. ``KVSTORE_TRANSFERS`` is the number of transfers; 1,500 by default.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

import kvstore
from tests.histories.history import Outcome, Recorder
from tests.histories.strict_serializability import check

TRANSFERS = int(os.environ.get("KVSTORE_TRANSFERS", "800"))
ACCOUNTS, SHARDS, THREADS = 64, 8, 16
OPENING = 100
WEIGHTS = list(itertools.accumulate(1 / rank for rank in range(1, ACCOUNTS + 1)))


class Bank:
    """The accounts, and clients that record what they observe.

    Each balance is stored with the number of the transaction that wrote it, so that no two values are equal.
    """

    def __init__(self, db: kvstore.Database) -> None:
        self.db = db
        self.recorder = Recorder(unknown=(kvstore.OutcomeUnknown,))
        self.numbers = itertools.count(1)
        self.problems: list[str] = []
        with self.recorder.transaction("opening") as record, db.batch() as batch:
            for account in range(ACCOUNTS):
                record.write(account, -account)
                batch.put(("account", account), [OPENING, -account])

    def transfer(self, client: int, source: int, target: int, amount: int) -> None:
        """Transfer an amount, and record the observations of the committed run only."""
        number = next(self.numbers)
        with self.recorder.transaction(client) as record:

            def body(tx: kvstore.Transaction) -> None:
                record.operations.clear()
                (mine, seen), (theirs, also_seen) = tx["account", source], tx["account", target]
                record.read(source, seen)
                record.read(target, also_seen)
                if mine < amount:
                    return
                record.write(source, number)
                record.write(target, number)
                tx["account", source] = [mine - amount, number]
                tx["account", target] = [theirs + amount, number]

            try:
                self.db.transaction(max_retries=1000, timeout=120)(body)()
            except kvstore.RetryLater as error:
                self.problems.append(repr(error))
                raise

    def audit(self, client: object, how: str) -> None:
        """Read all accounts at one moment, and record them."""
        with self.recorder.transaction(client) as record:
            if how == "snapshot":
                rows = list(self.db.scan(prefix=("account",)))
            else:
                rows = self.db.run(lambda tx: list(tx.scan(prefix=("account",))))
            for key, (_, seen) in rows:
                record.read(key[1], seen)
        balances = [balance for _, (balance, _) in rows]
        if sum(balances) != OPENING * ACCOUNTS:
            self.problems.append(f"an audit found {sum(balances)}")
        if min(balances) < 0:
            self.problems.append(f"an account stands at {min(balances)}")

    def client(self, number: int, transfers: int) -> None:
        chance = random.Random(number)
        for _ in range(transfers):
            source, target = chance.choices(range(ACCOUNTS), cum_weights=WEIGHTS, k=2)
            if source != target:
                self.transfer(number, source, target, chance.randint(1, 60))

    def auditor(self, over: threading.Event) -> None:
        while not over.is_set():
            for how in ("snapshot", "transaction"):
                self.audit("auditor", how)
            over.wait(0.05)

    def run(self) -> None:
        over = threading.Event()
        auditor = threading.Thread(target=self.auditor, args=(over,))
        clients = [
            threading.Thread(target=self.client, args=(number, TRANSFERS // THREADS))
            for number in range(THREADS)
        ]
        for thread in (auditor, *clients):
            thread.start()
        for thread in clients:
            thread.join()
        over.set()
        auditor.join()
        self.audit("at the end", "snapshot")


@pytest.mark.parametrize(("where", "replicas"), [("disk", 1), (":memory:", 3)])
def test_money_is_conserved_and_the_history_is_strictly_serializable(
    tmp_path: Path, where: str, replicas: int
) -> None:
    path: Any = tmp_path / "bank" if where == "disk" else where
    with kvstore.open(path, shards=SHARDS, replicas=replicas) as db:
        bank = Bank(db)
        bank.run()
        assert db.verify()["problems"] == []

    history = bank.recorder.history()
    assert bank.problems == []
    assert all(one.outcome is Outcome.OK for one in history)
    assert len(history) > TRANSFERS // 2
    found = check(history)
    assert found.verdict == "ok", found

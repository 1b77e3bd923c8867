"""``python -m tests.data.make_golden``: write the golden store of format 1 anew.

Only while format 1 is not released. Afterwards a store that an older version wrote is the whole point of it.
It prints the versions that ``tests/engine/test_golden.py`` has to expect.
"""

from __future__ import annotations

import shutil

import kvstore
from tests.engine.test_golden import GOLDEN, KEYS, PAID, PAYEE, PAYER, VALUES


def make() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    with kvstore.open(GOLDEN, shards=2, idempotency_days=36_500) as db:
        fill(db)
        print(f"VERSIONS_OF_VALUES = {[db.version(('value', place)) for place in range(len(VALUES))]}")
        print(f"VERSIONS_OF_KEYS = {[db.version(key) for key in KEYS]}")
        assert db.verify()["ok"]
    for made_again in ("writer.lock", "replica-0/lock.mdb"):
        (GOLDEN / made_again).unlink(missing_ok=True)


def fill(db: kvstore.Database) -> None:
    for place, value in enumerate(VALUES):
        db["value", place] = value
    db.put("overwritten", "old")
    db.put("overwritten", "new", if_version=db.version("overwritten"))
    db.put("removed", "soon")
    db.delete("removed")
    for _ in range(3):
        db.add("counter", 0.5)
    with db.batch() as batch:
        for place, key in enumerate(KEYS):
            batch.put(key, place)
    with db.batch(idempotency_key=PAID) as payment:
        payment.add(PAYER, -70)
        payment.add(PAYEE, 70)
    assert len(db.explain(payment).shards) == 2, "it should lie on both shards"


if __name__ == "__main__":
    make()

"""python docs/berka.py DATA_DIR STORE: load the accounts of the Berka bank data, and pay the standing orders.

Each order is one atomic batch over two keys, with an idempotency key of its own. So after any interruption,
even kill -9, a second run of the script ends with the balances of an uninterrupted run.
"""

import csv
import sys
from collections import deque
from concurrent.futures import Future
from decimal import Decimal

import kvstore

_, data, path = sys.argv
in_flight = deque[Future[kvstore.Commit]]()


def pay(db: kvstore.Database, order: dict[str, str]) -> Future[kvstore.Commit]:
    hellers, rest = divmod(Decimal(order["amount"]) * 100, 1)
    assert rest == 0, order
    batch = db.batch()
    batch.add(("account", int(order["account_id"])), -int(hellers))
    batch.add(("ext", order["bank_to"], order["account_to"]), int(hellers))
    return db.submit(batch, idempotency_key=("order", int(order["order_id"])))


with kvstore.open(path) as db, open(f"{data}/account.csv") as accounts, open(f"{data}/order.csv") as orders:
    with db.batch() as batch:
        for account in csv.DictReader(accounts):
            batch.add(("account", int(account["account_id"])), 0)  # adding 0 keeps an existing balance
    for order in csv.DictReader(orders):
        in_flight.append(pay(db, order))
        if len(in_flight) > 100:
            in_flight.popleft().result()
    for future in in_flight:
        future.result()
    print(f"{db.count()} accounts, {sum(value for _, value in db.scan())} hellers in all")

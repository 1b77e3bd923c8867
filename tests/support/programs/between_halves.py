"""Holds general transactions between their two halves until it is killed: ``between_halves PATH REPLICAS``.

Some threads increment both keys of a pair, on two shards, and always find the pair changed, so that they run
a second time, under locks; this run takes a random time, now and then longer than a lease. Other threads
write to these pairs meanwhile, and wait for the locks; further threads write to their own keys, and
overtake. Each acknowledged transaction is printed: ``pair NUMBER COUNT`` or ``own NUMBER COUNT``; when a
run under locks begins, ``held`` is printed.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time

import kvstore

PAIRS, OWN = 3, 2
SHARDS = 4


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def hold(db: kvstore.Database, pair: int, chance: random.Random) -> None:
    """Increment both keys of a pair, in a second run that takes a random time."""
    while True:
        runs = 0

        def body(tx: kvstore.Transaction) -> int:
            nonlocal runs
            runs += 1
            left, right = tx["left", pair], tx["right", pair]
            if runs == 1:
                change = threading.Thread(target=both, args=(db, pair))
                change.start()
                change.join(5)
            else:
                say("held")
                time.sleep(chance.choice([0.001, 0.02, 0.1, 1.2]))
            assert left == right, "two moments"
            tx["left", pair] = tx["right", pair] = left + 1
            return int(left + 1)

        count = db.transaction(max_retries=100, timeout=60)(body)()
        say("pair", pair, count)


def both(db: kvstore.Database, pair: int) -> None:
    with db.batch() as batch:
        batch.add(("left", pair), 1)
        batch.add(("right", pair), 1)


def write_pairs(db: kvstore.Database, chance: random.Random) -> None:
    while True:
        both(db, chance.randrange(PAIRS))
        time.sleep(0.002)


def write_own(db: kvstore.Database, number: int) -> None:
    count = db.get(("own", number), 0)
    while True:
        count += 1
        with db.batch() as batch:
            batch.put(("own", number), count)
            batch.put(("twin", number), count)
        say("own", number, count)


def main(path: str, replicas: int) -> None:
    chance = random.Random()
    with kvstore.open(path, shards=SHARDS, replicas=replicas) as db:
        with db.batch() as batch:
            for pair in range(PAIRS):
                batch.add(("left", pair), 0)
                batch.add(("right", pair), 0)
        say("open")
        threads = [threading.Thread(target=hold, args=(db, pair, chance)) for pair in range(PAIRS)]
        threads += [threading.Thread(target=write_pairs, args=(db, chance))]
        threads += [threading.Thread(target=write_own, args=(db, number)) for number in range(OWN)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

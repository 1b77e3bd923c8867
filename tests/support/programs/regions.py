"""Runs regions that write until they are killed: ``regions world PATH SAID NAME...`` is a whole world,
``regions one PATH SAID NAME PEER SOCKET`` one of two regions, joined by a socket; the first by name listens.

Each region has five threads, one lane each. Each acknowledgement is a line of JSON in the file SAID: the
region, the lane and its number. So a region's content follows from its lanes' numbers, except for the write
of each lane that was under way (``tests.support.regions``).
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import kvstore
from kvstore.geo.region import Region
from tests.support.pipe_link import PipeLink

SHARDS, COPIES, PURSES, RING = 4, 4, 4, 6
MONEY, STOCK = 1_000, 1_000_000
"""Initial balance of each purse, and of a region's own stock."""
PAUSE_S = 0.01
Say = Callable[..., None]


def progress(db: Region, lane: str) -> int:
    """Return the number that a lane of this region has reached, as the region shows it."""
    match lane:
        case "put":
            return int(db.get(("put", db.name), 0))
        case "batch":
            return int(db.get(("batch", db.name, 0), 0))
        case "hits":
            return int(db.counter(("hits", db.name)).value())
        case "stock":
            given = STOCK if db.get(("made", db.name)) else 0
            return given - db.bounded(("stock", db.name)).value()
    return int(db.get(("moved", db.name), 0))


def make(db: Region) -> None:
    """Write the region's initial content, once."""
    if db.get(("made", db.name)) is None:
        with db.batch() as batch:
            batch.put(("made", db.name), True)
            batch.bounded(("stock", db.name)).add(STOCK)
            for purse in range(PURSES):
                batch.bounded(("purse", purse)).add(MONEY)


def put(db: Region, number: int) -> None:
    with db.batch() as batch:
        batch.put(("put", db.name), number)
        batch.put(("shared", number % RING), [db.name, number])


def write_batch(db: Region, number: int) -> None:
    with db.batch() as batch:
        for copy in range(COPIES):
            batch.put(("batch", db.name, copy), number)
        batch.counter(("adds", db.name)).add(1)
        batch.counter("all adds").add(1)
        batch.set(("set", number % RING)).add((db.name, number))
        if number > RING:
            batch.set(("set", number % RING)).remove((db.name, number - RING))


def hit(db: Region, number: int) -> None:
    db.counter(("hits", db.name)).add(1)


def spend(db: Region, number: int) -> None:
    db.bounded(("stock", db.name)).spend(1)


def move(db: Region, number: int) -> None:
    """Move money from one purse to another; retry with other purses if the rights do not suffice."""
    while True:
        giver, taker = random.sample(range(PURSES), 2)
        amount = random.randint(1, 40)
        try:
            with db.batch() as batch:
                batch.bounded(("purse", giver)).spend(amount)
                batch.bounded(("purse", taker)).add(amount)
                batch.put(("moved", db.name), number)
            return
        except (kvstore.InsufficientRights, kvstore.InsufficientFunds):
            time.sleep(PAUSE_S)


LANES: dict[str, Callable[[Region, int], None]] = {
    "put": put,
    "batch": write_batch,
    "hits": hit,
    "stock": spend,
    "moved": move,
}


def write(db: Region, lane: str, say: Say) -> None:
    number = progress(db, lane)
    say(db.name, lane, number)
    while True:
        number += 1
        LANES[lane](db, number)
        say(db.name, lane, number)
        time.sleep(PAUSE_S)


def append(db: Region, say: Say) -> None:
    """Append nodes that record what the region had seen of all regions."""
    while True:
        seen = {name: db.get(("put", name), 0) for name in db.regions.names}
        colors = random.sample(range(SHARDS), random.randint(1, 3))
        payload = json.dumps([db.name, random.getrandbits(64), seen])
        node = db.log.append(colors, payload.encode())
        say(db.name, "log", payload, node.color, node.index)
        time.sleep(PAUSE_S)


def say_to(path: str) -> Say:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(*facts: object) -> None:
        os.write(file, json.dumps(facts).encode() + b"\n")

    return say


def work(regions: list[Region], say: Say) -> None:
    for db in regions:
        make(db)
    threads = [threading.Thread(target=append, args=(db, say), daemon=True) for db in regions]
    threads += [
        threading.Thread(target=write, args=(db, lane, say), daemon=True) for db in regions for lane in LANES
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(1)


def open_one(path: str, name: str, peer: str, place: str) -> Region:
    link = PipeLink(place, listens=name < peer)
    return kvstore.open_region(path, region=name, peers={peer: link}, shards=SHARDS)


def main() -> None:
    kind, path, said, *names = sys.argv[1:]
    opened: Any
    if kind == "world":
        opened = kvstore.Geo(path, regions=names, shards=SHARDS)
        regions = [opened[name] for name in names]
    else:
        opened = open_one(path, *names)
        regions = [opened]
    os.write(1, b"open\n")
    work(regions, say_to(said))


if __name__ == "__main__":
    main()

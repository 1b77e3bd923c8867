"""Filling the store: batches that are submitted without waiting, and looked at while they arrive."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future

import kvstore
from demo.characters import Character

BATCH = 250
"""Characters in one batch; it is atomic, with all their words and counts."""
IN_FLIGHT = 20
"""Batches that are submitted and not yet on disk."""


def import_all(db: kvstore.Database, characters: list[Character], progress: Callable[[int], None]) -> None:
    """Store the characters; ``progress`` is told how many more are on disk.

    Every batch carries an idempotency key, so running it again on the same store changes nothing.
    """
    in_flight = deque[tuple[Future[kvstore.Commit], int]]()
    for first in range(0, len(characters), BATCH):
        chunk = characters[first : first + BATCH]
        in_flight.append((submit(db, chunk), len(chunk)))
        if len(in_flight) > IN_FLIGHT:
            settle(in_flight, progress)
    while in_flight:
        settle(in_flight, progress)


def submit(db: kvstore.Database, characters: list[Character]) -> Future[kvstore.Commit]:
    """Send one batch: the characters, where their words occur, and how many there are of each category."""
    batch = db.batch()
    for character in characters:
        batch.put(("char", character.code), character.facts)
        for word in character.words:
            batch.put(("word", word, character.code), character.name)
    for category, count in Counter(character.category for character in characters).items():
        batch.add(("count", category), count)
    return db.submit(batch, idempotency_key=("import", characters[0].code))


def settle(in_flight: deque[tuple[Future[kvstore.Commit], int]], progress: Callable[[int], None]) -> None:
    future, count = in_flight.popleft()
    future.result()
    progress(count)

"""Filling the store: batches that are submitted without waiting, and looked at while they arrive."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import kvstore
from demo.characters import Character, named

BATCH = 250
"""Characters in one batch; it is atomic, with all their words and counts."""
IN_FLIGHT = 20
"""Batches that are submitted and not yet on disk."""


def import_all(db: kvstore.Database, progress: Callable[[int], None]) -> int:
    """Store every named character; ``progress`` is told of each batch that is on disk.

    Every batch carries an idempotency key, so running it again on the same store changes nothing.
    """
    in_flight = deque[tuple[Future[kvstore.Commit], int]]()
    total = 0
    for characters in chunks():
        in_flight.append((submit(db, characters), len(characters)))
        total += len(characters)
        if len(in_flight) > IN_FLIGHT:
            settle(in_flight, progress)
    while in_flight:
        settle(in_flight, progress)
    return total


def chunks() -> Iterator[list[Character]]:
    chunk: list[Character] = []
    for character in named():
        chunk.append(character)
        if len(chunk) == BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


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

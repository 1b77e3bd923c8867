"""An ordered map of bytes whose versions share their parts; the memory environment is built on it.

Keys and values lie in sorted chunks. A chunk is never changed once it is reachable from a published
map, so a fork copies only the list of chunks, whether or not it is written to afterwards.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

CHUNK_MAX = 256
"""Number of items at which a chunk is split: a put copies one chunk."""

Chunk = tuple[list[bytes], list[bytes]]


class SortedMap:
    """A map with its keys in byte order. ``fork`` returns an independent copy."""

    __slots__ = ("_chunks", "_lows", "_size")

    def __init__(self) -> None:
        self._lows: list[bytes] = [b""]
        self._chunks: list[Chunk] = [([], [])]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def fork(self) -> SortedMap:
        twin = SortedMap.__new__(SortedMap)
        twin._lows, twin._chunks, twin._size = self._lows.copy(), self._chunks.copy(), self._size
        return twin

    def get(self, key: bytes) -> bytes | None:
        keys, values = self._chunks[bisect_right(self._lows, key) - 1]
        at = bisect_left(keys, key)
        return values[at] if at < len(keys) and keys[at] == key else None

    def put(self, key: bytes, value: bytes) -> bool:
        """Set the value and return True, as LMDB does."""
        which = bisect_right(self._lows, key) - 1
        keys, values = self._chunks[which]
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            self._chunks[which] = (keys, [*values[:at], value, *values[at + 1 :]])
            return True
        self._chunks[which] = ([*keys[:at], key, *keys[at:]], [*values[:at], value, *values[at:]])
        self._size += 1
        if len(keys) >= CHUNK_MAX:
            self._split(which)
        return True

    def _split(self, which: int) -> None:
        keys, values = self._chunks[which]
        half = len(keys) // 2
        self._chunks[which : which + 1] = [
            (keys[:half], values[:half]),
            (keys[half:], values[half:]),
        ]
        self._lows.insert(which + 1, keys[half])

    def delete(self, key: bytes) -> bool:
        which = bisect_right(self._lows, key) - 1
        keys, values = self._chunks[which]
        at = bisect_left(keys, key)
        if at == len(keys) or keys[at] != key:
            return False
        self._chunks[which] = (keys[:at] + keys[at + 1 :], values[:at] + values[at + 1 :])
        self._size -= 1
        if len(keys) == 1 and which > 0:
            del self._chunks[which], self._lows[which]
        return True

    def rows(self, position: bytes, *, reverse: bool, limit: int) -> list[tuple[bytes, bytes]]:
        """Return up to ``limit`` items upwards from the first key >= ``position``, or downwards below it."""
        which = bisect_right(self._lows, position) - 1
        at = bisect_left(self._chunks[which][0], position)
        return self._down(which, at, limit) if reverse else self._up(which, at, limit)

    def _up(self, which: int, at: int, limit: int) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        while len(rows) < limit and which < len(self._chunks):
            keys, values = self._chunks[which]
            stop = at + limit - len(rows)
            rows += zip(keys[at:stop], values[at:stop], strict=True)
            which, at = which + 1, 0
        return rows

    def _down(self, which: int, at: int, limit: int) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        while len(rows) < limit and which >= 0:
            keys, values = self._chunks[which]
            start = max(0, at - (limit - len(rows)))
            rows += zip(reversed(keys[start:at]), reversed(values[start:at]), strict=True)
            which -= 1
            at = len(self._chunks[which][0]) if which >= 0 else 0
        return rows

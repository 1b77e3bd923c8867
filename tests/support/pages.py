"""The kind of each page of an LMDB file, read from its bytes (the format: ``kvstore/storage/data_file.py``).

page of a tree   number u64, pad u16, flags u16 (1 branch, 2 leaf, 4 overflow), end of pointers u16, ...,
                 then u16 pointers to nodes; an overflow page has its count of pages u32 at 12
node             u16 u16 u16: a branch's child, or in a leaf the size of the value and 1 for one that has
                 pages of its own; size of key u16; key; value, or the number of its first page
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from kvstore.storage.data_file import newest_meta

PAGE = 4096
_BRANCH, _HAS_PAGES = 1, 1
_FREE_ROOT, _MAIN_ROOT = 16 + 24 + 40, 16 + 24 + 48 + 40
NO_PAGE = (1 << 64) - 1
KINDS = ("meta", "branch", "leaf of logs", "leaf of tables", "overflow", "free list", "unused")


def kinds(data: Path) -> dict[str, list[int]]:
    """Return the page numbers of each of ``KINDS``, for the newest root."""
    meta, raw = newest_meta(data), data.read_bytes()
    kind_of = dict.fromkeys(range(meta.last_page + 1), "unused") | {0: "meta", 1: "meta"}
    for page, _ in _walk(raw, struct.unpack_from("=Q", meta.raw, _FREE_ROOT)[0]):
        kind_of[page] = "free list"
    for page, kind in _walk(raw, struct.unpack_from("=Q", meta.raw, _MAIN_ROOT)[0]):
        kind_of[page] = kind
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for page, kind in kind_of.items():
        found[kind].append(page)
    return found


def _walk(raw: bytes, page: int) -> Iterator[tuple[int, str]]:
    if page == NO_PAGE:
        return
    start = page * PAGE
    flags, end = struct.unpack_from("=HH", raw, start + 10)
    nodes = [start + at for at in struct.unpack_from(f"={(end - 16) // 2}H", raw, start + 16)]
    if flags & _BRANCH:
        yield page, "branch"
        for node in nodes:
            low, middle, high = struct.unpack_from("=HHH", raw, node)
            yield from _walk(raw, low | middle << 16 | high << 32)
        return
    yield page, "leaf of logs" if raw[nodes[0] + 8] == 2 else "leaf of tables"
    for node in nodes:
        node_flags, key_size = struct.unpack_from("=HH", raw, node + 4)
        if node_flags & _HAS_PAGES:
            (first,) = struct.unpack_from("=Q", raw, node + 8 + key_size)
            (count,) = struct.unpack_from("=I", raw, first * PAGE + 12)
            yield from ((first + index, "overflow") for index in range(count))

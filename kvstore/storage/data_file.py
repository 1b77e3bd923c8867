"""LMDB's data file as bytes: what must be known of it before it is mapped (contracts B3, B4).

A page past the end of a mapped file raises SIGBUS, which no ``except`` can catch, so the two meta
pages are read with ``pread`` first and compared with the file's size. LMDB 0.9 on 64-bit hosts:

    page header  16 bytes   page number u64, pad u16, flags u16 (0x08 = meta), lower/upper u32
    meta         magic u32 0xBEEFC0DE, version u32 1, address u64, map size u64,
                 free-list tree 48 bytes (its first u32 is the page size), main tree 48 bytes,
                 last page u64, transaction id u64
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from kvstore.errors import Corrupt, WrongFormat

MAGIC = 0xBEEFC0DE
DATA_VERSION = 1
LOOKS = 10
"""How often the meta pages are read before they are called damaged."""
_HEADER = struct.Struct("=QHHI")
_META = struct.Struct("=IIQQ48s48sQQ")
_META_FLAG = 0x08
_PAGE_SIZE_AT = _HEADER.size + 24
META_BYTES = _HEADER.size + _META.size


class MetaPage(NamedTuple):
    """One of the two roots of the file, and the bytes it was read from."""

    page: int
    page_bytes: int
    last_page: int
    transaction: int
    raw: bytes

    @property
    def has_its_slot(self) -> bool:
        """Whether the commit is one that is written here: even ones into page 0, odd ones into page 1."""
        return self.transaction == 0 or self.transaction & 1 == self.page

    @property
    def file_bytes(self) -> int:
        """How long the file must be for every page of this root to exist."""
        return (self.last_page + 1) * self.page_bytes


def newest_meta(path: Path) -> MetaPage:
    """Return the root LMDB would open. Raises ``Corrupt`` or ``WrongFormat``, naming the file.

    The two slots hold consecutive commits, so a flipped bit cannot make the older one the newer. While
    another process commits they may be read a commit apart: then they are read again.
    """
    for _ in range(LOOKS):
        older, newer = sorted(_both_metas(path), key=lambda meta: meta.transaction)
        if newer.transaction - older.transaction <= 1 and newer.has_its_slot and older.has_its_slot:
            return newer
    record = f"{path}: meta pages"
    what = f"commit {newer.transaction} does not follow on commit {older.transaction}"
    raise Corrupt(f"{record}: {what}", record=record)


def _both_metas(path: Path) -> tuple[MetaPage, MetaPage]:
    with path.open("rb", buffering=0) as file:
        first = _meta_at(path, file.fileno(), page=0, offset=0)
        page_bytes = first.page_bytes if first else os.sysconf("SC_PAGE_SIZE")
        second = _meta_at(path, file.fileno(), page=1, offset=page_bytes)
    if first is None or second is None:
        record = f"{path}: meta page {0 if first is None else 1}"
        raise Corrupt(f"{record} is damaged or cut off", record=record)
    return first, second


def _meta_at(path: Path, file: int, *, page: int, offset: int) -> MetaPage | None:
    raw = os.pread(file, META_BYTES, offset)
    if len(raw) < META_BYTES:
        return None
    number, _, flags, _ = _HEADER.unpack_from(raw)
    magic, version, _, _, _, _, last_page, transaction = _META.unpack_from(raw, _HEADER.size)
    if magic != MAGIC and MAGIC.to_bytes(4, sys.byteorder) in raw:
        raise _another_version(path, "another")  # LMDB 1.0 has longer page headers
    if magic != MAGIC or number != page or not flags & _META_FLAG:
        return None
    if version != DATA_VERSION:
        raise _another_version(path, version)
    return MetaPage(page, page_bytes_of(raw), last_page, transaction, raw)


def _another_version(path: Path, found: int | str) -> WrongFormat:
    message = f"{path} is an LMDB file of {found} version; this store reads version {DATA_VERSION}"
    return WrongFormat(message, path=str(path), found=found, expected=DATA_VERSION)


def page_bytes_of(meta: bytes) -> int:
    """The page size a meta page states, or the system's when it states none LMDB could have."""
    stated = int.from_bytes(meta[_PAGE_SIZE_AT : _PAGE_SIZE_AT + 4], "little")
    sound = 256 <= stated <= 1 << 16 and stated & (stated - 1) == 0
    return stated if sound else os.sysconf("SC_PAGE_SIZE")


def is_cut_short(path: Path) -> bool:
    """Whether the file ends before the last page its newest root counts.

    Not yet damage: a page that was given back within the commit that took it is counted but never
    written. Whoever sees True walks the file without mapping it before deciding.
    """
    needed = newest_meta(path).file_bytes  # read first: a writer may be extending the file
    return path.stat().st_size < needed


def extend(path: Path) -> None:
    """Give a sound file the unwritten pages at its end, so that mapping it cannot fault."""
    os.truncate(path, newest_meta(path).file_bytes)


def restore_root(path: Path, meta: bytes) -> None:
    """Write a saved meta page into both slots of the file, and make that durable (B3).

    Each slot keeps the parity of its transaction ids, which LMDB writes it by: the one that the page was
    not saved from gets the id before, so LMDB takes the other, and both are the same root.
    """
    _, pad, flags, rest = _HEADER.unpack_from(meta)
    transaction = int.from_bytes(meta[-8:], sys.byteorder)
    with path.open("r+b", buffering=0) as file:
        for page, number in ((transaction & 1, transaction), (1 - (transaction & 1), transaction - 1)):
            header = _HEADER.pack(page, pad, flags, rest)
            content = meta[_HEADER.size : -8] + max(0, number).to_bytes(8, sys.byteorder)
            os.pwrite(file.fileno(), header + content, page * page_bytes_of(meta))
        os.fsync(file.fileno())


def drop_cached_pages(path: Path) -> None:
    """After a failed sync the page cache may hold what the disk does not: read the disk (A5)."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def boot_id() -> str:
    """What names this run of the machine: after another one, unsynced pages are lost."""
    source = Path("/proc/sys/kernel/random/boot_id")
    return source.read_text().strip() if source.exists() else ""

"""LMDB's data file as bytes: checks and repairs before the file is mapped (contracts B3, B4).

Reading past the end of a mapped file raises SIGBUS, which no ``except`` can catch. The two meta pages
are therefore read with ``pread`` first and compared with the file's size. LMDB 0.9 on 64-bit hosts:

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
"""Number of times that the meta pages are read before they are reported as damaged."""
_HEADER = struct.Struct("=QHHI")
_META = struct.Struct("=IIQQ48s48sQQ")
_META_FLAG = 0x08
_PAGE_SIZE_AT = _HEADER.size + 24
META_BYTES = _HEADER.size + _META.size


class MetaPage(NamedTuple):
    """One of the two roots of the file, and the bytes that the root was read from."""

    page: int
    page_bytes: int
    last_page: int
    transaction: int
    raw: bytes

    @property
    def has_its_slot(self) -> bool:
        """Whether the commit belongs on this page: even commits go to page 0, odd commits to page 1."""
        return self.transaction == 0 or self.transaction & 1 == self.page

    @property
    def file_bytes(self) -> int:
        """Least size of a file that holds every page of this root, in bytes."""
        return (self.last_page + 1) * self.page_bytes


def newest_meta(path: Path) -> MetaPage:
    """Return the root that LMDB would open. Raises ``Corrupt`` or ``WrongFormat``, naming the file.

    The two pages hold consecutive commits, so a flipped bit cannot turn the older root into the newer.
    While another process commits, the pages may be read a commit apart; they are then read again.
    """
    for _ in range(LOOKS):
        older, newer = sorted(_both_metas(path), key=lambda meta: meta.transaction)
        if newer.transaction - older.transaction <= 1 and newer.has_its_slot and older.has_its_slot:
            return newer
    record = f"{path}: meta pages"
    what = f"commit {newer.transaction} does not follow commit {older.transaction}"
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
    message = f"{path}: unsupported version of LMDB's file ({found}); this store reads {DATA_VERSION}"
    return WrongFormat(message, path=str(path), found=found, expected=DATA_VERSION)


def page_bytes_of(meta: bytes) -> int:
    """Return the page size that a meta page states, or the system's if LMDB cannot have that size."""
    stated = int.from_bytes(meta[_PAGE_SIZE_AT : _PAGE_SIZE_AT + 4], "little")
    sound = 256 <= stated <= 1 << 16 and stated & (stated - 1) == 0
    return stated if sound else os.sysconf("SC_PAGE_SIZE")


def is_cut_short(path: Path) -> bool:
    """Return whether the file ends before the last page that its newest root counts.

    This need not be damage: a page that one commit both took and freed is counted but never written.
    If True, the caller walks the file without mapping it before it decides.
    """
    needed = newest_meta(path).file_bytes  # read first: a writer may be extending the file
    return path.stat().st_size < needed


def extend(path: Path) -> None:
    """Extend a sound file by the unwritten pages at its end, so that reading its map cannot fault."""
    os.truncate(path, newest_meta(path).file_bytes)


def restore_root(path: Path, meta: bytes) -> None:
    """Write a saved meta page over both meta pages of the file, durably (B3).

    Each page keeps the parity of the transaction ids that LMDB writes to it: the page that the root was
    not saved from gets the preceding id. LMDB then opens the other page, and both hold one root.
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
    """Drop the file's cached pages, which may differ from the disk after a failed sync (A5)."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def boot_id() -> str:
    """Return the id of the machine's current boot, if known. Unsynced pages do not survive a boot."""
    source = Path("/proc/sys/kernel/random/boot_id")
    return source.read_text().strip() if source.exists() else ""

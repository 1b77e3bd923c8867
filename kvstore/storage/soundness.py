"""The checks of an environment's file before LMDB may map it (contracts A5, B3, B4)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kvstore.errors import Corrupt
from kvstore.storage import data_file, side_file

DATA_FILE = "data.mdb"
READERS_FILE = "lock.mdb"
CLOSED_MARK = "closed"
"""Side file of a clean close: the bytes of the meta pages as they were left."""
FAILED_MARK = "failed"
"""Side file of a failed commit or sync: the next opening distrusts the page cache."""
SYNCED_ROOT = "synced-root"
"""Side file of ``durability="interval"``: the last root known to be on disk, and the boot id."""


FLIPPED_BITS_MAX = 8
"""Largest difference of meta pages, in bits, that is taken for damage; a larger one is a foreign write."""


def check_before_mapping(folder: Path, *, readonly: bool) -> str | None:
    """Prepare the file for mapping, or raise ``Corrupt`` naming what is wrong.

    If the machine stopped before the root was synced, the last synced root is restored. If a commit
    failed, the file is read again from the disk. If the file ends early, it is walked page by page.

    Returns a sentence if the file may be mapped but was written to by another program; else None.
    """
    data = folder / DATA_FILE
    restore_synced_root(folder, readonly=readonly)
    suspicion = _changed_since_close(folder)
    failed = (folder / FAILED_MARK).exists()
    if failed:
        data_file.drop_cached_pages(data)
    if failed or suspicion or data_file.is_cut_short(data):
        _walk_or_raise(data)
        if not readonly:
            data_file.extend(data)
            side_file.remove(folder / FAILED_MARK)
    return suspicion


def _changed_since_close(folder: Path) -> str | None:
    mark = side_file.read(folder / CLOSED_MARK)
    if mark is None:
        return None
    data = folder / DATA_FILE
    found, left = meta_pages(data), bytes.fromhex(mark["metas"])
    if found == left or side_file.read(folder / CLOSED_MARK) != mark:
        return None  # equal, or a writer has opened the store between the two reads
    flipped = (int.from_bytes(found, "big") ^ int.from_bytes(left, "big")).bit_count()
    if flipped <= FLIPPED_BITS_MAX:
        record = f"{data}: meta pages"
        raise Corrupt(f"{record}: {flipped} bits changed since the store was closed", record=record)
    return f"{data}: another program wrote to it since the store was closed"


def restore_synced_root(folder: Path, *, readonly: bool) -> None:
    """Restore the last synced root if the machine stopped since and the store was not closed (B3)."""
    data, path = folder / DATA_FILE, folder / SYNCED_ROOT
    if not path.exists() or side_file.read(folder / CLOSED_MARK) is not None:
        return  # a close synced everything, and was interrupted before it removed the older root
    root = side_file.read(path)
    if root is None:
        raise Corrupt(
            f"{path} is damaged, so the last synced root is not known",
            hint="restore it from a backup; remove it only if the machine has not stopped since",
            record=str(path),
        )
    if root["boot"] and root["boot"] == data_file.boot_id():
        return
    if readonly:
        record = f"{data}: not opened for writing since the machine stopped"
        raise Corrupt(record, hint="open it once without readonly=True", record=record)
    data_file.restore_root(data, bytes.fromhex(root["meta"]))
    side_file.write(path, {**root, "boot": data_file.boot_id()})  # the root that it names is on disk now


def _walk_or_raise(data: Path) -> None:
    for problem in structure_problems(data):
        raise Corrupt(f"{data} is damaged or cut short: {problem}", record=str(data))


def structure_problems(data: Path) -> Iterator[str]:
    """Walk every page of the file without mapping it and yield a sentence for each problem of structure."""
    # Imported here because only a suspect file needs the walker.
    from lmdb.verify import VerifyError, verify

    try:
        yield from verify(str(data))  # type: ignore[no-untyped-call]  # py-lmdb leaves it untyped
    except VerifyError as error:
        yield str(error)


def meta_pages(data: Path) -> bytes:
    """Return the bytes of the two meta pages; fewer if the file is short."""
    with data.open("rb", buffering=0) as file:
        first = os.pread(file.fileno(), data_file.META_BYTES, 0)
        page_bytes = data_file.page_bytes_of(first)
        return first + os.pread(file.fileno(), data_file.META_BYTES, page_bytes)

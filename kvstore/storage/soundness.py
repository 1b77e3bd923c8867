"""What is checked of an environment's file before LMDB may map it (contracts A5, B3, B4)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kvstore.errors import Corrupt
from kvstore.storage import data_file, side_file

DATA_FILE = "data.mdb"
READERS_FILE = "lock.mdb"
CLOSED_MARK = "closed"
"""Side file of a clean close: the checksum of the meta pages as they were left."""
FAILED_MARK = "failed"
"""Side file of a failed commit or sync: the next opening distrusts the page cache."""
SYNCED_ROOT = "synced-root"
"""Side file of ``durability="interval"``: the last root known to be on disk, and the boot id."""


FLIPPED_BITS_MAX = 8
"""Meta pages that differ in no more bits than this are damaged; in more, somebody wrote to them."""


def check_before_mapping(folder: Path, *, readonly: bool) -> str | None:
    """Bring the file to where it may be mapped, or raise ``Corrupt`` naming what is wrong.

    A root that was never synced before the machine stopped is put back to the synced one; a file
    whose commit failed is read again from the disk; one that ends early is walked page by page.

    Returns a sentence when the file may be mapped but was written to by something else than a store.
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
        return None  # equal, or a writer has come by between the two looks
    flipped = (int.from_bytes(found, "big") ^ int.from_bytes(left, "big")).bit_count()
    if flipped <= FLIPPED_BITS_MAX:
        record = f"{data}: meta pages"
        raise Corrupt(f"{record}: {flipped} bits changed since the store was closed", record=record)
    return f"{data}: something else wrote to it since the store was closed"


def restore_synced_root(folder: Path, *, readonly: bool) -> None:
    """Put back the last synced root, if the machine stopped since and the store was not closed (B3)."""
    data, path = folder / DATA_FILE, folder / SYNCED_ROOT
    if not path.exists() or side_file.read(folder / CLOSED_MARK) is not None:
        return  # a close synced everything, and was cut off before it removed the older root
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
    side_file.write(path, {**root, "boot": data_file.boot_id()})  # what it names is on disk now


def _walk_or_raise(data: Path) -> None:
    for problem in structure_problems(data):
        raise Corrupt(f"{data} is damaged or cut short: {problem}", record=str(data))


def structure_problems(data: Path) -> Iterator[str]:
    """Walk every page of the file without mapping it and yield what is wrong with its structure."""
    # Imported here because only a suspect file needs the walker.
    from lmdb.verify import VerifyError, verify

    try:
        yield from verify(str(data))  # type: ignore[no-untyped-call]  # py-lmdb leaves it untyped
    except VerifyError as error:
        yield str(error)


def meta_pages(data: Path) -> bytes:
    """What the two meta pages hold; short when the file is."""
    with data.open("rb", buffering=0) as file:
        first = os.pread(file.fileno(), data_file.META_BYTES, 0)
        page_bytes = data_file.page_bytes_of(first)
        return first + os.pread(file.fileno(), data_file.META_BYTES, page_bytes)

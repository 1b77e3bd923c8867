"""The check, before each commit, that there is room for the commit (contracts A5).

LMDB copies each page that it changes, so a record can cost several pages. A commit that runs out of
disk space midway has an unknown outcome; checking first raises ``DiskFull`` instead, with nothing
changed. The system is asked again only after half of the space that it last reported may be used up.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from kvstore.errors import Damage, DiskFull, Failed

try:
    import resource
except ImportError:  # pragma: no cover - there is no such limit where the module is missing
    resource = None  # type: ignore[assignment]

RESERVE_BYTES = 1 << 20
"""Space that is always left free: enough for an opening, a close and the pages of a few small commits."""
RECORD_COST_BYTES = 3 * 4096
"""Space that one record may newly occupy, in pages: its leaf, a split, and a share of the branches."""
GRANT_BYTES_MAX = 64 << 20
"""Upper bound on the space used between two checks: other programs use the disk as well."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def refused(location: str) -> Iterator[None]:
    """Translate the errors of a disk that refuses a write into ``DiskFull`` or ``Failed``."""
    try:
        yield
    except Damage:
        raise
    except (lmdb.Error, OSError) as error:
        full = isinstance(error, lmdb.DiskError) or getattr(error, "errno", None) in NO_ROOM
        if full:
            raise DiskFull(f"{location}: {error}", path=location) from error
        raise Failed(f"{location}: {error}") from error


class DiskSpace:
    """The space left for one data file: on its disk, under the file size limit, in its map."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.map_bytes = 1 << 62
        """Address space reserved for the file, known once the file is mapped."""
        self._granted = 0

    def expect(self, payload_bytes: int, records: int) -> None:
        """Reserve space for the next batch, given in bytes and in records.

        Raises:
            DiskFull: there is not enough space; nothing changed.
        """
        wanted = 2 * payload_bytes + records * RECORD_COST_BYTES
        if wanted > self._granted:
            self._ask(wanted)
        self._granted -= wanted

    def _ask(self, wanted: int) -> None:
        free = self._free_bytes()
        if free < wanted + RESERVE_BYTES:
            raise DiskFull(
                f"{self._data}: {free} bytes free, {wanted + RESERVE_BYTES} needed",
                path=str(self._data),
                free=free,
                needed=wanted + RESERVE_BYTES,
            )
        self._granted = max(wanted, min((free - RESERVE_BYTES) // 2, GRANT_BYTES_MAX))

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._data.parent)
        size = self._data.stat().st_size if self._data.exists() else 0
        bounds = [disk.f_bavail * disk.f_frsize, self.map_bytes - size]
        if resource is not None:
            limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
            if limit != resource.RLIM_INFINITY:
                bounds.append(limit - size)
        return min(bounds)

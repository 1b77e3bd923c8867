"""Each invariant that is asserted in storage/ is broken once: the state is made wrong by hand, and the
assertion that fails names its label and the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.storage import LmdbEnvironment, MemoryDisk, MemoryEnvironment, data_file
from tests.support.broken import broken
from tests.support.environments import T, write


def test_one_batch_is_open_at_a_time(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path)
    batch = environment.begin()

    with broken("LMDB-1", tmp_path):
        environment.begin()
    batch.abort()
    environment.close()


def test_one_batch_is_open_at_a_time_in_memory() -> None:
    environment = MemoryEnvironment(MemoryDisk(), "0")
    environment.begin()

    with broken("LMDB-1", "memory:0"):
        environment.close()


def test_nothing_is_written_after_a_failure(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path)
    batch = environment.begin()
    environment.table(T).put(b"k", b"v")
    environment.fail(OSError(5, "no disk"))

    with broken("LMDB-2", tmp_path, "1 records", "no disk"):
        batch.commit()
    batch.abort()
    environment.close()


def test_the_synced_root_is_the_one_that_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a commit had come between the sync and the pin."""
    environment = LmdbEnvironment(tmp_path, durability="interval")
    write(environment, k="v")
    before = data_file.newest_meta(tmp_path / "data.mdb")
    write(environment, k="w")
    monkeypatch.setattr(data_file, "newest_meta", lambda path: before)

    with broken("LMDB-3", f"root {before.transaction}", f"root {before.transaction + 1}"):
        environment.sync()
    environment.close()

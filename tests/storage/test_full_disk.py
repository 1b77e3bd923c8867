"""A full disk: reported before the commit, and survived when a commit meets it (contracts A5)."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvstore.errors import Damage, DiskFull
from kvstore.storage import LmdbEnvironment
from kvstore.storage.disk_space import GRANT_BYTES_MAX, RESERVE_BYTES, DiskSpace
from kvstore.storage.soundness import FAILED_MARK

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Keep all files of this process from growing beyond ``limit`` bytes for the duration of the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestAskingFirst:
    @pytest.fixture
    def space(self, tmp_path: Path) -> DiskSpace:
        (tmp_path / "data").write_bytes(bytes(1000))
        return DiskSpace(tmp_path / "data")

    def test_a_file_size_limit_counts(self, space: DiskSpace) -> None:
        with file_size_limit(1000 + RESERVE_BYTES), pytest.raises(DiskFull) as caught:
            space.expect(1, 1)

        assert caught.value.free == RESERVE_BYTES
        assert caught.value.needed > RESERVE_BYTES

    def test_the_disk_counts(self, space: DiskSpace, monkeypatch: pytest.MonkeyPatch) -> None:
        full = os.statvfs_result((4096, 4096, 100, 100, 100, 10, 10, 10, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _: full)

        with pytest.raises(DiskFull) as caught:
            space.expect(1, 1)

        assert caught.value.free == 100 * 4096

    def test_the_address_space_counts(self, space: DiskSpace) -> None:
        space.map_bytes = 1000 + RESERVE_BYTES

        with pytest.raises(DiskFull):
            space.expect(1, 1)

    def test_what_is_used_up_is_asked_for_anew(self, space: DiskSpace) -> None:
        """The free space is checked rarely, but never too late."""
        room = 32 << 20
        granted = 0
        with file_size_limit(1000 + room), contextlib.suppress(DiskFull):
            while granted < 2 * room:
                space.expect(1 << 20, 0)
                granted += 2 << 20
                os.truncate(space._data, 1000 + granted)
        assert room - (4 << 20) <= granted <= room - RESERVE_BYTES

    def test_no_more_is_granted_at_once_than_the_bound(
        self, space: DiskSpace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        space.expect(1, 1)

        with file_size_limit(2000):
            with pytest.raises(DiskFull):
                space.expect(GRANT_BYTES_MAX, 0)
            space.expect(1, 0)  # within what was granted

    def test_a_full_disk_keeps_a_file_from_being_opened_for_writing_only(self, tmp_path: Path) -> None:
        LmdbEnvironment(tmp_path).close()

        with file_size_limit(RESERVE_BYTES // 2):
            with pytest.raises(DiskFull):
                LmdbEnvironment(tmp_path)
            LmdbEnvironment(tmp_path, readonly=True).close()
        LmdbEnvironment(tmp_path).close()


class TestACommitThatRunsOutOfDisk:
    def test_is_all_or_nothing_and_the_store_opens_again(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.support.programs.fill_a_disk", str(tmp_path)]

        child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)

        assert child.returncode == 0, child.stderr
        (commits, raised), refused = map(str.split, child.stdout.splitlines())
        assert raised == "OutcomeUnknown"
        assert refused == ["Failed", "True"]
        assert (tmp_path / FAILED_MARK).exists()

        environment = LmdbEnvironment(tmp_path)
        view = environment.view()
        keys = [key for key, _ in view.table(b"tab").scan(b"", b"\xff", limit=1 << 20)]
        assert keys == [b"%05d %c" % (number, side) for number in range(int(commits)) for side in b"ab"]
        assert list(view.problems()) == []
        view.close()
        batch = environment.begin()
        environment.table(b"tab").put(b"after", bytes(3000))
        batch.commit()
        environment.close()


def test_a_copy_that_runs_out_of_disk_is_an_error_of_the_store(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    environment = LmdbEnvironment(source)
    batch = environment.begin()
    environment.table(b"tab").put(b"k", bytes(1 << 20))
    batch.commit()

    with file_size_limit(100_000), pytest.raises((Damage, OSError)):
        environment.copy_to(str(target))

    environment.close()

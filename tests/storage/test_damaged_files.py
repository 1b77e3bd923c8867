"""Files cut short, with flipped bits, of another format, or written to by another program (contracts B4)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from kvstore.errors import Corrupt, WrongFormat
from kvstore.storage import LmdbEnvironment, data_file
from kvstore.storage.records import TABLE
from kvstore.storage.soundness import CLOSED_MARK, DATA_FILE, meta_pages
from tests.support.media import a_file_that_ends_early, copy_folder, raw_lmdb
from tests.support.pages import PAGE, kinds

T = b"tab"  # the name that a_file_that_ends_early uses
RECORDS = 150
META_PAGE_BITS = 8 * data_file.META_BYTES
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """Return a folder that was closed after a few commits, so that its free list is in use."""
    folder = tmp_path / "closed"
    folder.mkdir()
    environment = LmdbEnvironment(folder)
    for value in (b"first" * 60, b"second" * 60):
        batch = environment.begin()
        for number in range(RECORDS):
            environment.table(T).put(b"%04d" % number, value)
        batch.commit()
    environment.close()
    return folder


@pytest.fixture
def killed(closed: Path) -> Path:
    """Return a folder with a few commits whose process ended without closing it."""
    (closed / CLOSED_MARK).unlink()
    return closed


def change(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def records_in(environment: LmdbEnvironment) -> int:
    view = environment.view()
    try:
        return len(view.table(T).scan(b"", b"\xff", limit=1 << 20))
    finally:
        view.close()


def problems_in(environment: LmdbEnvironment) -> list[str]:
    view = environment.view()
    try:
        return list(view.problems())
    finally:
        view.close()


class TestAFileThatIsCutShort:
    @pytest.mark.parametrize("state", ["closed", "killed"])
    def test_is_damage_at_any_length_and_never_a_crash(
        self, state: str, request: pytest.FixtureRequest
    ) -> None:
        folder: Path = request.getfixturevalue(state)
        command = [sys.executable, "-m", "tests.support.programs.open_cut_files", str(folder)]

        child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)

        assert child.returncode == 0, f"after {child.stdout.splitlines()[-1:]}: {child.stderr}"
        outcomes = {int(length): what for length, what in map(str.split, child.stdout.splitlines())}
        whole = (folder / DATA_FILE).stat().st_size
        assert len(outcomes) > 100
        assert outcomes[whole] == str(RECORDS)
        # Only pages at the end that were never written may be missing; any other cut is damage.
        assert set(outcomes.values()) == {"corrupt", str(RECORDS)}
        assert outcomes[whole // 2] == "corrupt"

    def test_is_named(self, killed: Path) -> None:
        with (killed / DATA_FILE).open("r+b") as file:
            file.truncate(20_000)

        with pytest.raises(Corrupt, match=str(killed / DATA_FILE)):
            LmdbEnvironment(killed)

    def test_to_nothing_is_not_a_new_one(self, closed: Path) -> None:
        os.truncate(closed / DATA_FILE, 0)

        with pytest.raises(Corrupt):
            LmdbEnvironment(closed)
        assert (closed / DATA_FILE).stat().st_size == 0

    def test_by_pages_that_were_never_written_is_whole(self, tmp_path: Path) -> None:
        folder, left = a_file_that_ends_early(tmp_path, "commit")
        needed = data_file.newest_meta(folder / DATA_FILE).file_bytes
        assert (folder / DATA_FILE).stat().st_size < needed

        environment = LmdbEnvironment(folder)

        assert (folder / DATA_FILE).stat().st_size >= needed
        assert records_in(environment) == left
        assert problems_in(environment) == []
        environment.close()


class TestMetaPages:
    def test_lose_no_single_bit_unnoticed_after_a_clean_close(self, closed: Path) -> None:
        data = closed / DATA_FILE
        page_bytes = data_file.newest_meta(data).page_bytes

        for page in (0, 1):
            for bit in range(META_PAGE_BITS):
                at = 8 * page * page_bytes + bit
                flip(data, at)
                with pytest.raises(Corrupt):
                    LmdbEnvironment(closed)
                flip(data, at)

        environment = LmdbEnvironment(closed)
        assert records_in(environment) == RECORDS
        environment.close()

    @pytest.mark.parametrize("page", [0, 1])
    def test_that_are_wiped_out_are_damage(self, killed: Path, page: int) -> None:
        data = killed / DATA_FILE
        change(data, page * data_file.newest_meta(data).page_bytes, bytes(data_file.META_BYTES))

        with pytest.raises(Corrupt, match=f"meta page {page}"):
            LmdbEnvironment(killed)

    def test_that_name_a_commit_there_never_was_are_damage(self, killed: Path) -> None:
        data = killed / DATA_FILE
        newest = data_file.newest_meta(data)
        at = newest.page * newest.page_bytes + data_file.META_BYTES - 8

        change(data, at, (newest.transaction + 64).to_bytes(8, "little"))

        with pytest.raises(Corrupt, match="does not follow"):
            LmdbEnvironment(killed)

    def test_lose_no_bit_of_their_commit_unnoticed_after_a_kill(self, killed: Path) -> None:
        """If a bit were lost, the older root would pass for the newer, and the last commit be lost silently.

        The exception is bit 1, which can move a root by two commits, to the other side of the other root.
        """
        data = killed / DATA_FILE
        page_bytes = data_file.newest_meta(data).page_bytes

        for page in (0, 1):
            for bit in (0, *range(2, 64)):
                at = 8 * (page * page_bytes + data_file.META_BYTES - 8) + bit
                flip(data, at)
                with pytest.raises(Corrupt, match="meta pages"):
                    LmdbEnvironment(killed)
                flip(data, at)


class TestAnotherFormat:
    @pytest.mark.parametrize("page", [0, 1])
    def test_of_the_data_file_is_named(self, killed: Path, page: int) -> None:
        data = killed / DATA_FILE
        change(data, page * data_file.newest_meta(data).page_bytes + 20, (999).to_bytes(4, "little"))

        with pytest.raises(WrongFormat) as caught:
            LmdbEnvironment(killed)

        assert (caught.value.found, caught.value.expected) == (999, data_file.DATA_VERSION)

    @pytest.mark.parametrize("marked", [False, True])
    def test_of_lmdb_1_0_is_named_too(self, closed: Path, *, marked: bool) -> None:
        (closed / DATA_FILE).unlink()
        lmdb.open(str(closed), lib_version=1, map_size=1 << 20).close()
        if not marked:
            (closed / CLOSED_MARK).unlink()

        with pytest.raises(WrongFormat):
            LmdbEnvironment(closed)


class TestAnotherProgram:
    def test_that_removed_records_is_noticed(self, closed: Path) -> None:
        with raw_lmdb(closed) as env, env.begin(write=True) as txn:
            assert txn.delete(TABLE + T + b"0070")
            assert txn.delete(TABLE + T + b"0071")

        environment = LmdbEnvironment(closed)

        assert environment.suspicion is not None
        assert str(closed / DATA_FILE) in environment.suspicion
        assert problems_in(environment) == [
            f"{closed}: {RECORDS + 1} records were written, {RECORDS - 1} are there"
        ]
        environment.close()

    def test_is_not_forgiven_by_commits_that_follow(self, closed: Path) -> None:
        with raw_lmdb(closed) as env, env.begin(write=True) as txn:
            assert txn.delete(TABLE + T + b"0070")
        environment = LmdbEnvironment(closed)

        for number in range(3):
            batch = environment.begin()
            environment.table(T).put(b"new %d" % number, b"")
            batch.commit()

        assert problems_in(environment) == [
            f"{closed}: {RECORDS + 4} records were written, {RECORDS + 3} are there"
        ]
        environment.close()

    def test_does_not_keep_the_store_from_being_opened_a_second_time(self, closed: Path) -> None:
        with raw_lmdb(closed) as env, env.begin(write=True) as txn:
            assert txn.delete(TABLE + T + b"0070")
        LmdbEnvironment(closed).close()

        environment = LmdbEnvironment(closed)

        assert len(problems_in(environment)) == 1
        environment.close()

    def test_that_only_looked_leaves_no_suspicion(self, closed: Path) -> None:
        with raw_lmdb(closed) as env, env.begin() as txn:
            assert txn.get(TABLE + T + b"0070") is not None

        environment = LmdbEnvironment(closed)

        assert environment.suspicion is None
        environment.close()

    def test_that_cut_the_root_away_from_its_count_is_noticed(self, killed: Path) -> None:
        """LMDB-4: a commit by another program is detected after an unclean end, too."""
        with raw_lmdb(killed) as env, env.begin(write=True) as txn:
            assert txn.delete(TABLE + T + b"0070")

        with pytest.raises(Corrupt, match="root of commit"):
            LmdbEnvironment(killed)


class TestACleanClose:
    def test_leaves_a_mark_with_the_roots_as_they_were(self, closed: Path) -> None:
        assert meta_pages(closed / DATA_FILE).hex() in (closed / CLOSED_MARK).read_text()

    def test_is_forgotten_by_the_next_opening(self, closed: Path) -> None:
        environment = LmdbEnvironment(closed)

        assert not (closed / CLOSED_MARK).exists()
        environment.close()

    def test_mark_that_is_damaged_counts_as_none(self, closed: Path) -> None:
        (closed / CLOSED_MARK).write_text("{}")

        environment = LmdbEnvironment(closed)

        assert environment.suspicion is None
        assert records_in(environment) == RECORDS
        environment.close()

    def test_survives_being_copied(self, closed: Path, tmp_path: Path) -> None:
        environment = LmdbEnvironment(copy_folder(closed, tmp_path / "copy"))

        assert environment.suspicion is None
        assert records_in(environment) == RECORDS
        environment.close()


class TestReadonly:
    def test_changes_nothing(self, closed: Path) -> None:
        before = {path.name: path.read_bytes() for path in closed.iterdir() if path.name != "lock.mdb"}

        environment = LmdbEnvironment(closed, readonly=True)
        assert records_in(environment) == RECORDS
        environment.close()

        after = {path.name: path.read_bytes() for path in closed.iterdir() if path.name != "lock.mdb"}
        assert after == before

    def test_creates_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(Corrupt, match="missing"):
            LmdbEnvironment(tmp_path, readonly=True)

        assert list(tmp_path.iterdir()) == []


class TestAFailureMark:
    def test_has_the_next_opening_read_the_disk_and_walk_the_file(self, killed: Path) -> None:
        environment = LmdbEnvironment(killed)
        environment.fail(OSError(5, "Input/output error"))
        environment.close()
        data = killed / DATA_FILE
        newest = data_file.newest_meta(data)
        first_data_page = 2 * newest.page_bytes
        whole = data.read_bytes()

        change(data, first_data_page, bytes(newest.file_bytes - first_data_page))
        with pytest.raises(Corrupt, match="damaged or cut short"):
            LmdbEnvironment(killed)
        data.write_bytes(whole)
        environment = LmdbEnvironment(killed)

        assert records_in(environment) == RECORDS
        environment.close()
        assert LmdbEnvironment(killed).failure is None


class TestABranchPageThatSendsAstray:
    def test_is_found_by_the_walk_as_well_as_by_a_look_up(self, killed: Path) -> None:
        """All pages are sound and in order, but a branch page leads look-ups of some records astray."""
        data = killed / DATA_FILE
        (branch,) = kinds(data)["branch"]
        raw = data.read_bytes()[branch * PAGE : (branch + 1) * PAGE]
        at = raw.rindex(TABLE + T + b"00") + len(TABLE + T + b"00") + 1
        change(data, branch * PAGE + at, bytes([raw[at] + 1]))

        environment = LmdbEnvironment(killed)

        assert any("a look-up does not find it" in problem for problem in problems_in(environment))
        environment.close()


class TestDamageThatWasMet:
    @pytest.fixture
    def met(self, closed: Path) -> Path:
        """Return a folder that was closed after a read had found a damaged record."""
        data = closed / DATA_FILE
        change(data, data.read_bytes().rindex(b"secondsecond"), b"S")
        environment = LmdbEnvironment(closed)
        assert problems_in(environment) != []
        environment.close()
        return closed

    def test_leaves_no_mark_of_a_clean_close(self, met: Path) -> None:
        """With several replicas, the next opening then examines this replica and rebuilds it."""
        assert not (met / CLOSED_MARK).exists()

    def test_is_an_error_by_name_at_the_next_opening_too(self, met: Path) -> None:
        environment = LmdbEnvironment(met)

        assert len(problems_in(environment)) == 1
        environment.close()

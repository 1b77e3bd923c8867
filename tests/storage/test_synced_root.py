"""``durability="interval"`` (contracts B3): power may be lost at any time, pages may be lost or torn in any
way, and opening shows exactly what was there at the last sync."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvstore.errors import Corrupt
from kvstore.storage import LmdbEnvironment, data_file, side_file
from kvstore.storage.soundness import CLOSED_MARK, DATA_FILE, FAILED_MARK, SYNCED_ROOT
from tests.support.media import a_file_that_ends_early, copy_folder

T = b"tab"
PAGE = 4096
IMAGES = 12

Rows = dict[bytes, bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "environment"
    made.mkdir()
    return made


def rows_in(environment: LmdbEnvironment) -> Rows:
    view = environment.view()
    try:
        assert list(view.problems()) == []
        return dict(view.table(T).scan(b"", b"\xff", limit=1 << 20))
    finally:
        view.close()


def commit_something(environment: LmdbEnvironment, chance: random.Random) -> None:
    batch = environment.begin()
    table = environment.table(T)
    for _ in range(chance.randint(1, 40)):
        key = b"%04d" % chance.randrange(400)
        if chance.random() < 0.3:
            table.delete(key)
        else:
            table.put(key, chance.randbytes(chance.choice([5, 50, 500, 5000])))
    batch.commit()


def power_loss(synced: bytes, now: bytes, chance: random.Random) -> bytes:
    """Return a file as the disk may have it after a loss of power.

    Each page that changed since the sync is the old page, the new page, half of each, or garbage; the
    length is the old or the new length.
    """
    pages = []
    for at in range(0, len(now), PAGE):
        old, new = synced[at : at + PAGE], now[at : at + PAGE]
        choices = [old or bytes(PAGE), new, new[:512] + (old or bytes(PAGE))[512:], chance.randbytes(PAGE)]
        pages.append(new if old == new else chance.choice(choices))
    image = b"".join(pages)
    return image[: chance.choice([len(synced), len(now), len(now)])]


def opened_after_power_loss(folder: Path, image: bytes) -> LmdbEnvironment:
    (folder / DATA_FILE).write_bytes(image)
    (folder / "lock.mdb").unlink(missing_ok=True)
    return LmdbEnvironment(folder, durability="interval")


@pytest.mark.parametrize("seed", range(6))
def test_power_loss_leaves_exactly_the_last_synced_state(
    seed: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    environment = LmdbEnvironment(folder, durability="interval")
    for _ in range(chance.randint(1, 4)):
        for _ in range(chance.randrange(15)):
            commit_something(environment, chance)
        environment.sync()
        synced_rows, synced = rows_in(environment), (folder / DATA_FILE).read_bytes()
    for _ in range(chance.randrange(25)):
        commit_something(environment, chance)
    copy = copy_folder(folder, tmp_path / "at power loss")
    now = (copy / DATA_FILE).read_bytes()
    environment.close()
    monkeypatch.setattr(data_file, "boot_id", lambda: "another boot")

    for number in range(IMAGES):
        lost = copy_folder(copy, tmp_path / f"image-{number}")
        found = opened_after_power_loss(lost, power_loss(synced, now, chance))

        assert rows_in(found) == synced_rows
        commit_something(found, chance)
        expected = rows_in(found)
        found.close()
        again = LmdbEnvironment(lost, durability="commit")
        assert rows_in(again) == expected
        again.close()


def test_a_second_power_loss_before_the_first_sync_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(0)
    environment = LmdbEnvironment(folder, durability="interval")
    commit_something(environment, chance)
    environment.sync()
    expected = rows_in(environment)
    commit_something(environment, chance)
    copy = copy_folder(folder, tmp_path / "copy")
    environment.close()

    for boot in ("second", "third", "fourth"):
        monkeypatch.setattr(data_file, "boot_id", lambda boot=boot: boot)
        found = LmdbEnvironment(copy, durability="interval")
        assert rows_in(found) == expected
        commit_something(found, chance)
        now = copy_folder(copy, tmp_path / boot)
        found.close()
        copy = now


def test_a_process_that_dies_loses_nothing(folder: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    environment = LmdbEnvironment(folder, durability="interval")
    for _ in range(10):
        commit_something(environment, chance)
    copy = copy_folder(folder, tmp_path / "copy")

    found = LmdbEnvironment(copy, durability="interval")

    assert rows_in(found) == rows_in(environment)
    found.close()
    environment.close()


def test_a_clean_close_needs_no_root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(2)
    environment = LmdbEnvironment(folder, durability="interval")
    commit_something(environment, chance)
    expected = rows_in(environment)
    environment.close()
    assert not (folder / SYNCED_ROOT).exists()

    monkeypatch.setattr(data_file, "boot_id", lambda: "another boot")
    environment = LmdbEnvironment(folder, durability="interval")

    assert environment.suspicion is None
    assert rows_in(environment) == expected
    environment.close()


def test_with_another_durability_an_older_root_does_not_come_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(3)
    environment = LmdbEnvironment(folder, durability="interval")
    commit_something(environment, chance)
    copy = copy_folder(folder, tmp_path / "killed")
    environment.close()

    environment = LmdbEnvironment(copy, durability="commit")
    commit_something(environment, chance)
    expected = rows_in(environment)
    killed = copy_folder(copy, tmp_path / "killed again")
    environment.close()

    monkeypatch.setattr(data_file, "boot_id", lambda: "another boot")
    environment = LmdbEnvironment(killed, durability="commit")
    assert rows_in(environment) == expected
    environment.close()


def test_a_reader_is_told_to_have_it_opened_for_writing_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = LmdbEnvironment(folder, durability="interval")
    commit_something(environment, random.Random(4))
    copy = copy_folder(folder, tmp_path / "copy")
    environment.close()
    before = (copy / DATA_FILE).read_bytes()
    monkeypatch.setattr(data_file, "boot_id", lambda: "another boot")

    with pytest.raises(Corrupt, match="without readonly"):
        LmdbEnvironment(copy, readonly=True)

    assert (copy / DATA_FILE).read_bytes() == before


WALKED = "a restored root stands in both meta pages, and the walk over the file takes that for damage: %s"


def test_a_synced_root_that_counts_pages_never_written_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, left = a_file_that_ends_early(tmp_path, "interval")
    monkeypatch.setattr(data_file, "boot_id", lambda: "another boot")

    found = LmdbEnvironment(copy, durability="interval")

    assert len(rows_in(found)) == left
    found.close()


def test_power_loss_after_a_failed_sync_leaves_the_last_synced_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(5)
    environment = LmdbEnvironment(folder, durability="interval")
    commit_something(environment, chance)
    environment.sync()
    expected = rows_in(environment)
    commit_something(environment, chance)
    environment.fail(OSError(5, "Input/output error"))
    copy = copy_folder(folder, tmp_path / "copy")
    environment.close()
    assert (copy / FAILED_MARK).exists()
    monkeypatch.setattr(data_file, "boot_id", lambda: "another boot")

    found = LmdbEnvironment(copy, durability="interval")

    assert rows_in(found) == expected
    found.close()


@pytest.mark.parametrize("commits_after_the_sync", range(3))
def test_power_loss_in_the_middle_of_a_close_loses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, commits_after_the_sync: int
) -> None:
    chance = random.Random(6)
    environment = LmdbEnvironment(folder, durability="interval")
    commit_something(environment, chance)
    environment.sync()
    for _ in range(commits_after_the_sync):
        commit_something(environment, chance)
    root = side_file.read(folder / SYNCED_ROOT)
    assert root is not None
    expected = rows_in(environment)
    environment.close()
    assert (folder / CLOSED_MARK).exists()
    side_file.write(folder / SYNCED_ROOT, root)  # the content just before its removal
    monkeypatch.setattr(data_file, "boot_id", lambda: "another boot")

    found = LmdbEnvironment(folder, durability="interval")

    assert rows_in(found) == expected
    found.close()


def test_a_damaged_synced_root_is_damage(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = LmdbEnvironment(folder, durability="interval")
    commit_something(environment, random.Random(7))
    copy = copy_folder(folder, tmp_path / "copy")
    environment.close()
    text = (copy / SYNCED_ROOT).read_text()
    (copy / SYNCED_ROOT).write_text(text.replace('"boot"', '"bout"'))
    monkeypatch.setattr(data_file, "boot_id", lambda: "another boot")

    with pytest.raises(Corrupt):
        LmdbEnvironment(copy, durability="interval")

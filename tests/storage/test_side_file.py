"""Side files: a reader gets the old or the new content, and never damaged content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvstore.storage import side_file

CONTENT = {"boot": "a-b-c", "meta": "00ff", "n": 7}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "side"
    side_file.write(written, CONTENT)
    return written


def test_what_was_written_is_read(path: Path) -> None:
    assert side_file.read(path) == CONTENT


def test_writing_again_replaces_all_of_it(path: Path) -> None:
    side_file.write(path, {"other": []})

    assert side_file.read(path) == {"other": []}
    assert [file.name for file in path.parent.iterdir()] == ["side"]


def test_a_missing_file_has_no_content(tmp_path: Path) -> None:
    assert side_file.read(tmp_path / "missing") is None
    assert side_file.read_unchecked(tmp_path / "missing") == {}


def test_removing_is_done_once_and_a_second_time_is_fine(path: Path) -> None:
    side_file.remove(path)
    side_file.remove(path)

    assert side_file.read(path) is None


def test_a_torn_file_has_no_content(path: Path) -> None:
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        # Only the last line feed may be missing.
        assert side_file.read(path) in ([CONTENT] if length == len(whole) - 1 else [None])


def test_a_flipped_bit_never_changes_the_content(path: Path) -> None:
    whole = path.read_bytes()

    lost = 0
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = side_file.read(path)
        assert found in (None, CONTENT)
        lost += found is None
    assert lost > 8 * len(whole) * 0.8, "only white space may change unnoticed"


@pytest.mark.parametrize(
    "garbage", [b"", b"null", b"[1]", b'"crc"', b"\xff\xfe", b"{", b"{}", b'{"crc": null}']
)
def test_other_bytes_are_no_content(path: Path, garbage: bytes) -> None:
    path.write_bytes(garbage)

    assert side_file.read(path) is None


def test_a_write_that_was_cut_off_leaves_the_old_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_loss(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", power_loss)

    with pytest.raises(KeyboardInterrupt):
        side_file.write(path, {"new": True})

    assert side_file.read(path) == CONTENT
    monkeypatch.undo()
    side_file.write(path, {"new": True})
    assert side_file.read(path) == {"new": True}


def test_a_write_syncs_the_file_before_it_takes_the_name_and_the_folder_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        happened.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        happened.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)

    side_file.write(path, {"new": True})

    assert happened == ["file", "rename", "folder"]

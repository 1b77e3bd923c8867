"""One process writes; an error tells a second process the pid of the first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.errors import Locked
from kvstore.storage.writer_lock import LOCK_FILE, WriterLock

HOLDER = """
import sys
from pathlib import Path
from kvstore.storage.writer_lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def another_process(folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_process_is_refused_by_path_and_pid(tmp_path: Path) -> None:
    with another_process(tmp_path) as holder:
        with pytest.raises(Locked) as caught:
            WriterLock(tmp_path)

        assert caught.value.pid == holder.pid
        assert caught.value.path == str(tmp_path)
        assert str(holder.pid) in str(caught.value)
        holder.communicate("")

    WriterLock(tmp_path).release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with another_process(tmp_path) as holder:
        holder.kill()
        holder.wait()

    assert (tmp_path / LOCK_FILE).read_text().strip() == str(holder.pid)
    WriterLock(tmp_path).release()


def test_a_second_lock_in_one_process_is_refused_too(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)

    with pytest.raises(Locked):
        WriterLock(tmp_path)

    lock.release()
    WriterLock(tmp_path).release()


@pytest.mark.parametrize("left", [b"", b"1\n", b"99999999999999999999\n", b"not a pid", b"\xff" * 100])
def test_a_file_that_nobody_holds_is_only_a_file(tmp_path: Path, left: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(left)

    lock = WriterLock(tmp_path)

    assert int((tmp_path / LOCK_FILE).read_text()) > 0
    lock.release()


def test_an_unreadable_pid_is_said_to_be_unknown(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    (tmp_path / LOCK_FILE).write_bytes(b"?")

    with pytest.raises(Locked, match="unknown"):
        WriterLock(tmp_path)

    lock.release()


def test_a_release_leaves_no_pid_behind(tmp_path: Path) -> None:
    WriterLock(tmp_path).release()

    assert (tmp_path / LOCK_FILE).read_bytes() == b""


def test_a_disk_that_fails_does_not_keep_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = WriterLock(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        lock.release()

    WriterLock(tmp_path).release()

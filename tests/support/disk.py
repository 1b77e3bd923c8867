"""Stands between a process and its disk, where there is a C compiler: see ``disk_shim.c``.

A test compiles the shim and starts a program with it; the program steers it, with ``arm`` and ``trace``.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from enum import IntEnum
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("disk_shim.c")


class Fault(IntEnum):
    """What becomes of the n-th call. The numbers are those of ``disk_shim.c``."""

    NONE = 1
    """Nothing; calls are counted."""
    KILL = 2
    """The process is killed before it."""
    TEAR = 3
    """The process is killed in the middle of it: half of a write is done."""
    FAIL_ONCE = 4
    """It fails, and later ones succeed."""
    FAIL_FROM = 5
    """It fails, and so do all that follow."""


@functools.cache
def compiled() -> Path:
    """The shim as a library to preload. Skips the test where it cannot be made."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler, so nothing can stand between a process and its disk")
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    library = Path(folder) / "disk_shim.so"
    command: list[str | Path] = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-o",
        library,
        SOURCE,
        "-ldl",
        "-lpthread",
    ]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"the compiler cannot make the shim here: {made.stderr[:200]}")
    return library


def _shim() -> ctypes.CDLL:
    """What was preloaded into this process."""
    return ctypes.CDLL(None)


def stands_between() -> bool:
    """Whether this process was started with the shim."""
    return hasattr(_shim(), "disk_arm")


def arm(folder: Path, fault: Fault, number: int = 0, error: int = 0) -> None:
    """From now on count the calls that change something below ``folder``; one of them meets the fault."""
    _shim().disk_arm(bytes(folder), int(fault), ctypes.c_long(number), error)


def disarm() -> None:
    _shim().disk_disarm()


def calls() -> int:
    """How many calls were counted since ``arm``."""
    count: int = _shim().disk_calls()
    return count


def trace(folder: Path, into: Path) -> None:
    """From now on write down what is done below ``folder``, at the end of the file ``into``."""
    _shim().disk_trace(bytes(folder), bytes(into))


def note(text: str) -> None:
    """Write a remark into the trace, between what was done before and what is done after."""
    _shim().disk_note(text.encode())

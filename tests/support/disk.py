"""Intercepts a process's calls to its disk, if there is a C compiler: see ``disk_shim.c``.

A test compiles the shim and starts a program with it; the program controls it by ``arm`` and ``trace``.
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
    """The fault of the n-th call. The numbers are those of ``disk_shim.c``."""

    NONE = 1
    """No fault; calls are counted."""
    KILL = 2
    """Kill before the call."""
    TEAR = 3
    """Kill in the middle of the call: half of a write is done."""
    FAIL_ONCE = 4
    """Failure of this call only; later calls succeed."""
    FAIL_FROM = 5
    """Failure of this call and of all later calls."""


@functools.cache
def compiled() -> Path:
    """Return the path of the compiled shim, a library to preload. Skips the test if it cannot be compiled."""
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
    """Return the shim that was preloaded into this process."""
    return ctypes.CDLL(None)


def stands_between() -> bool:
    """Return whether this process was started with the shim."""
    return hasattr(_shim(), "disk_arm")


def arm(folder: Path, fault: Fault, number: int = 0, error: int = 0) -> None:
    """Count the calls that change something below ``folder`` from now on; call ``number`` has the fault."""
    _shim().disk_arm(bytes(folder), int(fault), ctypes.c_long(number), error)


def disarm() -> None:
    _shim().disk_disarm()


def calls() -> int:
    """Return the number of calls since ``arm``."""
    count: int = _shim().disk_calls()
    return count


def trace(folder: Path, into: Path) -> None:
    """Append all changes below ``folder`` from now on to the file ``into``."""
    _shim().disk_trace(bytes(folder), bytes(into))


def note(text: str) -> None:
    """Write a note into the trace, between the changes before and after it."""
    _shim().disk_note(text.encode())

"""Starting the programs of this folder as child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PYTHON = [sys.executable, "-W", "error"]
"""Command of the interpreter, with warnings as errors, as pytest makes them."""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start ``tests/support/programs/<program>.py``; its input, output and errors are pipes of text."""
    return subprocess.Popen(
        _command(program, arguments),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program: str, *arguments: object, timeout: float = 60, preload: Path | None = None) -> str:
    """Run a program to its end and return what it printed; it must succeed within ``timeout`` seconds.

    ``preload`` is a library that is loaded before the system's libraries.
    """
    environment = {**os.environ, "LD_PRELOAD": str(preload)} if preload else None
    done = subprocess.run(
        _command(program, arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
    )
    assert done.returncode == 0, f"{program} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def first_line(child: subprocess.Popen[str]) -> str:
    """Read exactly one line: ``communicate`` would miss what the stream reads ahead."""
    assert child.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(child.stdout.fileno(), 1)
        assert byte, f"it ended after {line!r}: {child.stderr and child.stderr.read()}"
        line += byte
    return line.decode().rstrip()


def stop(child: subprocess.Popen[str]) -> None:
    """End a child that may still be running, and close its pipes."""
    child.kill()
    child.communicate()


def _command(program: str, arguments: tuple[object, ...]) -> list[str]:
    return [*PYTHON, "-m", f"tests.support.programs.{program}", *map(str, arguments)]

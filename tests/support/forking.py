"""Running functions in a forked process, so that a kill or a crash ends the fork only."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

from kvstore.errors import Corrupt
from kvstore.storage.examine import examine
from tests.support import disk

Say = Callable[[str], None]


def forked(act: Callable[[Say], None]) -> tuple[int, list[str]]:
    """Run ``act`` in a forked process; return its exit code and the lines that it said, each sent at once."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            act(lambda line: _tell(writing, line))
        except BaseException:
            _tell(writing, traceback.format_exc())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read().splitlines()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said


def _tell(pipe: int, line: str) -> None:
    os.write(pipe, line.encode() + b"\n")


def examine_in_fork(folder: Path) -> None:
    """Do the examination of an opening in a fork, without the start-up time of a new program."""

    def act(say: Say) -> None:
        if disk.stands_between():
            disk.disarm()
        for problem in examine(folder):
            say(problem)

    code, problems = forked(act)
    if code != 0 or problems:
        raise Corrupt(f"{folder} is damaged: {problems or code}", record=str(folder))

"""The path of a put and of a get through the package: the number of calls, and of returns to a file.

A return is a call into a file that an earlier call had left: a reader of the code has to go back there.
The bounds are the present numbers; a change that raises a bound states the reason beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import kvstore

PACKAGE = str(Path(kvstore.__file__).parent)
COMPREHENSIONS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}
PUT_CALLS_MAX, PUT_RETURNS_MAX = 65, 20
GET_CALLS_MAX = 9


def files_called(work: Callable[[], object]) -> list[str]:
    """Return the file of each call within the package, in order."""
    files: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name not in COMPREHENSIONS:
            files.append(code.co_filename)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return files


def returns(files: list[str]) -> int:
    """Return how often a call leads back into a file that an earlier call had left."""
    stays = [file for file, _ in groupby(files)]
    return len(stays) - len(set(stays))


def test_a_put_takes_few_calls_and_seldom_goes_back(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "store") as db:
        for number in range(3):
            db.put("k", number)

        files = files_called(lambda: db.put("k", 9))

    assert 40 < len(files) <= PUT_CALLS_MAX
    assert returns(files) <= PUT_RETURNS_MAX


def test_a_get_is_a_straight_staircase(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "store") as db:
        db.put("k", 1)
        db.get("k")

        files = files_called(lambda: db.get("k"))

    assert 5 < len(files) <= GET_CALLS_MAX
    assert returns(files) == 0

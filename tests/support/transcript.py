"""Protocol runs as text: commands above ``---``, and below it what they did. The diff is the review.

A transcript is a text file of blocks with an empty line between them. A block that has a line ``---``
is played: each line above it is a command, ``verb argument...``, and everything below it must be what
the commands printed. Any other block is prose. ``UPDATE=1`` writes what was printed into the file.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

RULE = "---"
NOTHING = "(nothing)"
"""Stands below the rule when the commands printed no line."""

Play = Callable[[str, list[str]], list[str]]
"""Carries out one command, given its verb and arguments, and returns the lines it prints."""


def check_transcript(path: Path, play: Play) -> None:
    """Play the file and compare; with ``UPDATE`` set, write it first."""
    recorded = path.read_text(encoding="utf-8")
    played = "\n\n".join(_played(block, play) for block in recorded.strip().split("\n\n")) + "\n"
    if os.environ.get("UPDATE"):
        path.write_text(played, encoding="utf-8")
        recorded = played
    assert played == recorded, f"{path.name} is played differently; UPDATE=1 writes it anew"


def _played(block: str, play: Play) -> str:
    lines = block.strip("\n").splitlines()
    if RULE not in lines:
        return "\n".join(lines)
    commands = lines[: lines.index(RULE)]
    printed = [line for command in commands for line in _carried_out(command, play)]
    return "\n".join([*commands, RULE, *(printed or [NOTHING])])


def _carried_out(command: str, play: Play) -> list[str]:
    if command.startswith("#"):
        return []
    verb, *arguments = shlex.split(command)
    return play(verb, arguments)

"""Protocol runs as text: commands above ``---``, and their output below. A change of behaviour is a diff.

A transcript is a text file of blocks with an empty line between them. A block that has a line ``---``
is played: each line above it is a command, ``verb argument...``, and everything below it must be what
the commands printed. A line may hold several commands, divided by ``;``: what the last of them printed is
shown. Any other block is prose. ``UPDATE=1`` writes what was printed into the file.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

RULE = "---"
NOTHING = "(nothing)"
"""What a block prints whose commands have no output."""

Play = Callable[[str, list[str]], list[str]]
"""Function that runs one command, given its verb and arguments, and returns its lines of output."""


def check_transcript(path: Path, play: Play) -> None:
    """Play the file and compare the output; with ``UPDATE`` set, write the file first."""
    recorded = path.read_text(encoding="utf-8")
    now = played(recorded, play)
    if os.environ.get("UPDATE"):
        path.write_text(now, encoding="utf-8")
        recorded = now
    assert now == recorded, f"{path.name} is played differently; UPDATE=1 writes it anew"


def played(text: str, play: Play) -> str:
    """Return a transcript with what its commands print now."""
    return "\n\n".join(_played(block, play) for block in text.strip().split("\n\n")) + "\n"


def _played(block: str, play: Play) -> str:
    lines = block.strip("\n").splitlines()
    if RULE not in lines:
        return "\n".join(lines)
    commands = lines[: lines.index(RULE)]
    carried_out = [command for command in commands if not command.startswith("#")]
    printed: list[str] = []
    for command in carried_out:
        result = _carry_out(command, play)
        # With several commands in a block, each that printed something is repeated above it.
        if result:
            printed += result if len(carried_out) == 1 else [command, *(f"  {line}" for line in result)]
    return "\n".join([*commands, RULE, *(printed or [NOTHING])])


def _carry_out(line: str, play: Play) -> list[str]:
    result: list[str] = []
    for command in line.split(";"):
        verb, *arguments = shlex.split(command)
        result = play(verb, arguments)
    return result

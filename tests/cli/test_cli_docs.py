"""docs/cli.md is correct: its examples run, and it names every command, option and exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.cli import failures
from kvstore.cli.app import program
from kvstore.cli.commands.store_commands import COMMANDS
from tests.cli.conftest import ENVIRONMENT, ROOT, Kv

PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which ``kvstore`` is the program under test."""
    program = tmp_path / "bin" / "kvstore"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kvstore "$@"\n')
    program.chmod(0o755)
    return ENVIRONMENT | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "LC_ALL": "C"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_examples_answer_what_the_page_says(block: str, shell: dict[str, str], tmp_path: Path) -> None:
    for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, answer = example.partition("\n")
        if command.startswith("cat "):  # the page shows a file: create it
            (tmp_path / command.removeprefix("cat ")).write_text(answer)
            continue
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=shell,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        assert done.stdout.decode() == answer, command


def test_it_names_every_command_and_option() -> None:
    for name, command in program.commands.items():
        assert f"`{name} {command.params[0].metavar}" in PAGE
        for parameter in command.params:
            missing = [option for option in parameter.opts if option.startswith("-") and option not in PAGE]
            assert missing == [], name


def test_it_shows_the_usage_of_every_verb() -> None:
    for verb in COMMANDS:
        name, _, rest = verb.usage.partition(" ")
        shown = f"`{name} {rest}" if verb.shell_only else f"`{name} PATH {rest}"
        if not any(term.choices for term in verb.terms) and name != "help":  # rows with choices name them
            assert shown.rstrip() + "`" in PAGE


def test_it_names_every_exit_code() -> None:
    codes = {code for name, code in vars(failures).items() if name.isupper() and isinstance(code, int)}

    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == codes | {0}


def test_its_answers_to_mistakes_are_real(kv: Kv) -> None:
    answers = re.findall(r"^\| `(.+?)`[^|]*\| `(.+?)` \|$", PAGE.split("| typed | answer |")[1], re.MULTILINE)

    assert len(answers) == 5
    for typed, answer in answers:
        assert kv("shell", "s", "-c", typed).err.removeprefix("error: -c:1: ") == answer + "\n"

"""Fixtures of the command line tests: the program, run in this process or as a separate process."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

import kvstore
from kvstore.cli.app import main
from kvstore.cli.commands.session import Session
from kvstore.cli.formats.tables import Settings
from kvstore.cli.language.json_notation import from_json, to_json
from kvstore.cli.language.printing import show
from kvstore.cli.prompt import prompt_text, run_text
from kvstore.cli.shell import Script

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
}
ENVIRONMENT.pop("PYTHONUNBUFFERED", None)  # most users do not set it: output is buffered until it is flushed

EVERYTHING: list[tuple[Any, Any]] = [
    ("text é\n\u2028", {"a": [1, 2.5, None, True], "": {}}),
    (b"\x00\xff", b"\x00bytes"),
    (("a", 1, -1.5, None, True, UUID(int=7), b"b", ("nested", ())), [math.inf, -math.inf, -0.0, math.nan]),
    ((1,), {1: "a", 2.5: b"b", None: [], "$bytes": "text", b"k": False}),
    ((1.0,), {"$tuple": 5}),
    ((True,), [10**400, -(1 << 500_000)]),
    (("empty",), [[], {}, "", b""]),
]
"""Records of every type, and records that a notation could confuse."""

BANK = """
import kvstore

@kvstore.procedure("bank.settle", keys=lambda args: [("acct",)])
def settle(part, args):
    settled = 0
    for key, balance in part.scan(prefix=("acct",)):
        part[key] = balance + args["day"]
        settled += part[key]
    return settled
"""
"""A module for ``--load``."""

ROUTE = re.compile(r"[a-z-]+(, \d+ shards?)?, \d rounds?, \d+\.\d ms")
"""The route that a commit prints."""


class Done(NamedTuple):
    """The exit code and output of a run of the program."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> str:
        """The records of a scan, one per line, as a user would type them."""
        read = [from_json(line) for line in self.out.splitlines()]
        return "".join(f"{show(record['key'])} = {show(record['value'])}\n" for record in read)


class Stdin(io.TextIOWrapper):
    """Standard input with content, or a terminal without input."""

    def __init__(self, content: bytes | None) -> None:
        super().__init__(io.BytesIO(content or b""), encoding="utf-8")
        self._terminal = content is None

    def isatty(self) -> bool:
        return self._terminal


Kv = Callable[..., Done]


@pytest.fixture
def kv(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kv:
    """Run the program in this process, in a folder of its own: quick, and with the same exit codes."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: bytes | None = None) -> Done:
        monkeypatch.setattr(sys, "stdin", Stdin(stdin))
        code = main(arguments)
        return Done(code, *capsys.readouterr())

    return run


def start(*arguments: str, cwd: Path, **options: object) -> subprocess.Popen[bytes]:
    """Start the program as a separate process."""
    command = [sys.executable, "-m", "kvstore", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, **options)  # type: ignore[call-overload,no-any-return]


def filled(path: Path) -> None:
    """Create a store with EVERYTHING in it."""
    with kvstore.open(path) as db:
        for key, value in EVERYTHING:
            db.put(key, value)


def content(path: Path) -> str:
    """Return the content of a store as text, in which 1, 1.0 and true differ, and nan equals nan."""
    with kvstore.open(path, readonly=True) as db:
        return "\n".join(to_json([key, value]) for key, value in db.scan())


class Shell:
    """A prompt in this process, which runs text and returns its output."""

    def __init__(self, db: kvstore.Database, capsys: pytest.CaptureFixture[str]) -> None:
        self.session = Session(db, Settings(format="jsonl"))
        self._capsys = capsys

    def __call__(self, text: str) -> tuple[str, str]:
        """Run the text; return its standard output and standard error."""
        run_text(self.session, text)
        out, err = self._capsys.readouterr()
        return out, ROUTE.sub("(route)", err)

    @property
    def prompt(self) -> str:
        return prompt_text(self.session)


@pytest.fixture
def db() -> Iterator[kvstore.Database]:
    with kvstore.open(":memory:") as db:
        yield db


@pytest.fixture
def shell(db: kvstore.Database, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(db, capsys)


class Lines(io.BytesIO):
    """A script whose reading calls functions between its lines."""

    def __init__(self, *steps: str | Callable[[], Any]) -> None:
        super().__init__()
        self._steps = iter(steps)

    def readline(self, size: int | None = -1, /) -> bytes:
        for step in self._steps:
            if isinstance(step, str):
                return f"{step}\n".encode()
            step()
        return b""


def lines(*steps: str | Callable[[], Any]) -> Script:
    return Script("script", Lines(*steps))

"""A store in a child process, controlled through pipes: one JSON list in, one JSON value out.

``python -m tests.support.programs.remote PATH '{"readonly": true}'`` prints ``"open"`` or the name of the
error, then answers commands such as ``["put", KEY, VALUE]`` until its input ends; a list as key is a tuple.
``["exit"]`` ends the process by sys.exit and ``["die"]`` by os._exit, without closing the store.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kvstore
from tests.support.programs import running

HELD: list[kvstore.Snapshot] = []
"""Snapshots that ``["hold", COUNT]`` took."""


class Remote:
    """The parent's end: ``Remote(path, shards=1).call("put", "k", 1)``."""

    def __init__(self, path: Path | str, **options: object) -> None:
        self.process: subprocess.Popen[str] = running.start("remote", path, json.dumps(options))
        self.opened = self._answer()

    def call(self, *command: object) -> Any:
        """Send one command and return its result, or the name of the error that it raised."""
        self.send(*command)
        return self._answer()

    def send(self, *command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the other process ended: {self.process.stderr and self.process.stderr.read()}"
        return json.loads(line)

    def kill(self) -> None:
        running.stop(self.process)

    def end(self) -> int:
        """Have the process close the store and end; return its exit code."""
        _, errors = self.process.communicate(timeout=30)
        assert errors == "", errors
        return self.process.returncode

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def key_of(written: Any) -> Any:
    return tuple(map(key_of, written)) if isinstance(written, list) else written


def serve(db: kvstore.Database) -> None:
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        if name == "exit":
            sys.exit(0)
        if name == "die":
            os._exit(0)
        try:
            found = answer(db, name, arguments)
        except kvstore.Error as error:
            found = type(error).__name__
        print(json.dumps(found), flush=True)


def answer(db: kvstore.Database, name: str, arguments: list[Any]) -> Any:
    if name == "scan":
        return list(db.scan(**arguments[0]))
    if name == "hold":
        HELD.extend(db.snapshot() for _ in range(arguments[0]))
        return len(HELD)
    if name == "add once":
        key, amount, token = arguments
        return db.add(key_of(key), amount, idempotency_key=key_of(token))
    if name in {"count", "status", "verify"}:
        return getattr(db, name)()
    return getattr(db, name)(key_of(arguments[0]), *arguments[1:])


def main() -> None:
    path, options = sys.argv[1:]
    try:
        db = kvstore.open(path, **json.loads(options))
    except kvstore.Error as error:
        print(json.dumps([type(error).__name__, getattr(error, "pid", None)]), flush=True)
        return
    print(json.dumps("open"), flush=True)
    serve(db)
    db.close()


if __name__ == "__main__":
    main()

"""Moving many rows takes no more memory than moving few.

Memory is the memory that a process allocates. Mapped pages of the store's file are not counted: they are the
system's cache, grow while memory is free, and are reclaimed when it is needed.

``KVSTORE_ROWS`` is the number of rows, 20,000 by default.
"""

from __future__ import annotations

import filecmp
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.programs import running

ROWS = int(os.environ.get("KVSTORE_ROWS", "20000"))
BYTES_MAX = {"reading": 16 << 20, "writing": 40 << 20}
"""The limit beside the interpreter's memory, stacks of threads included. The promise is 200 MB; a lower limit
lets few rows show the needs of many."""
PATIENCE = 60 + ROWS // 1000


def run(*arguments: str, limit: int) -> subprocess.CompletedProcess[bytes]:
    """Run a command within the limit, and discard its standard output."""
    program = [*running.PYTHON, "-m", "tests.support.programs.within_memory"]
    return subprocess.run(
        [*program, str(limit), *arguments],
        cwd=running.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.timeout(9 * PATIENCE)
def test_every_way_in_and_out_takes_little(tmp_path: Path) -> None:
    with (tmp_path / "f.csv").open("w") as file:
        file.write("id,name,amount,note\n")
        file.writelines(f"{n},name {n % 1000},{n * 7 % 100_003},the note of row {n}\n" for n in range(ROWS))
    names = ("s", "t", "u", "f.csv", "again.csv", "f.jsonl", "dump", "dump-t", "dump-u")
    s, t, u, csv, csv_again, jsonl, dump, dump_t, dump_u = (str(tmp_path / name) for name in names)

    for arguments in (
        ["import", s, csv, "--key", "id", "--types"],
        ["scan", s],
        ["watch", s, "--since", "0", "--timeout", "0"],
        ["export", s, csv_again, "--prefix", "f"],
        ["dump", s, dump],
        ["load", t, dump],
        ["dump", t, dump_t],
        ["export", s, jsonl],
        ["import", u, jsonl],
        ["dump", u, dump_u],
    ):
        kind = "writing" if arguments[0] in ("import", "load") else "reading"
        done = run(*arguments, limit=BYTES_MAX[kind])
        assert (done.returncode, done.stderr) == (0, b""), arguments

    assert filecmp.cmp(dump, dump_t, shallow=False)
    assert filecmp.cmp(dump, dump_u, shallow=False)
    assert filecmp.cmp(csv, csv_again, shallow=False)


def test_the_limit_is_one(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("id\n1\n")

    assert run("import", str(tmp_path / "s"), str(tmp_path / "f.csv"), limit=100_000).returncode != 0

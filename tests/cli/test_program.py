"""The program as a separate process: pipes, signals, terminals, and a store in use."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kvstore
from tests.cli.conftest import ENVIRONMENT, start


def run(*arguments: str, cwd: Path, stdin: bytes | None = b"") -> tuple[int, str, str]:
    done = start(*arguments, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = done.communicate(stdin, timeout=60)
    return done.returncode, out.decode(), err.decode()


def test_exit_codes_are_real(tmp_path: Path) -> None:
    assert run("shell", "s", cwd=tmp_path, stdin=b"put a 1\nadd a -2\n") == (
        0, '"a" = 1  int\n"a" = -1  int\n', "",
    )  # fmt: skip
    assert run("shell", "s", cwd=tmp_path, stdin=b"get b\nput c 1") == (
        1,
        "",
        'error: <stdin>:1: no value at "b"\n',
    )
    assert run("shell", "s", cwd=tmp_path, stdin=b"put (acct) 1")[0] == 2
    assert run("get", "nothing", "k", cwd=tmp_path)[0] == 4


def test_version_says_what_is_installed(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path) == (0, f"kvstore {kvstore.__version__}\n", "")


def test_reading_works_beside_a_writer_and_writing_does_not(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "s") as db:
        db.put("k", 1)

        assert run("get", "s", "k", cwd=tmp_path) == (0, "1\n", "")
        assert run("shell", "s", "--read-only", cwd=tmp_path, stdin=b"scan") == (
            0,
            '{"key": "k", "value": 1}\n',
            "",
        )
        assert run("status", "s", cwd=tmp_path)[0] == 0
        assert run("verify", "s", cwd=tmp_path)[0] == 0
        assert run("backup", "s", "copy", cwd=tmp_path)[0] == 0
        code, _, err = run("put", "s", "k", "2", cwd=tmp_path)
        assert code == 4
        assert str(os.getpid()) in err
        db.put("k", 3)

    assert run("get", "copy", "k", cwd=tmp_path) == (0, "1\n", "")
    assert run("get", "s", "k", cwd=tmp_path) == (0, "3\n", "")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Create a store whose scan does not fit into a pipe."""
    with kvstore.open(tmp_path / "s", durability="none") as db:
        for chunk in range(20):
            with db.batch() as batch:
                for number in range(100):
                    batch.put(("many", chunk, number), "x" * 100)
    return tmp_path


@pytest.mark.parametrize("arguments", [["scan", "s"], ["shell", "s", "-c", "scan; put never 1"]])
def test_a_reader_that_goes_away_ends_it_quietly(many: Path, arguments: list[str]) -> None:
    process = start(*arguments, cwd=many, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()

    _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (141, b"")
    assert run("get", "s", "never", cwd=many)[0] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    "arguments", [["scan", "s"], ["get", "s", '("many", 0, 0)'], ["export", "s", "/dev/full"]]
)
def test_output_that_cannot_be_written_is_told(many: Path, arguments: list[str]) -> None:
    (many / "f.csv").write_bytes(b"a\n" + b"x\n" * 5000)
    run("import", "s", "f.csv", "--prefix", "full", cwd=many)
    with open("/dev/full", "wb") as full:
        process = start(*arguments, cwd=many, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert err.startswith(b"error: ")
    assert err.count(b"\n") == 1


def test_an_interrupt_ends_it_quietly_and_harms_nothing(tmp_path: Path) -> None:
    process = start(
        "shell", "s", cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(
        b"put a 1\nstatus\n" + b"get a\n" * 5000
    )  # fills the output buffer, so that output arrives
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)

    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert b"Traceback" not in err
    assert run("get", "s", "a", cwd=tmp_path) == (0, "1\n", "")
    assert run("verify", "s", cwd=tmp_path)[0] == 0


def test_an_interrupted_import_leaves_whole_chunks(tmp_path: Path) -> None:
    command = ["import", "s", "-", "--prefix", "f"]
    process = start(*command, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"a\n" + b"x\n" * (1 << 17))  # more than a pipe holds, so part of it has been read
    process.stdin.flush()
    process.send_signal(signal.SIGINT)

    _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (130, b"")
    code, out, _ = run("count", "s", '("f",)', cwd=tmp_path)
    assert code == 0
    assert int(out) % 1000 == 0
    assert int(out) > 0


def test_a_progress_bar_is_drawn_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(b"a\n" + b"x\n" * 5000)
    terminal, end = pty.openpty()
    try:
        process = start("import", "s", "f.csv", cwd=tmp_path, stdout=subprocess.PIPE, stderr=end)
        out, _ = process.communicate(timeout=60)
        drawn = os.read(terminal, 100_000).decode()
    finally:
        os.close(end)
        os.close(terminal)

    assert (process.returncode, out) == (0, b"5000 rows imported as f\n")
    assert "importing f" in drawn
    assert "100%" in drawn


def test_a_script_waits_for_no_prompt_and_no_table(tmp_path: Path) -> None:
    child = (
        "import sys; from kvstore.cli.app import main; main(['shell', 's', '-c', 'put a 1; scan']);"
        "print(sorted({'asyncio', 'prompt_toolkit', 'tabulate', 'wcwidth'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", child], cwd=tmp_path, capture_output=True, env=ENVIRONMENT, check=True
    )

    assert done.stdout.endswith(b'"value": 1}\n[]\n')


def test_importing_the_store_does_not_import_the_command_line() -> None:
    child = "import sys, kvstore; print(sorted({'click', 'kvstore.cli'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", child], capture_output=True, env=ENVIRONMENT, check=True)

    assert done.stdout == b"[]\n"

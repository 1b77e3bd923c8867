"""``watch``, ``call`` and ``compact`` as a user types them, and ``--load``."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

import kvstore
from tests.cli.conftest import BANK, Kv, start


@pytest.fixture
def written(kv: Kv) -> None:
    kv("shell", "s", "-c", 'put lamp on; put ("acct", 1) 5; delete lamp; add ("acct", 1) 2')


class TestWatch:
    @pytest.mark.usefixtures("written")
    def test_shows_changes_in_the_notation_of_the_shell_or_as_rows(self, kv: Kv) -> None:
        options = ["--since", "0", "--timeout", "0", "--format"]

        assert kv("watch", "s", *options, "table").out == (
            '"lamp" = "on"\n("acct", 1) = 5\n"lamp" deleted\n("acct", 1) = 7\n'
        )
        assert kv("watch", "s", '("acct",)', *options, "table").out == '("acct", 1) = 5\n("acct", 1) = 7\n'
        rows = [json.loads(line) for line in kv("watch", "s", *options, "jsonl").out.splitlines()]
        assert [(row["value"], row["deleted"], row["version"]) for row in rows] == [
            ("on", False, 1), (5, False, 1), (None, True, 2), (7, False, 2)
        ]  # fmt: skip
        assert kv("watch", "s", *options, "csv").out.startswith("key,value,deleted,version,time,cursor\n")

    @pytest.mark.usefixtures("written")
    def test_goes_on_behind_the_cursor_of_a_line(self, kv: Kv) -> None:
        lines = kv("watch", "s", "--since", "0", "--timeout", "0").out.splitlines()

        for place, line in enumerate(lines):
            cursor = json.dumps(json.loads(line)["cursor"])
            assert (
                kv("watch", "s", "--since", cursor, "--timeout", "0").out.splitlines() == lines[place + 1 :]
            )

    @pytest.mark.usefixtures("written")
    @pytest.mark.parametrize(
        ("options", "code"),
        [(["--since", "{0: 1}"], 1), (["--since", "yesterday"], 1), (["--timeout", "-1"], 2), (["5"], 2)],
    )
    def test_refuses_what_is_no_cursor(self, kv: Kv, options: list[str], code: int) -> None:
        done = kv("watch", "s", *options)
        assert done.code == code
        assert done.err.startswith("error: ")

    def test_prints_each_change_when_it_comes_until_it_is_interrupted(self, kv: Kv, tmp_path: Path) -> None:
        with kvstore.open("s") as db:
            process = start(
                "watch", "s", cwd=tmp_path, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stderr.readline() == b"watching; Ctrl-C ends it\n"
            for number in range(3):
                db.put("k", number)
                assert json.loads(process.stdout.readline())["value"] == number
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)

        assert (process.returncode, err) == (130, b"")

    def test_creates_nothing(self, kv: Kv, tmp_path: Path) -> None:
        assert kv("watch", "s", "--timeout", "0").code == 4
        assert list(tmp_path.iterdir()) == []


class TestCall:
    def test_prints_what_each_shard_returned(self, kv: Kv, tmp_path: Path) -> None:
        (tmp_path / "bank.py").write_text(BANK)
        kv("put", "s", '("acct", 1)', "5")

        done = kv("--load", "bank", "call", "s", "bank.settle", "{day: 7}")

        assert [json.loads(line) for line in done.out.splitlines()] == [
            {"shard": shard, "result": 12 if shard == 1 else 0} for shard in range(4)
        ]
        assert kv("get", "s", '("acct", 1)').out == "12\n"

    def test_tells_what_went_wrong(self, kv: Kv, tmp_path: Path) -> None:
        (tmp_path / "bank.py").write_text(BANK)
        kv("put", "s", '("acct", 1)', "text")

        assert kv("call", "s", "nobody").err.startswith("error: no procedure is registered as 'nobody'")
        done = kv("--load", "bank", "call", "s", "bank.settle", "{day: 7}")
        assert done.code == 1
        assert done.err.startswith("error: 'bank.settle' failed on shard 1: TypeError")

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (None, "ModuleNotFoundError: No module named 'wanting'"),
            ("1 / 0", "ZeroDivisionError: division by zero"),
        ],
    )
    def test_a_module_that_cannot_be_loaded_is_the_users_mistake(
        self, kv: Kv, tmp_path: Path, source: str | None, message: str
    ) -> None:
        if source is not None:
            (tmp_path / "wanting.py").write_text(source)
        done = kv("--load", "wanting", "count", "s")
        assert (done.code, done.err) == (2, f"error: --load wanting: {message}\n")


def test_compact_says_what_it_gained(kv: Kv) -> None:
    kv("put", "s", "k", "1")
    done = kv("compact", "s", "--format", "json")
    report = json.loads(done.out)
    assert kv("compact", "missing").code == 4
    assert 0 < report["after"] <= report["before"]
    assert kv("get", "s", "k").out == "1\n"

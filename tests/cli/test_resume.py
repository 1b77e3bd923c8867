"""An import continues where it was killed, interrupted, or stopped at a line that was corrected.

``KVSTORE_IMPORT_KILLS`` is the number of kills for each format, 4 by default.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

import kvstore
from kvstore.cli.formats.chunks import CHUNK_ROWS
from kvstore.cli.formats.importing import PROGRESS
from tests.cli.conftest import Kv, start

KILLS = int(os.environ.get("KVSTORE_IMPORT_KILLS", "4"))
ROWS = 12_000


def csv(rows: int) -> bytes:
    return b"id,text\n" + b"".join(b'%d,"text, %d"\n' % (number, number) for number in range(rows))


def jsonl(rows: int) -> bytes:
    return b"".join(b'{"id": "%d", "text": "text, %d"}\n' % (number, number) for number in range(rows))


def expected(rows: int) -> dict[object, object]:
    return {("f", str(number)): {"text": f"text, {number}"} for number in range(rows)}


def stored(store: Path) -> dict[object, object]:
    with kvstore.open(store, readonly=True) as db:
        return dict(db.scan(prefix=("f",)))


def end_in_the_middle(folder: Path, content: bytes, format: str, after: int, how: signal.Signals) -> None:
    """Import from a pipe, so that at least ``after`` bytes minus the capacity of a pipe have been read."""
    process = start(
        *("import", "s", "-", "--format", format, "--prefix", "f", "--key", "id", "--resume"),
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(content[:after])
    process.stdin.flush()
    process.send_signal(how)
    with suppress(BrokenPipeError):
        process.communicate(timeout=60)


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_killed_at_random_moments_it_stores_every_row_once(format: str, tmp_path: Path, kv: Kv) -> None:
    content = {"csv": csv, "jsonl": jsonl}[format](ROWS)
    randomly = random.Random(format)
    rows, first_slot = 0, None

    for kill in range(KILLS):
        after = randomly.randrange(len(content) * (kill + 1) // KILLS)
        end_in_the_middle(tmp_path, content, format, after, signal.SIGKILL)
        if not (tmp_path / "s" / "replica-0").exists() or (tmp_path / "s" / "creating").exists():
            continue
        with kvstore.open(tmp_path / "s", readonly=True) as db:
            count = db.count(prefix=("f",))
            mark = db.get((PROGRESS, "f"), {"rows": 0})
            slot = db.version(("f", "0"))
        assert count % CHUNK_ROWS == 0
        assert mark["rows"] == count >= rows
        assert first_slot in (None, slot), "the first row was stored again"
        rows, first_slot = count, slot
    assert rows > 0

    (tmp_path / f"f.{format}").write_bytes(content)
    done = kv("import", "s", f"f.{format}", "--key", "id", "--resume")

    assert done.out == f"{ROWS} rows imported as f, {rows} of them before\n"
    assert stored(tmp_path / "s") == expected(ROWS)
    with kvstore.open(tmp_path / "s", readonly=True) as db:
        assert db.version(("f", "0")) == first_slot
        assert (PROGRESS, "f") not in db
        assert db.verify()["ok"]


def test_after_an_interrupt(tmp_path: Path, kv: Kv) -> None:
    end_in_the_middle(tmp_path, csv(ROWS), "csv", len(csv(ROWS)), signal.SIGINT)
    (tmp_path / "f.csv").write_bytes(csv(ROWS))

    assert kv("import", "s", "f.csv", "--key", "id", "--resume").code == 0
    assert stored(tmp_path / "s") == expected(ROWS)
    assert kv("export", "s", "-", "--prefix", "f").out.count("\n") == ROWS + 1


class TestAfterABadLine:
    """The first 2,000 of 2,500 rows are stored, because row 2,301 was malformed."""

    @pytest.fixture(autouse=True, params=["csv", "jsonl"])
    def a_bad_line(self, kv: Kv, request: pytest.FixtureRequest) -> None:
        self.write = {"csv": csv, "jsonl": jsonl}[request.param]
        self.file = Path(f"f.{request.param}")
        lines = self.write(2500).splitlines(keepends=True)
        lines[2300] = b"oops\n"
        self.file.write_bytes(b"".join(lines))
        self.arguments = ["import", "s", str(self.file), "--key", "id"]
        assert kv(*self.arguments).code == 1

    def test_that_was_mended_it_goes_on(self, kv: Kv, tmp_path: Path) -> None:
        before = kv("version", "s", '("f", "5")').out
        self.file.write_bytes(self.write(2500))

        assert kv(*self.arguments, "--resume").out == "2500 rows imported as f, 2000 of them before\n"
        assert kv("version", "s", '("f", "5")').out == before
        assert stored(tmp_path / "s") == expected(2500)

    def test_that_was_not_it_says_the_same_again(self, kv: Kv) -> None:
        first = kv(*self.arguments).err

        assert kv(*self.arguments, "--resume").err == first
        assert "the 2000 rows before its chunk are stored" in first

    def test_without_the_option_it_begins_at_the_start(self, kv: Kv) -> None:
        before = kv("version", "s", '("f", "5")').out
        self.file.write_bytes(self.write(2500))

        assert kv(*self.arguments).out == "2500 rows imported as f\n"
        assert kv("version", "s", '("f", "5")').out != before

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"text, 7", b"text, 7X"),
            (b"text, 7", b"text\n7"),
            (b"text, 7", b'"text"'),
            (b"text, 7", b"text, 8"),
            (b"text, 1999", b"text, 1998"),  # the last line that is stored
        ],
    )
    def test_a_file_that_changed_before_is_refused(self, kv: Kv, old: bytes, new: bytes) -> None:
        self.file.write_bytes(self.write(2500).replace(old, new, 1))

        done = kv(*self.arguments, "--resume")

        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"error: {self.file} is not the file whose first 200")
        assert kv("count", "s", '("f",)').out == "2000\n"

    def test_a_file_that_became_shorter_is_refused(self, kv: Kv) -> None:
        self.file.write_bytes(self.write(1500))

        assert kv(*self.arguments, "--resume").err.startswith(f"error: {self.file} is not the file")

    def test_other_options_are_refused(self, kv: Kv) -> None:
        done = kv(*self.arguments, "--resume", "--last-wins")

        assert done.err.startswith('error: the import of "f" was begun with other options')

    def test_a_key_that_was_stored_before_is_still_refused(self, kv: Kv) -> None:
        lines = self.write(2500).splitlines(keepends=True)
        lines[2301] = lines[3]
        self.file.write_bytes(b"".join(lines))

        assert "was used before" in kv(*self.arguments, "--resume").err


def test_with_nothing_to_resume_it_begins_at_the_start(kv: Kv, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(csv(10))

    assert kv("import", "s", "f.csv", "--key", "id", "--resume").out == "10 rows imported as f\n"
    assert kv("import", "s", "f.csv", "--key", "id", "--resume").out == "10 rows imported as f\n"

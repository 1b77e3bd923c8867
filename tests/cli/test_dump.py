"""A store as text and back: either exactly, or not at all with an error."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from pathlib import Path

import pytest

import kvstore
from tests.cli.conftest import Done, Kv, content, filled, start

MANY = 12_000


def many(path: Path) -> None:
    with kvstore.open(path) as db, db.batch() as batch:
        for number in range(MANY):
            batch.put((number,), f"value {number}")


def sealed(*lines: str) -> bytes:
    """Return a dump of these lines with the last line that belongs to them."""
    text = "".join(f"{line}\n" for line in lines).encode()
    end = {"records": len(lines) - 1, "sha256": hashlib.sha256(text).hexdigest()}
    return text + json.dumps(end).encode() + b"\n"


class TestThereAndBack:
    def test_every_type_comes_back_exactly(self, kv: Kv, tmp_path: Path) -> None:
        filled(tmp_path / "s")

        assert kv("dump", "s", "d") == Done(0, "7 records dumped to d\n", "")
        assert kv("load", "t", "d") == Done(0, "7 records loaded\n", "")
        assert content(tmp_path / "t") == content(tmp_path / "s")
        assert kv("verify", "t").code == 0
        assert kv("dump", "t").out == (tmp_path / "d").read_text()

    def test_through_a_pipe(self, kv: Kv, tmp_path: Path) -> None:
        filled(tmp_path / "s")
        dump = kv("dump", "s").out.encode()

        assert kv("load", "t", stdin=dump).out == "7 records loaded\n"
        assert kv("load", "u", "-", stdin=dump).out == "7 records loaded\n"
        assert content(tmp_path / "u") == content(tmp_path / "s")

    def test_an_empty_store(self, kv: Kv, tmp_path: Path) -> None:
        kvstore.open(tmp_path / "s").close()
        kv("dump", "s", "d")

        assert kv("load", "t", "d").out == "0 records loaded\n"
        assert kv("count", "t").out == "0\n"

    def test_the_shape_comes_along_unless_another_is_given(self, kv: Kv, tmp_path: Path) -> None:
        kvstore.open(tmp_path / "s", shards=3, replicas=3, placement=1).close()
        kv("dump", "s", "d")
        kv("load", "t", "d")
        kv("load", "u", "d", "--shards", "7", "--replicas", "1")

        shapes = []
        for name in ("t", "u"):
            status = json.loads(kv("status", name, "--json").out)
            shapes.append((status["shards"], status["replicas"], status["placement"]))
        assert shapes == [(3, 3, 1), (7, 1, 1)]

    def test_a_dump_is_one_moment_beside_a_writer(self, kv: Kv, tmp_path: Path) -> None:
        many(tmp_path / "s")
        with kvstore.open(tmp_path / "s") as db:
            process = start("dump", "s", cwd=tmp_path, stdout=subprocess.PIPE, bufsize=0)
            assert process.stdout is not None
            dump = process.stdout.readline()  # the dump has begun; the full pipe keeps it from ending
            with db.batch() as batch:
                for number in range(MANY):
                    batch.put((number,), "later")
            dump += process.communicate(timeout=60)[0]

        assert kv("load", "t", stdin=dump).out == f"{MANY} records loaded\n"
        assert b"later" not in dump

    def test_a_dump_of_version_1_is_read_for_ever(self, kv: Kv) -> None:
        """A dump written by hand, as docs/dump-format.md describes it, is loaded."""
        dump = sealed('{"kvstore dump": 1, "shards": 2}', '["k", {"a": [1, null]}]', '[{"$tuple": [1]}, 2]')

        assert kv("load", "s", stdin=dump) == Done(0, "2 records loaded\n", "")
        assert kv("scan", "s").records == '"k" = {"a": [1, null]}\n(1,) = 2\n'


class TestADumpThatIsNotWhole:
    @pytest.fixture
    def dump(self, kv: Kv, tmp_path: Path) -> bytes:
        filled(tmp_path / "s")
        return kv("dump", "s").out.encode()

    def nothing_is_left(self, folder: Path) -> bool:
        return [path.name for path in folder.iterdir()] == ["s"]

    def test_cut_anywhere_is_refused_and_leaves_nothing(self, kv: Kv, dump: bytes, tmp_path: Path) -> None:
        for length in range(0, len(dump), len(dump) // 40):
            done = kv("load", "t", stdin=dump[:length])

            assert (done.code, done.out) == (1, "")
            assert done.err.startswith("error: <stdin>:")
            assert "dump is incomplete" in done.err or length == 0
            assert self.nothing_is_left(tmp_path)

    def test_at_every_line_end_the_line_is_named(self, kv: Kv, dump: bytes) -> None:
        lines = dump.splitlines(keepends=True)
        for count in range(1, len(lines)):
            error = kv("load", "t", stdin=b"".join(lines[:count])).err

            assert error == (
                f"error: <stdin>:{count + 1}: the dump is incomplete: its last line is missing\n"
            )

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (b'"written by": "', b'"written by": "9', ":9: the dump was changed: its SHA-256 is"),
            (b'"records": 7', b'"records": 8', ":9: the dump was changed: 7 records, not 8"),
            (b"[1, 2.5", b"[1, 2.6", ":9: the dump was changed: its SHA-256 is"),
            (b'"kvstore dump"', b'"kvstore dumb"', ":1: not a dump"),
            (b'"$uuid"', b'"$uid"', ":4: unknown notation"),
        ],
    )
    def test_changed_is_refused_and_leaves_nothing(
        self, kv: Kv, dump: bytes, old: bytes, new: bytes, message: str, tmp_path: Path
    ) -> None:
        assert old in dump

        done = kv("load", "t", stdin=dump.replace(old, new, 1))

        assert (done.code, done.out) == (1, "")
        assert message in done.err
        assert self.nothing_is_left(tmp_path)

    def test_with_more_behind_it_is_refused(self, kv: Kv, dump: bytes) -> None:
        assert "there is text after the end" in kv("load", "t", stdin=dump + b"\n").err

    def test_of_a_later_version_is_refused(self, kv: Kv) -> None:
        done = kv("load", "t", stdin=sealed('{"kvstore dump": 2}'))

        assert done.err.startswith("error: <stdin> is a dump of version 2; this version reads 1")

    def test_with_what_is_no_record_is_refused(self, kv: Kv) -> None:
        for line, message in [
            ("[1]", "not [KEY, VALUE]"),
            ('"x"', "not [KEY, VALUE]"),
            ("[5, 1]", "5"),
            ('["", 1]', ""),
        ]:
            error = kv("load", "t", stdin=sealed('{"kvstore dump": 1}', line)).err
            assert error.startswith("error: <stdin>:2: ")
            assert message in error

    def test_killed_while_loading_leaves_nothing_that_opens(self, kv: Kv, tmp_path: Path) -> None:
        many(tmp_path / "s")
        dump = kv("dump", "s").out.encode()
        for part in (2, 3, 5):
            process = start("load", "t", cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdin is not None
            process.stdin.write(dump[: len(dump) * (part - 1) // part])
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)

            assert not (tmp_path / "t").exists()
        assert kv("load", "t", stdin=dump).out == f"{MANY} records loaded\n"

    def test_an_interrupt_leaves_nothing(self, dump: bytes, tmp_path: Path) -> None:
        process = start(
            "load", "t", cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin is not None
        line = b'["k", 1]\n'
        process.stdin.write(dump.splitlines(keepends=True)[0] + line * 40_000)  # more than a pipe holds
        process.stdin.flush()
        process.send_signal(signal.SIGINT)

        _, err = process.communicate(timeout=60)

        assert (process.returncode, err) == (130, b"")
        assert self.nothing_is_left(tmp_path)


class TestWhere:
    @pytest.fixture(autouse=True)
    def a_dump(self, kv: Kv) -> None:
        kv("put", "s", "new", "1")
        kv("dump", "s", "d")

    def test_never_over_anything(self, kv: Kv, tmp_path: Path) -> None:
        kv("put", "t", "old", "1")
        (tmp_path / "file").write_text("precious")

        for name in ("t", "file"):
            done = kv("load", name, "d")
            assert (done.code, done.out) == (1, "")
            assert done.err.startswith(f"error: {name} exists already")
        assert kv("scan", "t").records == '"old" = 1\n'
        assert (tmp_path / "file").read_text() == "precious"

    def test_an_empty_folder_is_used(self, kv: Kv, tmp_path: Path) -> None:
        (tmp_path / "t").mkdir()

        assert kv("load", "t", "d").code == 0
        assert kv("scan", "t").records == '"new" = 1\n'

    def test_a_folder_that_is_not_there_is_named(self, kv: Kv) -> None:
        assert "no does not exist" in kv("load", "no/t", "d").err

    def test_into_a_store_it_adds(self, kv: Kv) -> None:
        kv("put", "t", "old", "1")

        assert kv("load", "t", "d", "--into").out == "1 records loaded\n"
        assert kv("scan", "t").records == '"new" = 1\n"old" = 1\n'

    def test_into_a_store_only_a_whole_dump_goes(self, kv: Kv, tmp_path: Path) -> None:
        kv("put", "t", "old", "1")
        lines = [f'["k{number}", 1]' for number in range(2500)]
        (tmp_path / "cut").write_bytes(sealed('{"kvstore dump": 1}', *lines)[:-1])

        assert "dump is incomplete" in kv("load", "t", "cut", "--into").err
        assert kv("scan", "t").records == '"old" = 1\n'

    def test_into_needs_a_file_and_a_store(self, kv: Kv, tmp_path: Path) -> None:
        assert kv("load", "t", "--into", stdin=b"").code == 2
        assert kv("load", "t", "d", "--into").code == 4
        assert not (tmp_path / "t").exists()

    def test_a_dump_takes_its_name_when_it_is_complete(self, kv: Kv, tmp_path: Path) -> None:
        (tmp_path / "d").write_text("precious")

        assert kv("dump", "nothing", "d").code == 4
        assert (tmp_path / "d").read_text() == "precious"

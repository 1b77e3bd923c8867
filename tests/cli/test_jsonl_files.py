"""JSON Lines imported and exported: records exactly, and rows of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Done, Kv, content, filled

ROWS = b'{"id": 1, "name": "Ada", "tags": ["x"]}\n{"name": "Charles", "id": 2}\n'


class TestRecords:
    def test_every_type_comes_back_exactly(self, kv: Kv, tmp_path: Path) -> None:
        filled(tmp_path / "s")

        assert kv("export", "s", "all.jsonl") == Done(0, "7 records exported to all.jsonl\n", "")
        assert kv("import", "t", "all.jsonl") == Done(0, "7 records imported\n", "")
        assert content(tmp_path / "t") == content(tmp_path / "s")

        kv("export", "t", "again.jsonl")
        assert Path("again.jsonl").read_bytes() == Path("all.jsonl").read_bytes()

    def test_each_line_is_json_for_any_program(self, kv: Kv, tmp_path: Path) -> None:
        filled(tmp_path / "s")
        kv("export", "s", "f.jsonl")

        lines = [json.loads(line) for line in Path("f.jsonl").read_text().splitlines()]

        assert all(line.keys() == {"key", "value"} for line in lines)
        assert {"key": {"$tuple": ["empty"]}, "value": [[], {}, "", {"$bytes": ""}]} in lines

    def test_export_takes_those_below_a_prefix(self, kv: Kv) -> None:
        for key in ('("a", 1)', '("a", 2)', '("b", 1)', "a"):
            kv("put", "s", key, "x")

        out = kv("export", "s", "-", "--format", "jsonl", "--prefix", "a").out

        assert out == (
            '{"key": {"$tuple": ["a", 1]}, "value": "x"}\n{"key": {"$tuple": ["a", 2]}, "value": "x"}\n'
        )

    def test_standard_input_needs_no_name(self, kv: Kv) -> None:
        line = b'{"key": "k", "value": 1}'

        assert kv("import", "s", "-", "--format", "jsonl", stdin=line).out == "1 records imported\n"
        assert kv("get", "s", "k").out == "1\n"


class TestRows:
    @pytest.mark.parametrize(
        ("arguments", "scanned"),
        [
            (["--key", "id"], '("f", 1) = {"name": "Ada", "tags": ["x"]}\n("f", 2) = {"name": "Charles"}\n'),
            (
                ["--key", "name,id", "--prefix", "p"],
                '("p", "Ada", 1) = {"tags": ["x"]}\n("p", "Charles", 2) = {}\n',
            ),
            (
                ["--prefix", "p"],
                '("p", 1) = {"id": 1, "name": "Ada", "tags": ["x"]}\n'
                '("p", 2) = {"name": "Charles", "id": 2}\n',
            ),
        ],
    )
    def test_the_options_mean_what_they_mean_for_csv(
        self, kv: Kv, arguments: list[str], scanned: str
    ) -> None:
        Path("f.jsonl").write_bytes(ROWS)

        assert kv("import", "s", "f.jsonl", *arguments).out.startswith("2 rows imported as ")
        assert kv("scan", "s").records == scanned

    def test_of_one_key_the_last_may_win(self, kv: Kv) -> None:
        Path("f.jsonl").write_bytes(b'{"id": 1, "v": 1}\n{"id": 1, "v": 2}\n')

        assert kv("import", "s", "f.jsonl", "--key", "id").code == 1
        assert kv("import", "s", "f.jsonl", "--key", "id", "--last-wins").code == 0
        assert kv("get", "s", '("f", 1)').out == '{"v": 2}\n'

    def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(self, kv: Kv) -> None:
        Path("f.NDJSON").write_bytes(b"\xef\xbb\xbf" + ROWS.replace(b"\n", b"\r\n"))

        assert kv("import", "s", "f.NDJSON", "--key", "id").out == "2 rows imported as f\n"

    def test_types_is_for_csv(self, kv: Kv, tmp_path: Path) -> None:
        Path("f.jsonl").write_bytes(ROWS)

        assert kv("import", "s", "f.jsonl", "--key", "id", "--types").code == 2
        assert not (tmp_path / "s").exists()


class TestBadLines:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b"{", "not JSON at character 3"),
            (b"", "not JSON at character"),
            (b"[1]", "a row is a map"),
            (b'{"name": "Ada"}', '--key: the row has no "id"'),
            (b'{"id": [1]}', ""),
            (b'{"id": 1}', 'the key ("f", 1) was used before'),
            (b'{"id": 2, "id": 2}', "an object has a member twice"),
            (b'{"id": 2, "v": NaN}', "NaN is not JSON"),
            (b'{"id": "\xff"}', "not UTF-8 text"),
            (b'{"id": "' + b"x" * 600 + b'"}', ""),
        ],
    )
    def test_of_rows_are_named(self, kv: Kv, line: bytes, message: str) -> None:
        Path("f.jsonl").write_bytes(b'{"id": 1}\n' + line + b"\n")

        done = kv("import", "s", "f.jsonl", "--key", "id")

        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"error: f.jsonl:2: {message}")
        assert "0 rows before its chunk are stored" in done.err

    @pytest.mark.parametrize("line", [b'{"id": 1}', b'{"key": 1}', b'{"key": "a", "value": 1, "x": 1}', b"5"])
    def test_of_records_say_what_to_do(self, kv: Kv, line: bytes) -> None:
        Path("f.jsonl").write_bytes(line)

        error = kv("import", "s", "f.jsonl").err

        assert (
            'f.jsonl:1: not {"key": ..., "value": ...}; rows of another form need --key or --prefix' in error
        )

    def test_keep_the_chunks_before(self, kv: Kv) -> None:
        lines = [b'{"id": %d}\n' % number for number in range(2500)]
        lines[2300] = b"oops\n"
        Path("f.jsonl").write_bytes(b"".join(lines))

        error = kv("import", "s", "f.jsonl", "--key", "id").err

        assert error.startswith("error: f.jsonl:2301: not JSON")
        assert "the 2000 rows before its chunk are stored" in error
        assert kv("count", "s", '("f",)').out == "2000\n"

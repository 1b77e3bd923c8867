"""CSV files imported and exported byte for byte, and files that are refused."""

from __future__ import annotations

import io
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvstore
from kvstore.cli.app import main
from kvstore.cli.formats.chunks import CHUNK_ROWS
from kvstore.cli.formats.csv_files import export_file, read_header
from kvstore.cli.formats.importing import ImportOptions, import_rows
from tests.cli.conftest import ROOT, Done, Kv

BERKA = ROOT.parent / "shared" / "data" / "berka"
KEYS = {"account": "account_id", "district": "district_id", "loan": "loan_id", "order": "order_id"}


def nothing(_: int) -> None:
    """Show no progress."""


def there_and_back(content: bytes, **options: object) -> bytes:
    """Return the export of a file that was imported into a new store."""
    with kvstore.open(":memory:") as db:
        return through_a_store(content, db, **options)


def through_a_store(content: bytes, db: kvstore.Database, **options: object) -> bytes:
    """Return the export of a file that was imported."""
    source = read_header(io.BytesIO(content), "f.csv", ImportOptions(prefix="f", **options))  # type: ignore[arg-type]
    import_rows(db, source, nothing)
    written = io.BytesIO()
    with db.snapshot() as view:
        export_file(view, "f", written.write, nothing)
    return written.getvalue()


def lines(content: bytes) -> list[bytes]:
    return sorted(content.splitlines(keepends=True)[1:])


@pytest.mark.skipif(not BERKA.is_dir(), reason="the files of ../shared/data/berka are not here")
class TestTheBankOfBerka:
    def test_its_four_files_come_back_byte_for_byte(self, kv: Kv) -> None:
        for name, key in KEYS.items():
            done = kv("import", "s", str(BERKA / f"{name}.csv"), "--key", key, "--shards", "4")
            assert (done.code, done.err) == (0, "")

        for name in KEYS:
            assert kv("export", "s", f"{name}.csv").code == 0
            exported, original = Path(f"{name}.csv").read_bytes(), (BERKA / f"{name}.csv").read_bytes()
            assert exported.splitlines()[0] == original.splitlines()[0]
            assert lines(exported) == lines(original)

        assert kv("count", "s", '("account",)').out == "4500\n"
        assert kv("get", "s", '("account", "576")').out == (
            '{"district_id": "55", "frequency": "monthly issuance", "date": "1993-01-01"}\n'
        )

    @pytest.mark.parametrize("name", KEYS)
    @pytest.mark.parametrize("types", [False, True])
    def test_without_a_key_the_order_comes_back_too(self, name: str, types: bool) -> None:
        original = (BERKA / f"{name}.csv").read_bytes()

        assert there_and_back(original, types=types) == original

    def test_with_types_numbers_are_numbers(self, kv: Kv) -> None:
        kv("import", "s", str(BERKA / "loan.csv"), "--key", "loan_id,account_id", "--types")

        assert kv("get", "s", '("loan", 5314, 1787)').out == (
            '{"date": 930705, "amount": 96396, "duration": 12, "payments": 8033.0,'
            ' "status": " contract finished, loan not payed"}\n'
        )


class TestByteForByte:
    @pytest.mark.parametrize(
        "content",
        [
            b"a,b\n1,2\n",
            b"a,b\n1,2",
            b"a,b\r\n1,2\r\n",
            b"a,b\r\n1,2",
            b"a,b\r\n1,2\n3,4\r\n5,6\n",
            b"a,b\n",
            b"a,b",
            b"\xef\xbb\xbfa,b\n1,2\n",
            b'\xef\xbb\xbf"a",b\n1,2',
            b'"a",b\n"1",2\n1,"2"\n',
            b'a,b\n"x\ny","say ""hi"""\n',
            b'a,b\n"x\r\ny", z \n',
            b'a,b\n"",\n,""\n,\n',
            b'a\n\n""\nx\n\n',
            b"a,b,c\n1,,\n",
            b',b\n1,"2"',
            "ž,日本\nž,😀\n".encode(),
            b"a\x00,b\n\x00,2\n",
            b'"a,b","c""d"\n1,2\n',
        ],
    )
    def test_a_file_comes_back_as_it_was(self, content: bytes) -> None:
        assert there_and_back(content) == content
        assert there_and_back(content, types=True) == content

    FIELD = st.text(st.sampled_from('ab0.5-,"\n\r é'), max_size=4)
    RECORD = st.tuples(st.lists(st.tuples(FIELD, st.booleans()), min_size=3, max_size=3), st.booleans())

    @staticmethod
    def as_text(record: tuple[list[tuple[str, bool]], bool]) -> str:
        """Draw a record with necessary and unnecessary quotes, and either line end."""
        fields = [
            '"' + field.replace('"', '""') + '"' if liked or set(field) & set('",\r\n') else field
            for field, liked in record[0]
        ]
        return ",".join(fields) + ("\r\n" if record[1] else "\n")

    @given(st.lists(RECORD, max_size=6), st.booleans(), st.booleans(), st.booleans(), st.booleans())
    @settings(max_examples=60)
    def test_any_file_does(
        self,
        rows: list[tuple[list[tuple[str, bool]], bool]],
        mark: bool,
        windows: bool,
        end: bool,
        types: bool,
    ) -> None:
        text = 'x,"y",z' + ("\r\n" if windows else "\n") + "".join(map(self.as_text, rows))
        content = (b"\xef\xbb\xbf" if mark else b"") + (text if end else text.rstrip("\r\n")).encode()

        assert there_and_back(content, types=types) == content

    @given(st.lists(RECORD, max_size=6, unique_by=lambda record: record[0][0][0] + record[0][1][0]))
    @settings(max_examples=60)
    def test_with_a_key_all_lines_come_back(self, rows: list[tuple[list[tuple[str, bool]], bool]]) -> None:
        records = list(map(self.as_text, rows))
        content = ("x,y,z\n" + "".join(records)).encode()

        exported = there_and_back(content, key=["x", "y"]).decode()

        assert exported.startswith("x,y,z\n")
        assert len(exported) == len(content.decode())
        assert all(record in exported for record in records)

    def test_a_row_that_was_changed_since_is_written_anew(self) -> None:
        with kvstore.open(":memory:") as db:
            through_a_store(b'k,v\n"a",1\n"b",2\n', db, key=["k"])
            db.put(("f", "a"), {"v": 5})
            db.delete(("f", "b"))
            db.put(("f", "c"), {"v": None})
            written = io.BytesIO()
            with db.snapshot() as view:
                export_file(view, "f", written.write, nothing)

        assert written.getvalue() == b"k,v\na,5\nc,\n"

    def test_importing_again_replaces(self) -> None:
        with kvstore.open(":memory:") as db:
            through_a_store(b'k,v\n"a",1\n"b",2', db, key=["k"])

            assert through_a_store(b"k,v\na,1\nb,3\n", db, key=["k"]) == b"k,v\na,1\nb,3\n"


class TestKeys:
    @pytest.mark.parametrize(
        ("arguments", "first"),
        [
            ([], '("f", 1) = {"a": "1", "b": "2", "c": "3"}'),
            (["--prefix", "p"], '("p", 1) = {"a": "1", "b": "2", "c": "3"}'),
            (["--key", "b"], '("f", "2") = {"a": "1", "c": "3"}'),
            (["--key", "c,a"], '("f", "3", "1") = {"b": "2"}'),
            (["--key", "c", "--key", "a"], '("f", "3", "1") = {"b": "2"}'),
            (["--key", "a,b,c"], '("f", "1", "2", "3") = {}'),
            (["--key", "a", "--types"], '("f", 1) = {"b": 2, "c": 3}'),
        ],
    )
    def test_a_row_lies_where_the_options_say(self, kv: Kv, arguments: list[str], first: str) -> None:
        Path("f.csv").write_bytes(b"a,b,c\n1,2,3\n")

        assert kv("import", "s", "f.csv", *arguments).out.startswith("1 rows imported as ")
        prefix = "p" if "p" in arguments else "f"
        assert kv("scan", "s", f'("{prefix}",)').records == first + "\n"
        assert kv("export", "s", "-", "--prefix", prefix).out == "a,b,c\n1,2,3\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--key", "x"], '--key: there is no column "x"; the file has a, b'),
            (["--key", "a,a"], '--key: "a" is named twice'),
            (["--key", '"a'], "--key: a quoted field is never closed"),
            (["--prefix", ""], '--prefix cannot be ""'),
            (["--prefix", "csv:file"], '--prefix cannot be "csv:file"'),
            (["--prefix", "import:progress"], '--prefix cannot be "import:progress"'),
        ],
    )
    def test_what_cannot_be_is_told_before_anything_is_created(
        self, kv: Kv, arguments: list[str], message: str, tmp_path: Path
    ) -> None:
        Path("f.csv").write_bytes(b"a,b\n1,2\n")

        done = kv("import", "s", "f.csv", *arguments)

        assert done == Done(2, "", f"error: {message}\n")
        assert not (tmp_path / "s").exists()

    def test_standard_input_needs_a_prefix(self, kv: Kv) -> None:
        assert kv("import", "s", "-", stdin=b"a\n1\n").code == 2
        assert kv("import", "s", "-", "--prefix", "f", stdin=b"a\n1\n").code == 0
        assert kv("export", "s", "-").code == 2


class TestBadLines:
    @pytest.mark.parametrize(
        ("content", "line", "message"),
        [
            (b"", 1, "the file is empty: a header line is needed"),
            (b"a,b,a\n", 1, 'two columns are called "a"'),
            (b"a,b\n1,2\n3\n", 3, "1 fields where the header has 2"),
            (b"a,b\n1,2\n3,4,5\n", 3, "3 fields where the header has 2"),
            (b"a,b\n1,2\n\n", 3, "1 fields where the header has 2"),
            (b'a,b\n1,"2\n3"\n4,x"y\n', 4, "a quote inside a field"),
            (b"a,b\n1,\xff\n", 2, "not UTF-8 text"),
            (b"a,b\n1,2\n2,3\n1,4\n", 4, 'the key ("f", "1") was used before'),
            (b"a,b\n" + b"k" * 600 + b",2\n", 2, ""),
        ],
    )
    def test_are_named(self, kv: Kv, content: bytes, line: int, message: str) -> None:
        Path("f.csv").write_bytes(content)

        done = kv("import", "s", "f.csv", "--key", "a")

        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"error: f.csv:{line}: {message}")

    def test_store_nothing_of_their_chunk_and_keep_the_chunks_before(self, kv: Kv) -> None:
        rows = [b"%d,x\n" % number for number in range(2 * CHUNK_ROWS + 500)]
        rows[2 * CHUNK_ROWS + 300] = b"oops\n"
        Path("f.csv").write_bytes(b"a,b\n" + b"".join(rows))

        done = kv("import", "s", "f.csv")

        assert done.code == 1
        assert done.err == (
            "error: f.csv:2302: 1 fields where the header has 2;"
            " the 2000 rows before its chunk are stored, the chunk is not\n"
        )
        assert kv("count", "s", '("f",)').out == "2000\n"

    def test_once_mended_the_file_can_be_imported_again(self, kv: Kv) -> None:
        good = b"a,b\n" + b"".join(b"%d,x\n" % number for number in range(1500))
        Path("f.csv").write_bytes(good + b"oops\n")
        assert kv("import", "s", "f.csv", "--key", "a").code == 1

        Path("f.csv").write_bytes(good)
        assert kv("import", "s", "f.csv", "--key", "a").out == "1500 rows imported as f\n"
        assert kv("count", "s", '("f",)').out == "1500\n"

    def test_of_one_key_the_last_may_win(self, kv: Kv) -> None:
        Path("f.csv").write_bytes(b"a,b\n1,2\n1,3\n")

        assert kv("import", "s", "f.csv", "--key", "a", "--last-wins").code == 0
        assert kv("export", "s", "-", "--prefix", "f").out == "a,b\n1,3\n"

    def test_another_file_under_the_same_prefix_is_refused(self, kv: Kv) -> None:
        Path("f.csv").write_bytes(b"a,b\n1,2\n")
        kv("import", "s", "f.csv")
        Path("g.csv").write_bytes(b"a,c\n1,2\n")

        for another in (["g.csv"], ["f.csv", "--key", "a"], ["f.csv", "--types"]):
            done = kv("import", "s", *another, "--prefix", "f")
            assert done.code == 1
            assert done.err.startswith('error: "f" was imported with other columns, --key or --types')
        assert kv("scan", "s", '("f",)').records == '("f", 1) = {"a": "1", "b": "2"}\n'


class TestExport:
    @pytest.fixture(autouse=True)
    def a_file(self, kv: Kv) -> None:
        Path("f.csv").write_bytes(b"a,b\n1,2\n")
        kv("import", "s", "f.csv", "--key", "a")

    def test_replaces_a_file_only_when_complete(self, kv: Kv, tmp_path: Path) -> None:
        Path("f.csv").write_bytes(b"precious")
        kv("put", "s", '("f", "2")', "not a row")

        done = kv("export", "s", "f.csv")

        assert done == Done(1, "", 'error: the value of ("f", "2") is not a map of "b"\n')
        assert Path("f.csv").read_bytes() == b"precious"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["f.csv", "s"]

        kv("delete", "s", '("f", "2")')
        assert kv("export", "s", "f.csv").out == "1 rows exported to f.csv\n"
        assert Path("f.csv").read_bytes() == b"a,b\n1,2\n"

    def test_leaves_out_what_is_no_row(self, kv: Kv) -> None:
        kv("put", "s", '("f", "1", "note")', "hello")

        assert kv("export", "s", "-", "--prefix", "f") == Done(
            0, "a,b\n1,2\n", "1 records under the prefix are not rows of the file and were left out\n"
        )

    def test_knows_only_what_was_imported(self, kv: Kv) -> None:
        assert kv("export", "s", "g.csv") == Done(
            1, "", 'error: no CSV file was imported with the prefix "g"\n'
        )
        assert not Path("g.csv").exists()

    def test_a_folder_that_is_not_there_is_told(self, kv: Kv) -> None:
        assert kv("export", "s", "no/f.csv").code == 1


def test_140_000_rows_are_quick_and_take_no_memory(tmp_path: Path) -> None:
    with open(tmp_path / "big.csv", "wb") as big:
        big.write(b"code,name,category\n")
        big.writelines(b"%05X,CHARACTER NUMBER %d,Lo\n" % (number, number) for number in range(140_000))

    began = time.perf_counter()
    arguments = [str(tmp_path / "s"), str(tmp_path / "big.csv")]
    assert main(["import", *arguments, "--key", "code", "--durability", "interval"]) == 0
    seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        assert main(["export", arguments[0], f"{folder}/big.csv"]) == 0
        assert Path(f"{folder}/big.csv").read_bytes() == (tmp_path / "big.csv").read_bytes()

    assert seconds < 60


def test_memory_does_not_grow_with_the_file() -> None:
    """Only reading and chunking are measured: the memory of the store does not count."""

    def peak(rows: int) -> int:
        content = b"a,b\n" + b"".join(b"%d,some text\n" % number for number in range(rows))
        source = read_header(io.BytesIO(content), "f.csv", ImportOptions(prefix="f", key=["a"]))
        tracemalloc.start()
        try:
            import_rows(Forgetful(), source, nothing)  # type: ignore[arg-type]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(40_000) < peak(8_000) + (256 << 10)


class Forgetful:
    """A store that accepts all batches and keeps nothing."""

    size = 0

    def get(self, key: object) -> None: ...

    def batch(self) -> Forgetful:
        return Forgetful()

    def put(self, key: object, value: object) -> None: ...

    def delete(self, key: object) -> None: ...

    def submit(self, batch: Forgetful) -> Forgetful:
        return self

    def result(self) -> None: ...

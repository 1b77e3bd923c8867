"""CSV as RFC 4180 defines it: accepted records, and refused text with its line."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvstore
from kvstore.cli.formats.csv_layout import field_text, typed
from kvstore.cli.formats.csv_records import RECORD_BYTES_MAX, CsvRecord, RecordReader, fields_of, text_of

FIELDS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from('",\r\n ')))


def records(content: bytes) -> list[CsvRecord]:
    return list(RecordReader(io.BytesIO(content), "f.csv"))


@given(st.lists(FIELDS, min_size=1))
def test_what_is_written_reads_back(fields: list[str]) -> None:
    assert fields_of(text_of(fields)) == fields


@given(st.lists(FIELDS, min_size=1))
def test_it_is_written_as_everybody_writes_it(fields: list[str]) -> None:
    everybody = io.StringIO()
    csv.writer(everybody).writerow(fields)

    assert text_of(fields) + "\r\n" == everybody.getvalue()


@given(st.lists(st.lists(FIELDS, min_size=2, max_size=4), max_size=5))
def test_it_is_read_as_everybody_reads_it(rows: list[list[str]]) -> None:
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows(rows)

    assert [record.fields for record in records(written.getvalue().encode())] == rows


def test_records_know_their_lines_and_their_text() -> None:
    content = 'a,b\r\n"1\n\n2",x\n\n"é""",\n5,6'

    found = records(content.encode())

    assert found == [
        (1, ["a", "b"], "a,b\r\n"),
        (2, ["1\n\n2", "x"], '"1\n\n2",x\n'),
        (5, [""], "\n"),
        (6, ['é"', ""], '"é""",\n'),
        (7, ["5", "6"], "5,6"),
    ]
    assert "".join(record.text for record in found) == content


def test_a_byte_order_mark_is_no_part_of_the_header() -> None:
    reader = RecordReader(io.BytesIO(b'\xef\xbb\xbf"a",b\n'), "f.csv")

    assert [record.fields for record in reader] == [["a", "b"]]
    assert reader.has_mark
    assert reader.stream.position == 9


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b'a\n"b', 2, "a quoted field is never closed"),
        (b'a\n1,"b\nc\nd', 2, "a quoted field is never closed"),
        (b'a\n5" disk\n', 2, "a quote inside a field"),
        (b'a\nx\n5" disk\nand\nso on\n', 3, "a quote inside a field"),
        (b'a\n"1\n2"x,3\n', 3, "a comma is missing after a closing quote"),
        (b"a\nb\rc\n", 2, "a carriage return outside quotes"),
        (b"a\rb\rc", 1, "a carriage return outside quotes"),
        (b"a\nb\xff\n", 2, "not UTF-8 text"),
        (b'a\n"b\n\xff"\n', 3, "not UTF-8 text"),
    ],
)
def test_what_is_not_csv_is_refused_by_line(content: bytes, line: int, message: str) -> None:
    with pytest.raises(kvstore.BadLine, match=message) as caught:
        records(content)

    assert (caught.value.file, caught.value.line) == ("f.csv", line)
    assert str(caught.value).startswith(f"f.csv:{line}: ")


@pytest.mark.parametrize("opening", [b"", b'"', b'"\n'])
def test_a_record_is_not_read_beyond_its_limit(opening: bytes) -> None:
    stream = io.BytesIO(b"a\n" + opening + b"x" * (RECORD_BYTES_MAX + 100) + b"\n" * 100)

    with pytest.raises(kvstore.BadLine, match=r"f.csv:2: a record of more than \d+ bytes"):
        list(RecordReader(stream, "f.csv"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("0", 0),
        ("2452.0", 2452.0),
        ("0.28999999165534973", 0.28999999165534973),
        ("-0.0", -0.0),
        ("18446744073709551615", 18446744073709551615),
        ("true", True),
        ("false", False),
        ("18446744073709551616", "18446744073709551616"),
        ("007", "007"),
        ("-0", "-0"),
        ("1.50", "1.50"),
        ("1e5", "1e5"),
        ("+5", "+5"),
        ("True", "True"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("", ""),
        (" 5", " 5"),
        ("1993-01-01", "1993-01-01"),
        ("99999999999999999999.0", "99999999999999999999.0"),
    ],
)
def test_only_text_that_is_spelt_the_same_becomes_a_number(text: str, value: object) -> None:
    found = typed(text)

    assert (repr(found), type(found)) == (repr(value), type(value))
    assert field_text(found) == text


@given(st.one_of(st.text(), st.from_regex(r"-?[0-9]{1,22}(\.[0-9]{1,22})?", fullmatch=True)))
def test_whatever_is_converted_is_spelt_the_same(text: str) -> None:
    assert field_text(typed(text)) == text

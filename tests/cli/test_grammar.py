"""The shell's grammar, rule by rule, and that every text gives statements or a GrammarError."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvstore.cli.language.grammar import (
    GrammarError,
    Option,
    Statement,
    StatementReader,
    Term,
    TextPosition,
    parse_argument,
)
from kvstore.cli.language.lexer import NESTING_MAX

U = "01234567-89ab-cdef-0123-456789abcdef"


def statements(*lines: str) -> list[Statement]:
    reader = StatementReader()
    found = [statement for line in lines for statement in reader.feed(line)]
    reader.end()
    return found


def term(text: str) -> Any:
    """Return the only term of ``put TEXT``."""
    (statement,) = statements(f"put {text}")
    (item,) = statement.items
    assert isinstance(item, Term)
    return item.value


def complaint(*lines: str) -> GrammarError:
    with pytest.raises(GrammarError) as caught:
        statements(*lines)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # bare: a number only if all of the word is a number
        ("0", 0),
        ("-2", -2),
        ("-0", 0),
        ("100", 100),
        ("1.5", 1.5),
        ("1e5", 100000.0),
        ("1E+5", 100000.0),
        ("-1.25e-3", -0.00125),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("true", True),
        ("True", True),
        ("false", False),
        ("False", False),
        ("null", None),
        ("None", None),
        # bare: anything else is text
        ("01234", "01234"),
        ("+420123", "+420123"),
        ("2026-11-22", "2026-11-22"),
        ("10.0.0.1", "10.0.0.1"),
        ("12:30", "12:30"),
        ("user:1:name", "user:1:name"),
        ("http://a.b/c#d", "http://a.b/c#d"),
        ("1.", "1."),
        (".5", ".5"),
        ("1e", "1e"),
        ("--", "--"),
        ("-->", "-->"),
        ("-x", "-x"),
        ("TRUE", "TRUE"),
        ("+inf", "+inf"),
        ("١", "١"),  # noqa: RUF001  a digit, but not one of 0 to 9
        ("žluťoučký", "žluťoučký"),
        ("a=b", "a=b"),
        # strings
        ('""', ""),
        ("''", ""),
        ('"it\'s"', "it's"),
        ("'say \"x\"'", 'say "x"'),
        (r'"\\ \" \' \/ \n\r\t\b\f\0 \x41 \u00e9"', "\\ \" ' / \n\r\t\b\f\0 A é"),
        (r'"\ud83d\ude00"', "😀"),
        ('"5"', "5"),
        ('"--limit"', "--limit"),
        ('"# no comment; no end"', "# no comment; no end"),
        # bytes and uuid
        ('b""', b""),
        (r'b"a\x00\xff\n"', b"a\x00\xff\n"),
        ("b'a'", b"a"),
        (f'uuid"{U}"', UUID(U)),
        # tuples, lists, maps
        ("()", ()),
        ("(1,)", (1,)),
        ('("acct", "eu", 1)', ("acct", "eu", 1)),
        ("(acct, eu, 1,)", ("acct", "eu", 1)),
        ("((1,), (2, (3,)))", ((1,), (2, (3,)))),
        ("[]", []),
        ("[1]", [1]),
        ("[1, [2], (3,),]", [1, [2], (3,)]),
        ("[2026-11-22,--x,a#b]", ["2026-11-22", "--x", "a#b"]),
        ("{}", {}),
        ('{"a": 1, b: [2], c:{}}', {"a": 1, "b": [2], "c": {}}),
        ('{1: a, 1.5: b, null: c, true2: d, b"x": e, -inf: f,}',
         {1: "a", 1.5: "b", None: "c", "true2": "d", b"x": "e", -math.inf: "f"}),
    ],
)  # fmt: skip
def test_a_term_means_what_it_says(text: str, value: Any) -> None:
    found = term(text)

    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_nan_is_a_term() -> None:
    assert math.isnan(term("nan"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("put k don't", 'quote the whole word: "don\'t"'),
        ("put k [don't, b]", 'quote the whole word: "don\'t"'),
        ('put k "a"b', "quote the whole word"),
        ('put k "a":b', "quote the whole word"),
        ('put k c"a"', "quote the whole word"),
        ("put k a,b", '"," outside brackets: quote the whole word'),
        ("put k 1, 2", '"," outside brackets: quote the whole word'),
        ("put k a(b)", "leave a blank before this, or quote the whole word"),
        ('put("k", 1)', "leave a blank before this, or quote the whole word"),
        ("get (a,)b", "leave a blank before this, or quote the whole word"),
        ("put k a)", '")" closes nothing: quote the whole word'),
        ("put k [12:30]", '":" inside brackets: quote the whole word'),
        ("put k {a:12:30}", '":" inside brackets: quote the whole word'),
        ('put k ["a":1]', '":" inside brackets: quote the whole word'),
        ("put (acct) 1", "a one-element tuple needs a comma"),
        ('put ("acct") 1', "a one-element tuple needs a comma"),
        ("put k ((1))", "a one-element tuple needs a comma"),
        (r'put k "a\d"', r"unknown escape \d: write \\ for a backslash"),
        (r'put k "\x4"', r"unknown escape \x: write \\ for a backslash"),
        (r'put k "\u12"', r"unknown escape \u: write \\ for a backslash"),
        (r'put k "\U0001f600"', r"unknown escape \U: write \\ for a backslash"),
        (r'put k "\ud83d"', r"half of a pair of \uHHHH escapes: both are needed to make a character"),
        ('put k b"é"', r'b"..." holds ASCII and \xHH only'),
        (r'put k b"\u0041"', r'b"..." holds ASCII and \xHH only'),
        ('put k uuid"12"', f'a uuid is written uuid"{U}"'),
        ("put k 1e999", "this number is too large for a float: write inf, or quote it"),
        ("put k " + "9" * 100_002, "a number has at most 100000 digits: quote it to make it text"),
        ("put k (1]", '"]" cannot close "("'),
        ("put k [1; get k", '";" inside "[": close the bracket or quote the word'),
        ("put k [,]", 'a term is missing before this ","'),
        ("put k (,)", 'a term is missing before this ","'),
        ("put k [1,,2]", 'a term is missing before this ","'),
        ("put k [1 2]", 'a "," is missing before this'),
        ("put k [(1,)[2]]", 'a "," is missing before this'),
        ('put k ["a"(1,)]', "quote the whole word"),
        ("put k {a}", "a map is {key: value}: the value is missing"),
        ("put k {a:}", "a map is {key: value}: the value is missing"),
        ("put k {a, b}", 'a map is {key: value}: a ":" is missing before this'),
        ("put k {a 1}", 'a map is {key: value}: a ":" is missing before this'),
        ("put k {(1,): 2}", 'a map\'s key is a string, b"..", number, true, false or null'),
        (f'put k {{uuid"{U}": 2}}', 'a map\'s key is a string, b"..", number, true, false or null'),
        ("put k {a: 1, a: 2}", "the map has this key already"),
        ("put k {1: 1, true: 2}", "the map has this key already"),
        ("scan --limit=5", "an option is --name VALUE; to make it text, quote the whole word"),
        ('"get" k', "a command begins with a word, such as get or put"),
        ("(1,)", "a command begins with a word, such as get or put"),
        ("put k \udcff", "this is not UTF-8 text"),
        ("put k " + "[" * (NESTING_MAX + 1), f"brackets nest at most {NESTING_MAX} deep"),
        ("put k [1", "this [ is never closed"),
        ('put k "abc', 'this " is never closed'),
        ("put k (a, 'b", "this ' is never closed"),
    ],
)
def test_what_is_not_in_the_grammar_is_told_in_a_sentence(text: str, message: str) -> None:
    error = complaint(text)

    assert str(error).startswith(message)


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (["put k don't"], (1, 7)),
        (["put k 1", "put k [", " 1,", " 2 3]"], (4, 4)),
        (["", "put k (acct)"], (2, 7)),
        (["put a [1,", "2"], (1, 7)),
        (['put a "x', "y"], (1, 7)),
    ],
)
def test_an_error_knows_its_line_and_column(lines: list[str], place: tuple[int, int]) -> None:
    assert complaint(*lines).place == place


class TestLines:
    def test_a_line_holds_commands_with_semicolons_between_and_a_comment_behind(self) -> None:
        found = statements("put a 1; put b 2;; get a ; # get b; get c\n")

        assert [(s.word, [i.value for i in s.items if isinstance(i, Term)]) for s in found] == [
            ("put", ["a", 1]),
            ("put", ["b", 2]),
            ("get", ["a"]),
        ]

    @pytest.mark.parametrize("line", ["", "   ", "# all of it", "\t# x", ";", "\r\n"])
    def test_a_line_may_be_empty(self, line: str) -> None:
        assert statements(line) == []

    def test_an_open_bracket_continues_on_the_next_line(self) -> None:
        reader = StatementReader()

        assert reader.feed("put k [1, # one\n") == []
        assert reader.feed("  2\n") == []
        (statement,) = reader.feed("]; get k\r\n")[:1]
        assert statement.items[1] == Term([1, 2], None, TextPosition(1, 7))

    def test_an_open_quote_continues_on_the_next_line_and_keeps_the_line_end(self) -> None:
        (statement,) = statements('put k "a\n', "\n", " # b'\n", 'c"')

        assert [item.value for item in statement.items if isinstance(item, Term)] == ["k", "a\n\n # b'\nc"]

    def test_after_an_error_the_next_line_begins_afresh(self) -> None:
        reader = StatementReader()
        for bad in ("put k [1,\n 2 ]]\n", "put k don't\n"):
            with pytest.raises(GrammarError):
                reader.feed(bad)

        (statement,) = reader.feed("get k\n")
        assert (statement.word, statement.place.line) == ("get", 3)

    def test_a_line_that_is_wrong_anywhere_does_nothing_at_all(self) -> None:
        reader = StatementReader()

        with pytest.raises(GrammarError):
            reader.feed("put a 1; put b (x)")


class TestOptions:
    def test_an_unquoted_word_after_two_dashes_is_an_option(self) -> None:
        (statement,) = statements('scan us --limit 5 --reverse "--raw"')

        assert [type(item) for item in statement.items] == [Term, Option, Term, Option, Term]
        assert [item.name for item in statement.items if isinstance(item, Option)] == ["limit", "reverse"]

    def test_a_negative_number_is_a_number(self) -> None:
        (statement,) = statements("add hits -2")

        assert [item.value for item in statement.items if isinstance(item, Term)] == ["hits", -2]


class TestArguments:
    """The argv rule: an argument that is exactly one term is that term, any other is text."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("5", 5),
            ("-2", -2),
            ('"5"', "5"),
            ('("acct", 1)', ("acct", 1)),
            ("[1,\n 2]", [1, 2]),
            ('{"a": null}', {"a": None}),
            ('b"x"', b"x"),
            ("null", None),
            ("", ""),
            (" ", " "),
            ("Ada Lovelace", "Ada Lovelace"),
            ("don't", "don't"),
            ("(acct)", "(acct)"),
            ("a,b", "a,b"),
            ("a;b", "a;b"),
            ("5;", "5;"),
            ("#5", "#5"),
            ("5 # five", "5 # five"),
            ("[1,", "[1,"),
            ('"open', '"open'),
            (r'"\d"', r'"\d"'),
            ("--limit", "--limit"),
            ("1e999", "1e999"),
            ("f(x)", "f(x)"),
            ("12:30", "12:30"),
        ],
    )
    def test_an_argument_is_one_term_or_text(self, text: str, value: Any) -> None:
        found = parse_argument(text)

        assert (found, type(found)) == (value, type(value))

    @pytest.mark.parametrize("text", ["5", '"5"', "(1,)", "null", ""])
    def test_text_can_be_forced(self, text: str) -> None:
        assert parse_argument(text, force_text=True) == text

    @pytest.mark.parametrize("force", [True, False])
    def test_what_is_not_utf8_is_refused(self, force: bool) -> None:
        with pytest.raises(GrammarError, match="not UTF-8"):
            parse_argument("a\udcff", force_text=force)


SIGNS = st.sampled_from([*"()[]{},;:\"'\\#- \n\tabx0159.e\u00e9\ud800", 'uuid"', "b'", "--", r"\u", "nan"])
TEXTS = st.one_of(st.text(), st.lists(SIGNS, max_size=40).map("".join))


def grammar_error(call: Callable[..., Any], *arguments: str) -> GrammarError | None:
    try:
        call(*arguments)
    except GrammarError as error:
        return error
    return None


class TestWhateverTheText:
    @given(st.lists(TEXTS, max_size=4))
    @example(["\\"])
    @example(['"\\'])
    def test_a_script_gives_statements_or_grammar_errors(self, lines: list[str]) -> None:
        reader = StatementReader()
        errors = [grammar_error(reader.feed, line) for line in lines] + [grammar_error(reader.end)]

        for error in filter(None, errors):
            assert str(error)
            assert error.place >= (1, 1)

    @given(TEXTS)
    def test_an_argument_gives_a_value_or_a_grammar_error(self, text: str) -> None:
        if grammar_error(parse_argument, text) is not None:
            assert not text.isascii()

    @pytest.mark.parametrize(
        "text",
        [
            "put k " + "[" * 1_000_000,
            "put k " + "(1," * NESTING_MAX + ")" * NESTING_MAX,
            "put k " + "{a:" * 1_000_000,
            "put k [" + "1," * 100_000 + "]",
            "put k " + '"' + r"\x41" * 300_000 + '"',
            "put k " + "'" * 1_000_001,
            "put k " + '"\\' * 500_000,
            "put k " + "a'" * 500_000,
            ";" * 300_000,
            "put k " + "9" * 1_000_000,
            "put k 0." + "9" * 1_000_000,
            "put k " + "1e" * 500_000,
            "put " + "k " * 100_000,
            "put k [" + " # x\n" * 100_000,
            " " * 1_000_000 + "x" * 1_000_000,
        ],
        ids=lambda text: text[:12],
    )
    def test_time_grows_with_the_text_and_no_faster(self, text: str) -> None:
        began = time.process_time()

        errors = [grammar_error(feed, text) for feed in (StatementReader().feed, parse_argument)]

        assert max(len(str(error)) for error in errors) < 200
        assert time.process_time() - began < 5

    def test_a_term_may_span_very_many_lines(self) -> None:
        reader = StatementReader()
        began = time.process_time()

        reader.feed("put k [\n")
        for number in range(100_000):
            assert reader.feed(f"{number},\n") == []
        (statement,) = reader.feed("]\n")

        assert statement.items[1] == Term(list(range(100_000)), None, TextPosition(1, 7))
        assert time.process_time() - began < 5

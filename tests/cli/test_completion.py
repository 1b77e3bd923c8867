"""The completions that Tab offers, and that inserted text reads back as its key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

import kvstore
from kvstore.cli import completion
from kvstore.cli.commands.session import Session
from kvstore.cli.commands.store_commands import COMMANDS
from kvstore.cli.completion import KEYS_MAX, ShellCompleter
from kvstore.cli.language.grammar import StatementReader
from kvstore.cli.language.printing import show
from tests.cli.test_printing import KEYS, shape

ID = UUID(int=5)


@pytest.fixture(scope="module")
def db() -> Iterator[kvstore.Database]:
    with kvstore.open(":memory:") as db:
        keys: list[Any] = [
            "acct", "account book", "don't", "5", "--x", "1e5", b"raw\x00", ("acct",), ("acct", "eu", 1),
            ("acct", "eu", 2), ("acct", "us", 7), ("acct", 15), ("acct", 150), ("acct", b"eb"), ("acct", ID),
            ("other", ("nested", 1)), ("only",),
        ]  # fmt: skip
        for key in keys:
            db.put(key, 1)
        yield db


def completed(db: kvstore.Database, text: str) -> list[str]:
    """Return the text before the cursor with each completion in its place."""
    document = Document(text)
    offered = ShellCompleter(Session(db)).get_completions(document, CompleteEvent())
    return [text[: len(text) + found.start_position] + found.text for found in offered]


class TestWords:
    @pytest.mark.parametrize(
        ("typed", "offered"),
        [
            ("sc", ["scan"]),
            ("put a 1; sc", ["put a 1; scan"]),
            ("help st", ["help status"]),
            ("scan --re", ["scan --reverse"]),
            ("scan --reverse --re", []),
            ("status ", ["status --json", "status --format"]),
            ("get k ", ["get k --raw", "get k --format"]),
            ("scan --format j", ["scan --format json", "scan --format jsonl"]),
            ("scan --limit ", []),
            ("timing o", ["timing on", "timing off"]),
            ("format cs", ["format csv"]),
            ("frobnicate ", []),
            ("get a # co", []),
            ("put [", []),
            ("put k don't", []),
            ("put (acct)\nsc", ["put (acct)\nscan"]),
            ("put k [1,\n2]\nsc", ["put k [1,\n2]\nscan"]),
        ],
    )
    def test_are_offered_where_they_fit(self, db: kvstore.Database, typed: str, offered: list[str]) -> None:
        assert completed(db, typed) == offered

    def test_all_commands_are_offered_where_nothing_is_typed(self, db: kvstore.Database) -> None:
        assert completed(db, "") == [command.name for command in COMMANDS if not command.of_regions]


class TestKeys:
    @pytest.mark.parametrize(
        ("typed", "offered"),
        [
            ("get acc", ['get "account book"', "get acct"]),
            ('get "acc', ['get "account book"', 'get "acct"']),
            ("get 'don", ['get "don\'t"']),
            ("get 5", ['get "5"']),
            ('get b"r', [r'get b"raw\x00"']),
            ("get acct", ["get acct"]),
            ('get "acct"', []),
            ('get ("acct", "e', ['get ("acct", "eu", 1)', 'get ("acct", "eu", 2)']),
            ('get ("acct", e', ['get ("acct", "eu", 1)', 'get ("acct", "eu", 2)']),
            ('get ("acct", "eu", ', ['get ("acct", "eu", 1)', 'get ("acct", "eu", 2)']),
            ('get ("acct", "eu",\n', ['get ("acct", "eu",\n1)', 'get ("acct", "eu",\n2)']),
            ('get ("acct", 1', ['get ("acct", 15)', 'get ("acct", 150)']),
            ('get ("acct", b"e', ['get ("acct", b"eb")']),
            ('get ("acct", uuid"0', [f'get ("acct", uuid"{ID}")']),
            ('get ("oth', ['get ("other", ("nested", 1))']),
            ('get ("acct"', []),
            ("get (o", ['get ("only",)', 'get ("other", ("nested", 1))']),
            ('get ("none", ', []),
            ('get ("acct", "eu"', []),
            ('get (("acct", ', []),
            ('get ["acct", ', []),
            ('scan --start ("other", ', ['scan --start ("other", ("nested", 1))']),
            ('put k ("acct", ', []),
        ],
    )
    def test_are_those_that_begin_so(self, db: kvstore.Database, typed: str, offered: list[str]) -> None:
        assert completed(db, typed) == offered

    def test_include_the_tuple_that_is_typed_already(self, db: kvstore.Database) -> None:
        assert completed(db, 'get ("acct",')[0] == 'get ("acct",)'

    def test_are_those_of_this_moment(self) -> None:
        with kvstore.open(":memory:") as db:
            db.put("one", 1)
            assert completed(db, "get o") == ["get one"]
            db.put("other", 1)
            assert completed(db, "get o") == ["get one", "get other"]

    def test_are_few_however_many_there_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with kvstore.open(":memory:") as db:
            with db.batch() as batch:
                for number in range(1000):
                    batch.put(("many", number), None)
            assert len(completed(db, "get (")) == KEYS_MAX

            monkeypatch.setattr(completion, "KEYS_SECONDS_MAX", -1)
            assert completed(db, "get (") == ['get ("many", 0)']

    def test_of_a_store_that_is_closed_are_none(self) -> None:
        db = kvstore.open(":memory:")
        db.close()

        assert completed(db, "get ") == []

    @given(KEYS, st.integers(0, 30))
    def test_mean_what_they_stand_for(self, key: Any, length: int) -> None:
        """The completion of a key reads back as the key, for any typed part."""
        with kvstore.open(":memory:", shards=1) as db:
            try:
                db.put(key, 1)
            except kvstore.UsageError:
                return
            for text in completed(db, "get " + show(key)[:length]):
                (statement,) = StatementReader().feed(text)
                ((value, *_),) = statement.items
                assert shape(value) == shape(key)

"""Each invariant that is asserted in keys and lexer is broken once: the state is made wrong by hand, and
the assertion that fails names its label and the numbers."""

from __future__ import annotations

from kvstore import keys
from kvstore.cli.language.lexer import NESTING_MAX, Lexeme, Lexer, TextPosition
from tests.support.broken import broken

OPEN = Lexeme("open", None, "(", TextPosition(1, 1), False)


def test_a_part_of_a_key_is_not_longer_than_the_key() -> None:
    first = len(keys.encode(("abc",)))

    with broken("KEYS-3", f"{first} of 1", keys.KEY_BYTES_MAX):
        keys.placement(("abc", "d"), b"\x01", 1)


def test_brackets_are_balanced_where_none_is_open() -> None:
    lexer = Lexer()
    lexer.tokens.append(OPEN)

    with broken("LEXER-1", "1 brackets", "0 closed"):
        lexer.feed("a")


def test_brackets_are_bounded() -> None:
    lexer = Lexer()
    lexer._brackets = [OPEN] * (NESTING_MAX + 1)

    with broken("LEXER-2", NESTING_MAX + 2, NESTING_MAX):
        lexer.feed("(")


def test_something_reads_every_character() -> None:
    with broken("LEXER-3", "'('"):
        Lexer()._bare("(", 0)

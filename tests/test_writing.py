"""The rules of docs/writing.md that a machine can check: openings and words that hide the subject."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("kvstore", "demo", "benchmarks") for path in (ROOT / room).rglob("*.py"))

OPENING = re.compile(
    r"(Who|Whoever|Those|It|He|They|Somebody|Nobody|Everybody|The same|Likewise|Of|As)\b(?!-)"
    r"|One(?= (?:has|that|which|whose|who|is|was|may|can|does)\b|[,.;])"
)
"""How no docstring and no field's note begins: the subject is not named, or the line above is needed."""
HIDDEN = re.compile(r"\b(nobody|somebody|everybody|whoever|whomever)\b", re.IGNORECASE)
"""Words for a role that has a name."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings and field notes of a file, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield statement.lineno, str(statement.value.value)


def comments(path: Path) -> Iterator[tuple[int, str]]:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    yield from ((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=short)
class TestEveryFile:
    def test_says_what_its_docstrings_are_about(self, path: Path) -> None:
        wrong = [f"{line}: {text[:60]}" for line, text in texts(path) if OPENING.match(text.lstrip())]

        assert wrong == [], "docs/writing.md: name the subject"

    def test_names_roles_by_their_names(self, path: Path) -> None:
        found = [*texts(path), *comments(path)]
        wrong = [f"{line}: {match[0]}" for line, text in found if (match := HIDDEN.search(text))]

        assert wrong == [], "docs/writing.md: name the replica, the caller, the slot"


class TestThisTest:
    @pytest.mark.parametrize(
        "text", ["Who speaks, lives.", "The same of all.", "One has it.", "Of a region."]
    )
    def test_refuses_an_opening(self, text: str) -> None:
        assert OPENING.match(text)

    @pytest.mark.parametrize(
        "text", ["Offsets by shard.", "Items, in order.", "One line of the table.", "One-shard."]
    )
    def test_takes_a_word_that_only_begins_alike(self, text: str) -> None:
        assert not OPENING.match(text)

"""The documentation keeps its word: examples run, links lead somewhere, lists are complete.

Every page's ``python`` blocks are one program, run in a fresh folder. A comment behind an expression that
is a literal, or begins with one, is its result: ``db.get("k")  # 5``, ``db.add("k")  # 6: one more``.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvstore

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

FENCE = re.compile(r"^```(\w*)")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
SOURCE = re.compile(r"\b(?:kvstore|tests|docs|benchmarks|demo)/[\w/.-]*\w\.(?:py|md|txt)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])(?:/(?:home|root|Users|work|mnt|private)/|[A-Z]:\\|file://)")
INVARIANT = re.compile(r"^\| ([A-Z]+-\d) +\|.*\| `([\w/.]+)` +\|$", re.MULTILINE)

CHECK = (
    "def _check(found, expected):"
    " assert repr(found) == repr(expected), f'the page says {expected!r}, it is {found!r}'"
)


def pages() -> list[Path]:
    """Every Markdown file of the project, and none of what tools put into hidden folders."""
    found = ROOT.rglob("*.md")
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(ROOT).parts))


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> Iterator[tuple[int, list[str]]]:
    """The code blocks of a language, each with the number of its first line."""
    block: list[str] = []
    start, inside = 0, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if inside and line.startswith("```"):
            if inside == language:
                yield start, block
            inside = ""
        elif fence:
            inside, start, block = fence[1] or "text", number + 1, []
        elif inside:
            block.append(line)


def prose(path: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def program(path: Path) -> str:
    """A page's examples as one program, every line where it stands on the page."""
    lines = [""] * len(path.read_text(encoding="utf-8").splitlines())
    for first, block in blocks(path, "python"):
        lines[first - 1 : first - 1 + len(block)] = checked(block)
    assert not lines[0], "the first line of a page is its title"
    lines[0] = CHECK
    return "\n".join(lines) + "\n"


def checked(block: list[str]) -> list[str]:
    """The block with every expression that has its result beside it wrapped in a check."""
    lines = list(block)
    for node in ast.walk(ast.parse("\n".join(block))):
        if isinstance(node, ast.Expr) and node.end_lineno is not None:
            last = node.end_lineno - 1
            _, mark, comment = lines[last][node.end_col_offset :].partition("#")
            expected = literal_before_colon(comment.strip()) if mark else None
            if expected is not None:
                code = lines[last][: node.end_col_offset]
                lines[last] = f"{code}), {expected})"
                first = lines[node.lineno - 1]
                lines[node.lineno - 1] = f"{first[: node.col_offset]}_check(({first[node.col_offset :]}"
    return lines


def literal_before_colon(comment: str) -> str | None:
    """The literal that a comment is, or begins with; None when it is prose."""
    for end in [len(comment), *(found.start() for found in re.finditer(": ", comment))]:
        try:
            ast.literal_eval(comment[:end])
        except (ValueError, SyntaxError):
            continue
        return comment[:end]
    return None


WITH_EXAMPLES = [path for path in pages() if any(blocks(path, "python"))]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=short)
def test_the_examples_of_a_page_run(path: Path, tmp_path: Path) -> None:
    script = tmp_path / f"{path.stem}.py"
    script.write_text(program(path), encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()

    child = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=folder, capture_output=True, text=True, timeout=120
    )

    assert child.returncode == 0, f"{short(path)}, by its own line numbers:\n{child.stderr}"


class TestTheReadme:
    LINES = ("sh .ci/setup && .venv/bin/python -m demo", "sh .ci/setup && .venv/bin/python -m pytest")

    def test_begins_with_the_two_lines_that_set_it_up(self) -> None:
        shown = [line for _, block in blocks(ROOT / "README.md", "sh") for line in block]

        assert tuple(line for line in shown if line.startswith("sh .ci/setup"))[:2] == self.LINES

    def test_its_first_line_shows_something(self, tmp_path: Path) -> None:
        demo = subprocess.run(
            [sys.executable, "-m", "demo", "--fast", "--path", str(tmp_path / "bank")],
            cwd=ROOT, capture_output=True, text=True, timeout=240,
        )  # fmt: skip

        assert demo.returncode == 0, demo.stderr
        assert demo.stdout.count("found nothing wrong.") == 9
        assert demo.stdout.splitlines()[-1].startswith("money conserved: ")

    def test_has_an_example(self) -> None:
        assert ROOT / "README.md" in WITH_EXAMPLES

    def test_the_commands_it_shows_answer_so(self, tmp_path: Path) -> None:
        ((_, lines),) = blocks(ROOT / "README.md", "console")
        for example in "\n".join([*lines, ""]).split("$ kvstore ")[1:]:
            command, _, answer = example.partition("\n")
            kvstore_program = [sys.executable, "-m", "kvstore", *shlex.split(command)]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                kvstore_program, cwd=tmp_path, env=environment, capture_output=True, text=True
            )

            assert done.stdout == answer, command


@pytest.mark.parametrize("path", pages(), ids=short)
class TestEveryPage:
    def test_has_a_title(self, path: Path) -> None:
        assert path.read_text(encoding="utf-8").startswith("# ")

    def test_links_to_what_is_there(self, path: Path) -> None:
        broken = [target for target in LINK.findall(prose(path)) if not leads_somewhere(path, target)]

        assert broken == []

    def test_names_files_that_are_there(self, path: Path) -> None:
        named = set(SOURCE.findall(path.read_text(encoding="utf-8")))

        assert sorted(name for name in named if not (ROOT / name).exists()) == []

    def test_knows_no_machine(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")

        assert [text[found.start() :][:40] for found in MACHINE_PATH.finditer(text)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    if re.match(r"[a-z]+:", target):
        return True  # the world outside is not looked at
    file, _, anchor = target.partition("#")
    path = (page.parent / file).resolve() if file else page
    return path.exists() and (not anchor or anchor in anchors(path))


def anchors(path: Path) -> set[str]:
    """What can stand behind ``#`` in a link to a page: its headings, as they are written in links."""
    headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class TestErrors:
    PAGE = DOCS / "errors.md"

    @staticmethod
    def errors() -> list[type[kvstore.Error]]:
        named = (getattr(kvstore, name) for name in kvstore.__all__)
        return [thing for thing in named if isinstance(thing, type) and issubclass(thing, kvstore.Error)]

    def rows(self) -> dict[str, str]:
        """The table row of each error."""
        lines = self.PAGE.read_text(encoding="utf-8").splitlines()
        return {found[1]: line for line in lines if (found := re.match(r"\| `(\w+)`", line))}

    def test_each_is_on_the_page_and_no_other(self) -> None:
        leaves = {error.__name__ for error in self.errors() if not error.__subclasses__()}

        assert self.rows().keys() == leaves

    def test_each_has_all_its_facts_there(self) -> None:
        rows = self.rows()
        missing = [
            f"{error.__name__}.{fact}"
            for error in self.errors()
            if error.__name__ in rows
            for fact in error.facts
            if f"`{fact}`" not in rows[error.__name__]
        ]

        assert missing == []

    def test_each_group_is_a_heading(self) -> None:
        groups = {error.__name__ for error in self.errors() if error.__subclasses__()} - {"Error"}

        assert {group.lower() for group in groups} <= anchors(self.PAGE)


class TestTheCommandLine:
    PAGE = DOCS / "cli.md"

    def test_every_command_is_on_its_page(self) -> None:
        if not self.PAGE.exists():
            pytest.skip("docs/cli.md is not written yet")
        shown = subprocess.run([sys.executable, "-m", "kvstore", "--help"], capture_output=True, text=True)
        commands = re.findall(r"^  (\w+)", shown.stdout.partition("Commands:")[2], flags=re.MULTILINE)
        text = self.PAGE.read_text(encoding="utf-8")

        assert len(commands) > 5
        assert [command for command in commands if f"`{command} " not in text] == []


def test_every_named_invariant_of_the_index_is_in_its_module() -> None:
    index = INVARIANT.findall((DOCS / "architecture.md").read_text(encoding="utf-8"))
    wrong = [
        f"{name} is not in {module}"
        for name, module in index
        if not re.search(rf"\b{name}\b", (ROOT / module).read_text(encoding="utf-8"))
    ]

    assert len(index) > 20
    assert wrong == []


def test_every_label_of_an_invariant_names_one_rule() -> None:
    """Each label is defined in the head of one module, and has one row in the index."""
    defined = re.compile(r"^ *(?:INVARIANT )?([A-Z]+-\d)(?:  |: )", re.MULTILINE)
    found = [
        label for path in (ROOT / "kvstore").rglob("*.py") for label in defined.findall(path.read_text())
    ]
    index = [name for name, _ in INVARIANT.findall((DOCS / "architecture.md").read_text(encoding="utf-8"))]

    assert [label for label, count in Counter(found).items() if count > 1] == []
    assert sorted(found) == sorted(index)


def test_every_variable_that_tests_ask_for_is_in_testing_md() -> None:
    asked = re.compile(r"environ\.get\(\"(\w+)\"")
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    ours = {name for text in tests for name in asked.findall(text)} - {"PYTHONPATH"}
    text = (DOCS / "testing.md").read_text(encoding="utf-8")

    assert "KVSTORE_BERKA_KILLS" in ours
    assert sorted(name for name in ours if f"| `{name}` |" not in text) == []


def test_every_page_of_the_documentation_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [short(path) for path in DOCS.glob("*.md") if f"(docs/{path.name})" not in text] == []


class TestThisTest:
    """The checks above see what they claim to see."""

    def test_a_result_that_differs_fails(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("# Title\n\n```python\nnumber = 1 + 1\nnumber  # 3: not so\n```\n")
        script = tmp_path / "page.py"
        script.write_text(program(page))

        child = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)

        assert child.returncode == 1
        assert "line 5" in child.stderr
        assert "the page says 3, it is 2" in child.stderr

    @pytest.mark.parametrize(
        ("comment", "literal"),
        [
            ("1", "1"),
            ("{'a': [1]}", "{'a': [1]}"),
            ("[1, 2]: in order", "[1, 2]"),
            ("a future: done later", None),
            ("here, not there", None),
        ],
    )
    def test_a_result_is_told_from_prose(self, comment: str, literal: str | None) -> None:
        assert literal_before_colon(comment) == literal

    def test_a_path_of_a_machine_is_seen(self) -> None:
        for text in ("in /home/ada/x", "`/root/x`", "C:\\x", "(file://x)"):
            assert MACHINE_PATH.search(text)
        for text in ("tests/work/x.md", "`/proc/self`", "../home/x"):
            assert not MACHINE_PATH.search(text)

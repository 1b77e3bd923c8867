"""A function of eris/ or fuzzylog/ that changes state asserts an invariant under its label.

A function changes state when it assigns to an attribute or an item of what it did not make itself, deletes
one, or calls a method that changes a container of it. Functions without an assertion are listed here, each
with its reason. And every label of the index is asserted somewhere, or stands in docs/testing.md with what
sees it instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_docs import DOCS, INVARIANT, ROOT

ROOMS = ("eris", "fuzzylog")
CHANGES = {
    "add", "append", "appendleft", "clear", "delete", "discard", "extend", "insert", "pop", "popleft", "put",
    "remove", "setdefault", "update",
}  # fmt: skip
"""Methods of containers and tables that change them."""
MAKES = {"dict", "list", "set", "sorted", "deque", "Counter"}
"""What makes a container of the function's own, besides every class."""
CONSTRUCTORS = {"__init__", "__post_init__"}

EXCEPTIONS = {
    "eris/failure_detector.py: _watch_learner": "called by tick alone, which asserts the time",
    "eris/locks.py: _add": "fills the footprint that its caller has just made",
    "eris/log.py: append": "the stored log below asserts LOG-1 of the slot",
    "eris/log.py: forget": "what it forgets of the ended batch is not read again",
    "eris/replica.py: end_batch": "notes where the log ends, as the log says itself",
    "eris/replica_state.py: inline_bodies": "has the logs move bodies, which assert it",
    "eris/shard.py: window_of": "an empty window for a client that is not known claims nothing",
    "eris/shard_state.py: save": "writes the record as it is, of which each step has looked at its part",
    "eris/view_change.py: on_view_change_request": "extends the effects that join made for it",
    "fuzzylog/ancestry.py: _join_all": "keeps the pasts that _before makes, which asserts",
    "fuzzylog/neighbours.py: _on_shipment": "_check_order asserts what the shipment brought",
    "fuzzylog/neighbours.py: _stopped_by": "stops the machine, which its other functions assert",
    "fuzzylog/neighbours.py: imported": "moves names from one set to another; _pull_from asserts",
    "fuzzylog/neighbours.py: on_commit": "sets a timer",
    "fuzzylog/neighbours.py: pull_soon": "sets a timer",
    "fuzzylog/neighbours.py: tick": "sets a timer, and calls functions that assert",
    "fuzzylog/old_copies.py: check_tails": "notes that a neighbour was compared; nothing else depends on it",
    "fuzzylog/shipping.py: refresh": "moves times forward that are only shown; nothing is decided by them",
}
"""Functions without an assertion, and why."""

LABEL = re.compile(r"^([A-Z]+-\d)\b")
LISTED = re.compile(r"^\| ((?:[A-Z]+-\d(?:, )?)+) \| (.+) \| (.+) \|$", re.MULTILINE)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name not in CONSTRUCTORS:
            yield node


def own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def root(node: ast.expr) -> str | None:
    """The name that a chain of attributes, items and calls begins with."""
    while not isinstance(node, ast.Name):
        match node:
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Call(func=inner):
                node = inner
            case _:
                return None
    return node.id


def is_made(value: ast.expr | None, own: set[str]) -> bool:
    """Whether an expression makes a new object, or is a part of one that the function made."""
    if isinstance(value, ast.Call):
        maker = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        if isinstance(maker, ast.Name) and (maker.id in MAKES or maker.id[0].isupper()):
            return True
    made = (ast.List, ast.Dict, ast.Set, ast.Tuple, ast.ListComp, ast.DictComp, ast.SetComp, ast.Constant)
    if isinstance(value, ast.BinOp):
        return is_made(value.left, own)
    return isinstance(value, made) or (value is not None and root(value) in own)


def pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """Each name that a statement assigns to, with what it gets."""
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                if isinstance(target, ast.Tuple):
                    whole = [value] * len(target.elts)
                    values = value.elts if isinstance(value, ast.Tuple) else whole
                    yield from zip(target.elts, values, strict=True)
                else:
                    yield target, value
        case ast.AnnAssign(target=target, value=value):
            yield target, value


def own_names(function: ast.FunctionDef) -> set[str]:
    """Names of objects that the function makes, and of nothing else."""
    assigned = [
        (target.id, value)
        for node in own_nodes(function)
        for target, value in pairs(node)
        if isinstance(target, ast.Name)
    ]
    own: set[str] = set()
    while True:
        found = {name for name, value in assigned if is_made(value, own)}
        found -= {name for name, value in assigned if not is_made(value, found | own)}
        if found <= own:
            return own
        own |= found


def changes(function: ast.FunctionDef) -> list[str]:
    """What of its state a function changes."""
    parameters = {argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]}
    own = own_names(function)
    found = []
    for node in own_nodes(function):
        targets: list[ast.expr] = []
        match node:
            case ast.Assign(targets=several) | ast.Delete(targets=several):
                for target in several:
                    targets += target.elts if isinstance(target, ast.Tuple) else [target]
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                targets = [target]
            case ast.Call(func=ast.Attribute(value=receiver, attr=method)) if method in CHANGES:
                is_delegation = isinstance(receiver, ast.Name) and receiver.id in parameters
                if not is_delegation and root(receiver) not in {None, *own}:
                    found.append(ast.unparse(node)[:80])
        for target in targets:
            if isinstance(target, ast.Attribute | ast.Subscript) and root(target) not in {None, *own}:
                found.append(ast.unparse(node)[:80])
    return found


def labels(tree: ast.AST) -> Iterator[tuple[str, ast.Assert]]:
    """The assertions that begin with a label."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and node.msg is not None:
            first = node.msg.values[0] if isinstance(node.msg, ast.JoinedStr) else node.msg
            if isinstance(first, ast.Constant) and (label := LABEL.match(str(first.value))):
                yield label[1], node


def asserts_a_label(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, ast.Assert) and any(labels(node)) for node in own_nodes(function))


def files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / "kvstore" / room).rglob("*.py"))


def place(path: Path, function: ast.FunctionDef) -> str:
    return f"{path.relative_to(ROOT / 'kvstore')}: {function.name}"


ASSERTED = {label for path in files(".") for label, _ in labels(ast.parse(path.read_text(encoding="utf-8")))}
SECTION = (DOCS / "testing.md").read_text(encoding="utf-8").partition("### What is not asserted")[2]
NOT_ASSERTED = {
    label: seen_by
    for some, _, seen_by in LISTED.findall(SECTION.partition("\n## ")[0])
    for label in some.split(", ")
}
INDEX = {name for name, _ in INVARIANT.findall((DOCS / "architecture.md").read_text(encoding="utf-8"))}


@pytest.mark.parametrize("path", files(*ROOMS), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_changes_state_asserts_an_invariant(path: Path) -> None:
    silent = [
        f"{place(path, function)} changes {found[0]}"
        for function in functions(path)
        if (found := changes(function))
        and not asserts_a_label(function)
        and place(path, function) not in EXCEPTIONS
    ]

    assert silent == []


def test_every_exception_is_one() -> None:
    """It is there, changes state, and asserts nothing."""
    without = {
        place(path, function)
        for path in files(*ROOMS)
        for function in functions(path)
        if changes(function) and not asserts_a_label(function)
    }

    assert without == EXCEPTIONS.keys()


def test_an_assertion_with_a_label_shows_values() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(".")
        for _, node in labels(ast.parse(path.read_text(encoding="utf-8")))
        if not any(isinstance(part, ast.FormattedValue) for part in ast.walk(node))
    ]

    assert bare == []


def test_every_label_is_asserted_or_listed() -> None:
    assert ASSERTED & NOT_ASSERTED.keys() == set()
    assert ASSERTED | NOT_ASSERTED.keys() == INDEX


def test_every_label_that_is_asserted_is_broken_in_a_test() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    broken = {label for text in texts for label in re.findall(r'broken\("([A-Z]+-\d)"', text)}

    assert broken == ASSERTED


def test_what_sees_a_label_that_is_not_asserted_names_its_files() -> None:
    vague = [label for label, seen_by in NOT_ASSERTED.items() if "`tests/" not in seen_by]

    assert len(NOT_ASSERTED) > 5
    assert vague == []


class TestThisTest:
    @pytest.mark.parametrize(
        "text",
        [
            "self.clock = 1",
            "record.clock += 1",
            "del self.held[1]",
            "a, self.b = 1, 2",
            "record.drops |= fresh",
            "self.held.pop(1)",
            "record.windows[c] = w",
            "votes = waiting.replies.setdefault(1, [])\n    votes.append(2)",
        ],
    )
    def test_a_change_is_seen(self, text: str) -> None:
        (function,) = ast.parse(f"def f(self, record, waiting):\n    {text}").body

        assert isinstance(function, ast.FunctionDef)
        assert changes(function)

    @pytest.mark.parametrize(
        "text",
        [
            "found = []\n    found.append(1)",
            "replica.append(1)",
            "number = self.clock",
            "x: dict[int, int] = {}\n    x[1] = 2",
        ],
    )
    def test_what_is_no_change_is_not(self, text: str) -> None:
        (function,) = ast.parse(f"def f(self, replica):\n    {text}").body

        assert isinstance(function, ast.FunctionDef)
        assert changes(function) == []

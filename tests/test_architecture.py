"""The arrows and sizes of docs/architecture.md, enforced. A failure names the file, the line and the import.

Rooms import downwards only:

    cli, demo -> kvstore (its public face) -> geo -> database -> engine -> eris | fuzzylog -> execution

with types, errors, ports, keys and values below them all. eris and fuzzylog do not import each other; storage
imports nothing of ours but errors, and only engine and simulation import storage. The simulation stands
beside the database: it runs the engine's hosts and the chains of geo in virtual time.
"""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

BOTTOM = {"types", "errors", "ports", "keys", "values"}
"""Modules that every room but storage may import, and that import only each other."""

PROTOCOLS = BOTTOM | {"execution", "eris"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "types": BOTTOM,
    "ports": BOTTOM,
    "keys": BOTTOM,
    "values": BOTTOM,
    "storage": {"errors"},
    "execution": BOTTOM,
    "eris": BOTTOM | {"execution"},
    "fuzzylog": BOTTOM | {"execution"},
    "engine": PROTOCOLS | {"fuzzylog", "storage"},
    "database": PROTOCOLS | {"engine"},
    "geo": PROTOCOLS | {"fuzzylog", "engine", "database"},
    "simulation": PROTOCOLS | {"fuzzylog", "engine", "storage", "geo"},
    "__init__": BOTTOM | {"execution", "database", "geo"},
    "__main__": {"cli"},
    "cli": {"kvstore"},
    "demo": {"kvstore"},
}
"""Room: what it may import of ours, besides itself. "kvstore" is the public face and nothing below it."""

ENTRIES_MAX = 18
"""Files and folders at the top of kvstore/. The record of the layout names the places of those to come."""

MEETS_THE_WORLD = {
    "engine",
    "storage",
    "cli",
    "demo",
    "__main__",
    "database/database.py",
    "database/retry.py",
    "geo/convergence.py",
    "geo/network.py",
    "geo/replication.py",
    "geo/world_directory.py",
    "simulation/simulated_host.py",
    "simulation/simulated_network.py",
    "simulation/simulated_region.py",
    "simulation/simulator.py",
}
"""The only rooms and files that may have clocks, threads, sockets, randomness, files. All others are pure."""

IMPURE = {
    "asyncio", "concurrent", "ctypes", "datetime", "fcntl", "http", "lmdb", "mmap", "multiprocessing", "os",
    "pathlib", "queue", "random", "secrets", "select", "selectors", "shutil", "signal", "socket",
    "socketserver", "ssl", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip

LINES_PER_FILE_MAX = 600
LINES_PER_FUNCTION_MAX = 70
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
"""Reading any of these from a file runs what the file says."""

IMPORT_CPU_SECONDS_MAX = 0.3
OF_REGIONS = ("kvstore.geo", "kvstore.fuzzylog", "kvstore.execution.crdt", "kvstore.simulation")
NOT_AT_IMPORT = {"asyncio", "click", "http", "prompt_toolkit", "socketserver", "ssl"}
"""Servers, prompts and their like: a script that opens a store waits for none of them."""


Complain = Callable[[str, str], list[str]]


class Import(NamedTuple):
    """One imported name and where it stands."""

    path: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{short(self.path)}:{self.line}: imports {self.name}"


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """All of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))))


def room_of(path: Path) -> str:
    """The room a file belongs to: a folder or a module of kvstore/, or a top-level folder."""
    top, *rest = path.relative_to(ROOT).with_suffix("").parts
    return rest[0] if top == "kvstore" else top


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or folder of ours, and not a name inside one."""
    place = ROOT.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def imports(path: Path) -> Iterator[Import]:
    """Every module imported by a file, wherever in it that happens, by its absolute name.

    ``from kvstore import keys`` is an import of ``kvstore.keys``, and ``kvstore.keys.pack(...)`` after
    ``import kvstore`` is one as well. A relative import keeps its dots: it is refused elsewhere.
    """
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield Import(path, node.lineno, inner if not node.level and is_module(inner) else module)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if node.value.id == "kvstore" and is_module(name):
                yield Import(path, node.lineno, name)


def imported_room(name: str) -> str | None:
    """The room of ours that a module name belongs to, or None for somebody else's module."""
    top, *rest = name.split(".")
    if top == "kvstore":
        return rest[0] if rest else "kvstore"
    return top if top in {"demo", "tests", "benchmarks", "storage", "cli"} else None


def complaints_about_arrows(path: Path) -> list[str]:
    room = room_of(path)
    allowed = MAY_IMPORT[room] | {room}
    return [
        f"{found}; {room} may import of ours only {', '.join(sorted(allowed))}"
        for found in imports(path)
        if (target := imported_room(found.name)) is not None and target not in allowed
    ]


@pytest.mark.parametrize("path", sources("kvstore", "demo"), ids=short)
def test_a_room_imports_only_along_the_arrows(path: Path) -> None:
    assert complaints_about_arrows(path) == []


def file_of(name: str) -> Path | None:
    """The file of ours that a module name stands for; None for a folder, and for what is not ours."""
    path = ROOT.joinpath(*name.split("."))
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports that only type checkers carry out count, and so do those inside functions."""
    graph = {
        path: {target for found in imports(path) if (target := file_of(found.name)) is not None}
        for path in sources("kvstore", "demo")
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("imports in a circle: " + " -> ".join(short(path) for path in error.args[1]))


@pytest.mark.parametrize("path", sources("tests/histories"), ids=short)
def test_the_checkers_know_nothing_of_how_the_store_works(path: Path) -> None:
    """Whatever they import of ours is theirs, or the public face."""
    of_ours = [found.name for found in imports(path) if imported_room(found.name) is not None]

    assert [name for name in of_ours if not name.startswith("tests.histories.") and name != "kvstore"] == []


def meets_the_world(path: Path) -> bool:
    return bool(MEETS_THE_WORLD & {room_of(path), str(path.relative_to(ROOT / "kvstore"))})


def test_the_top_of_the_package_is_short() -> None:
    entries = [entry for entry in (ROOT / "kvstore").iterdir() if entry.name != "__pycache__"]

    assert len(entries) <= ENTRIES_MAX, sorted(entry.name for entry in entries)


FOUND_BY_NAME = [
    "sequencer", "client", "replica", "executor", "locks", "failure_coordinator", "failure_detector",
    "view_change", "epoch_change", "synchronization", "state_transfer", "dropped_messages", "causes",
    "playback", "shipping", "rebalancing", "conflict_resolution", "escrow", "routing", "reconnaissance",
    "snapshot", "watch", "group_commit", "failover", "recovery", "leases", "idempotency", "compaction",
    "backup", "simulator",
]  # fmt: skip
"""What docs/architecture.md says is found by folder and file name alone."""


@pytest.mark.parametrize("name", FOUND_BY_NAME)
def test_a_name_of_the_field_is_the_name_of_one_file(name: str) -> None:
    assert len([path for path in sources("kvstore") if path.stem == name]) == 1
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert name.replace("_", " ") in " ".join(page.partition("## Where is")[2].partition("\n|")[0].split())


def test_what_is_said_to_meet_the_world_does() -> None:
    files = {ROOT / "kvstore" / name for name in MEETS_THE_WORLD if name.endswith(".py")}
    pure = [path for path in files if not any(found.name.split(".")[0] in IMPURE for found in imports(path))]

    assert pure == []


@pytest.mark.parametrize("path", sources("kvstore"), ids=short)
def test_a_pure_file_imports_nothing_of_the_world(path: Path) -> None:
    if meets_the_world(path):
        return

    impure = [str(found) for found in imports(path) if found.name.split(".")[0] in IMPURE]

    assert impure == [], "a pure room takes time, randomness and storage as arguments"


@pytest.mark.parametrize("path", sources("kvstore"), ids=short)
def test_a_pure_room_opens_no_file_and_prints_nothing(path: Path) -> None:
    if meets_the_world(path):
        return

    assert calls_of(path, {"open", "print", "input", "breakpoint"}) == []


@pytest.mark.parametrize("path", sources("kvstore", "demo", "benchmarks", "tests"), ids=short)
class TestEveryFile:
    def test_names_what_it_imports_in_full(self, path: Path) -> None:
        relative = [str(found) for found in imports(path) if found.name.startswith(".")]

        assert relative == [], "write `from kvstore.room.module import Name`"

    def test_does_not_reach_a_room_through_the_links_of_the_layout(self, path: Path) -> None:
        doubled = [str(found) for found in imports(path) if found.name.split(".")[0] in {"storage", "cli"}]

        assert doubled == [], "import kvstore.storage and kvstore.cli: other names make second copies of them"

    def test_is_short(self, path: Path) -> None:
        lines = len(path.read_text(encoding="utf-8").splitlines())

        assert lines <= LINES_PER_FILE_MAX, f"{short(path)} has {lines} lines"

    def test_has_short_functions(self, path: Path) -> None:
        long = [
            f"{short(path)}:{node.lineno}: {node.name} has {lines} lines"
            for node in nodes(path)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > LINES_PER_FUNCTION_MAX
        ]

        assert long == []

    def test_is_named_after_what_is_in_it(self, path: Path) -> None:
        vague = VAGUE_NAMES.intersection(path.relative_to(ROOT).with_suffix("").parts)

        assert not vague, f"{short(path)}: {vague} says nothing"

    def test_never_runs_what_it_reads(self, path: Path) -> None:
        unsafe = [str(found) for found in imports(path) if found.name.split(".")[0] in UNSAFE_MODULES]

        assert unsafe == []
        assert calls_of(path, {"eval", "exec"}) == []


def calls_of(path: Path, names: set[str]) -> list[str]:
    """Calls of built-in functions by these names, also as ``builtins.name(...)``."""
    found = []
    for node in nodes(path):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in names:
                found.append(f"{short(path)}:{node.lineno}: calls {name}()")
            case ast.Attribute(value=ast.Name(id="builtins"), attr=name) if name in names:
                found.append(f"{short(path)}:{node.lineno}: uses builtins.{name}")
    return found


@pytest.mark.parametrize("path", [path for path in sources("kvstore") if room_of(path) != "cli"], ids=short)
def test_the_library_installs_no_log_handler(path: Path) -> None:
    """Where log lines go is for the program to say; a NullHandler says exactly that."""
    for node in nodes(path):
        match node:
            case ast.Call(func=ast.Attribute(attr="addHandler"), args=[handler]):
                assert ast.unparse(handler) in {"logging.NullHandler()", "NullHandler()"}, (
                    f"{short(path)}:{node.lineno}: {ast.unparse(node)}"
                )
            case ast.Call(func=ast.Attribute(attr="basicConfig" | "dictConfig" | "fileConfig")):
                pytest.fail(f"{short(path)}:{node.lineno}: {ast.unparse(node)}")


@pytest.mark.parametrize("room", ["storage", "cli"])
def test_the_layouts_top_level_names_are_links_into_the_package(room: str) -> None:
    if (ROOT / "PKG-INFO").exists():
        pytest.skip("a source distribution carries the rooms under kvstore/ only")

    assert os.readlink(ROOT / room) == f"kvstore/{room}"


class TestImportingTheStore:
    """Measured in children of their own, as this process has imported more than the store."""

    CHILD = """
import sys, time
before = time.process_time()
import kvstore
print(time.process_time() - before)
print(*sys.modules)
"""

    def run(self) -> tuple[float, set[str]]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        child = subprocess.run(
            [sys.executable, "-c", self.CHILD],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=60,
        )
        assert child.returncode == 0, child.stderr
        seconds, modules = child.stdout.splitlines()
        return float(seconds), set(modules.split())

    def test_is_quick(self) -> None:
        seconds = min(self.run()[0] for _ in range(3))  # the quietest moment of the machine

        assert seconds < IMPORT_CPU_SECONDS_MAX

    def test_loads_no_server_and_no_prompt(self) -> None:
        assert {name.split(".")[0] for name in self.run()[1]} & NOT_AT_IMPORT == set()

    def test_loads_nothing_of_regions(self) -> None:
        assert [name for name in self.run()[1] if name.startswith(OF_REGIONS)] == []


class TestThisTest:
    """The rules above see what they claim to see."""

    @pytest.fixture
    def complain(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Complain:
        """Return a function that plants a file in a small tree and says what is wrong with it."""

        def plant(file: str, text: str) -> Path:
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return path

        monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
        for module in (
            "__init__",
            "keys",
            "database/database",
            "eris/messages",
            "fuzzylog/dag",
            "geo/world",
            "storage/lmdb",
            "engine/readers",
        ):
            plant(f"kvstore/{module}.py", "")
        return lambda file, text: complaints_about_arrows(plant(file, text))

    @pytest.mark.parametrize(
        ("file", "line"),
        [
            ("kvstore/fuzzylog/chain.py", "from kvstore.eris import messages"),
            ("kvstore/fuzzylog/chain.py", "import kvstore.eris.messages as m"),
            ("kvstore/eris/client.py", "from kvstore.fuzzylog.dag import Node"),
            ("kvstore/eris/client.py", "from kvstore.storage import lmdb"),
            ("kvstore/eris/client.py", "from kvstore.database import database"),
            ("kvstore/eris/client.py", "from kvstore.engine import readers"),
            ("kvstore/eris/client.py", "import kvstore"),
            ("kvstore/engine/host.py", "from kvstore.database import database"),
            ("kvstore/storage/log.py", "from kvstore.keys import pack"),
            ("kvstore/keys.py", "def f():\n    from kvstore.eris.messages import Reply"),
            ("kvstore/cli/app.py", "from kvstore import keys"),
            ("kvstore/cli/app.py", "import kvstore\nkvstore.keys.pack(1)"),
            ("kvstore/database/batch.py", "from kvstore.storage import lmdb"),
            ("kvstore/database/commit.py", "from kvstore.geo import world"),
            ("demo/bank.py", "from kvstore.database.database import Database"),
            ("demo/bank.py", "import storage"),
        ],
    )
    def test_an_arrow_upwards_or_sideways_is_refused(self, complain: Complain, file: str, line: str) -> None:
        assert len(complain(file, line)) == 1

    @pytest.mark.parametrize(
        ("file", "line"),
        [
            ("kvstore/eris/client.py", "from kvstore.keys import pack\nfrom kvstore import keys"),
            ("kvstore/storage/log.py", "from kvstore.errors import Corrupt"),
            ("kvstore/engine/store.py", "from kvstore.storage import lmdb\nimport threading"),
            (
                "kvstore/database/batch.py",
                "from kvstore.engine import readers\nfrom kvstore.database import database",
            ),
            ("kvstore/geo/region.py", "from kvstore.database.database import Database"),
            ("kvstore/__init__.py", "from kvstore.database.database import Database"),
            ("kvstore/cli/app.py", "from kvstore import Error, open\nimport kvstore\nkvstore.open('x')"),
            ("kvstore/cli/app.py", "from kvstore.cli import grammar"),
            ("kvstore/__main__.py", "from kvstore.cli.app import main"),
        ],
    )
    def test_an_arrow_downwards_is_not(self, complain: Complain, file: str, line: str) -> None:
        assert complain(file, line) == []

"""What a user gets from the wheel: one top-level name, types, a command; and no quarrel with their files.

Both distributions are built once, the wheel out of the source distribution, as an installer would do it.
The wheel is then put into an environment of its own, which sees our dependencies but not this folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

USER_SCRIPT = '''\
"""What a careful user writes; every line of it must type-check strictly."""

import sys

import kvstore


def main(folder: str) -> int:
    with kvstore.open(folder, shards=4) as db:
        db["acct", "eu", 1] = 100
        db.put("settings", {"any": ["msgpack"]}, if_absent=True)
        with db.batch() as batch:
            batch.put("a", 1)
            batch.delete("settings")
            batch.add("hits", 2)
        later = db.batch()
        later.add(("acct", "eu", 1), -30)
        later.add(("acct", "us", 7), 30)
        commit = db.submit(later).result(timeout=30)
        assert all(slot > 0 for shard, slot in commit.slots.items()), commit.route
        try:
            db.put("a", 2, if_absent=True)
        except kvstore.Conflict as conflict:
            assert (conflict.key, conflict.attempts) == ("a", 1), conflict.hint
        with db.snapshot() as view:
            keys = [key for key, value in view.scan(prefix=("acct",), limit=10)]
            assert view.count(prefix=("acct",)) == len(keys) == 2
        total = sum(value for key, value in db.scan(prefix=("acct",)))
        assert db.get("settings", default="gone") == "gone"
        assert "a" in db and db.get("hits") == 2
        print("total", total)
    return 0


sys.exit(main(sys.argv[1]))
'''


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env=environment,
        timeout=240,
    )


def succeed(*command: str | Path, cwd: Path) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and, built from that, the wheel."""
    for tool in ("build", "hatchling"):
        pytest.importorskip(tool, reason="distributions are built with the extra `dev`")
    folder = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def sdist(distributions: Path) -> Path:
    (sdist,) = distributions.glob("*.tar.gz")
    return sdist


@pytest.fixture(scope="session")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    succeed(sys.executable, "-m", "venv", "--without-pip", "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    succeed(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--quiet", "--no-index", "--no-deps", "--no-warn-script-location", wheel),
        cwd=folder,
    )
    # Our dependencies, without fetching them again. Python does not follow the .pth files of a folder that
    # came from a .pth file, so the editable install of this project stays out of sight.
    site = succeed(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Path:
    """A user's folder whose own modules have the names of our rooms."""
    for name in ("storage", "cli", "demo", "tests", "benchmarks"):
        (tmp_path / f"{name}.py").write_text('raise SystemExit("hijacked")\n')
    return tmp_path


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert names == {"kvstore", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}


def test_the_wheel_carries_every_module_and_the_mark_of_a_typed_package(wheel: Path) -> None:
    """The links at the top level once made the build leave out what they point to."""
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "kvstore").rglob("*.py")}

    assert (modules | {"kvstore/py.typed"}) - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_the_source_distribution_carries_what_is_needed_to_test_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".ci/setup", ".ci/run"} <= names
    modules = {
        str(path.relative_to(ROOT)) for room in ("kvstore", "tests") for path in (ROOT / room).rglob("*.py")
    }
    assert modules - names == set()


def test_the_environment_of_these_tests_holds_the_wheel(python: Path, tmp_path: Path) -> None:
    where = succeed(python, "-c", "import kvstore; print(kvstore.__file__)", cwd=tmp_path).strip()

    assert Path(where).is_relative_to(python.parent.parent)


def test_a_users_own_storage_and_cli_are_not_ours(python: Path, hostile_folder: Path) -> None:
    succeed(python, "-c", "import kvstore; kvstore.open('my.db').close()", cwd=hostile_folder)


def test_the_program_runs_beside_a_users_own_storage_and_cli(python: Path, hostile_folder: Path) -> None:
    assert "Usage" in succeed(python, "-m", "kvstore", "--help", cwd=hostile_folder)


def test_the_command_is_installed(python: Path, tmp_path: Path) -> None:
    assert "Usage" in succeed(python.parent / "kvstore", "--help", cwd=tmp_path)


def test_a_users_script_is_strictly_typed_and_runs(python: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="types are checked with the extra `dev`")
    (tmp_path / "script.py").write_text(USER_SCRIPT)
    (tmp_path / "mypy.ini").write_text("[mypy]\n")

    strictly = ("--strict", "--config-file", "mypy.ini", "--python-executable", python)
    succeed(sys.executable, "-m", "mypy", *strictly, "script.py", cwd=tmp_path)

    assert succeed(python, "script.py", "my.db", cwd=tmp_path) == "total 100\n"


def test_a_users_mistake_is_found_by_the_types(python: Path, tmp_path: Path) -> None:
    """Else the test above would also pass for a package whose types cannot be seen."""
    pytest.importorskip("mypy", reason="types are checked with the extra `dev`")
    (tmp_path / "script.py").write_text("import kvstore\n\nkvstore.open('my.db', shards='four')\n")
    (tmp_path / "mypy.ini").write_text("[mypy]\n")

    strictly = ("--strict", "--config-file", "mypy.ini", "--python-executable", python)
    done = run(sys.executable, "-m", "mypy", *strictly, "script.py", cwd=tmp_path)

    assert done.returncode == 1
    assert '"shards"' in done.stdout

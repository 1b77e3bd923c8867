"""A process that forks with a store open: the child gets ``Forked``, the parent loses nothing."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

import kvstore
from tests.support.programs import running

MODES = [(1, "commit"), (1, "interval"), (3, "commit"), (3, "none")]


def said(scenario: str, store: Path, replicas: int = 1, durability: str = "commit") -> list[str]:
    return running.run("forked", scenario, store, replicas, durability).splitlines()


@pytest.mark.parametrize(("replicas", "durability"), MODES)
def test_every_call_of_the_child_raises_forked_with_the_pid_that_opened(
    tmp_path: Path, replicas: int, durability: str
) -> None:
    *lines, ended, parent = said("calls", tmp_path / "store", replicas, durability)

    found = dict(line.split(" -> ") for line in lines)
    views = {name: found.pop(name) for name in ("view", "view.scan")}
    pid = parent.split()[-1]
    assert found == dict.fromkeys(found, f"Forked {pid}")
    assert len(found) == 18
    assert {answer.split()[0] for answer in views.values()} <= {"Forked", "Closed"}
    assert ended == "child ended with 0"
    assert parent.split()[:3] == ["parent", "1", "1"]
    with kvstore.open(tmp_path / "store") as db:
        assert db["k"] == 3
        assert db.verify()["ok"]


@pytest.mark.parametrize(("replicas", "durability"), MODES)
def test_the_parents_old_views_stay_right_when_children_end(
    tmp_path: Path, replicas: int, durability: str
) -> None:
    lines = said("views", tmp_path / "store", replicas, durability)

    assert lines == ["child ended with 0"] * 4 + ["readers 1", "readers 0 True"]
    assert no_readers_are_listed(tmp_path / "store" / "replica-0")


def no_readers_are_listed(folder: Path) -> bool:
    with lmdb.open(str(folder), readonly=True, lib_version=0) as environment:
        return "no active readers" in environment.readers()


def test_the_child_may_open_stores_of_its_own_but_not_the_one_it_inherited(tmp_path: Path) -> None:
    own, before, after, ended, parent = said("own", tmp_path / "store")

    assert own == "own -> mine"
    assert before.startswith("while the parent has it -> Forked ")
    assert after.startswith("when the parent closed it -> Forked ")
    assert ended == "child ended with 0"
    assert parent == "parent 2"


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_child_that_inherits_a_store_in_memory_never_hangs(tmp_path: Path, replicas: int) -> None:
    *lines, ended, parent = said("memory", tmp_path / "store", replicas)

    assert parent == "parent 1"
    assert ended == "child ended with 0"
    answers = {line.split(" -> ")[1].split()[0] for line in lines}
    assert answers <= {"returned", "Forked"}


def test_a_backup_that_is_refused_in_the_child_leaves_nothing(tmp_path: Path) -> None:
    said("calls", tmp_path / "store")

    assert not (tmp_path / "store.backup").exists()


def test_a_child_forked_while_another_thread_opens_a_store_can_open_one_too(tmp_path: Path) -> None:
    assert said("opening", tmp_path / "store") == ["own -> 1", "child ended with 0"]


@pytest.mark.parametrize("replicas", [1, 3])
def test_children_forked_while_threads_write_end_and_the_threads_go_on(tmp_path: Path, replicas: int) -> None:
    lines = said("threads", tmp_path / "store", replicas, "none")

    assert set(lines[:-1]) <= {line for line in lines if line.startswith("put -> Forked")} | {
        "child ended with 0"
    }
    assert lines[-1] == "parent True 0"

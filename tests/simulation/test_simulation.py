"""Seeds are runs, runs can be repeated, and in all of them the store keeps its promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import __main__ as program
from tests.simulation.result import Result
from tests.simulation.run import play

ROOT = Path(__file__).parent.parent.parent
SEEDS = int(os.environ.get("KVSTORE_SEEDS", "6"))
"""How many seeds are played, of the profile with everything in it."""

FOUND = [
    (4, "disks"),
    (5, "gaps"),
    (7, "swarm"),
    (11, "swarm"),
    (15, "network"),
    (17, "swarm"),
    (18, "swarm"),
    (27, "swarm"),
    (32, "network"),
    (112, "network"),
    (167, "disks"),
    (169, "network"),
    (1001, "all"),
    (1016, "all"),
    (1025, "all"),
    (1035, "network"),
    (1041, "network"),
    (1053, "swarm"),
    (1056, "crashes"),
    (1061, "all"),
    (1063, "network"),
    (1070, "network"),
    (1076, "swarm"),
    (20018, "swarm"),
    (30586, "swarm"),
]
"""Seeds that once broke a promise, of the store or of a checker."""


def run(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_the_store_keeps_its_promises() -> None:
    played = run("--seeds", str(SEEDS), "--start", "10000", "--jobs", "2", "--profile", "all")

    assert played.returncode == 0, played.stderr
    lines = [line.split() for line in played.stdout.splitlines()]
    assert [int(seed) for seed, _ in lines] == list(range(10000, 10000 + SEEDS))
    assert all(len(trace) == 64 for _, trace in lines)
    assert len({trace for _, trace in lines}) == SEEDS


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "profile"), FOUND)
def test_what_was_found_once_stays_mended(seed: int, profile: str) -> None:
    assert play(seed, profile).violation == ""


def test_two_runs_of_a_seed_are_the_same_whatever_hashes_are() -> None:
    arguments = ("--seeds", "3", "--start", "5", "--transactions", "60", "--profile", "all")

    runs = [run(*arguments, hash_seed=hash_seed) for hash_seed in ("0", "1", "12345")]

    assert all(played.returncode == 0 for played in runs), runs
    assert len({played.stdout for played in runs}) == 1
    assert len(runs[0].stdout.splitlines()) == 3


def test_in_fair_weather_nothing_is_lost_found_or_dropped() -> None:
    result = play(1, "calm", 100)

    assert result.violation == ""
    assert result.transactions == 100
    assert not result.faults


def test_a_broken_promise_names_the_seed_and_how_to_play_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(seed: int, profile: str, transactions: int) -> Result:
        result = play(seed, profile, transactions)
        result.violation = "Violation: planted"
        return result

    monkeypatch.setattr(program, "play", broken)
    monkeypatch.setattr(sys, "argv", ["simulation", "--seeds", "1", "--start", "9", "--transactions", "5"])

    assert program.main() == 1
    told = capsys.readouterr()
    assert told.out.startswith("9 ")
    assert "seed 9" in told.err
    assert "planted" in told.err
    assert "python -m tests.simulation --seeds 1 --start 9 --profile swarm --transactions 5" in told.err


@pytest.mark.parametrize(
    "arguments", [("--seeds", "0"), ("--jobs", "-1"), ("--profile", "storm"), ("--start", "x")]
)
def test_bad_arguments_are_refused_by_name(arguments: tuple[str, str]) -> None:
    refused = run(*arguments)

    assert refused.returncode == 2
    assert arguments[0] in refused.stderr

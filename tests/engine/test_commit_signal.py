"""A thread that waits for the next commit is woken, even by a commit that comes as it falls asleep."""

from __future__ import annotations

import math
from queue import SimpleQueue

import pytest

from kvstore.engine import commit_signal
from kvstore.engine.commit_signal import CommitSignal


def test_nobody_sleeps_when_something_was_committed_since_he_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = CommitSignal(announced=True)
    seen = signal.count
    signal.announce()

    class NoSleep(SimpleQueue[None]):
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            raise AssertionError("it slept")

    monkeypatch.setattr(commit_signal, "SimpleQueue", NoSleep)
    assert signal.wait(seen, math.inf)
    with pytest.raises(AssertionError, match="it slept"):
        signal.wait(signal.count, math.inf)


@pytest.mark.parametrize("announced", [True, False])
def test_nobody_sleeps_beyond_his_deadline(announced: bool) -> None:
    signal = CommitSignal(announced=announced)
    deadline = signal.deadline(0.01)
    while signal.wait(signal.count, deadline):
        pass
    assert not signal.wait(signal.count, signal.deadline(0))


def test_one_who_was_interrupted_keeps_nothing_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = CommitSignal(announced=True)

    class Interrupted(SimpleQueue[None]):
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(commit_signal, "SimpleQueue", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            signal.wait(signal.count, math.inf)
    for _ in range(3):
        signal.announce()
    assert signal.wait(0, math.inf)

"""What every test gets: Hypothesis without wall-clock limits, and the same examples on each CI run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from kvstore.execution import procedures

# A slow moment of the machine is no failure: no deadline. On CI the examples are the same each time, so
# that a run which turns red was turned red by the change; by hand they differ, so that new ones are tried.
settings.register_profile("by-hand", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "by-hand")

# A shell starts what runs in the background with interrupts ignored, and every program started from there
# inherits that; tests interrupt programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite is run on all cores; what was named on the command line as it was asked for."""
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not options.keyword
    is_first = "PYTEST_XDIST_WORKER" not in os.environ  # a worker runs nothing but what it is given
    if whole and is_first and not options.usepdb and getattr(options, "numprocesses", 0) is None:
        # One more than there are cores: many a test waits for a process or a disk.
        options.numprocesses, options.dist = _cores() + 1, "worksteal"


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def _forget_procedures() -> Iterator[None]:
    """What a test registers, and the modules of its own that it does so in, end with it."""
    known, modules, path = dict(procedures._registered), set(sys.modules), list(sys.path)
    yield
    if procedures._registered != known:
        procedures._registered.clear()
        procedures._registered.update(known)
        for name in set(sys.modules) - modules:
            del sys.modules[name]
    sys.path[:] = path

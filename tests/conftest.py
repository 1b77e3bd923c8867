"""Set-up of every test: Hypothesis without wall-clock limits, and with fixed examples on CI."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from kvstore.execution import procedures

# No deadline: a slow moment of the machine is not a failure. On CI the examples are fixed, so that only a
# change can make a run fail; in a run by hand they differ, so that new examples are tried.
settings.register_profile("by-hand", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "by-hand")

# A shell starts background programs with SIGINT ignored, and their children inherit that; tests interrupt
# programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite on all cores, and tests that are named on the command line as asked."""
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not options.keyword
    is_first = "PYTEST_XDIST_WORKER" not in os.environ  # a worker runs only the tests it is given
    if whole and is_first and not options.usepdb and getattr(options, "numprocesses", 0) is None:
        # One more worker than cores: many tests wait for a process or a disk.
        options.numprocesses, options.dist = _cores() + 1, "worksteal"


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def _forget_procedures() -> Iterator[None]:
    """Remove the procedures that a test registered, and the modules it registered them in."""
    known, modules, path = dict(procedures._registered), set(sys.modules), list(sys.path)
    yield
    if procedures._registered != known:
        procedures._registered.clear()
        procedures._registered.update(known)
        for name in set(sys.modules) - modules:
            del sys.modules[name]
    sys.path[:] = path

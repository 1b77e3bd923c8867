"""Bugs of hosts, which execute, commit and cut as one, and of clients (contracts A and C)."""

from __future__ import annotations

from kvstore.drivers.host import Host
from kvstore.drivers.log_retention import LogRetention
from kvstore.drivers.simulated_host import SimulatedHost
from kvstore.eris import general
from kvstore.eris.client import Client
from kvstore.eris.executor import Executor
from tests.simulation.mutants.planting import Change, mutant

COMMITS = [
    mutant(
        "failed-commit-ignored",
        "a commit that failed is taken for one that succeeded (A5)",
        "crashes",
        Change(
            SimulatedHost,
            "_end_batch",
            "self.crash()  # its memory is ahead of its disk (contracts A5)\n"
            "        self.world.after(10 * COMMIT_US, self._start_if_dead)\n"
            "        return",
            "self.world.disk.commits_left.pop(str(self.number), None)",
        ),
    ),
    mutant(
        "forgotten-disk-trusted",
        "a host whose disk has forgotten takes part in the epoch that it was in (B2)",
        "disks",
        Change(SimulatedHost, "_remember", "Epoch(max(self._promises.values()) + 1)", "Epoch(0)"),
    ),
    mutant(
        "waiting-not-saved",
        "a crash forgets what waits, and all locks",
        "crashes",
        Change(Host, "finish", "executor.waiting(shard), executor.copies(shard)", "(), ()"),
    ),
]

TRUNCATION = [
    mutant(
        "cut-unresolved",
        "what waits is cut from the log",
        "network",
        Change(
            LogRetention,
            "_low_water_marks",
            "min(replica.record.stable, replica.record.resolved_end)",
            "replica.record.stable",
        ),
    ),
    mutant(
        "cut-by-one-shard",
        "all logs are cut when one shard needs nothing more",
        "network",
        Change(LogRetention, "_pass_oldest_mark", "if any(", "if all("),
    ),
]

EXECUTION = [
    mutant(
        "locks-not-waited-for",
        "what meets a lock is executed all the same",
        "calm",
        Change(Executor, "_whole", "if transaction.blockers:", "if False:"),
        Change(Executor, "arrive", "and not self._blockers(replica, request):", "and True:"),
    ),
    mutant(
        "vote-not-validated",
        "a preliminary votes that nothing has changed without looking",
        "calm",
        Change(general, "vote", "changed = first_changed(operations, state)", "changed = None"),
    ),
    mutant(
        "conclusory-forgets-abort",
        "a Commit that comes after an Abort writes",
        "crashes",
        Change(
            general,
            "conclude",
            "if locked is not None:",
            "if locked is None and conclusory.commit and committed is False:\n"
            "        _write(replica, stamped, slot)\n"
            "    if locked is not None:",
        ),
    ),
]

CLIENTS = [
    mutant(
        "quorum-without-learner",
        "a client takes the word of a majority of followers, without the learner's",
        "network",
        Change(
            Client,
            "_quorum_outcome",
            "if learner is None or 2 * len(voters) <= self.replicas:",
            "if 2 * len(voters) > self.replicas and learner is None:\n"
            "        return Outcome()\n"
            "    if learner is None or 2 * len(voters) <= self.replicas:",
        ),
    ),
    mutant(
        "answered-too-much",
        "a client says that it has the answers of requests that are under way (C2)",
        "network",
        Change(
            Client,
            "submit",
            "RequestId(next(iter(self.outstanding)) - 1)",
            "RequestId(self.last_request - 1)",
        ),
    ),
]

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
        "reply-before-commit",
        "what a batch sends leaves the host when the batch begins, before its commit (A4)",
        "crashes",
        Change(
            SimulatedHost,
            "_begin_batch",
            "self._batch = self._handle(host, items)",
            "self._batch = self._handle(host, items)\n"
            "        for send in self._batch:\n"
            "            self.world.send(self.node, send.to, send.message)",
        ),
        Change(SimulatedHost, "_end_batch", "for send in sends:", "for send in ():"),
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
]

CLIENTS = [
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

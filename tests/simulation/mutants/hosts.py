"""Bugs of hosts, which execute, commit and cut as one, and of clients (contracts A and C)."""

from __future__ import annotations

from kvstore.engine.host import Host
from kvstore.engine.log_retention import LogRetention
from kvstore.eris import general
from kvstore.eris.client import Client
from kvstore.eris.executor import Executor
from kvstore.eris.replica import Replica
from kvstore.simulation.simulated_host import SimulatedHost
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
        "cut-unstable",
        "what no majority has is cut from the log",
        "network",
        Change(
            LogRetention,
            "_low_water_marks",
            "min(replica.record.stable, replica.record.resolved_end)",
            "replica.record.resolved_end",
        ),
    ),
]

EXECUTION = [
    mutant(
        "locks-not-waited-for",
        "what meets a lock is executed all the same",
        "calm",
        Change(Executor, "_whole", "if transaction.blockers:", "if False:"),
        Change(Executor, "arrive", "and not (self._locks and self._blockers(replica, request))", "and True"),
    ),
    mutant(
        "locks-released-early",
        "what comes after a preliminary that has voted does not wait for its locks",
        "calm",
        Change(
            Executor,
            "_blockers",
            "locks.in_the_way_of(footprint(request, replica.address.shard))",
            "[one for one in locks.in_the_way_of(footprint(request, replica.address.shard)) "
            "if one.votes is None]",
        ),
        Change(
            Executor,
            "_claim",
            "for holder in locks.in_the_way_of(touched):",
            "for holder in [one for one in locks.in_the_way_of(touched) if one.votes is None]:",
        ),
    ),
    mutant(
        "vote-not-validated",
        "a preliminary votes that nothing has changed without looking",
        "calm",
        Change(general, "vote", "changed = first_changed(operations, state)", "changed = None"),
    ),
    mutant(
        "checks-not-validated",
        "a shard writes whatever has become of what was read on it",
        "calm",
        Change(Replica, "execute", "type(operations[0]) in (Check, CheckRange)", "False"),
    ),
    mutant(
        "copies-not-waited-for",
        "the slot of a copy counts as resolved before all its pieces are here",
        "gaps",
        Change(Executor, "_pass_over", "if len(stamped.stamp.numbers) > 1:", "if False:"),
    ),
    mutant(
        "piece-by-piece",
        "a part of a transaction is executed before the others are here (EXECUTOR-1)",
        "network",
        Change(Executor, "_begin", "self._missing(stamped, here)", "0"),
    ),
]

CLIENTS = [
    mutant(
        "answered-too-much",
        "a client says that it has the answers of requests that are under way (CLIENT-2)",
        "network",
        Change(
            Client,
            "submit",
            "RequestId(next(iter(self.outstanding)) - 1)",
            "RequestId(self.last_request - 1)",
        ),
    ),
    mutant(
        "commit-despite-votes",
        "a client commits though a vote says that something changed",
        "calm",
        Change(
            Client, "_on_votes", "if not any(vote.refused for vote in waiting.outcomes.values()):", "if True:"
        ),
    ),
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
        "quorum-of-learner",
        "a client takes the learner's word, without a majority",
        "losses",
        Change(Client, "_quorum_outcome", " or 2 * len(voters) <= self.replicas:", ":"),
    ),
    mutant(
        "quorum-over-views",
        "a client counts replies of different views together",
        "losses",
        Change(
            Client,
            "_quorum_outcome",
            "if (vote.epoch, vote.view, vote.slot) == (reply.epoch, reply.view, reply.slot):",
            "if (vote.epoch, vote.slot) == (reply.epoch, reply.slot):",
        ),
    ),
    mutant(
        "quorum-over-slots",
        "a client counts replies about different slots together",
        "losses",
        Change(
            Client,
            "_quorum_outcome",
            "if (vote.epoch, vote.view, vote.slot) == (reply.epoch, reply.view, reply.slot):",
            "if (vote.epoch, vote.view) == (reply.epoch, reply.view):",
        ),
    ),
]

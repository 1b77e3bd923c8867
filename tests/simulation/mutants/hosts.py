"""Bugs of hosts, which execute, commit and cut as one, and of clients (contracts A and C)."""

from __future__ import annotations

from kvstore.drivers.host import Host
from kvstore.drivers.log_retention import LogRetention
from kvstore.drivers.simulated_host import SimulatedHost
from kvstore.eris import general
from kvstore.eris.client import Client
from kvstore.eris.executor import Executor, Unresolved
from kvstore.eris.replica import Replica
from tests.simulation.mutants.planting import Change, mutant

COMMITS = [
    mutant(
        "reply-before-commit",
        "a host sends at once what it may send only after its commit",
        "crashes",
        Change(
            SimulatedHost,
            "_begin_batch",
            "self._batch = self._handle(host, items)",
            "self._batch = []\n"
            "        for send in self._handle(host, items):\n"
            "            self.world.send(self.node, send.to, send.message)",
        ),
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
        "locks-released-early",
        "a preliminary lets go of its locks when it has voted",
        "calm",
        Change(
            Executor,
            "_vote",
            "transaction.votes = votes",
            "transaction.votes = votes\n    self._release(transaction)\n    transaction.claims = {}",
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
        "abort-overtakes-commit",
        "an Abort wins over a Commit that came first and waits for the locks",
        "network",
        Change(
            Unresolved,
            "must_wait_with",
            "(conclusory.commit or bool(self.conclusories))",
            "conclusory.commit",
        ),
    ),
    mutant(
        "copies-not-waited-for",
        "the slot of a copy counts as resolved before all its pieces are here",
        "network",
        Change(Executor, "_pass_over", "if len(stamped.stamp.numbers) > 1:", "if False:"),
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
    mutant(
        "commit-despite-votes",
        "a client commits though a vote says that something changed",
        "calm",
        Change(
            Client, "_on_votes", "if not any(vote.refused for vote in waiting.outcomes.values()):", "if True:"
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

"""Bugs of epoch changes, of the coordinators that start epochs, and of sequencers (sections 5 and 6.5)."""

from __future__ import annotations

from kvstore.eris import epoch_change
from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.sequencer import Sequencer
from tests.simulation.mutants.planting import Change, mutant

AT_REPLICAS = [
    mutant(
        "epoch-promise-broken",
        "after EPOCH-CHANGE a replica goes on in the old epoch (E1)",
        "roles",
        Change(
            epoch_change,
            "on_epoch_change",
            "record.epoch = message.epoch\n    replica.status = Status.EPOCH_CHANGE",
            "pass",
        ),
    ),
    mutant(
        "epoch-forgets-clients",
        "a new epoch forgets what clients were answered that live on",
        "roles",
        Change(epoch_change, "_begin", "if client < record.clients_from]:", "]:"),
    ),
]

AT_COORDINATORS = [
    mutant(
        "epoch-of-own-shard",
        "a shard begins with what its own replicas showed, not with what those of others did (F2)",
        "all",
        Change(
            FailureCoordinator,
            "_decided",
            "in self._known(current)",
            "in self._known([ack for ack in current if ack.shard == shard])",
        ),
    ),
    mutant(
        "epoch-without-clock",
        "the next sequencer's clock does not begin above what was logged",
        "roles",
        Change(FailureCoordinator, "_latest_clock", "return max(chain(", "return 0 * max(chain("),
    ),
]

AT_SEQUENCERS = [
    mutant(
        "clock-goes-back",
        "the clock follows its machine's, wherever that goes (S2)",
        "roles",
        Change(Sequencer, "handle", "max(now, self.clock + 1, request.after + 1)", "now"),
    ),
]

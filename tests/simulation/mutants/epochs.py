"""Bugs of epoch changes, of the coordinators that start epochs, and of sequencers (sections 5 and 6.5)."""

from __future__ import annotations

from kvstore.eris import epoch_change
from kvstore.eris.coordinator_replication import RecordKeeper, ReplicatedCoordinator
from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.sequencer import Sequencer
from kvstore.eris.shard_state import ShardTables
from tests.simulation.mutants.planting import Change, mutant

AT_REPLICAS = [
    mutant(
        "epoch-promise-broken",
        "after EPOCH-CHANGE a replica goes on in the old epoch (EPOCH-1)",
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
    mutant(
        "epoch-promise-not-durable",
        "after EPOCH-CHANGE and a crash a replica goes on in the old epoch (EPOCH-1)",
        "losses",
        Change(
            ShardTables,
            "save",
            "encode_record(record)",
            "encode_record(msgspec.structs.replace(record, epoch=record.last_normal_epoch))",
        ),
    ),
    mutant(
        "epoch-without-drops",
        "a replica does not hear from START-EPOCH what was dropped",
        "gaps",
        Change(epoch_change, "on_start_epoch", "dropped_messages.drop(replica, message.dropped)", "pass"),
    ),
    mutant(
        "epoch-keeps-held",
        "what was held back in one epoch is taken in the next",
        "gaps",
        Change(epoch_change, "_forget_losses", "replica.held.clear()", "pass"),
    ),
]

AT_COORDINATORS = [
    mutant(
        "epoch-of-own-shard",
        "a shard begins with what its own replicas showed, not with what those of others did (COORDINATOR-2)",
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
    mutant(
        "epoch-of-any-log",
        "logs of replicas count that did not begin the last epoch",
        "all",
        Change(FailureCoordinator, "_start", " if ack.last_normal_epoch == self.record.last_started]", "]"),
    ),
    mutant(
        "unsaved-spoken",
        "a coordinator speaks before its record is saved (MAJORITY-1)",
        "roles",
        Change(
            ReplicatedCoordinator,
            "_hold_back",
            "return self._save(leading)",
            "self.unsaved[-1] = Unsaved(counter, [])\n        return [*self._save(leading), *effects]",
        ),
    ),
    mutant(
        "saved-by-minority",
        "a record counts as saved when one host keeps it (MAJORITY-1)",
        "roles",
        Change(ReplicatedCoordinator, "_saved_by_majority", "self.hosts // 2 + 1", "1"),
    ),
    mutant(
        "keeper-breaks-promise",
        "a host that promised a later epoch still saves the record of an earlier one",
        "roles",
        Change(RecordKeeper, "_on_save", "if message.epoch < self.promised():", "if False:"),
    ),
]

AT_SEQUENCERS = [
    mutant(
        "clock-goes-back",
        "the clock follows its machine's, wherever that goes (SEQUENCER-2)",
        "roles",
        Change(Sequencer, "handle", "max(now, self.clock + 1, request.after + 1)", "now"),
    ),
    mutant(
        "number-twice",
        "now and then a number is given a second time (SEQUENCER-1)",
        "calm",
        Change(Sequencer, "handle", "assigned[shard] + 1)", "assigned[shard] + (clock // 1000 % 97 != 0))"),
    ),
]

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
        "epoch-promise-not-durable",
        "after EPOCH-CHANGE and a crash a replica goes on in the old epoch (E1)",
        "losses",
        Change(
            ShardTables,
            "save",
            "encode_record(record)",
            "encode_record(msgspec.structs.replace(record, epoch=record.last_normal_epoch))",
        ),
    ),
    mutant(
        "ack-without-waiting",
        "what waits below the stable slot is not shown to the coordinator",
        "all",
        Change(epoch_change, "on_epoch_change", "tuple(_unresolved(replica))", "()"),
    ),
    mutant(
        "ack-without-executed",
        "what was executed here is not shown to the coordinator",
        "roles",
        Change(epoch_change, "_shown", "stable = replica.record.stable", "stable = replica.record.executed"),
    ),
    mutant(
        "epoch-for-anybody",
        "a replica that did not begin the last epoch begins the next",
        "all",
        Change(epoch_change, "_unfit", "if began < message.follows:", "if False:"),
    ),
    mutant(
        "epoch-without-drops",
        "a replica does not hear from START-EPOCH what was dropped",
        "losses",
        Change(epoch_change, "on_start_epoch", "dropped_messages.drop(replica, message.dropped)", "pass"),
    ),
    mutant(
        "epoch-keeps-own-log",
        "a replica that has another transaction in a slot than START-EPOCH keeps its own",
        "losses",
        Change(epoch_change, "_take_over_log", "replica.log.replace(entry.slot, entry.stamped)", "pass"),
    ),
    mutant(
        "epoch-keeps-held",
        "what was held back in one epoch is taken in the next",
        "all",
        Change(epoch_change, "_forget_losses", "replica.held.clear()", "pass"),
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
        "epoch-without-found",
        "an epoch begins without what the coordinator had found",
        "losses",
        Change(FailureCoordinator, "_known", "yield from self.record.found", "pass"),
    ),
    mutant(
        "epoch-with-dropped",
        "an epoch begins with what the coordinator had dropped",
        "losses",
        Change(FailureCoordinator, "_decided", " and not stamped.stamp.matches(self.record.dropped)", ""),
    ),
    mutant(
        "epoch-of-any-log",
        "logs of replicas count that did not begin the last epoch",
        "all",
        Change(FailureCoordinator, "_start", " if ack.last_normal_epoch == self.record.last_started]", "]"),
    ),
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
        "epoch-by-shards",
        "a majority of each shard is enough, of whatever hosts",
        "all",
        Change(
            FailureCoordinator,
            "_has_hosts",
            "return 2 * sum(count == self.shards for count in shown.values()) > self.replicas",
            "return self._has_majorities(self.acks)",
        ),
    ),
    mutant(
        "epoch-by-minority",
        "an epoch begins with the logs of a single host",
        "all",
        Change(
            FailureCoordinator,
            "_has_hosts",
            "return 2 * sum(count == self.shards for count in shown.values()) > self.replicas",
            "return any(count == self.shards for count in shown.values())",
        ),
    ),
    mutant(
        "epoch-without-clock",
        "the next sequencer's clock does not begin above what was logged",
        "roles",
        Change(FailureCoordinator, "_latest_clock", "return max(chain(", "return 0 * max(chain("),
    ),
    mutant(
        "unsaved-spoken",
        "a coordinator speaks before its record is saved (P1)",
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
        "a record counts as saved when one host keeps it (P1)",
        "roles",
        Change(ReplicatedCoordinator, "_saved_by_majority", "self.hosts // 2 + 1", "1"),
    ),
    mutant(
        "prepared-by-minority",
        "a coordinator begins with the record of a single host",
        "roles",
        Change(
            ReplicatedCoordinator,
            "_on_prepared",
            "if 2 * len(self.prepared) <= self.hosts:",
            "if False:",
        ),
    ),
    mutant(
        "oldest-record",
        "a coordinator begins with the oldest of the records that were shown",
        "roles",
        Change(ReplicatedCoordinator, "_on_prepared", "record = max(", "record = min("),
    ),
    mutant(
        "shared-epochs",
        "two coordinators may take the same epoch",
        "roles",
        Change(
            ReplicatedCoordinator,
            "prepare",
            "Epoch(lowest + (self.number - lowest) % self.coordinators)",
            "lowest",
        ),
    ),
    mutant(
        "keeper-breaks-promise",
        "a host that promised a later epoch still saves the record of an earlier one",
        "roles",
        Change(RecordKeeper, "_on_save", "if message.epoch < self.promised():", "if False:"),
    ),
    mutant(
        "keeper-forgets-promise",
        "a host does not keep what it promised a coordinator",
        "roles",
        Change(RecordKeeper, "_on_prepare", "self.promise(promised)", "pass"),
    ),
]

AT_SEQUENCERS = [
    mutant(
        "number-twice",
        "now and then a number is given a second time (S1)",
        "calm",
        Change(Sequencer, "handle", "assigned[shard] + 1)", "assigned[shard] + (clock // 1000 % 97 != 0))"),
    ),
    mutant(
        "clock-goes-back",
        "the clock follows its machine's, wherever that goes (S2)",
        "roles",
        Change(Sequencer, "handle", "max(now, self.clock + 1, request.after + 1)", "now"),
    ),
]

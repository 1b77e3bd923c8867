"""Bugs in what is done about lost messages, at replicas and at the coordinator (section 6.3)."""

from __future__ import annotations

from kvstore.eris import drop_decisions, dropped_messages, synchronization
from kvstore.eris.replica import Replica
from kvstore.eris.shard_state import ShardTables
from tests.simulation.mutants.planting import Change, mutant

OWN_NAME = "TransactionId(record.epoch, replica.address.shard, number)"
SAVE = "encode_record(record)"

AT_REPLICAS = [
    mutant(
        "promise-not-kept",
        "what was promised away enters the log when it comes after all (LOSS-1)",
        "losses",
        Change(
            dropped_messages,
            "drain",
            "elif stamped.stamp.matches(record.temp_drops) and not stamped.stamp.matches(record.un_drops):",
            "elif False:",
        ),
    ),
    mutant(
        "promise-of-own-name",
        "a promise counts for the name of the own shard only (LOSS-1)",
        "losses",
        Change(
            dropped_messages,
            "drain",
            "elif stamped.stamp.matches(record.temp_drops)",
            f"elif {OWN_NAME} in record.temp_drops",
        ),
    ),
    mutant(
        "promise-not-noted",
        "a promise is given and not remembered",
        "losses",
        Change(dropped_messages, "on_transaction_request", "record.temp_drops.add(request.id)", "pass"),
    ),
    mutant(
        "promise-not-durable",
        "promises are gone after a crash",
        "losses",
        Change(ShardTables, "save", SAVE, "encode_record(msgspec.structs.replace(record, temp_drops=set()))"),
    ),
    mutant(
        "drop-stays-in-log",
        "what is dropped stays where it stands in a log already (LOSS-2)",
        "losses",
        Change(dropped_messages, "drop", "replica.log.replace(slot, None)", "pass"),
    ),
    mutant(
        "drop-of-own-name",
        "a drop counts for the name of the own shard only (LOSS-2)",
        "losses",
        Change(dropped_messages, "drain", "elif stamped.stamp.matches(record.perm_drops):", "elif False:"),
        Change(
            dropped_messages,
            "drop",
            "if stamped.stamp.matches(fresh)]",
            "if (record.epoch, replica.address.shard, slot - record.base) in fresh]",
        ),
    ),
    mutant(
        "sync-without-drops",
        "a follower does not hear from SYNC-COMMIT what was dropped, and executes it",
        "losses",
        Change(synchronization, "on_sync_commit", "if commit.dropped:", "if False:"),
    ),
    mutant(
        "gap-not-seen",
        "a number above the next one is written into the next slot",
        "losses",
        Change(Replica, "_on_stamped", "number == expected and", "number >= expected and"),
    ),
    mutant(
        "ack-of-held",
        "a follower acknowledges to the client what it only holds back",
        "losses",
        Change(
            Replica,
            "_on_stamped",
            "return dropped_messages.drain(self)",
            "early = [] if self.is_learner else self.acknowledge(record.base + number, stamped)\n"
            "    return [*early, *dropped_messages.drain(self)]",
        ),
    ),
    mutant(
        "settled-by-stability",
        "of what is stable here nothing is shown to the coordinator, though other participants may lack it",
        "losses",
        Change(
            dropped_messages, "unsettled", "end = min(record.stable, record.executed)", "end = record.stable"
        ),
        Change(dropped_messages, "unsettled", "replica.waiting() if", "() if"),
    ),
]

AT_COORDINATORS = [
    mutant(
        "drop-by-one-shard",
        "the promises of one shard are enough to drop a transaction",
        "losses",
        Change(drop_decisions, "_on_temp_dropped", "if not all(", "if not any("),
    ),
    mutant(
        "drop-without-learner",
        "promises of a majority count without the learner's",
        "losses",
        Change(drop_decisions, "_has_promised", " and newest % coordinator.replicas in together", ""),
    ),
    mutant(
        "drop-by-minority",
        "the promise of the learner is enough, without a majority",
        "losses",
        Change(drop_decisions, "_has_promised", "2 * len(together) > coordinator.replicas and ", ""),
    ),
    mutant(
        "found-after-dropped",
        "who has it makes it happen, though it was dropped (DECISION-1)",
        "losses",
        Change(
            drop_decisions, "_on_has", "if stamped.stamp.matches(coordinator.record.dropped):", "if False:"
        ),
    ),
    mutant(
        "dropped-after-found",
        "promises about what was found are counted on (DECISION-1)",
        "losses",
        Change(drop_decisions, "_on_has", "coordinator.promises.pop(name, None)", "pass"),
    ),
]

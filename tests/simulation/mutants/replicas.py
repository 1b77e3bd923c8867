"""Bugs of replicas: in the normal case, in view changes and with images (sections 6.2, 6.4, 6.6)."""

from __future__ import annotations

from kvstore.eris import state_transfer, synchronization, view_change
from kvstore.eris.client_window import ClientWindow
from kvstore.eris.replica import Replica
from kvstore.eris.shard_state import ShardTables
from tests.simulation.mutants.planting import Change, mutant

SAVE, LOAD = "encode_record(record)", "return ShardRecord() if stored is None else decode_record(stored)"

NORMAL_CASE = [
    mutant(
        "epoch-not-checked",
        "a stamp of another epoch is taken for one of this",
        "roles",
        Change(Replica, "_on_stamped", "if stamp.epoch != record.epoch:", "if False:"),
    ),
    mutant(
        "follower-executes",
        "a follower executes at once, before a majority has it",
        "losses",
        Change(
            Replica,
            "take",
            "return self.acknowledge(slot, stamped)",
            "return [*self.acknowledge(slot, stamped), *self.executor.arrive(self, slot, stamped)]",
        ),
    ),
    mutant(
        "stable-without-quorum",
        "what the learner alone has counts as stable",
        "losses",
        Change(synchronization, "_quorum_slot", "replica.replicas // 2 + 1", "1"),
    ),
    mutant(
        "stable-beyond-log",
        "a follower tells the learner that it logged what it only holds back",
        "losses",
        Change(
            synchronization,
            "on_batch_end",
            "record.view, replica.last_slot))]",
            "record.view, Slot(replica.last_slot + len(replica.held))))]",
        ),
    ),
    mutant(
        "window-ignored",
        "a copy of a request is executed again",
        "network",
        Change(Replica, "known_outcome", "return window.outcome_of(request.request)", "return None"),
    ),
    mutant(
        "window-not-durable",
        "what a client was answered is forgotten in a crash",
        "crashes",
        Change(ShardTables, "save", SAVE, "encode_record(msgspec.structs.replace(record, windows={}))"),
    ),
    mutant(
        "tombstone-forgotten",
        "how a general transaction ended is not remembered",
        "network",
        Change(ClientWindow, "conclude", "if not self._is_answered(preliminary):", "if False:"),
    ),
]

VIEW_CHANGES = [
    mutant(
        "view-adopts",
        "a follower takes the new learner's promises in the place of its own, instead of both",
        "losses",
        Change(
            view_change,
            "on_start_view",
            "record.temp_drops |= message.temp_drops",
            "record.temp_drops = set(message.temp_drops)",
        ),
        Change(
            view_change,
            "on_start_view",
            "record.un_drops |= message.un_drops",
            "record.un_drops = set(message.un_drops)",
        ),
    ),
    mutant(
        "view-adopts-longest",
        "a new learner takes promises over with the log that it takes over, instead of all that were shown",
        "losses",
        Change(
            view_change,
            "_begin_if_possible",
            "record.temp_drops |= message.temp_drops\n        record.un_drops |= message.un_drops\n        ",
            "",
        ),
        Change(
            view_change,
            "_begin_if_possible",
            "append_all(replica, longest.entries)",
            "if longest.last > replica.last_slot:\n"
            "        record.temp_drops = set(longest.temp_drops)\n"
            "        record.un_drops = set(longest.un_drops)\n"
            "    append_all(replica, longest.entries)",
        ),
    ),
    mutant(
        "old-learner-goes-on",
        "a learner that joined another view goes on as a learner",
        "losses",
        Change(
            view_change, "join", "replica.status = Status.VIEW_CHANGE\n    replica.is_learner = False", "pass"
        ),
    ),
    mutant(
        "view-by-minority",
        "a view begins with the log of its learner alone",
        "losses",
        Change(
            view_change,
            "_begin_if_possible",
            "if 2 * (len(replica.view_changes) + 1) <= replica.replicas:",
            "if False:",
        ),
        Change(
            view_change,
            "_begin_if_possible",
            "lambda message: message.last)",
            "lambda message: message.last, default=None)",
        ),
        Change(view_change, "_begin_if_possible", "longest.entries", "longest.entries if longest else ()"),
        Change(
            view_change,
            "_begin",
            "replica.view_changes.values())",
            "replica.view_changes.values()) if replica.view_changes else replica.record.stable",
        ),
    ),
    mutant(
        "view-forgets-promises",
        "VIEW-CHANGE does not show the promises",
        "losses",
        Change(view_change, "_show", "frozenset(record.temp_drops)", "frozenset()"),
    ),
    mutant(
        "view-not-durable",
        "which view was joined is forgotten in a crash",
        "losses",
        Change(
            ShardTables,
            "save",
            SAVE,
            "encode_record(msgspec.structs.replace(record, view=record.normal_view))",
        ),
    ),
    mutant(
        "view-goes-back",
        "a view begins though a later one was joined (VIEW-1)",
        "losses",
        Change(
            view_change,
            "on_start_view",
            "if message.view < record.view or began:",
            "if message.view < record.normal_view or began:",
        ),
    ),
]

IMAGES = [
    mutant(
        "image-forgets-promises",
        "who gets an image forgets what it promised (IMAGE-1)",
        "losses",
        Change(state_transfer, "_carry_over", "record.temp_drops |= own.temp_drops", "pass"),
    ),
]

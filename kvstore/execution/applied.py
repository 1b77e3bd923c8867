"""The result of one shard's part of a transaction in a region: outcome, visible changes, effects to ship."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgspec

from kvstore.execution.execute import plain_effects
from kvstore.execution.operations import KEY_EFFECTS, Call, KeyEffect, Operation, Outcome, Put, PutIf
from kvstore.execution.procedure_context import Owns
from kvstore.types import ShardId, Slot, Timestamp

ValueChanges = dict[bytes, bytes | None]
"""New shown value of each changed key, encoded; None if the key no longer shows a value."""


class Applied(NamedTuple):
    """The result of one shard's part of a transaction.

    ``changes``: None if the changes follow from plain operations (contracts A7). ``effects``: None if the
    effects follow from the operations.
    """

    outcome: Outcome
    changes: ValueChanges | None = None
    effects: tuple[KeyEffect, ...] | None = None


class RegionExecution(Protocol):
    """The execution of one shard of a region (``crdt/region_shard.py``): loaded only for a region."""

    def execute(self, operations: tuple[Operation, ...], slot: Slot, time: Timestamp) -> Applied:
        """Execute a part of a transaction of this region, or an import."""

    def call(self, call: Call, slot: Slot, time: Timestamp, shard: ShardId, owns: Owns) -> Applied:
        """Run one shard's part of a call of a stored procedure."""

    def check_debits(self, operations: Iterable[Operation]) -> Outcome | None:
        """Return the refusal of the first debit without enough rights, if any; all keys are locked."""


encode_effects = msgspec.msgpack.Encoder().encode
decode_effects = msgspec.msgpack.Decoder(tuple[KeyEffect, ...]).decode


def changes_of(operations: tuple[Operation, ...], applied: Applied) -> ValueChanges:
    """Return the changes of a part, derived from its operations if ``applied.changes`` is None."""
    return plain_effects(operations) if applied.changes is None else applied.changes


def effect_of(operation: Operation) -> KeyEffect | None:
    """Return the effect of an operation that was not refused, for any region; None for a check."""
    if type(operation) is PutIf:
        return Put(operation.key, operation.value)
    return operation if isinstance(operation, KEY_EFFECTS) else None


def effects_of(operations: Iterable[Operation]) -> tuple[KeyEffect, ...]:
    """Return the effects of these operations, in order."""
    return tuple(effect for effect in map(effect_of, operations) if effect is not None)

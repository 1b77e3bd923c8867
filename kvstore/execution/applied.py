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
"""What is shown afterwards by key, encoded; None where nothing is any more."""


class Applied(NamedTuple):
    """What came of a part.

    ``changes``: None where they are those of plain operations (contracts A7). ``effects``: None where the
    operations themselves tell them.
    """

    outcome: Outcome
    changes: ValueChanges | None = None
    effects: tuple[KeyEffect, ...] | None = None


class RegionExecution(Protocol):
    """Executes one shard of a region (``crdt/region_shard.py``): loaded only where a store is a region."""

    def execute(self, operations: tuple[Operation, ...], slot: Slot, time: Timestamp) -> Applied:
        """Decide a part of a transaction of this region, or carry out an import."""

    def call(self, call: Call, slot: Slot, time: Timestamp, shard: ShardId, owns: Owns) -> Applied:
        """Run one shard's part of a call of a stored procedure."""

    def check_debits(self, operations: Iterable[Operation]) -> Outcome | None:
        """Return the refusal of a debit among operations that are all locked, if one is to be."""


encode_effects = msgspec.msgpack.Encoder().encode
decode_effects = msgspec.msgpack.Decoder(tuple[KeyEffect, ...]).decode


def changes_of(operations: tuple[Operation, ...], applied: Applied) -> ValueChanges:
    """What a part changed, whether its operations tell it or not."""
    return plain_effects(operations) if applied.changes is None else applied.changes


def effect_of(operation: Operation) -> KeyEffect | None:
    """What an operation that was not refused changes, wherever that is carried out; None for a check."""
    if type(operation) is PutIf:
        return Put(operation.key, operation.value)
    return operation if isinstance(operation, KEY_EFFECTS) else None


def effects_of(operations: Iterable[Operation]) -> tuple[KeyEffect, ...]:
    """The same of all of them."""
    return tuple(effect for effect in map(effect_of, operations) if effect is not None)

"""The execution of one shard's part of a transaction in a region: of its own transactions, and of imports.

Each key has cells (``cells.py``). A transaction of the region is decided here, once: it results in effects,
and only these go to other regions (contracts D5). An import is a run of pieces of other regions' chains;
each piece is executed as of its own place and time.

    state     key -> version, and the cells, of keys that show a value
    hidden    key -> the cells, of keys that show nothing
    chains    "copied", region, last slot of a segment -> own slot of the import that brought the segment
              "seen", region -> last slots that the region had imported, by region, where its copy ends

INVARIANTS
    REGION-1  A part that refuses has no effect (contracts A5).
    REGION-2  A piece is executed once, and only after its predecessor in its chain (contracts D3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from kvstore.execution.applied import Applied, ValueChanges, changes_of, effect_of
from kvstore.execution.crdt import cells, region_procedure
from kvstore.execution.crdt.cells import NOTHING, Cell, Origin
from kvstore.execution.crdt.conflict_resolution import WritingNode, resolve
from kvstore.execution.crdt.escrow import encode_unaffordable, shortfall
from kvstore.execution.execute import plain_effects
from kvstore.execution.operations import (
    DONE,
    ESCROW,
    REFUSED,
    Add,
    Call,
    Delete,
    Grant,
    Import,
    KeyEffect,
    Marker,
    Operation,
    Outcome,
    Piece,
    PutIf,
    Segment,
    SetAdd,
    SetRemove,
    Spend,
)
from kvstore.execution.procedure_context import Owns
from kvstore.execution.stored_value import VERSION_BYTES, stored_version
from kvstore.execution.validation import first_changed
from kvstore.ports import ReadableTable, Table
from kvstore.types import RegionId, ShardId, Slot, Timestamp

_encode = msgspec.msgpack.Encoder().encode
_decode_seen = msgspec.msgpack.Decoder(dict[RegionId, Slot]).decode


class RegionShard:
    """One shard of one region."""

    def __init__(self, region: RegionId, state: Table, hidden: Table, chains: Table) -> None:
        self.region = region
        self._state = state
        self._hidden = hidden
        self._chains = chains

    def execute(self, operations: tuple[Operation, ...], slot: Slot, time: Timestamp) -> Applied:
        """Execute a part of a transaction of this region, or an import."""
        if operations and type(operations[0]) is Import:
            return Applied(DONE, self._import(operations[0].segments, slot))
        changed = first_changed(operations, self._state)
        if changed is not None:
            return Applied(Outcome(refused=True, results=(changed,)), {}, ())
        staged = Staged(self._state, self._hidden)
        node = WritingNode(Origin(time, self.region, slot), None)
        results: list[bytes | bool] = []
        for operation in operations:
            refused = self._refused(operation, staged, slot)
            if refused is not None:
                return Applied(refused, {}, ())
            effect = effect_of(operation)
            if effect is not None:
                if type(effect) is Delete and effect.report:
                    results.append(staged.cell(effect.key).kind is not None)
                staged.resolve(effect, node)
                if type(effect) is Add:
                    results.append(cells.encode_total(staged.cell(effect.key)))
        changes = staged.write(slot)
        outcome = Outcome(results=tuple(results)) if results else DONE
        return Applied(outcome, None if _is_plain(operations, changes, staged) else changes)

    def call(self, call: Call, slot: Slot, time: Timestamp, shard: ShardId, owns: Owns) -> Applied:
        """Run one shard's part of a call of a stored procedure."""
        asked, outcome = region_procedure.run(call, self._state, shard=shard, time=time, owns=owns)
        applied = self.execute(asked, slot, time)
        return Applied(outcome, changes_of(asked, applied), asked)

    def _refused(self, operation: Operation, staged: Staged, slot: Slot) -> Outcome | None:
        """Return the refusal of a condition that does not hold, or of a debit without enough rights."""
        if type(operation) is PutIf and staged.version(operation.key, slot) != operation.version:
            return REFUSED
        if type(operation) is Spend or type(operation) is Grant:
            short = shortfall(staged.cell(operation.key), operation, self.region)
            if short is not None:
                return Outcome(refused=True, unaffordable=encode_unaffordable(short))
        return None

    def check_debits(self, operations: Iterable[Operation]) -> Outcome | None:
        """Return the refusal of the first debit without enough rights, if any; all keys are locked."""
        staged = Staged(self._state, self._hidden)
        node = WritingNode(Origin(Timestamp(0), self.region, Slot(0)), None)
        for operation in operations:
            if isinstance(operation, ESCROW):
                refused = self._refused(operation, staged, Slot(0))
                if refused is not None:
                    return refused
                staged.resolve(operation, node)
        return None

    # -- imports -------------------------------------------------------------------------------

    def _import(self, segments: tuple[Segment, ...], slot: Slot) -> ValueChanges:
        """Execute the pieces by their times, so that each comes after all that it has seen (contracts D8)."""
        arrived = [found for segment in segments for found in self._copy(segment, slot)]
        staged = Staged(self._state, self._hidden)
        for node, effects in sorted(arrived, key=lambda found: found[0].origin):
            for effect in effects:
                staged.resolve(effect, node)
        return staged.write(slot)

    def _copy(self, segment: Segment, slot: Slot) -> Iterator[tuple[WritingNode, tuple[KeyEffect, ...]]]:
        """Yield the nodes of a segment that are not copied yet; no slot may be missing before the segment."""
        region, last = segment.region, copied(self._chains, segment.region)
        if segment.last <= last:
            return
        assert segment.first <= last + 1, (
            f"REGION-2: what begins at slot {segment.first} of region {region} is to follow slot {last}"
        )
        seen = seen_by(self._chains, region)
        for item in segment.items:
            if item.last <= last:
                continue
            if type(item) is Marker:
                newer = {other: max(end, seen.get(other, end)) for other, end in item.chains.items()}
                seen = {**seen, **newer}
            elif type(item) is Piece:
                yield WritingNode(Origin(item.time, region, item.last), seen), item.effects
        self._chains.put(_seen_key(region), _encode(seen))
        self._chains.put(copy_key(region, segment.last), slot.to_bytes(8, "big"))


class Staged:
    """Cells of keys that were changed and are not written yet."""

    def __init__(self, state: Table, hidden: Table) -> None:
        self._state = state
        self._hidden = hidden
        self._cells: dict[bytes, Cell] = {}
        self._before: dict[bytes, tuple[Cell, int | None]] = {}

    def cell(self, key: bytes) -> Cell:
        found = self._cells.get(key)
        if found is None:
            found = self._load(key)
        return found

    def _load(self, key: bytes) -> Cell:
        stored = self._state.get(key)
        if stored is not None:
            cell = cells.decode(stored[VERSION_BYTES:])
        else:
            payload = self._hidden.get(key)
            cell = NOTHING if payload is None else cells.decode(payload)
        self._before[key] = cell, stored_version(stored)
        self._cells[key] = cell
        return cell

    def version(self, key: bytes, slot: Slot) -> int | None:
        """Return the version of a key after the staged changes; None if the key shows nothing."""
        cell = self.cell(key)
        before, version = self._before[key]
        if cell is before:
            return version
        return slot if cell.kind else None

    def resolve(self, effect: KeyEffect, node: WritingNode) -> None:
        self._cells[effect.key] = resolve(self.cell(effect.key), effect, node)

    def write(self, slot: Slot) -> ValueChanges:
        """Write the changed cells, and return the shown values that changed."""
        changes: ValueChanges = {}
        for key, cell in self._cells.items():
            before, version = self._before[key]
            if cell is before:
                continue
            payload = cells.encode(cell)
            if cell.kind is None:
                self._hidden.put(key, payload)
                if version is not None:
                    self._state.delete(key)
                    changes[key] = None
                continue
            assert version is None or version <= slot, (
                f"EXECUTE-3: slot {slot} writes over {key!r} of slot {version}"
            )
            if version is None or not cells.shows_same(before, cell):
                version = slot
                changes[key] = payload
            self._state.put(key, version.to_bytes(VERSION_BYTES, "big") + payload)
            if before is not NOTHING and before.kind is None:
                self._hidden.delete(key)
        return changes

    def shows_registers(self, keys: Iterable[bytes]) -> bool:
        """Return whether each of these keys shows a register or nothing."""
        return all(self._cells[key].kind in (None, "register") for key in keys)


def _is_plain(operations: tuple[Operation, ...], changes: ValueChanges, staged: Staged) -> bool:
    """Return whether the changes follow from the operations in the log."""
    if any(type(operation) in (Add, SetAdd, SetRemove, PutIf) for operation in operations):
        return False
    plain = plain_effects(operations)
    return plain.keys() == changes.keys() and staged.shows_registers(plain)


# -- copies of other regions' chains -----------------------------------------------------------


def copy_key(region: RegionId, last: Slot) -> bytes:
    """Return the key that holds which import brought the segment that ends with this slot."""
    return b"copied" + region.to_bytes(2, "big") + last.to_bytes(8, "big")


def _seen_key(region: RegionId) -> bytes:
    return b"seen" + region.to_bytes(2, "big")


def copied(chains: ReadableTable, region: RegionId) -> Slot:
    """Return the last copied slot of a region's chain of this shard; 0 if there is none."""
    rows = chains.scan(copy_key(region, Slot(0)), copy_key(region, Slot(2**63)), reverse=True, limit=1)
    return Slot(int.from_bytes(rows[0][0][-8:], "big")) if rows else Slot(0)


def seen_by(chains: ReadableTable, region: RegionId) -> dict[RegionId, Slot]:
    """Return the last slots of this shard that a region had imported, by region, where its copy ends."""
    stored = chains.get(_seen_key(region))
    return {} if stored is None else _decode_seen(stored)

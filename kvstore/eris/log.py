"""A shard's log of stamped transactions, on a host that carries other shards too.

A transaction's body is stored once per environment (contracts A7): the first hosted participant that
appends it holds the body, the others refer to that slot. All pieces of a transaction are appended in
one batch, so a reference never points outside what was committed with it.

    slot record   1 byte 0, then the encoded Stamped                              the body
                  1 byte 1, then shard as 2 and slot as 8 bytes big-endian        a reference
                  1 byte 2                                                        a NO-OP

The effects of a slot mostly follow from its operations. Where they do not (an ``add``, a condition, a
procedure, a copy of a request executed before), they are stored in a table by slot, and are removed with the
slot.

INVARIANTS
    LOG-1  The slots of a log follow each other: the next one that is written is the last one + 1.
    LOG-2  A reference leads to a slot with a body, and effects stand beside a slot, that are in the log.
    LOG-3  Truncation never removes the slot it was given, or any later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from kvstore import ports
from kvstore.eris.messages import LogEntry, Stamped, decode_stamped, encode
from kvstore.execution.applied import ValueChanges
from kvstore.execution.execute import StagedWrites
from kvstore.execution.stored_value import value_of
from kvstore.types import ShardId, Slot, Timestamp

BODY, REFERENCE, NO_OP = b"\x00", b"\x01", b"\x02"
READ_MAX = 256
"""Number of records that ``walk`` reads at once."""


decode_changes = msgspec.msgpack.Decoder(ValueChanges).decode


class BodyIndex:
    """The places of the bodies of the open batch's transactions on this host."""

    def __init__(self) -> None:
        self.placed: dict[Timestamp, tuple[ShardId, Slot]] = {}
        self.logs: dict[ShardId, ports.RecordLog] = {}
        self.is_displaced = False
        """Whether slots were replaced, so that earlier marks of the logs' ends are void."""
        self.appended_bytes = 0
        """Bytes appended to all logs since the host last looked."""
        self.appended_records = 0

    def displace(self, shard: ShardId) -> None:
        """Forget the places in this shard's log, because its slots were replaced."""
        assert shard in self.logs, f"LOG-2: shard {shard} has no log here, only {sorted(self.logs)} have"
        self.is_displaced = True
        self.placed = {clock: place for clock, place in self.placed.items() if place[0] != shard}

    def forget(self) -> None:
        """Forget all places at the end of the batch; later transactions share no bodies with it."""
        if self.placed:
            self.placed.clear()


class TransactionLog:
    """One shard's log; the index in the stored log is the slot."""

    __slots__ = ("_bodies", "_effects", "_shard", "stored")

    def __init__(self, shard: ShardId, log: ports.RecordLog, effects: ports.Table, bodies: BodyIndex) -> None:
        self._shard = shard
        self.stored = log
        self._effects = effects
        self._bodies = bodies
        bodies.logs[shard] = log

    @property
    def first(self) -> Slot:
        return Slot(self.stored.first)

    @property
    def last(self) -> Slot:
        return Slot(self.stored.last)

    def append(self, slot: Slot, stamped: Stamped | None) -> None:
        """Write the transaction, or a NO-OP, into the next slot."""
        if stamped is not None and len(stamped.stamp.numbers) == 1:
            record = BODY + encode(stamped)
        else:
            record = self._record(slot, stamped)
        bodies = self._bodies
        bodies.appended_bytes += len(record)
        bodies.appended_records += 1
        self.stored.append(slot, record)

    def note_effects(self, slot: Slot, effects: StagedWrites) -> None:
        """Keep what an executed slot changed, because its operations do not tell."""
        self.note_changes(slot, {key: value_of(cell) for key, cell in effects.items()})

    def note_changes(self, slot: Slot, changes: ValueChanges) -> None:
        """Keep the new values of an executed slot, None where a key was removed."""
        last = self.stored.last
        assert slot <= last, f"LOG-2: effects of slot {slot}, and the log ends at {last}"
        record = encode(changes)
        self._bodies.appended_bytes += len(record)
        self._effects.put(effects_key(slot), record)

    def replace(self, slot: Slot, stamped: Stamped | None) -> None:
        """Overwrite a slot with the transaction or NO-OP that an epoch change decided."""
        assert self.first <= slot <= self.last, f"LOG-1: slot {slot} is not one of {self.first}..{self.last}"
        self.stored.replace(slot, self._record(slot, stamped))

    def inline_bodies_from(self, shard: ShardId) -> bool:
        """Copy the bodies that this log refers to in another shard's log, which is about to be replaced.

        Return whether there were any.
        """
        last = self.last
        records = self.stored.read(self.first, last + 1 - self.first)
        away = [slot for slot, record in records if _is_in(record, shard)]
        if not away:
            return False
        tail = (record for slot, record in records if slot >= away[0])
        self.stored.replace_from(away[0], [self._body_of(record, shard) for record in tail])
        assert self.last == last, f"LOG-1: the log ends at slot {self.last}, and ended at slot {last}"
        return True

    def _body_of(self, record: bytes, shard: ShardId) -> bytes:
        place = reference_in(record)
        return record if place is None or place[0] != shard else self._referred(*place)

    def reset(self, first: Slot) -> None:
        """Remove all slots; the next slot is ``first``."""
        self._bodies.displace(self._shard)
        self.stored.reset(first)
        assert self.last + 1 == first, f"LOG-1: slot {first} is to be next, and the log ends at {self.last}"

    def shorten(self, end: Slot) -> None:
        """Remove all slots after this one."""
        assert self.first <= end + 1 <= self.last, f"LOG-1: {end} is no slot in {self.first}..{self.last}"
        self._bodies.displace(self._shard)
        self.stored.replace_from(end + 1, [])

    def _record(self, slot: Slot, stamped: Stamped | None) -> bytes:
        if stamped is None:
            return NO_OP
        if len(stamped.stamp.numbers) > 1:
            placed = self._bodies.placed.setdefault(stamped.stamp.clock, (self._shard, slot))
            if placed != (self._shard, slot):
                last = self._bodies.logs[placed[0]].last
                assert placed[1] <= last, (
                    f"LOG-2: slot {slot} of shard {self._shard} refers to slot {placed[1]} of shard "
                    f"{placed[0]}, whose log ends at {last}"
                )
                return REFERENCE + placed[0].to_bytes(2, "big") + placed[1].to_bytes(8, "big")
        return BODY + encode(stamped)

    def read(self, first: Slot, count_max: int) -> list[LogEntry]:
        """Return up to ``count_max`` entries from ``first`` on. Raises ``Corrupt``."""
        records = self.stored.read(first, count_max)
        return [LogEntry(Slot(slot), read_body(record, self._referred)) for slot, record in records]

    def walk(self, first: Slot, last: Slot) -> Iterator[LogEntry]:
        """Yield the entries from ``first`` to ``last``, both included, without truncated ones."""
        first = max(first, self.first)
        while first <= last:
            entries = self.read(first, min(READ_MAX, last - first + 1))
            yield from entries
            first = Slot(entries[-1].slot + 1)

    def _referred(self, shard: ShardId, slot: Slot) -> bytes:
        found, record = self._bodies.logs[shard].read(slot, 1)[0]
        assert found == slot, f"LOG-2: a reference leads to slot {slot} of shard {shard}, and finds {found}"
        return record

    def truncate_before(self, slot: Slot, count_max: int) -> int:
        """Remove up to ``count_max`` slots below ``slot``, and their effects; return their number."""
        count = self.stored.truncate_before(slot, count_max)
        assert not count or self.first <= slot, (
            f"LOG-3: {count} slots went, up to {self.first - 1}: more than those before {slot}"
        )
        for key, _ in self._effects.scan(b"", effects_key(self.first), limit=count_max):
            self._effects.delete(key)
        return count


def effects_key(slot: Slot) -> bytes:
    """Return the key of a slot's effects."""
    return slot.to_bytes(8, "big")


def reference_in(record: bytes) -> tuple[ShardId, Slot] | None:
    """Return the place that a slot's record refers to; None if it holds its body, or is a NO-OP."""
    if record[:1] != REFERENCE:
        return None
    return ShardId(int.from_bytes(record[1:3], "big")), Slot(int.from_bytes(record[3:11], "big"))


def _is_in(record: bytes, shard: ShardId) -> bool:
    place = reference_in(record)
    return place is not None and place[0] == shard


def read_body(record: bytes, referred: Callable[[ShardId, Slot], bytes]) -> Stamped | None:
    """Decode a slot record; ``referred`` fetches the record that a reference points to.

    If that record is a NO-OP, the transaction was dropped for all its participants, this one included.
    """
    place = reference_in(record)
    if place is not None:
        record = referred(*place)
    if record[:1] == NO_OP:
        return None
    assert record[:1] == BODY, f"LOG-2: a reference leads to a record that begins with {record[:1]!r}"
    return decode_stamped(record[1:])

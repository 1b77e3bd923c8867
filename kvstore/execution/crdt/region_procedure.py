"""Stored procedures in a region: ``add`` adds to counters, and each key keeps its type."""

from __future__ import annotations

from kvstore.errors import UnknownProcedure
from kvstore.execution.crdt.type_check import refuse_kind, refuse_other
from kvstore.execution.numbers import check_number
from kvstore.execution.operations import Add, Call, Delete, Outcome, Put
from kvstore.execution.procedure_context import Owns, Part
from kvstore.execution.procedures import failure_of, perform
from kvstore.keys import Key
from kvstore.ports import ReadableTable
from kvstore.types import ShardId, Timestamp


class RegionPart(Part):
    """One shard's part of a call in a region."""

    def __init__(
        self, call: Call, table: ReadableTable, *, shard: ShardId, time: Timestamp, owns: Owns
    ) -> None:
        super().__init__(call, table, shard=shard, time=time, owns=owns)
        self._added: dict[bytes, bytes] = {}
        """Sum of the additions to each counter, encoded, by encoded key."""

    def _note_added(self, key: Key, encoded: bytes, before: bytes | None, n: int | float) -> None:
        refuse_other(key, before if encoded not in self._added else None, "counter")
        self._added[encoded] = check_number(key, self._added.get(encoded), n)

    def _refuse_clash(self, key: Key, encoded: bytes, *, deletes: bool) -> None:
        if encoded in self._added:
            refuse_kind(key, "counter", "register")
        else:
            refuse_other(key, self._payload(encoded), "register", deletes=deletes)

    def operations(self) -> tuple[Put | Delete | Add, ...]:
        """End the part, and return its writes as operations."""
        self._table = None
        return tuple(self._operation(key, payload) for key, payload in self._staged.items())

    def _operation(self, key: bytes, payload: bytes | None) -> Put | Delete | Add:
        if key in self._added:
            return Add(key, self._added[key])
        return Delete(key) if payload is None else Put(key, payload)


def run(
    call: Call, table: ReadableTable, *, shard: ShardId, time: Timestamp, owns: Owns
) -> tuple[tuple[Put | Delete | Add, ...], Outcome]:
    """Run one shard's part of a call; return its writes as operations, and its outcome.

    Raises ``UnknownProcedure``; any other error that the body raises becomes its outcome.
    """
    part = RegionPart(call, table, shard=shard, time=time, owns=owns)
    try:
        result = perform(call, part)
        return part.operations(), Outcome(results=(result,))
    except (MemoryError, UnknownProcedure):
        raise  # not caused by the body: another replica may succeed
    except BaseException as error:
        return (), Outcome(failure=failure_of(error))
    finally:
        part.give_up()

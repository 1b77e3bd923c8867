"""Each invariant that is asserted in execution/ is broken once: the state is made wrong by hand, and the
assertion that fails names its label and the numbers."""

from __future__ import annotations

from kvstore import values
from kvstore.eris.shard_state import CHAINS, HIDDEN, REGISTERS, table_name
from kvstore.execution.crdt import cells, escrow
from kvstore.execution.crdt.cells import Cell, Escrow, Origin, Write
from kvstore.execution.crdt.conflict_resolution import WritingNode, resolve
from kvstore.execution.crdt.region_shard import RegionShard
from kvstore.execution.execute import execute
from kvstore.execution.operations import Add, Import, Put, Segment, Skip, Spend
from kvstore.execution.stored_value import VERSION_BYTES
from kvstore.storage import MemoryDisk, MemoryEnvironment
from kvstore.types import RegionId, ShardId, Slot, Timestamp
from tests.support.broken import broken

S0, US, EU = ShardId(0), RegionId(0), RegionId(1)
ONE = values.encode(1)
NODE = Origin(Timestamp(10), US, Slot(4))


def open_environment() -> MemoryEnvironment:
    environment = MemoryEnvironment(MemoryDisk(), "0")
    environment.begin()
    return environment


def version(slot: int) -> bytes:
    return slot.to_bytes(VERSION_BYTES, "big")


def test_a_version_only_rises() -> None:
    table = open_environment().table(b"t")
    table.put(b"k", version(9) + ONE)

    with broken("EXECUTE-3", "slot 3", "slot 9", b"k"):
        execute((Add(b"k", ONE),), table, Slot(3))


def test_what_is_shown_is_later_than_what_it_has_seen() -> None:
    cell = Cell(register=(Write(Origin(Timestamp(50), US, Slot(2)), ONE),))

    with broken("CELLS-2", NODE, "time=50"):
        resolve(cell, Put(b"k", ONE), WritingNode(NODE, None))


def test_nobody_spends_more_than_his_rights() -> None:
    with broken("ESCROW-1", "slot 4", "region 0", "amount=3", -3):
        escrow.moved(None, Spend(b"k", 3), NODE)


def test_no_balance_is_below_zero() -> None:
    """Another region has spent what it did not have."""
    spent = Escrow(NODE, credits={US: {US: values.encode(5)}}, spent={EU: values.encode(10)})
    assert cells.balance(spent) == -5

    with broken("ESCROW-2", "slot 4", -6):
        escrow.moved(spent, Spend(b"k", 1), NODE)


class TestARegion:
    @staticmethod
    def shard() -> RegionShard:
        environment = open_environment()
        state, hidden, chains = (
            environment.table(table_name(S0, kind)) for kind in (REGISTERS, HIDDEN, CHAINS)
        )
        return RegionShard(US, state, hidden, chains)

    def test_imports_what_comes_next(self) -> None:
        segment = Segment(EU, Slot(5), (Skip(Slot(6)),))

        with broken("REGION-2", "slot 5", "region 1", "slot 0"):
            self.shard().execute((Import((segment,)),), Slot(1), Timestamp(1))

    def test_has_versions_that_only_rise(self) -> None:
        shard = self.shard()
        shard.execute((Put(b"k", ONE),), Slot(9), Timestamp(1))

        with broken("EXECUTE-3", "slot 3", "slot 9", b"k"):
            shard.execute((Put(b"k", ONE),), Slot(3), Timestamp(2))

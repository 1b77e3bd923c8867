"""A machine whose clock goes back, under a whole store: the log's time rises all the same (contracts D1)."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from kvstore.eris.log import read_body
from kvstore.eris.shard_state import HOST_TABLE, decode_record, log_name, record_key
from kvstore.storage import MemoryDisk, MemoryEnvironment
from kvstore.types import ShardId
from tests.support.power import open_on

YEAR = 365 * 86_400 * 10**9


@pytest.mark.parametrize("replicas", [1, 3])
def test_time_rises_over_openings_whatever_the_machine_says(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = MemoryDisk()
    number = 0
    for year in (56, 40, 57, 1):
        monkeypatch.setattr(time, "time_ns", lambda year=year: year * YEAR)
        with open_on(disk, shards=2, replicas=replicas) as db:
            for _ in range(3):
                number += 1
                with db.batch() as batch:
                    for name in "abcd":
                        batch.put(name, number)

    for host in range(replicas):
        for shard in range(2):
            times = clocks(disk, host, shard)
            assert len(times) == number
            assert all(before < after for before, after in pairwise(times))
            assert times[-1] >= 57 * YEAR


def clocks(disk: MemoryDisk, host: int, shard: int) -> list[int]:
    """The times in one replica's log."""
    environment = MemoryEnvironment(disk, str(host))
    record = decode_record(environment.read(HOST_TABLE, record_key(ShardId(shard))) or b"")
    view = environment.view()

    def body_of(other: int, slot: int) -> bytes:
        head = decode_record(environment.read(HOST_TABLE, record_key(ShardId(other))) or b"").head
        return view.log(log_name(ShardId(other)), head).read(slot, 1)[0][1]

    records = view.log(log_name(ShardId(shard)), record.head).read(1, 1 << 20)
    entries = [read_body(body, body_of) for _, body in records]
    return [entry.stamp.clock for entry in entries if entry is not None]

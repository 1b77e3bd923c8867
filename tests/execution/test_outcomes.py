"""Outcomes of requests with an idempotency key: kept by each participant, removed by time (C4)."""

from __future__ import annotations

import pytest

from kvstore.execution import outcomes
from kvstore.execution.operations import Expire, IdempotencyToken, Outcome, PutIf
from kvstore.execution.outcomes import OutcomeRecord, decode_record, expire, remember
from kvstore.storage import MemoryDisk, MemoryEnvironment
from kvstore.types import ShardId, Slot, Timestamp
from tests.support.cluster import Cluster, put

OUTCOMES, EXPIRY = b"\x00\x00\x80", b"\x00\x00\x81"
RECORD = OutcomeRecord(
    Slot(7), Outcome(results=(b"\x05", True)), Timestamp(1000), b"digest", (ShardId(0), ShardId(3))
)


class Shelf:
    """The two tables of one shard."""

    def __init__(self) -> None:
        environment = MemoryEnvironment(MemoryDisk(), "0")
        environment.begin()
        self.outcomes = environment.table(OUTCOMES)
        self.expiry = environment.table(EXPIRY)

    def remember(self, key: bytes, *, time: int = 1000, at_home: bool = True) -> None:
        record = OutcomeRecord(
            RECORD.slot, RECORD.outcome, Timestamp(time), RECORD.digest, RECORD.participants
        )
        token = IdempotencyToken(key, RECORD.digest, ShardId(0))
        remember(token, record, is_record_shard=at_home, outcomes=self.outcomes, expiry=self.expiry)

    def expire(self, before: int) -> None:
        expire(Timestamp(before), outcomes=self.outcomes, expiry=self.expiry)

    def keys(self) -> list[bytes]:
        return [key for key, _ in self.outcomes.scan(b"", b"\xff", limit=1 << 20)]

    def expiries(self) -> int:
        return len(self.expiry.scan(b"", b"\xff" * 9, limit=1 << 20))


class TestRemembering:
    def test_keeps_the_whole_record_at_home(self) -> None:
        shelf = Shelf()

        shelf.remember(b"k")

        assert decode_record(shelf.outcomes.get(b"k") or b"") == RECORD

    def test_keeps_only_its_own_part_elsewhere(self) -> None:
        shelf = Shelf()

        shelf.remember(b"k", at_home=False)

        record = decode_record(shelf.outcomes.get(b"k") or b"")
        assert (record.slot, record.outcome, record.time) == (RECORD.slot, RECORD.outcome, RECORD.time)
        assert (record.digest, record.participants) == (b"", ())


class TestExpiring:
    def test_forgets_what_is_older_and_nothing_else(self) -> None:
        shelf = Shelf()
        for time in (500, 999, 1000, 1001, 2000):
            shelf.remember(b"%04d" % time, time=time)

        shelf.expire(1000)

        assert shelf.keys() == [b"1000", b"1001", b"2000"]
        assert shelf.expiries() == 3

    @pytest.mark.parametrize("before", [0, 1])
    def test_at_the_beginning_of_time_forgets_nothing(self, before: int) -> None:
        shelf = Shelf()
        shelf.remember(b"k", time=before)

        shelf.expire(before)

        assert shelf.keys() == [b"k"]

    def test_goes_by_time_and_not_by_key(self) -> None:
        shelf = Shelf()
        shelf.remember(b"\xff", time=1)
        shelf.remember(b"\x00", time=2**40)

        shelf.expire(2**39)

        assert shelf.keys() == [b"\x00"]

    def test_is_bounded_and_begins_with_the_oldest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outcomes, "EXPIRED_AT_ONCE_MAX", 10)
        shelf = Shelf()
        for number in range(25):
            shelf.remember(b"%04d" % (1000 - number), time=1000 - number)

        shelf.expire(5000)
        assert shelf.keys() == [b"%04d" % time for time in range(986, 1001)]

        for _ in range(3):
            shelf.expire(5000)
        assert shelf.keys() == []
        assert shelf.expiries() == 0

    def test_of_nothing_is_fine(self) -> None:
        shelf = Shelf()

        shelf.expire(5000)

        assert shelf.keys() == []


class TestThroughTheLog:
    """All replicas store and remove equal outcomes."""

    TOKEN = IdempotencyToken(b"key", b"digest", ShardId(1))

    def stored(self, cluster: Cluster, host: int, shard: int) -> OutcomeRecord | None:
        environment = MemoryEnvironment(cluster.disk, str(host))
        stored = environment.read(shard.to_bytes(2, "big") + b"\x80", b"key")
        return None if stored is None else decode_record(stored)

    def test_every_participant_remembers_its_part_also_one_without_operations(self) -> None:
        cluster = Cluster(shards=3)
        cluster.submit({0: [put("a", 1)], 1: []}, self.TOKEN)
        cluster.run()
        cluster.change_epoch()

        for host in range(3):
            part, home = (self.stored(cluster, host, shard) for shard in (0, 1))
            assert part is not None
            assert home is not None
            assert (home.digest, home.participants) == (b"digest", (0, 1))
            assert (part.digest, part.participants) == (b"", ())
            assert part.time == home.time
            assert self.stored(cluster, host, 2) is None

    def test_a_refusal_is_remembered_too(self) -> None:
        cluster = Cluster(shards=2)
        cluster.submit({0: [PutIf(b"missing", b"\x01", 99)], 1: []}, self.TOKEN)
        cluster.run()

        part = self.stored(cluster, 0, 0)
        assert part is not None
        assert part.outcome.refused

    def test_a_retried_request_is_remembered_with_its_first_slot(self) -> None:
        cluster = Cluster(shards=2)
        request = cluster.submit({0: [put("a", 1)], 1: []}, self.TOKEN)
        cluster.step()
        cluster.carry(cluster.client.on_timer("retry"))
        cluster.run()

        home = self.stored(cluster, 0, 1)
        assert home is not None
        assert home.slot == 1
        assert cluster.answers[request] is not None
        assert cluster.replica(0, 1).last_slot == 2

    def test_expiring_happens_on_all_replicas(self) -> None:
        cluster = Cluster(shards=2)
        cluster.submit({0: [put("a", 1)], 1: []}, self.TOKEN)
        cluster.run()

        cluster.submit({shard: [Expire(Timestamp(cluster.now + 1))] for shard in (0, 1)})
        cluster.run()
        cluster.change_epoch()

        for host in range(3):
            assert self.stored(cluster, host, 0) is None
            assert self.stored(cluster, host, 1) is None
            assert cluster.values(host, 0) == {"a": 1}

"""The contract of environments: each clause of ``kvstore/ports.py``, checked for LMDB and for memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from kvstore.errors import Corrupt, DiskFull, Failed, OutcomeUnknown
from kvstore.ports import Environment
from kvstore.storage import LmdbEnvironment
from kvstore.storage.records import LOG, TABLE
from tests.support.environments import ABOVE, ALL, BELOW, EMPTY, T, append, items, log_in_view, write
from tests.support.media import Medium


class TestABatch:
    def test_sees_at_once_what_it_wrote(self, environment: Environment) -> None:
        """PORT-1"""
        write(environment, old="1")
        batch = environment.begin()
        table = environment.table(T)

        table.put(b"new", b"2")
        table.put(b"old", b"3")

        assert table.get(b"new") == b"2"
        assert table.get(b"old") == b"3"
        assert table.scan(b"", b"\xff", limit=ALL) == [(b"new", b"2"), (b"old", b"3")]
        assert table.get(b"new") == b"2"
        batch.abort()

    def test_sees_at_once_what_it_removed(self, environment: Environment) -> None:
        """PORT-1"""
        write(environment, a="1", b="2", c="3")
        batch = environment.begin()
        table = environment.table(T)

        table.delete(b"b")
        table.delete(b"missing")

        assert table.get(b"b") is None
        assert table.get(b"missing") is None
        assert table.scan(b"", b"\xff", limit=ALL) == [(b"a", b"1"), (b"c", b"3")]
        assert table.get(b"b") is None
        table.put(b"b", b"4")
        assert table.get(b"b") == b"4"
        batch.commit()
        assert items(environment) == [(b"a", b"1"), (b"b", b"4"), (b"c", b"3")]

    def test_is_seen_by_nobody_before_its_commit(self, environment: Environment) -> None:
        """PORT-1"""
        write(environment, a="1")
        batch = environment.begin()
        environment.table(T).put(b"a", b"2")
        environment.table(T).put(b"b", b"2")
        environment.table(T).scan(b"", b"\xff", limit=ALL)

        assert items(environment) == [(b"a", b"1")]
        assert environment.read(T, b"b") is None

        batch.commit()
        assert items(environment) == [(b"a", b"2"), (b"b", b"2")]
        assert environment.read(T, b"b") == b"2"

    def test_that_is_aborted_leaves_nothing(self, environment: Environment) -> None:
        """PORT-2"""
        write(environment, a="1", b="2")
        batch = environment.begin()
        environment.table(T).put(b"a", b"9")
        environment.table(T).delete(b"b")
        environment.table(T).scan(b"", b"\xff", limit=ALL)
        environment.table(T).put(b"c", b"9")

        batch.abort()

        assert items(environment) == [(b"a", b"1"), (b"b", b"2")]
        write(environment, d="4")
        assert items(environment) == [(b"a", b"1"), (b"b", b"2"), (b"d", b"4")]

    def test_that_wrote_nothing_can_be_committed(self, environment: Environment) -> None:
        write(environment, a="1")

        environment.begin().commit()

        assert items(environment) == [(b"a", b"1")]

    def test_covers_all_logs_and_tables(self, environment: Environment) -> None:
        """PORT-2"""
        batch = environment.begin()
        environment.table(BELOW).put(b"k", b"1")
        environment.table(ABOVE).put(b"k", b"2")
        log = environment.log(T, EMPTY)
        log.append(1, b"r")
        batch.commit()

        assert environment.read(BELOW, b"k") == b"1"
        assert environment.read(ABOVE, b"k") == b"2"
        assert log_in_view(environment, log.head, lambda log: log.read(1, 9)) == [(1, b"r")]


class TestAView:
    def test_keeps_showing_one_commit(self, environment: Environment) -> None:
        """PORT-3"""
        write(environment, a="1", b="1")
        head = append(environment, EMPTY, b"one")
        view = environment.view()

        write(environment, a="2", c="2")
        append(environment, head, b"two")

        table = view.table(T)
        assert table.get(b"a") == b"1"
        assert table.get(b"c") is None
        assert table.scan(b"", b"\xff", limit=ALL) == [(b"a", b"1"), (b"b", b"1")]
        assert view.log(T, head).read(1, 9) == [(1, b"one")]
        assert list(view.problems()) == []
        view.close()
        assert items(environment) == [(b"a", b"2"), (b"b", b"1"), (b"c", b"2")]

    def test_of_one_commit_does_not_disturb_that_of_another(self, environment: Environment) -> None:
        write(environment, a="1")
        older = environment.view()
        write(environment, a="2")
        newer = environment.view()
        write(environment, a="3")

        assert [view.table(T).get(b"a") for view in (older, newer)] == [b"1", b"2"]
        older.close()
        assert newer.table(T).get(b"a") == b"2"
        newer.close()

    def test_counts_the_records_of_its_commit(self, environment: Environment) -> None:
        view = environment.view()
        before = view.record_count()
        view.close()

        write(environment, a="1", b="2", c="3")
        head = append(environment, EMPTY, b"x", b"y")
        batch = environment.begin()
        environment.table(T).delete(b"b")
        environment.log(T, head).truncate_before(2, 9)
        batch.commit()

        view = environment.view()
        # The count record counts itself; an empty environment may not have it yet.
        assert view.record_count() - max(before, 1) == 3
        assert list(view.problems()) == []
        view.close()


class TestATable:
    KEYS = (b"", b"\x00", b"a", b"a\x00", b"ab", b"b", b"\xfe\xff", b"\xff")

    @pytest.fixture
    def table(self, environment: Environment) -> Environment:
        """Return an environment with ``KEYS`` in table ``T``, between tables that are full at both ends."""
        batch = environment.begin()
        for key in (*self.KEYS, b"\xff" * 500):
            environment.table(BELOW).put(key, b"below")
            environment.table(ABOVE).put(key, b"above")
        for key in self.KEYS:
            environment.table(T).put(key, b"value of " + key)
        batch.commit()
        return environment

    def test_is_scanned_between_any_bounds_both_ways(self, table: Environment) -> None:
        starts = (b"", b"\x00", b"a", b"aa", b"\xff", b"\xff\xff")
        stops = (b"", b"a", b"a\x00", b"c", b"\xff", b"\xff\xff")
        limits = (0, 1, 2, 7, 8, 9, ALL)
        view = table.view()
        batch = table.begin()

        for start, stop, limit, reverse in product(starts, stops, limits, (False, True)):
            inside = [key for key in sorted(self.KEYS, reverse=reverse) if start <= key < stop]
            expected = [(key, b"value of " + key) for key in inside[:limit]]
            for seen in (view.table(T), table.table(T)):
                assert seen.scan(start, stop, reverse=reverse, limit=limit) == expected

        batch.abort()
        view.close()

    def test_answers_a_miss_anywhere(self, table: Environment) -> None:
        view = table.view()
        for missing in (b"\x00\x00", b"A", b"aa", b"c", b"\xff\xff", b"\xff" * 500):
            assert view.table(T).get(missing) is None
            assert table.read(T, missing) is None
        view.close()

    def test_does_not_reach_into_its_neighbours(self, table: Environment) -> None:
        batch = table.begin()
        for key in self.KEYS:
            table.table(T).delete(key)

        assert table.table(T).scan(b"", b"\xff" * 501, limit=ALL) == []
        batch.commit()

        assert items(table) == []
        view = table.view()
        for name, value in ((BELOW, b"below"), (ABOVE, b"above")):
            rows = view.table(name).scan(b"", b"\xff" * 501, limit=ALL)
            assert rows == [(key, value) for key in (*self.KEYS, b"\xff" * 500)]
        view.close()

    @pytest.mark.parametrize("name", [b"\x00\x00\x00", b"\xff\xff\xff"])
    def test_may_have_the_first_or_the_last_name_of_all(self, environment: Environment, name: bytes) -> None:
        batch = environment.begin()
        environment.table(name).put(b"\xff", b"value")
        batch.commit()

        view = environment.view()
        assert view.table(name).scan(b"", b"\xff\xff", limit=ALL) == [(b"\xff", b"value")]
        assert view.table(name).scan(b"", b"\xff\xff", reverse=True, limit=ALL) == [(b"\xff", b"value")]
        assert view.table(name).get(b"") is None
        view.close()

    def test_holds_the_longest_keys_and_large_values(self, environment: Environment) -> None:
        key, value = b"k" * (511 - 4), b"v" * 300_000
        batch = environment.begin()
        environment.table(T).put(key, value)
        batch.commit()

        assert environment.read(T, key) == value

    def test_is_empty_at_first(self, environment: Environment) -> None:
        assert items(environment) == []
        assert environment.read(T, b"") is None
        assert environment.read(T, b"k") is None


class TestReopening:
    def test_finds_what_was_committed(self, medium: Medium) -> None:
        """PORT-2"""
        environment = medium.open()
        write(environment, a="1")
        head = append(environment, EMPTY, b"one", b"two")
        batch = environment.begin()
        environment.table(T).put(b"a", b"never")
        batch.abort()
        environment.close()

        environment = medium.open()

        assert environment.suspicion is None
        assert environment.failure is None
        assert items(environment) == [(b"a", b"1")]
        assert log_in_view(environment, head, lambda log: log.read(1, 9)) == [(1, b"one"), (2, b"two")]
        write(environment, b="2")
        assert items(environment) == [(b"a", b"1"), (b"b", b"2")]
        view = environment.view()
        assert list(view.problems()) == []
        view.close()
        environment.close()

    def test_finds_an_empty_environment_empty(self, medium: Medium) -> None:
        medium.open().close()

        environment = medium.open()

        assert items(environment) == []
        environment.close()

    def test_finds_what_was_committed_after_a_sync(self, medium: Medium) -> None:
        environment = medium.open()
        for number in range(5):
            write(environment, a=str(number))
            environment.sync()
        write(environment, b="x")
        environment.close()

        environment = medium.open()

        assert items(environment) == [(b"a", b"4"), (b"b", b"x")]
        environment.close()


class TestAFailedCommit:
    @pytest.fixture
    def failed(self, medium: Medium, environment: Environment) -> Environment:
        write(environment, a="1")
        batch = environment.begin()
        environment.table(T).put(b"a", b"2")
        environment.table(T).put(b"b", b"2")
        medium.fail_next_commit(environment)
        with pytest.raises(OutcomeUnknown) as caught:
            batch.commit()
        assert caught.value.__cause__ is not None, "the cause is attached (contracts A5)"
        return environment

    def test_is_all_or_nothing(self, failed: Environment) -> None:
        """PORT-2"""
        assert items(failed) in ([(b"a", b"1")], [(b"a", b"2"), (b"b", b"2")])

    def test_is_the_last_one(self, failed: Environment) -> None:
        assert failed.failure is not None
        for _ in range(2):
            with pytest.raises(Failed):
                failed.begin()

    def test_is_over_when_the_environment_is_opened_again(self, medium: Medium, failed: Environment) -> None:
        failed.close()
        medium.heal()

        environment = medium.open()

        assert environment.failure is None
        assert items(environment) == [(b"a", b"1")]
        write(environment, b="3")
        assert items(environment) == [(b"a", b"1"), (b"b", b"3")]
        environment.close()


class TestAFullDisk:
    def test_is_told_before_anything_changes(self, medium: Medium) -> None:
        environment = medium.open()
        write(environment, a="1")
        environment.close()
        environment = medium.open()

        with medium.full():
            with pytest.raises(DiskFull) as caught:
                environment.expect(100 << 20, 1000)
            assert caught.value.path is not None
            assert items(environment) == [(b"a", b"1")]

        assert environment.failure is None
        environment.expect(100, 1)
        write(environment, b="2")
        assert items(environment) == [(b"a", b"1"), (b"b", b"2")]
        environment.close()


class TestDamage:
    """PORT-4: a record that was changed by anything but the port is never returned."""

    KEY, VALUE = TABLE + T + b"b", b"two"

    @pytest.fixture
    def damage(self, medium: Medium) -> Callable[[Callable[[Medium], None]], Environment]:
        """Return a function that writes records, lets a test change the raw records, and reopens."""

        def change(act: Callable[[Medium], None]) -> Environment:
            environment = medium.open()
            write(environment, a="one", b="two", c="three")
            self.head = append(environment, EMPTY, b"first", b"second", b"third")
            environment.close()
            act(medium)
            return medium.open()

        return change

    @staticmethod
    def flip(key: bytes) -> Callable[[Medium], None]:
        def act(medium: Medium) -> None:
            value = medium.raw_get(key)
            medium.raw_put(key, bytes([value[0] ^ 1]) + value[1:])

        return act

    def test_of_a_record_is_raised_by_everything_that_meets_it(
        self, damage: Callable[[Callable[[Medium], None]], Environment]
    ) -> None:
        environment = damage(self.flip(self.KEY))
        view = environment.view()

        with pytest.raises(Corrupt) as caught:
            environment.read(T, b"b")
        assert T.hex() in caught.value.record
        assert b"b".hex() in caught.value.record
        for read in (
            lambda: view.table(T).get(b"b"),
            lambda: view.table(T).scan(b"", b"\xff", limit=ALL),
            lambda: view.table(T).scan(b"b", b"b\x00", limit=ALL),
            lambda: view.table(T).scan(b"", b"\xff", reverse=True, limit=2),
        ):
            with pytest.raises(Corrupt):
                read()
        assert view.table(T).get(b"c") == b"three"
        view.close()
        environment.close()

    @pytest.mark.parametrize("missing", [b"aa", b"bb"])
    def test_of_a_neighbour_is_raised_by_a_miss(
        self, damage: Callable[[Callable[[Medium], None]], Environment], missing: bytes
    ) -> None:
        environment = damage(self.flip(self.KEY))
        view = environment.view()

        for read in (view.table(T).get, lambda key: environment.read(T, key)):
            with pytest.raises(Corrupt):
                read(missing)
        batch = environment.begin()
        with pytest.raises(Corrupt):
            environment.table(T).get(missing)
        batch.abort()
        assert view.table(T).get(b"cc") is None
        view.close()
        environment.close()

    @pytest.mark.parametrize(("start", "stop"), [(b"aa", b"b"), (b"bb", b"c"), (b"b\x00", b"\xff")])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_beside_an_edge_of_a_scan_is_raised_on_the_side_it_starts_from(
        self,
        damage: Callable[[Callable[[Medium], None]], Environment],
        start: bytes,
        stop: bytes,
        *,
        reverse: bool,
    ) -> None:
        environment = damage(self.flip(self.KEY))
        beside = (stop if reverse else start) in (b"b", b"b\x00", b"bb") or start == b"aa"
        view = environment.view()

        if beside:
            with pytest.raises(Corrupt):
                view.table(T).scan(start, stop, reverse=reverse, limit=ALL)
        view.close()
        environment.close()

    def test_of_a_log_record_is_raised_by_reading_it(
        self, damage: Callable[[Callable[[Medium], None]], Environment]
    ) -> None:
        environment = damage(self.flip(LOG + T + (2).to_bytes(8, "big")))

        with pytest.raises(Corrupt):
            log_in_view(environment, self.head, lambda log: log.read(1, 9))
        assert log_in_view(environment, self.head, lambda log: log.read(1, 1)) == [(1, b"first")]
        environment.close()

    def test_by_a_log_record_that_is_gone_is_raised(
        self, damage: Callable[[Callable[[Medium], None]], Environment]
    ) -> None:
        environment = damage(lambda medium: medium.raw_delete(LOG + T + (2).to_bytes(8, "big")))

        with pytest.raises(Corrupt):
            log_in_view(environment, self.head, lambda log: log.read(1, 9))
        environment.close()

    def test_of_the_end_of_a_log_is_raised_by_looking_at_it(
        self, damage: Callable[[Callable[[Medium], None]], Environment]
    ) -> None:
        environment = damage(lambda medium: medium.raw_delete(LOG + T + (3).to_bytes(8, "big")))

        with pytest.raises(Corrupt):
            log_in_view(environment, self.head, lambda log: log.check_end())
        environment.close()

    def test_is_listed_by_problems_and_so_is_what_is_gone(
        self, damage: Callable[[Callable[[Medium], None]], Environment]
    ) -> None:
        def act(medium: Medium) -> None:
            self.flip(TABLE + T + b"a")(medium)
            self.flip(LOG + T + (1).to_bytes(8, "big"))(medium)
            medium.raw_delete(TABLE + T + b"c")

        environment = damage(act)
        view = environment.view()
        problems = list(view.problems())
        view.close()

        assert len(problems) == 3, problems
        assert sum("checksum" in problem for problem in problems) == 2
        assert "were written" in problems[-1]
        environment.close()


class TestACopy:
    def test_is_another_environment_with_the_last_commit(self, medium: Medium, tmp_path: Path) -> None:
        environment = medium.open()
        write(environment, a="1", b="2")
        head = append(environment, EMPTY, b"one")
        batch = environment.begin()
        environment.table(T).put(b"c", b"not committed")
        target = tmp_path / "copy"
        target.mkdir()

        environment.copy_to(str(target))

        batch.abort()
        write(environment, a="changed")
        copy = LmdbEnvironment(target)
        assert items(copy) == [(b"a", b"1"), (b"b", b"2")]
        assert log_in_view(copy, head, lambda log: log.read(1, 9)) == [(1, b"one")]
        view = copy.view()
        assert list(view.problems()) == []
        view.close()
        write(copy, a="changed there")
        assert items(environment) == [(b"a", b"changed"), (b"b", b"2")]
        copy.close()
        environment.close()

    def test_can_be_opened_again_and_again(self, medium: Medium, tmp_path: Path) -> None:
        environment = medium.open()
        write(environment, a="1")
        target = tmp_path / "copy"
        target.mkdir()
        environment.copy_to(str(target))
        environment.close()

        for number in range(3):
            copy = LmdbEnvironment(target)
            assert copy.suspicion is None
            write(copy, n=str(number))
            copy.close()

        assert items(LmdbEnvironment(target)) == [(b"a", b"1"), (b"n", b"2")]


class TestWhoAsks:
    def test_is_told_the_place_and_the_size(self, environment: Environment) -> None:
        write(environment, a="1")

        assert environment.location
        assert environment.size_bytes() >= 0

"""The contract of environments: each clause of ``kvstore/ports.py`` about logs."""

from __future__ import annotations

import pytest

from kvstore.errors import Corrupt
from kvstore.ports import Environment, Head
from tests.support.environments import (
    ALL,
    EMPTY,
    T,
    append,
    items,
    log_in_view,
    problems,
    record_count,
    write,
)


def records_up_to(last: int) -> list[bytes]:
    """Return the first records of the log that the tests begin with."""
    return [b"record %d" % index for index in range(1, last + 1)]


class TestALog:
    @pytest.fixture
    def head(self, environment: Environment) -> Head:
        return append(environment, EMPTY, *records_up_to(10))

    def test_has_its_records_under_consecutive_indexes(self, environment: Environment, head: Head) -> None:
        assert head[:2] == (1, 10)

        read = log_in_view(environment, head, lambda log: log.read(1, ALL))

        assert read == [(index, b"record %d" % index) for index in range(1, 11)]

    @pytest.mark.parametrize(
        ("first", "count", "indexes"),
        [
            (1, 3, [1, 2, 3]),
            (9, 3, [9, 10]),
            (10, 1, [10]),
            (0, 2, [1, 2]),
            (11, 5, []),
            (99, 5, []),
            (3, 0, []),
        ],
    )
    def test_is_read_from_anywhere_on_for_as_long_as_wanted(
        self, environment: Environment, head: Head, first: int, count: int, indexes: list[int]
    ) -> None:
        read = log_in_view(environment, head, lambda log: [index for index, _ in log.read(first, count)])

        assert read == indexes

    def test_takes_only_the_next_index(self, environment: Environment, head: Head) -> None:
        batch = environment.begin()
        log = environment.log(T, head)

        for wrong in (10, 12, 1):
            with pytest.raises(AssertionError):
                log.append(wrong, b"x")

        batch.abort()

    def test_shows_its_own_batch_what_was_appended(self, environment: Environment, head: Head) -> None:
        """PORT-1"""
        batch = environment.begin()
        log = environment.log(T, head)
        log.append(11, b"new")

        assert log.read(10, 9) == [(10, b"record 10"), (11, b"new")]
        log.check_end()
        batch.abort()

    def test_may_have_any_bytes_as_records(self, environment: Environment) -> None:
        records = [b"", b"\x00", bytes(range(256)) * 40]

        head = append(environment, EMPTY, *records)

        read = log_in_view(environment, head, lambda log: [record for _, record in log.read(1, 9)])
        assert read == records

    @pytest.mark.parametrize("index", [1, 5, 10])
    def test_has_another_record_in_the_place_of_a_replaced_one(
        self, environment: Environment, head: Head, index: int
    ) -> None:
        batch = environment.begin()
        log = environment.log(T, head)
        log.replace(index, b"another")
        batch.commit()

        expected = [b"another" if at == index else b"record %d" % at for at in range(1, 11)]
        assert log.head[:2] == head[:2]
        read = log_in_view(environment, log.head, lambda log: [record for _, record in log.read(1, 99)])
        assert read == expected
        log_in_view(environment, log.head, lambda log: log.check_end())
        again = append(environment, log.head, b"after")
        assert log_in_view(environment, again, lambda log: log.read(10, 9)) == [
            (10, expected[-1]),
            (11, b"after"),
        ]

    def test_replaces_nothing_outside_itself(self, environment: Environment, head: Head) -> None:
        batch = environment.begin()
        log = environment.log(T, head)

        for wrong in (0, 11):
            with pytest.raises(AssertionError):
                log.replace(wrong, b"x")

        batch.abort()

    @pytest.mark.parametrize("count", [1, 3, 8])
    @pytest.mark.parametrize("index", [1, 5, 10])
    def test_has_other_records_from_one_on(
        self, environment: Environment, head: Head, index: int, count: int
    ) -> None:
        """A replacement may make the log shorter or longer."""
        others = [b"other %d" % at for at in range(count)]
        besides = record_count(environment) - 10
        batch = environment.begin()
        log = environment.log(T, head)
        log.replace_from(index, others)
        assert log.read(1, ALL) == list(enumerate(kept := records_up_to(index - 1) + others, 1)), "PORT-1"
        log.check_end()
        batch.commit()

        assert log.head[:2] == (1, len(kept))
        assert record_count(environment) == besides + len(kept), "nothing of before is left"
        again = append(environment, log.head, b"after")
        read = log_in_view(environment, again, lambda log: [record for _, record in log.read(1, ALL)])
        assert read == [*kept, b"after"]
        log_in_view(environment, again, lambda log: log.check_end())
        assert problems(environment) == []

    def test_has_other_records_only_from_one_that_it_has(self, environment: Environment, head: Head) -> None:
        batch = environment.begin()
        log = environment.log(T, head)
        log.truncate_before(3, 9)

        for wrong in (0, 2, 11):
            with pytest.raises(AssertionError):
                log.replace_from(wrong, [b"x"])

        batch.abort()

    def test_is_as_it_was_when_the_batch_that_replaced_it_is_aborted(
        self, environment: Environment, head: Head
    ) -> None:
        """PORT-2"""
        batch = environment.begin()
        environment.log(T, head).replace_from(2, [b"x"])
        batch.abort()
        batch = environment.begin()
        environment.log(T, head).reset(70)
        batch.abort()

        read = log_in_view(environment, head, lambda log: [record for _, record in log.read(1, ALL)])
        assert read == records_up_to(10)
        log_in_view(environment, head, lambda log: log.check_end())

    @pytest.mark.parametrize("first", [1, 4, 11, 500])
    def test_forgets_everything_and_begins_anywhere(
        self, environment: Environment, head: Head, first: int
    ) -> None:
        besides = record_count(environment) - 10
        batch = environment.begin()
        log = environment.log(T, head)
        log.reset(first)
        assert (log.first, log.last) == (first, first - 1)
        assert log.read(0, ALL) == []
        log.check_end()
        log.append(first, b"new")
        batch.commit()

        assert log.head[:2] == (first, first)
        again = append(environment, log.head, b"newer")
        read = log_in_view(environment, again, lambda log: log.read(0, ALL))
        assert read == [(first, b"new"), (first + 1, b"newer")]
        log_in_view(environment, again, lambda log: log.check_end())
        assert problems(environment) == []
        assert record_count(environment) == besides + 2, "nothing of before is left"

    def test_begins_as_a_new_one_does_when_everything_is_forgotten(
        self, environment: Environment, head: Head
    ) -> None:
        """The chain of checksums starts anew, so new records do not depend on the removed records."""
        batch = environment.begin()
        log = environment.log(T, head)
        log.reset(1)
        batch.commit()
        assert log.head == EMPTY

        assert append(environment, EMPTY, *records_up_to(10)) == head

    @pytest.mark.parametrize(
        ("index", "count", "gone", "first"),
        [(4, 99, 3, 4), (4, 2, 2, 3), (1, 99, 0, 1), (0, 9, 0, 1), (11, 99, 10, 11), (99, 99, 10, 11)],
    )
    def test_forgets_its_beginning_in_chunks(
        self, environment: Environment, head: Head, index: int, count: int, gone: int, first: int
    ) -> None:
        batch = environment.begin()
        log = environment.log(T, head)

        assert log.truncate_before(index, count) == gone

        batch.commit()
        assert (log.first, log.last) == (first, 10)
        read = log_in_view(environment, log.head, lambda log: [index for index, _ in log.read(0, 99)])
        assert read == list(range(first, 11))

    def test_goes_on_where_it_was_when_all_of_it_is_forgotten(
        self, environment: Environment, head: Head
    ) -> None:
        batch = environment.begin()
        log = environment.log(T, head)
        log.truncate_before(11, 99)
        log.check_end()
        log.append(11, b"eleven")
        batch.commit()

        assert log.head[:2] == (11, 11)
        assert log_in_view(environment, log.head, lambda log: log.read(0, 9)) == [(11, b"eleven")]
        log_in_view(environment, log.head, lambda log: log.check_end())

    def test_ends_with_the_record_its_head_was_taken_from(self, environment: Environment, head: Head) -> None:
        longer = append(environment, head, b"eleven")

        log_in_view(environment, longer, lambda log: log.check_end())
        for wrong in ((1, 11, head[2]), (1, 10, longer[2]), (1, 12, longer[2])):
            with pytest.raises(Corrupt):
                log_in_view(environment, wrong, lambda log: log.check_end())

    def test_and_a_table_of_one_name_are_two_things(self, environment: Environment, head: Head) -> None:
        write(environment, a="1")

        assert items(environment) == [(b"a", b"1")]
        assert log_in_view(environment, head, lambda log: log.read(10, 9)) == [(10, b"record 10")]

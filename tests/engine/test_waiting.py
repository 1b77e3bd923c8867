"""No thread waits forever: not during close, in callbacks, or after an interrupt (contracts C3, C4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import running

SECONDS_MAX = 40
"""Seconds after which a program that has not ended is considered to hang."""


def lines_of(scenario: str, folder: Path) -> list[str]:
    return running.run("waiting", scenario, folder / "store", timeout=SECONDS_MAX).splitlines()


def test_callbacks_may_submit_while_submit_waits_for_room(tmp_path: Path) -> None:
    assert lines_of("callbacks_submit", tmp_path) == ["30000"]


def test_a_callback_may_close_the_store_while_another_thread_does(tmp_path: Path) -> None:
    assert lines_of("callback_closes", tmp_path) == ["closed"]


def test_a_reader_table_that_others_filled_is_an_error_that_costs_nothing(tmp_path: Path) -> None:
    lines = lines_of("another_process_reads_too", tmp_path)

    assert lines == ["500", "500", "full True", "0 1", "closed"]


def test_close_ends_a_snapshot_that_is_just_being_taken(tmp_path: Path) -> None:
    assert lines_of("snapshot_during_close", tmp_path) == ["closed"]


def test_close_does_not_wait_for_a_read_that_was_interrupted(tmp_path: Path) -> None:
    assert lines_of("interrupted_reading", tmp_path) == ["closed"]


def test_a_batch_that_is_submitted_while_the_store_closes_is_committed_or_refused(tmp_path: Path) -> None:
    assert lines_of("submit_during_close", tmp_path) in (["Closed"], ["NoneType"])


def test_a_keyed_request_that_was_interrupted_twice_is_done_once(tmp_path: Path) -> None:
    interrupts, total = lines_of("interrupted_twice", tmp_path)[0].split()

    assert int(interrupts) in {1, 2}
    assert total == "1"


@pytest.mark.parametrize("scenario", ["interrupted_queueing", "interrupted_leading"])
def test_a_keyed_request_that_is_repeated_while_its_first_copy_is_queued_is_done_once(
    tmp_path: Path, scenario: str
) -> None:
    assert lines_of(scenario, tmp_path) == ["1 1"]


def test_an_interrupt_while_the_threads_start_does_not_stop_the_next_submit(tmp_path: Path) -> None:
    assert lines_of("interrupted_start", tmp_path) == ["interrupted", "True"]

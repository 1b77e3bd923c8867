"""The recorder: what it makes of clients that succeed, fail, or never learn what came of it."""

from __future__ import annotations

import threading

import pytest

from tests.histories.history import Outcome, Recorder, Transaction, append, is_timed, read, write


class Lost(Exception):
    """The connection was, before the answer."""


class TestOneClient:
    def test_is_recorded_with_its_operations_and_times(self) -> None:
        recorder = Recorder(clock=iter([10, 25]).__next__)
        with recorder.transaction("client") as record:
            record.append("x", 1)
            record.read("x", [1])
            record.write("y", 2)

        operations = (append("x", 1), read("x", (1,)), write("y", 2))
        assert recorder.history() == [Transaction(0, operations, 10, 25, Outcome.OK)]

    def test_an_exception_goes_on_and_means_that_it_failed(self) -> None:
        recorder = Recorder(unknown=(Lost,))
        with pytest.raises(KeyError), recorder.transaction(0) as record:
            record.write("x", 1)
            raise KeyError

        (one,) = recorder.history()
        assert (one.outcome, one.operations) == (Outcome.FAILED, (write("x", 1),))
        assert one.returned is not None

    @pytest.mark.parametrize("error", [Lost, KeyboardInterrupt])
    def test_goes_on_as_another_process_after_an_unknown_outcome(self, error: type[BaseException]) -> None:
        recorder = Recorder(unknown=(Lost,))
        for raised in (None, error, None):
            try:
                with recorder.transaction("a"):
                    if raised:
                        raise raised
            except error:
                pass

        assert [one.process for one in recorder.history()] == [0, 0, 1]
        assert [one.outcome.name for one in recorder.history()] == ["OK", "UNKNOWN", "OK"]
        assert recorder.history()[1].returned is None

    def test_has_one_transaction_at_a_time(self) -> None:
        recorder = Recorder()
        with (
            recorder.transaction("a"),
            pytest.raises(RuntimeError, match="open already"),
            recorder.transaction("a"),
        ):
            pass

    def test_that_never_came_back_is_unknown(self) -> None:
        recorder = Recorder()
        with recorder.transaction("a") as record:
            record.write("x", 1)
            (one,) = recorder.history()

        assert (one.outcome, one.returned, one.operations) == (Outcome.UNKNOWN, None, (write("x", 1),))
        assert [one.outcome for one in recorder.history()] == [Outcome.OK]


def test_stamps_grow_even_if_the_clock_does_not() -> None:
    recorder = Recorder(clock=iter([7, 7, 3, 100]).__next__)
    for client in range(2):
        with recorder.transaction(client):
            pass

    assert [(one.called, one.returned) for one in recorder.history()] == [(7, 8), (9, 100)]


def test_many_threads_lose_nothing() -> None:
    recorder = Recorder()

    def client(number: int) -> None:
        for value in range(200):
            with recorder.transaction(number) as record:
                record.write(number, value)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    history = recorder.history()
    stamps = [stamp for one in history for stamp in (one.called, one.returned)]
    assert len(set(stamps)) == 2 * 8 * 200
    for number in range(8):
        own = [one.operations[0].value for one in history if one.operations[0].key == number]
        assert own == list(range(200))
    assert {one.process for one in history} == set(range(8))


def test_times_are_known_of_all_or_not_at_all() -> None:
    finished, unknown = Transaction(0, (), 1, 2), Transaction(1, (), 1, None, Outcome.UNKNOWN)

    assert is_timed([finished, unknown])
    assert not is_timed([finished, Transaction(0, ())])
    assert not is_timed([finished, Transaction(0, (), 1, None)])

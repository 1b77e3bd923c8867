"""WINDOW-1: what a shard remembers of a client's requests is above what the client has the answers of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.eris.client_window import ANSWERED, ClientWindow
from kvstore.execution.operations import Outcome
from kvstore.types import RequestId


def outcome(number: int) -> Outcome:
    return Outcome(results=(b"%d" % number,))


def record(window: ClientWindow, request: int, *, answered: int = 0) -> None:
    window.record(RequestId(request), RequestId(answered), outcome(request))


def test_a_new_request_is_not_known() -> None:
    assert ClientWindow().outcome_of(RequestId(1)) is None


def test_an_executed_request_is_remembered_until_the_client_has_its_answer() -> None:
    window = ClientWindow()
    record(window, 1)
    record(window, 3)

    assert window.outcome_of(RequestId(1)) == outcome(1)
    assert window.outcome_of(RequestId(2)) is None
    record(window, 4, answered=2)

    assert window.outcome_of(RequestId(1)) is ANSWERED
    assert window.outcome_of(RequestId(2)) is ANSWERED
    assert window.outcome_of(RequestId(3)) == outcome(3)


def test_an_older_word_of_the_client_does_not_bring_anything_back() -> None:
    window = ClientWindow()
    record(window, 5, answered=4)

    record(window, 6, answered=1)

    assert window.answered == 4
    assert window.outcome_of(RequestId(2)) is ANSWERED


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 11)), max_size=40))
def test_w1_holds_whatever_comes_in_whatever_order(arrivals: list[tuple[int, int]]) -> None:
    """As a replica does it: what is known is not executed again."""
    window = ClientWindow()
    executed: list[int] = []
    said = 0
    for request, word in arrivals:
        answered = min(word, request - 1)  # a client never says that of the request itself
        if window.outcome_of(RequestId(request)) is None:
            executed.append(request)
            record(window, request, answered=answered)
            said = max(said, answered)

        assert all(number > window.answered for number in window.outcomes), "WINDOW-1"
        assert window.answered == said

    assert len(executed) == len(set(executed)), "nothing twice"
    for request in executed:
        found = window.outcome_of(RequestId(request))
        assert found is ANSWERED if request <= said else found == outcome(request)


def test_its_size_is_that_of_what_is_outstanding() -> None:
    window = ClientWindow()

    for number in range(1, 1001):
        record(window, number, answered=max(0, number - 10))

    assert len(window.outcomes) == 10

"""The sorted map behaves like a dict whose keys are sorted, and its forks are independent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.storage import sorted_map
from kvstore.storage.sorted_map import CHUNK_MAX, SortedMap

Model = dict[bytes, bytes]
keys = st.binary(max_size=2)
steps = st.lists(
    st.tuples(st.sampled_from(["put", "put", "delete"]), keys, st.binary(max_size=3)), max_size=60
)
Steps = list[tuple[str, bytes, bytes]]


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Make chunks of a few items, so that short histories split and empty them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_map, "CHUNK_MAX", 4)
        yield


def play(shown: SortedMap, model: Model, history: Steps) -> None:
    for verb, key, value in history:
        if verb == "put":
            assert shown.put(key, value)
            model[key] = value
        else:
            assert shown.delete(key) == (key in model)
            model.pop(key, None)


def check(shown: SortedMap, model: Model) -> None:
    assert len(shown) == len(model)
    assert shown.rows(b"", reverse=False, limit=1 << 20) == sorted(model.items())
    assert shown.rows(b"\xff" * 3, reverse=True, limit=1 << 20) == sorted(model.items(), reverse=True)


@given(steps)
def test_it_is_a_sorted_dict(history: Steps) -> None:
    shown, model = SortedMap(), Model()

    play(shown, model, history)

    check(shown, model)
    for key in {key for _, key, _ in history}:
        assert shown.get(key) == model.get(key)


@given(steps, keys, st.integers(0, 12), st.booleans())
def test_rows_begin_anywhere_and_go_both_ways(
    history: Steps, position: bytes, limit: int, reverse: bool
) -> None:
    shown, model = SortedMap(), Model()
    play(shown, model, history)

    inside = [item for item in sorted(model.items()) if (item[0] < position) == reverse]

    expected = (inside[::-1] if reverse else inside)[:limit]
    assert shown.rows(position, reverse=reverse, limit=limit) == expected


@given(steps, steps, steps)
def test_a_fork_and_its_origin_are_independent(before: Steps, here: Steps, there: Steps) -> None:
    origin, model = SortedMap(), Model()
    play(origin, model, before)
    fork, fork_model = origin.fork(), model.copy()

    play(origin, model, here)
    play(fork, fork_model, there)

    check(origin, model)
    check(fork, fork_model)
    second = fork.fork()
    play(fork, fork_model.copy(), here)
    check(second, fork_model)


def test_a_full_chunk_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_map, "CHUNK_MAX", CHUNK_MAX)
    shown = SortedMap()
    model = {number.to_bytes(4, "big"): b"%d" % number for number in range(5 * CHUNK_MAX)}

    for key, value in model.items():
        shown.put(key, value)

    check(shown, model)
    for key in list(model):
        shown.delete(key)
        del model[key]
    check(shown, model)

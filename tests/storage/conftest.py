"""Environments of every kind, on a medium that outlives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvstore.ports import Environment
from tests.support.media import KINDS, Medium, make_medium


@pytest.fixture(params=KINDS)
def medium(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Medium:
    return make_medium(request.param, tmp_path, monkeypatch)


@pytest.fixture
def environment(medium: Medium) -> Iterator[Environment]:
    """Yield an open environment, and close it if the test leaves it open."""
    opened = medium.open()
    yield opened
    opened.close()

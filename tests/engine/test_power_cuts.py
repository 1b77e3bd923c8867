"""Power loss at any moment, on real files: exactly the synced state is there.

Every write, sync, creation, rename and removal of a store is traced, and images of its disk are made from
the trace: each page and each name that was not synced may be there or not (``tests/support/power_cut.py``).
With ``durability="commit"`` an image shows what was acknowledged; with ``"interval"`` the state of the last
sync, never a later state nor half of one (contracts B3). Each replica's files are cut independently. A third
of the following openings are ended by another power failure.

``KVSTORE_POWER_CUTS`` is the number of images over all kinds of stores; 60 by default.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support import disk
from tests.support.programs import running

KINDS = [(durability, replicas) for durability in ("commit", "interval") for replicas in (1, 3)]
IMAGES = -(-int(os.environ.get("KVSTORE_POWER_CUTS", "60")) // len(KINDS))
SECONDS_MAX = 60 + IMAGES

pytestmark = pytest.mark.timeout(SECONDS_MAX)


@pytest.mark.parametrize(("durability", "replicas"), KINDS)
def test_every_image_shows_exactly_what_was_synced(durability: str, replicas: int, tmp_path: Path) -> None:
    said = running.run(
        "power_cuts",
        *(tmp_path / "machine", replicas, durability, IMAGES, "seed"),
        timeout=SECONDS_MAX,
        preload=disk.compiled(),
    )

    outcomes = json.loads(said)
    assert outcomes["images"] == IMAGES
    assert outcomes["cut twice"] > IMAGES // 10
    assert outcomes["whole"] > IMAGES // 2, "no replica needs to be rebuilt because the power was cut"

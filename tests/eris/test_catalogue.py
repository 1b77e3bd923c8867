"""The catalogue of messages in ``docs/eris.md``: who sends each to whom, and who takes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from kvstore.eris import (
    client,
    coordinator_replication,
    drop_decisions,
    dropped_messages,
    epoch_change,
    failure_coordinator,
    messages,
    replica,
    sequencer,
    state_transfer,
    synchronization,
    view_change,
)


def rows() -> dict[str, str]:
    page = (Path(messages.__file__).parents[2] / "docs" / "eris.md").read_text(encoding="utf-8")
    table = page.partition("## Messages")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` .*\| `([\w.]+)` \|[^|]*\|$", table, flags=re.MULTILINE))


def test_the_table_has_every_message_and_no_other() -> None:
    every = {kind.__name__ for kind in get_args(messages.Message)}
    assert rows().keys() | {"Answer"} == every, "an Answer is taken by the driver"


def test_the_table_names_who_takes_each() -> None:
    modules = [client, coordinator_replication, drop_decisions, dropped_messages, epoch_change]
    modules += [failure_coordinator, replica, sequencer, state_transfer, synchronization, view_change]
    by_name = {module.__name__.rpartition(".")[2]: module for module in modules}
    classes = {name: kind for module in modules for name, kind in vars(module).items()}
    for place in rows().values():
        owner, _, function = place.partition(".")
        assert callable(getattr(by_name.get(owner) or classes[owner], function)), place

"""Each anomaly, planted five times in each kind of history, is found and gets its name."""

from __future__ import annotations

import pytest

from tests.histories import faults
from tests.histories.evidence import Shape
from tests.histories.simulation import Fault, simulate
from tests.histories.strict_serializability import check

NAMES: dict[Fault, str] = {
    faults.dirty_write: "G0",
    faults.aborted_read: "G1a",
    faults.intermediate_read: "G1b",
    faults.circular_information_flow: "G1c",
    faults.lost_update: "G-single",
    faults.write_skew: "G2",
    faults.stale_read: "G-single-realtime",
    faults.future_read: "G1c-realtime",
    faults.unwritten_read: "unwritten-read",
    faults.fractured_read: "G-single",
}

IN_REGISTERS: dict[Fault, str] = {faults.dirty_write: "G-single"}
"""Who was the last to write is only known from a read, and what shows is that the read is fractured."""


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", ["list", "register"])
@pytest.mark.parametrize("fault", NAMES, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault: Fault, shape: Shape, seed: int) -> None:
    result = check(simulate(seed, 250, shape, fault))

    assert result.verdict == "violation"
    expected = IN_REGISTERS.get(fault, NAMES[fault]) if shape == "register" else NAMES[fault]
    assert result.anomaly == expected, result.explanation

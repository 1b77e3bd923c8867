"""Bugs of the protocol, planted one at a time, to see that the simulator's judges wake up.

``planting.py`` says how, ``hunt.py`` looks for the first seed that shows one.
"""

from __future__ import annotations

from tests.simulation.mutants import epochs, hosts, lost_messages, replicas

MUTANTS = {
    bug.name: bug
    for bugs in (
        lost_messages.AT_REPLICAS,
        lost_messages.AT_COORDINATORS,
        replicas.NORMAL_CASE,
        replicas.VIEW_CHANGES,
        replicas.IMAGES,
        epochs.AT_REPLICAS,
        epochs.AT_COORDINATORS,
        epochs.AT_SEQUENCERS,
        hosts.COMMITS,
        hosts.TRUNCATION,
        hosts.EXECUTION,
        hosts.CLIENTS,
    )
    for bug in bugs
}

"""General transactions: what their two halves do on one shard (Eris, SOSP 2017, section 7; contracts C2).

    1. The preliminary locks the keys that it names, and votes on whether its reads still hold. If they do
       not,
       the locks stay, and the vote carries the current values.
    2. The conclusory writes or aborts, and releases the locks. Its slot, version and time are those of the
       preliminary (contracts A1).

The first conclusory in the log decides. It leaves a tombstone, so a later one changes nothing and returns the
decision, and a later copy of the preliminary locks nothing. Locking and waiting are in ``executor.py``, the
client's part in ``client.py``.
"""

from __future__ import annotations

from typing import NamedTuple

from kvstore.eris.messages import Conclusory, Request, Stamped
from kvstore.eris.shard import Shard
from kvstore.execution.applied import changes_of, effects_of
from kvstore.execution.execute import apply, execute
from kvstore.execution.operations import DONE, REFUSED, Outcome
from kvstore.execution.validation import current, encode_current, first_changed
from kvstore.types import Slot, Timestamp

ABORTED = REFUSED
"""The vote of a preliminary that was ended before it had its locks."""


class LockedPreliminary(NamedTuple):
    """A preliminary on one shard: its slot, its time and its vote."""

    slot: Slot
    time: Timestamp
    vote: Outcome


def vote(replica: Shard, request: Request) -> Outcome:
    """Validate every value and every range that was read, while the locks are held; return the vote."""
    operations, state = request.operations[replica.address.shard], replica.tables.state
    changed = first_changed(operations, state)
    if changed is None:
        return DONE if replica.region is None else replica.region.check_debits(operations) or DONE
    return Outcome(refused=True, results=(encode_current(current(changed, operations, state)),))


def conclude(
    replica: Shard, stamped: Stamped, slot: Slot, conclusory: Conclusory, locked: LockedPreliminary | None
) -> Outcome:
    """End a preliminary, unless it has ended; return whether it ended as this conclusory asks."""
    window = replica.window_of(conclusory.client)
    committed = window.tombstones.get(conclusory.preliminary, False)
    if locked is not None:
        committed = conclusory.commit
        if committed:
            _write(replica, stamped, locked)
    if conclusory.preliminary not in window.tombstones:
        window.conclude(
            conclusory.preliminary, ABORTED if locked is None else locked.vote, committed=committed
        )
    outcome = DONE if committed == conclusory.commit else REFUSED
    replica.remember(stamped, slot, outcome)
    return outcome


def _write(replica: Shard, stamped: Stamped, locked: LockedPreliminary) -> None:
    """Carry out the writes in the preliminary's slot, where the region's chain shows them."""
    state, slot = replica.tables.state, locked.slot
    operations = stamped.request.operations[replica.address.shard]
    if replica.region is not None:
        applied = replica.region.execute(operations, slot, locked.time)
        assert not applied.outcome.refused, (
            f"ESCROW-1: the debits of slot {slot} were judged under locks, and are refused: {applied.outcome}"
        )
        replica.note_shipped(slot, effects_of(operations))
        replica.log.note_changes(slot, changes_of(operations, applied))
        return
    effects = execute(operations, state, slot).effects
    apply(effects, state)
    if effects:
        replica.log.note_effects(slot, effects)

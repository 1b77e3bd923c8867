"""Runs of regions that ship their chains, recorded in ``tests/transcripts/fuzzylog``: read those first.
``UPDATE=1`` rewrites them.

Regions and their clients

    regions SHARDS NAME...        create regions, named in alphabetical order, each joined to every other
    write REGION PART...          commit one transaction. A part is SHARD:VERB:KEY..., with these verbs:
                                  put:KEY:VALUE, delete:KEY, add:KEY:AMOUNT; for sets include:KEY:MEMBER and
                                  exclude:KEY:MEMBER; for bounded counters credit:KEY:AMOUNT:OWNER,
                                  spend:KEY:AMOUNT and grant:KEY:AMOUNT:TAKER; check:KEY:VERSION (0: absent);
                                  append:PAYLOAD, or append: on the other shards of the node
    general REGION PART... | PART...   commit a transaction that takes locks first, also with the verb
                                  reserve:KEY, and then writes
    import REGION                 grant the rights that were requested, then import all that can be imported

Messages

    pull REGION [PEER...]         send a pull to these neighbours, or to all
    fetch REGION PEER             pull from one neighbour, which answers at once; show the answer
    deliver [WHICH...]            deliver these messages, or all that are on the wire
    lose [WHICH...]               take messages off the wire
    repeat [WHICH...]             put messages on the wire a second time
    tear [WHICH...]               divide each shipment into one for each part of a chain
    run                           deliver and import until nothing is on the wire
    settle                        have all regions pull until nothing new arrives, and compare their records
    wire                          show all messages that are on the wire

WHICH is a kind (News, Pull or Shipment), to=REGION, from=REGION, or with=REGION.sN: a shipment with a part of
that chain.

Faults and time

    cut REGION REGION             lose every message of this link, until heal REGION REGION
    clock REGION SECONDS          set the clock of a region so far ahead of physical time
    wait SECONDS                  advance physical time, which otherwise stands still
    buffer REGION                 from now on commits are not on disk, until sync REGION
    crash REGION                  stop a region; what is not on disk is lost. restart REGION opens it again

What a region holds

    show [REGION...]              what each key shows
    lost [REGION...]              concurrent writes that are not shown
    status [REGION...]            what is applied of each chain, what is only noted, and what waits
    chain REGION OF               the chains of region OF, as REGION has them on disk

A command prints its results, then the messages that it sent, as ``to <- message``. A cut is shown as
``eu 2/1``: slot 2 of shard 0 and slot 1 of shard 1. ``s0#2`` is slot 2 of shard 0. Times are seconds after
the start; ``0s+2`` is 2 ns later, counted by the hybrid clock of a region. A shipment is ``complete`` of a
region up to a time: the sender has applied all that happened in that region until then.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fuzzylog_player import Player
from tests.support.transcript import check_transcript

FILES = sorted((Path(__file__).parent.parent / "transcripts" / "fuzzylog").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    check_transcript(path, Player().play)


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 5

"""Runs of the protocol, recorded in ``tests/transcripts/eris``: read those. ``UPDATE=1`` rewrites them.

What clients ask for

    cluster SHARDS REPLICAS [OPTION=N...]   a new cluster; it comes with epoch 1 begun. With retention=0 logs
                                  are truncated soon; the sequencer keeps its last kept=N messages
    submit PART...                a part is SHARD:put:KEY:VALUE, SHARD:add:KEY:AMOUNT, SHARD:delete:KEY, or
                                  SHARD:take:KEY, which deletes and reports; SHARD alone adds 1 to n
    stamped PART...               submit, and the sequencer gets it at once
    write COUNT PART... [without HOST...]   so many transactions, each delivered before the next is submitted
    quiet PART...                 a transaction, delivered while no learner hears how far its followers are
    general PART... | PART...     what a preliminary locks, also SHARD:check:KEY:VERSION (0: absent),
                                  SHARD:reserve:KEY and SHARD:scan:FROM:TO, which expects a and b at version
                                  1, and what its second half writes; keep PART... | says that the client
                                  gets the votes if something has changed
    conclude REQUEST PART...      commit it; abort REQUEST aborts it
    release                       abort what a dead client left between its halves
    foreign REQUEST SHARD...      an Abort that another client sends
    late REQUEST PART...          the Commit of client 1, which is dead, comes now
    fire                          the client's retry timer
    park                          the client names what is outstanding apart from later requests
    clock SECONDS                 move the time of the machine, forth or back

Messages

    step [COUNT]                  deliver what is on the wire, in one batch for each host
    roles                         deliver what is for the sequencer, the coordinator and the client
    run                           deliver until nothing is under way, and show only what was answered
    run without HOST...           deliver everything but what these hosts would get, which is lost
    until KIND                    deliver until such a message is on the wire
    settle                        run, with every timer, until all is quiet and the client is answered
    deliver HOST                  deliver what is on the wire for one host
    lose [KIND] [host=N] [shard=N]   take messages off the wire; repeat ... lays them on it a second time
    delay [KIND] [host=N] [shard=N]  take messages off the wire, to which arrive brings them back
    copy [KIND] [host=N] [shard=N]   have arrive bring packets a second time
    overtake                      turn the order of what is on the wire
    give TO KIND FIELD=VALUE...   hand one message to one role, alone, and show what it does. A field that is
                                  not named is as the receiver has it. A transaction is named s0#1, or
                                  1:s0#1 where it is of epoch 1, and may have other fields: s0#1 epoch=4
    send TO KIND FIELD=VALUE...   lay such a message on the wire
    flush                         the sequencer says how far it has come
    wire                          what is on the wire

Replicas and hosts

    gap HOST [SHARD]              no peer answered a replica that misses a number
    suspect HOST [SHARD]          nothing was heard of the learner for long
    heartbeat HOST [SHARD]        a learner says that it is there
    silence HOST                  nothing was heard of the sequencer for long
    image HOST [SHARD]            a replica needs an image
    timers | expire               timers that are armed; let them all run out
    crash HOST... | restart HOST...
    forget HOST                   its disk is empty, and it knows that it has forgotten something

Epochs and coordinators

    epoch [HOST...]               begin an epoch change; only these hosts are consulted
    stamp                         the sequencer and the client of the new epoch begin
    stamp on                      only the sequencer does, and the client goes on
    coordinator NUMBER            one that keeps its record at the hosts begins; those before it live on
    again NUMBER                  it crashed, and begins again
    timer NUMBER prepare|save     hosts have not answered a coordinator
    decided                       the record of the coordinator that leads
    records                       the coordinator's record as each host keeps it

What is on the disks, of all replicas or of those that s0, r1 or s0.r1 names

    status | log | cells          cells are values with their versions
    clocks | windows              the times in a log; what is remembered of clients
    changes HOST                  what a watch shows of this host
    verify                        what ``verify`` finds

Messages are shown as ``to <- message``; s0.r1 is replica 1 of shard 0, and runs on host 1; s0.r0..2 are three
replicas. ``h1 discards: REASON`` says why a replica ignored a message.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.eris_player import Player
from tests.support.transcript import check_transcript

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "tests" / "transcripts" / "eris").glob("*.txt"))

LINES_MAX = 100
"""Most have 40 to 60; a longer story is several."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    check_transcript(path, Player().play)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_transcript_is_one_scene(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


def test_every_transcript_is_in_the_index() -> None:
    page = (ROOT / "docs" / "eris.md").read_text(encoding="utf-8")
    index = page.partition("### The claims of the paper")[2]

    assert [path.stem for path in FILES if f"`{path.stem}`" not in index] == []
    assert len(FILES) > 90

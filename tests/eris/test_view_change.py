"""A shard goes on under another learner (section 6.4): random stories. The single claims are transcripts:
``view_begins``, ``view_joined``, ``old_learner`` and others."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.messages import (
    Stamped,
    StartView,
    SyncCommit,
    SyncReply,
    ViewChange,
)
from kvstore.eris.shard_state import Status
from tests.support.cluster import Cluster, add

LOSABLE = [Stamped, SyncReply, SyncCommit, ViewChange, StartView]
step = st.one_of(
    st.tuples(st.just("submit"), st.lists(st.integers(0, 1), min_size=1, max_size=2, unique=True)),
    st.tuples(st.just("deliver"), st.integers(0, 2)),
    st.tuples(st.just("lose"), st.tuples(st.sampled_from(LOSABLE), st.integers(0, 2))),
    st.tuples(st.just("suspect"), st.tuples(st.integers(0, 2), st.integers(0, 1))),
    st.tuples(st.just("restart"), st.integers(0, 2)),
    st.tuples(st.just("roles"), st.none()),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(step, max_size=40))
def test_whatever_happens_to_views_what_is_acknowledged_stays(steps: list[tuple[str, object]]) -> None:
    """Messages are lost and delayed, hosts crash and come back, views come and go. In the end all replicas
    that did not diverge agree, and each request took effect once."""
    cluster = Cluster(shards=2)
    submitted = 0
    acknowledged: dict[int, dict[int, int]] = {}
    for kind, what in steps:
        if kind == "submit":
            assert isinstance(what, list)
            cluster.submit({shard: [add("n")] for shard in what})
            submitted += 1
        elif kind == "deliver":
            cluster.deliver(int(str(what)))
        elif kind == "roles":
            cluster.step_roles()
        elif kind == "restart":
            number = int(str(what))
            cluster.crash(number)
            cluster.restart(number)
            cluster.timers = {key: ms for key, ms in cluster.timers.items() if key[0].replica != number}
        elif kind == "suspect":
            assert isinstance(what, tuple)
            cluster.fire(what[0], what[1], "suspect")
        else:
            assert isinstance(what, tuple)
            if cluster.on_wire(what[0], host=what[1]):
                cluster.lose(what[0], host=what[1])
        for request, answer in cluster.answers.items():
            acknowledged[int(request)] = {int(s): int(slot) for s, slot in answer.slots.items()}
    for host in range(3):
        for shard in range(2):
            if cluster.replica(host, shard).status is Status.VIEW_CHANGE:
                cluster.carry([])
                cluster.fire(host, shard, "view")
    cluster.settle()

    for shard in range(2):
        whole = [host for host in range(3) if cluster.replica(host, shard).status is not Status.DIVERGED]
        assert len(whole) >= 2
        logs = [cluster.log(host, shard) for host in whole]
        assert all(log == logs[0] for log in logs)
        placed = {
            int(stamped.request.request): slot
            for slot, stamped in reversed(list(enumerate(logs[0], 1)))
            if stamped is not None
        }
        for slots in acknowledged.values():
            if shard in slots:
                assert logs[0][slots[shard] - 1] is not None, "VIEW-1: an acknowledged transaction is gone"
        wanted = sum(
            1 for kind, what in steps if kind == "submit" and isinstance(what, list) and shard in what
        )
        assert len(placed) == wanted
        learner = next(host for host in whole if cluster.replica(host, shard).is_learner)
        assert cluster.values(learner, shard).get("n", 0) == wanted

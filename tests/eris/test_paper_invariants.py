"""The invariants that the paper's proof rests on (section 8; I1 to I8 in the extended version), as predicates
that are looked at after every step of random runs: messages are lost and delayed, hosts crash, views and
epochs come and go.

The simulator looks for the same on a larger scale, and from outside; here each invariant has its name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.eris.messages import Stamped, StartEpoch, TempDroppedTransaction
from kvstore.eris.replica import Replica
from kvstore.eris.shard_state import ShardRecord, Status
from kvstore.simulation.simulated_host import RESTART_TIMERS
from kvstore.types import Epoch, ShardId, Slot, TransactionId, ViewNumber
from tests.support.cluster import COORDINATORS, Cluster, add

HOSTS = range(3)
SHARDS = range(2)

Log = dict[int, Stamped | None]


class Run:
    """A cluster, and what was ever seen of it."""

    def __init__(self) -> None:
        self.cluster = Cluster(shards=len(SHARDS))
        self.cluster.kept = 3
        self.cluster.start_coordinator(0)
        self.cluster.settle()
        self.submitted = 0
        self.sent: dict[TransactionId, Stamped] = {}
        """Every transaction that was stamped, by each of its names."""
        self.promises: defaultdict[tuple[int, ViewNumber, TransactionId], set[int]] = defaultdict(set)
        """Who promised, by shard, view and name."""
        self.dropped: set[TransactionId] = set()
        self.stable: dict[tuple[int, int], Stamped | None] = {}
        """By shard and slot, what was ever known to stand at a quorum."""
        self.beginnings: dict[tuple[int, Epoch], tuple[Slot, Log]] = {}
        """By shard and epoch, where it began and with what."""
        self.learners: dict[tuple[int, Epoch, ViewNumber], Log] = {}
        """By shard, epoch and view, the log of its learner when it was last seen."""

    # -- what happens ------------------------------------------------------------------------

    def play(self, verb: str, number: int) -> None:
        cluster = self.cluster
        host, shard = number % 3, number % 2
        match verb:
            case "submit":
                touched = [[0], [1], [0, 1]][number % 3]
                cluster.submit({each: [add("n")] for each in touched})
                self.submitted += 1
                cluster.step_roles()
            case "deliver" if host in cluster.hosts:
                cluster.deliver(host)
            case "roles":
                cluster.step_roles()
            case "lose" if cluster.wire:
                del cluster.wire[number * 7 % len(cluster.wire)]
            case "repeat" if cluster.wire:
                cluster.wire.append(cluster.wire[number * 7 % len(cluster.wire)])
            case "timers":
                cluster.fire_all()
            case "suspect":
                cluster.fire(host, shard, "suspect")
            case "heartbeat":
                cluster.fire(host, shard, "heartbeat")
            case "restart":
                self.restart(host)
            case "silence":
                cluster.fire(host, 0, "silence")
            case "coordinator" if cluster.turned_to + 1 < COORDINATORS:  # each of them once
                cluster.start_coordinator(cluster.turned_to + 1)
            case "retry":
                cluster.carry(cluster.client.on_timer("retry"))
            case "stamp" if cluster.coordinator.is_normal:
                if cluster.coordinator.record.epoch > cluster.sequencer.epoch:
                    cluster.begin_stamping(keep_client=True)
        self.look()

    def restart(self, host: int) -> None:
        """It goes on with whatever its replicas were in the middle of."""
        cluster = self.cluster
        cluster.crash(host)
        cluster.restart(host)
        cluster.timers = {key: ms for key, ms in cluster.timers.items() if key[0].replica != host}
        for shard in SHARDS:
            for timer in RESTART_TIMERS:
                cluster.fire(host, shard, timer)

    def look(self) -> None:
        """Note what is new, and check everything."""
        for packet in self.cluster.wire:
            match packet.message:
                case Stamped() as stamped:
                    self.sent.update(dict.fromkeys(stamped.stamp.ids(), stamped))
                case TempDroppedTransaction() as promise:
                    self.promises[promise.shard, promise.view, promise.id].add(promise.replica)
                case StartEpoch() as start:
                    i7_no_epoch_begins_with_what_was_dropped(self, start)
                case _:
                    pass
        self.dropped |= self.cluster.coordinator.record.dropped
        for shard, host in self.replicas():
            record, log = self.record(host, shard), self.log(host, shard)
            i1_logs_are_in_the_order_of_the_stamps(self, record, log, shard)
            i2_there_are_no_silent_holes(self, record, log, shard)
            i4_promises_that_count_are_known_in_later_views(self, record, host, shard)
            i5_a_learners_log_only_grows(self, record, log, host, shard)
            i6_what_is_committed_stays_where_it_is(self, record, log, host, shard)
            i8_all_begin_an_epoch_with_the_same_log(self, record, log, shard)
        i3_what_one_shard_committed_the_others_do_not_pass_over(self)

    # -- what is there -----------------------------------------------------------------------

    def replicas(self) -> Iterator[tuple[int, int]]:
        return ((shard, host) for shard in SHARDS for host in HOSTS)

    def record(self, host: int, shard: int) -> ShardRecord:
        return self.cluster.record(host, shard)

    def log(self, host: int, shard: int) -> Log:
        return self.cluster.slots(host, shard)

    def replica(self, host: int, shard: int) -> Replica:
        return self.cluster.replica(host, shard)


def i1_logs_are_in_the_order_of_the_stamps(run: Run, record: ShardRecord, log: Log, shard: int) -> None:
    """Within an epoch, slot base + k has the transaction with the shard's number k, or a NO-OP."""
    order = [
        (stamped.stamp.epoch, stamped.stamp.numbers[ShardId(shard)])
        for _, stamped in sorted(log.items())
        if stamped is not None
    ]
    assert order == sorted(set(order))
    for slot, stamped in log.items():
        if stamped is not None and stamped.stamp.epoch == record.last_normal_epoch:
            assert slot == record.base + stamped.stamp.numbers[ShardId(shard)]


def i2_there_are_no_silent_holes(run: Run, record: ShardRecord, log: Log, shard: int) -> None:
    """Where there is a NO-OP, the transaction of that number has a dropped name."""
    for slot, stamped in log.items():
        if stamped is None and slot > record.base:
            own = TransactionId(record.last_normal_epoch, ShardId(shard), slot - record.base)  # type: ignore[arg-type]  # a number
            sent = run.sent.get(own)
            names = [own] if sent is None else sent.stamp.ids()
            assert any(name in run.dropped for name in names)


def i3_what_one_shard_committed_the_others_do_not_pass_over(run: Run) -> None:
    """If one participant committed a transaction, and another one has committed anything after it, that one
    has committed it too."""
    ends = {shard: max((slot for each, slot in run.stable if each == shard), default=0) for shard in SHARDS}
    for (shard, _), stamped in run.stable.items():
        for other, number in () if stamped is None else stamped.stamp.numbers.items():
            beginning = run.beginnings.get((other, stamped.stamp.epoch))  # type: ignore[union-attr]  # it is one
            if other == shard or beginning is None:
                continue
            slot = beginning[0] + number
            if slot <= ends[other]:
                assert run.stable.get((other, slot)) == stamped


def i4_promises_that_count_are_known_in_later_views(
    run: Run, record: ShardRecord, host: int, shard: int
) -> None:
    """A promise of a majority with the learner of its view is known to that learner, and to everybody in a
    later view of the epoch."""
    if run.replica(host, shard).status is not Status.NORMAL:
        return
    known = record.temp_drops | record.perm_drops | record.un_drops
    for (promised_shard, view, name), who in run.promises.items():
        if (promised_shard, name.epoch) != (shard, record.epoch) or len(who) < 2 or view % 3 not in who:
            continue
        if record.view > view or (record.view == view and host == view % 3):
            assert name in known


def i5_a_learners_log_only_grows(run: Run, record: ShardRecord, log: Log, host: int, shard: int) -> None:
    """For as long as its view lasts."""
    if not run.replica(host, shard).is_learner or run.replica(host, shard).status is not Status.NORMAL:
        return
    before = run.learners.get((shard, record.epoch, record.view), {})
    assert before.items() <= log.items()
    run.learners[shard, record.epoch, record.view] = log


def i6_what_is_committed_stays_where_it_is(
    run: Run, record: ShardRecord, log: Log, host: int, shard: int
) -> None:
    """What is stable is in the same slot of every replica that is not behind, in all views and epochs."""
    if run.replica(host, shard).has_diverged():
        return
    for slot in range(1, record.stable + 1):
        if slot in log:
            assert run.stable.setdefault((shard, slot), log[slot]) == log[slot]
    if run.replica(host, shard).is_learner and run.replica(host, shard).status is Status.NORMAL:
        newest = max(run.record(other, shard).last_normal_epoch for other in HOSTS)
        views = [run.record(other, shard).normal_view for other in HOSTS]
        if record.last_normal_epoch == newest and record.view == max(views):
            for (each, slot), stamped in run.stable.items():
                assert each != shard or log[slot] == stamped


def i7_no_epoch_begins_with_what_was_dropped(run: Run, start: StartEpoch) -> None:
    for entry in start.entries:
        assert entry.stamped is None or not entry.stamped.stamp.matches(run.dropped)


def i8_all_begin_an_epoch_with_the_same_log(run: Run, record: ShardRecord, log: Log, shard: int) -> None:
    """And what they begin it with never changes."""
    if record.diverged or not record.last_normal_epoch:
        return
    first = {slot: stamped for slot, stamped in log.items() if slot <= record.base}
    known = run.beginnings.setdefault((shard, record.last_normal_epoch), (record.base, first))
    assert known == (record.base, first)


verbs = ["submit", "submit", "deliver", "deliver", "deliver", "deliver", "roles", "roles", "roles", "lose"]
verbs += ["repeat", "timers", "timers", "suspect", "heartbeat", "restart", "silence", "coordinator", "retry"]
verbs += ["stamp", "stamp"]
steps = st.lists(st.tuples(st.sampled_from(verbs), st.integers(0, 20)), max_size=70)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_the_invariants_hold_after_every_step(story: list[tuple[str, int]]) -> None:
    run = Run()
    for verb, number in story:
        run.play(verb, number)
    run.cluster.settle()
    run.look()

    for shard in SHARDS:
        logs = [run.log(host, shard) for host in HOSTS]
        assert logs[0] == logs[1] == logs[2]
    assert len(run.cluster.answers) == run.submitted, "all is answered in the end"
